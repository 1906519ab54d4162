#include "kv/cache.h"

#include <algorithm>

#include "base/error.h"
#include "evict/registry.h"
#include "evict/select.h"

namespace a2sf {

Cache::Cache(Backend &backend, const CacheShape &shape)
    : backend_(backend),
      device_keeps_(backend.keeps_slots()),
      closes_at_once_(backend.closes_holes_at_once()),
      shape_(shape),
      heads_(shape.n_layers * shape.n_kv_heads),
      head_budgets_(heads_.size()),
      first_(heads_.size() + 1),
      first_in_layer_(heads_.size()),
      live_(shape.n_kv_heads),
      victim_(shape.n_kv_heads),
      last_pos_(shape.n_kv_heads),
      views_(shape.n_kv_heads),
      layers_(shape.n_layers),
      kept_(shape.n_layers),
      budgets_(shape.n_kv_heads),
      n_holes_(shape.n_kv_heads),
      recents_(shape.n_kv_heads) {
    config_.policy = &find_policy("full");
    if (!device_keeps_) return;
    const char *what = "slots that the device keeps";
    kept_first_ = MirroredArray<size_t>(backend, heads_.size(), what);
    for (auto *words : {&kept_budget_, &kept_slot_, &kept_live_}) {
        *words = MirroredArray<uint32_t>(backend, heads_.size(), what);
    }
    for (auto *positions : {&kept_recent_, &kept_pos_}) {
        *positions = MirroredArray<int32_t>(backend, heads_.size(), what);
    }
    kept_weight_ = MirroredArray<float>(backend, shape.n_layers * kMaxScoreLanes, what);
}

void Cache::configure(const EvictionConfig &config) {
    const size_t n_lanes = config.policy->n_lanes();
    recall_all();
    backend_.wait();
    std::vector<HeadBudget> budgets = head_budgets(config, heads_.size());
    if (n_lanes != this->n_lanes()) {
        const size_t step = n_lanes * shape_.n_kv_heads * capacity_;
        MirroredArray<float> scores(backend_, n_lanes * first_.back(), "scores of the KV cache");
        aged_scores_ = Buffer<float>(step, "eviction scratch");
        scores_ = std::move(scores);
    }
    config_ = config;
    head_budgets_ = std::move(budgets);
}

void Cache::divide(std::vector<float> allocation) {
    EvictionConfig config = config_;
    config.allocation = std::move(allocation);
    configure(config);
    std::vector<size_t> room(heads_.size());
    for (size_t layer = 0; layer < shape_.n_layers; ++layer) {
        evict(layer);
        for (size_t head = 0; head < shape_.n_kv_heads; ++head) {
            const size_t index = head_index(layer, head);
            if (heads_[index].n_holes > 0) {
                close_holes(layer, head);
                publish(layer, head, 0);
            }
            room[index] = std::min(first_[index + 1] - first_[index], head_budgets_[index].budget);
        }
    }
    try {
        grow(room);
    } catch (const DeviceError &) {
        // No memory to move to: the room that is too much stays.
    }
}

size_t Cache::most_budget() const {
    size_t most = 0;
    for (const HeadBudget &head : head_budgets_) most = std::max(most, head.budget);
    return most;
}

void Cache::clear() {
    std::fill(heads_.begin(), heads_.end(), Head{});
    std::fill(layers_.begin(), layers_.end(), Layer{});
    n_evicted_ = 0;
}

std::span<const uint32_t> Cache::append(size_t layer, int32_t first_pos, size_t m) {
    if (m == 1 && append_kept(layer, first_pos)) return {};
    if (enter_kept(layer, first_pos, m)) return {new_slots_.data(), shape_.n_kv_heads * m};
    recall(layer);
    for (size_t head = 0; head < shape_.n_kv_heads; ++head) {
        const Head &state = heads_[head_index(layer, head)];
        live_[head] = state.n_holes > 0 ? 0 : state.live;  // slots behind it will change
    }
    const auto one = [&](size_t head) {
        append_head(layer, head, first_pos, m, new_slots_.data() + head * m);
    };
    if (m > 1) {
        backend_.each(shape_.n_kv_heads, one);
    } else {
        for (size_t head = 0; head < shape_.n_kv_heads; ++head) one(head);
    }
    for (size_t head = 0; head < shape_.n_kv_heads; ++head) publish(layer, head, live_[head]);
    return {new_slots_.data(), shape_.n_kv_heads * m};
}

void Cache::append_head(size_t layer, size_t head, int32_t first_pos, size_t m, uint32_t *slot) {
    Head &state = heads_[head_index(layer, head)];
    const size_t base = slot_index(layer, head);
    int32_t *pos = pos_.host() + base;
    // A chunk takes slots in a row, in order, so that attention can pass over what no query of a
    // tile sees; a single token takes a hole where it is.
    if (m > 1 && state.n_holes > 0) close_holes(layer, head);
    for (size_t i = 0; i < m; ++i) {
        const uint32_t next =
            state.n_holes > 0 ? holes_[base + --state.n_holes] : state.live + state.n_holes;
        slot[i] = next;
        pos[next] = first_pos + static_cast<int32_t>(i);
        order_[base + state.live++] = next;
    }
    for (size_t lane = 0; lane < n_lanes(); ++lane) {
        float *scores = score_row(layer, lane, head);
        for (size_t i = 0; i < m; ++i) scores[slot[i]] = 0.0f;
    }
    if (state.n_holes > 0) {
        close_holes(layer, head);
        // New tokens may have moved as well: say where they are now.
        std::copy_n(order_.data() + base + state.live - m, m, slot);
    }
}

void Cache::close_holes(size_t layer, size_t head) {
    constexpr uint32_t kHole = UINT32_MAX;
    Head &state = heads_[head_index(layer, head)];
    const size_t base = slot_index(layer, head);
    // renamed[slot]: where the token of a slot is afterwards.
    uint32_t *renamed = victims_.data() + head * capacity_;
    uint32_t top = state.live + state.n_holes;
    for (uint32_t slot = 0; slot < top; ++slot) renamed[slot] = slot;
    for (uint32_t i = 0; i < state.n_holes; ++i) renamed[holes_[base + i]] = kHole;
    uint32_t lowest = 0;
    while (top > state.live) {
        --top;
        if (renamed[top] == kHole) continue;
        while (renamed[lowest] != kHole) ++lowest;
        renamed[lowest] = lowest;
        renamed[top] = lowest;
        move_slot(layer, head, top, lowest);
    }
    state.n_holes = 0;
    uint32_t *order = order_.data() + base;
    for (size_t i = 0; i < state.live; ++i) order[i] = renamed[order[i]];
}

void Cache::move_slot(size_t layer, size_t head, uint32_t from, uint32_t to) {
    const size_t base = slot_index(layer, head);
    backend_.kv_move(slots(layer), head, from, to);
    int32_t *pos = pos_.host() + base;
    pos[to] = pos[from];
    for (size_t lane = 0; lane < n_lanes(); ++lane) {
        float *scores = score_row(layer, lane, head);
        scores[to] = scores[from];
    }
}

KvSlots Cache::slots(size_t layer) const {
    const size_t offset = layer_index(layer) * kv_row_bytes(shape_.type, shape_.head_dim);
    return {shape_.type,
            shape_.n_kv_heads,
            shape_.head_dim,
            capacity_,
            static_cast<std::byte *>(k_->data()) + offset,
            static_cast<std::byte *>(v_->data()) + offset,
            first_in_layer_.data() + head_index(layer, 0),
            layers_[layer].stepping ? &kept_[layer] : nullptr,
            layers_[layer].kept && !layers_[layer].stepping ? &entering_ : nullptr};
}

void Cache::bind_attention(size_t layer, size_t m, AttentionArgs &args) {
    args.slots = slots(layer);
    args.pos = pos_.device() + layer_index(layer);
    for (size_t head = 0; head < shape_.n_kv_heads; ++head) {
        live_[head] = heads_[head_index(layer, head)].live;
    }
    args.live = live_.data();
    if (config_.compact()) bind_places(layer, args);
    for (size_t lane = 0; lane < n_lanes(); ++lane) {
        float *weight = query_weight_.data() + lane * capacity_;
        lanes_[lane].decay = config_.policy->query_weights(config_, lane, {weight, m});
        lanes_[lane].query_weight = weight;
        lanes_[lane].scores = scores_.device() + score_index(layer, lane, 0);
    }
    layers_[layer].scored = device_keeps_ && n_lanes() > 0;
    args.lanes = {lanes_, n_lanes()};
}

void Cache::bind_places(size_t layer, AttentionArgs &args) {
    args.turns.place = place_.device();
    if (layers_[layer].kept) {
        return backend_.find_places(
            {args.slots, args.pos, args.live, args.turns.last_place, place_.device()});
    }
    for (size_t head = 0; head < shape_.n_kv_heads; ++head) {
        const uint32_t *order = order_.data() + slot_index(layer, head);
        int32_t *place = place_.host() + first_in_layer_[head_index(layer, head)];
        const int32_t first = args.turns.last_place + 1 - static_cast<int32_t>(live_[head]);
        for (uint32_t i = 0; i < live_[head]; ++i)
            place[order[i]] = first + static_cast<int32_t>(i);
    }
    place_.push(0, layer_index(layer + 1) - layer_index(layer));
}

void Cache::evict(size_t layer) {
    const size_t n_heads = shape_.n_kv_heads;
    if (layers_[layer].stepping) return evict_kept(layer);
    if (!config_.evicts()) return;
    size_t most_over = 0;
    for (size_t head = 0; head < n_heads; ++head) {
        const size_t n_live = live(layer, head), most = budget(layer, head);
        most_over = std::max(most_over, std::max(n_live, most) - most);
    }
    if (most_over == 0) return;

    // Attention has had no time to tell what of a chunk will be looked for again; a token that
    // leaves alone has been read before.
    const bool guarded = config_.guard > 0 && config_.prefill == PromptMode::Chunk && most_over > 1;
    if (layers_[layer].kept) return evict_entered(layer, guarded);
    if (most_over == 1 && evict_one_each(layer)) return;
    gather_views(layer, guarded || config_.policy->needs_similarity());
    const Matrix<float> rank(rank_.data(), n_heads, capacity_);
    config_.policy->rank(config_, views_, rank);
    spread_ranks(config_, *config_.policy, views_, rank, rank_scratch_.span());
    if (guarded) guard(layer, rank);
    for (size_t head = 0; head < n_heads; ++head) {
        const size_t most = budget(layer, head);
        n_evicted_ += std::max(live(layer, head), most) - most;
    }
    const bool closes = most_over > 1 && closes_at_once_;
    backend_.each(n_heads, [&](size_t head) {
        const size_t n_live = live(layer, head), most = budget(layer, head);
        if (n_live <= most) return;
        const std::span<uint32_t> victims(victims_.data() + head * capacity_, n_live - most);
        select_victims(config_, n_recent(layer, head), views_[head].pos, {rank.row(head), n_live},
                       victims, {keys_.data() + head * capacity_, capacity_});
        remove(layer, head, victims);
        if (closes) close_holes(layer, head);
    });
    for (size_t head = 0; head < n_heads && closes; ++head) publish(layer, head, 0);
}

void Cache::guard(size_t layer, Matrix<float> rank) {
    const size_t n_heads = shape_.n_kv_heads;
    if (config_.scope == Scope::Layer) {
        share_rows(n_heads, live(layer, 0), {aged_similarity_.data(), n_heads, capacity_});
    }
    backend_.each(n_heads, [&](size_t head) {
        const size_t n_live = live(layer, head), most = budget(layer, head);
        if (n_live <= most) return;
        guard_ranks(config_, n_recent(layer, head), views_[head], n_live - most, rank.row(head),
                    {keys_.data() + head * capacity_, capacity_});
    });
}

// Whether a token that leaves alone is found by what lies in its slot and no other.
bool Cache::ranks_in_place() const {
    const Ranking ranking = config_.policy->ranking();
    return (ranking == Ranking::Score || ranking == Ranking::Age) && config_.pooling <= 1 &&
           config_.scope == Scope::Head && !config_.pins_behind_sinks();
}

// The steady state of decoding: at most one token too many in each head, and ranks that can be read
// where they lie. False where that does not hold.
bool Cache::evict_one_each(size_t layer) {
    const size_t n_heads = shape_.n_kv_heads;
    if (!ranks_in_place()) return false;
    for (size_t head = 0; head < n_heads; ++head) {
        const uint32_t n_live = heads_[head_index(layer, head)].live;
        live_[head] = n_live > budget(layer, head) ? n_live : 0;  // 0: nothing leaves
        if (live_[head] == 0) continue;
        const size_t base = slot_index(layer, head);
        const int32_t newest = pos_.host()[base + order_[base + live_[head] - 1]];
        last_pos_[head] = newest - static_cast<int32_t>(n_recent(layer, head));
    }
    if (config_.policy->ranking() == Ranking::Age) {
        for (size_t head = 0; head < n_heads; ++head) {
            if (live_[head] == 0) continue;
            const size_t base = slot_index(layer, head);
            victim_[head] = pos_.host()[base + *find_pos(layer, head, config_.n_sinks)];
        }
    } else {
        LowestArgs args;
        args.slots = slots(layer);
        args.scores = scores_.device() + score_index(layer, 0, 0);
        args.pos = pos_.device() + layer_index(layer);
        args.live = live_.data();
        args.first_pos = static_cast<int32_t>(config_.n_sinks);
        args.last_pos = last_pos_.data();
        backend_.lowest(args, victim_.data());
    }
    for (size_t head = 0; head < n_heads; ++head) {
        if (live_[head] > 0 && victim_[head] == Backend::kNoVictim) return false;
    }
    for (size_t head = 0; head < n_heads; ++head) {
        if (live_[head] == 0) continue;
        remove_pos(layer, head, victim_[head]);
        ++n_evicted_;
    }
    return true;
}

// Where the order of age has the first token at or behind a position.
uint32_t *Cache::find_pos(size_t layer, size_t head, size_t pos) {
    const size_t base = slot_index(layer, head);
    uint32_t *first = order_.data() + base;
    const int32_t *of_slot = pos_.host() + base;
    return std::lower_bound(
        first, first + heads_[head_index(layer, head)].live, static_cast<int64_t>(pos),
        [of_slot](uint32_t slot, int64_t wanted) { return of_slot[slot] < wanted; });
}

void Cache::remove_pos(size_t layer, size_t head, int32_t pos) {
    Head &state = heads_[head_index(layer, head)];
    const size_t base = slot_index(layer, head);
    uint32_t *at = find_pos(layer, head, static_cast<size_t>(pos));
    holes_[base + state.n_holes++] = *at;
    std::copy(at + 1, order_.data() + base + state.live, at);
    --state.live;
}

void Cache::gather_views(size_t layer, bool similar) {
    for (size_t head = 0; head < shape_.n_kv_heads; ++head) {
        live_[head] = heads_[head_index(layer, head)].live;
    }
    if (similar) backend_.key_similarity(slots(layer), live_.data(), similarity_.data());
    recall(layer);
    backend_.wait();
    for (size_t head = 0; head < shape_.n_kv_heads; ++head) {
        const size_t n_live = live_[head];
        const size_t row = head * capacity_;
        const uint32_t *order = order_.data() + slot_index(layer, head);
        const auto gather = [&]<typename T>(const T *by_slot, T *aged) {
            for (size_t i = 0; i < n_live; ++i) aged[i] = by_slot[order[i]];
            return std::span<const T>(aged, n_live);
        };
        HeadView &view = views_[head];
        view.pos = gather(pos_.host() + slot_index(layer, head), aged_pos_.data() + row);
        for (size_t lane = 0; lane < n_lanes(); ++lane) {
            float *aged = aged_scores_.data() + (lane * shape_.n_kv_heads + head) * capacity_;
            view.score[lane] = gather(score_row(layer, lane, head), aged);
        }
        view.similarity = {};
        if (similar) {
            const size_t first = first_in_layer_[head_index(layer, head)];
            view.similarity = gather(similarity_.data() + first, aged_similarity_.data() + row);
        }
    }
}

void Cache::remove(size_t layer, size_t head, std::span<const uint32_t> victims) {
    Head &state = heads_[head_index(layer, head)];
    uint32_t *order = order_.data() + slot_index(layer, head);
    uint32_t *holes = holes_.data() + slot_index(layer, head);
    size_t kept = victims[0];
    size_t next = 0;
    for (size_t i = victims[0]; i < state.live; ++i) {
        if (next < victims.size() && victims[next] == i) {
            holes[state.n_holes++] = order[i];
            ++next;
        } else {
            order[kept++] = order[i];
        }
    }
    state.live = static_cast<uint32_t>(kept);
}

size_t Cache::most_live() const {
    size_t most = 0;
    for (const Head &head : heads_) most = std::max<size_t>(most, head.live);
    return most;
}

size_t Cache::mean_live() const {
    size_t total = 0;
    for (const Head &head : heads_) total += head.live;
    return (total + heads_.size() - 1) / heads_.size();
}

std::vector<int32_t> Cache::positions(size_t layer, size_t head) const {
    recall(layer);
    const size_t base = slot_index(layer, head);
    const int32_t *pos = pos_.host() + base;
    std::vector<int32_t> result(live(layer, head));
    for (size_t i = 0; i < result.size(); ++i) result[i] = pos[order_[base + i]];
    return result;
}

std::vector<float> Cache::scores(size_t layer, size_t head, size_t lane) const {
    std::vector<float> result(live(layer, head), 0.0f);
    if (lane >= n_lanes()) return result;
    recall(layer);
    const uint32_t *order = order_.data() + slot_index(layer, head);
    const float *row = score_row(layer, lane, head);
    for (size_t i = 0; i < result.size(); ++i) result[i] = row[order[i]];
    return result;
}

size_t Cache::n_bytes() const {
    if (!k_) return 0;
    return k_->n_bytes() + v_->n_bytes() + pos_.n_bytes() + scores_.n_bytes() + order_.n_bytes() +
           holes_.n_bytes();
}

size_t Cache::n_bytes_full(size_t n_tokens) const {
    return 2 * heads_.size() * n_tokens * kv_row_bytes(shape_.type, shape_.head_dim);
}

}  // namespace a2sf
