// The cache on a device that keeps slots (Backend::keeps_slots): how a layer is handed over to it
// for a text that grows token by token or by chunks, what the host still counts, and how what the
// device knows comes back. On other devices nothing here does anything.
//
// Who is where in a kept layer is known on the device alone; how many are live follows from the
// budgets, so that room, live() and n_evicted() need no question. The order of age is that of
// positions. After a chunk there are no holes, so that the host knows where the next tokens go;
// while tokens come one by one (stepping), at most one slot of a head is a hole: where the next one
// goes, which the device knows.
#include <algorithm>
#include <mutex>
#include <numeric>
#include <span>

#include "kv/cache.h"

namespace a2sf {

// False where the host has to choose the slots.
bool Cache::append_kept(size_t layer, int32_t pos) {
    if (!device_keeps_) return false;
    Layer &state = layers_[layer];
    if (!state.stepping || state.appended || state.next_pos != pos) {
        if (state.stepping) recall(layer);
        if (!can_step(layer)) return false;
        begin_steps(layer, pos);
    }
    for (size_t head = 0; head < shape_.n_kv_heads; ++head) {
        Head &own = heads_[head_index(layer, head)];
        own.n_holes = 0;
        ++own.live;
    }
    state.appended = true;
    ++state.next_pos;
    return true;
}

// Whether the device may know a layer's slots alone. Where all heads rank their tokens together,
// it looks for the same ones in the same slots.
bool Cache::can_keep(size_t layer) const {
    if (!device_keeps_) return false;
    if (!config_.evicts() || layers_[layer].kept) return true;
    if (config_.policy->ranking() == Ranking::Own) return false;
    const auto order_of = [&](size_t head) {
        const size_t index = head_index(layer, head);
        return std::span<const uint32_t>(order_.data() + first_[index], heads_[index].live);
    };
    for (size_t head = 1; head < shape_.n_kv_heads && config_.scope == Scope::Layer; ++head) {
        if (!std::ranges::equal(order_of(head), order_of(0))) return false;
    }
    return true;
}

// Of a layer that is not stepping.
bool Cache::can_step(size_t layer) const {
    if (!can_keep(layer)) return false;
    for (size_t head = 0; head < shape_.n_kv_heads; ++head) {
        const Head &own = heads_[head_index(layer, head)];
        const bool over = config_.evicts() && own.live > budget(layer, head);
        if (over || own.n_holes > 1) return false;
    }
    return true;
}

// Tells the device where the next token goes, and what it has to know of budgets; pos: of that
// token.
void Cache::begin_steps(size_t layer, int32_t pos) {
    const size_t begin = head_index(layer, 0), n = shape_.n_kv_heads;
    KeptSlots &kept = kept_[layer];
    kept.most_live = 0;
    for (size_t i = begin; i < begin + n; ++i) {
        const Head &own = heads_[i];
        const size_t room = first_[i + 1] - first_[i];
        const size_t most = config_.evicts() ? head_budgets_[i].budget : room;
        kept.most_live = std::max(kept.most_live, std::min(room, most + 1));
        kept_first_.host()[i] = first_in_layer_[i];
        kept_budget_.host()[i] = static_cast<uint32_t>(std::min<size_t>(most, UINT32_MAX));
        kept_recent_.host()[i] = static_cast<int32_t>(head_budgets_[i].n_recent);
        kept_slot_.host()[i] = own.n_holes > 0 ? holes_[first_[i]] : own.live;
        kept_live_.host()[i] = own.live + 1;
        kept_pos_.host()[i] = pos;
    }
    kept_first_.push(begin, n);
    kept_budget_.push(begin, n);
    kept_recent_.push(begin, n);
    kept_slot_.push(begin, n);
    kept_live_.push(begin, n);
    kept_pos_.push(begin, n);
    const size_t weights = layer * kMaxScoreLanes;
    for (size_t lane = 0; lane < n_lanes(); ++lane) {
        config_.policy->query_weights(config_, lane, {kept_weight_.host() + weights + lane, 1});
    }
    if (n_lanes() > 0) kept_weight_.push(weights, n_lanes());
    kept.first = kept_first_.device() + begin;
    kept.budget = kept_budget_.device() + begin;
    kept.n_recent = kept_recent_.device() + begin;
    kept.slot = kept_slot_.device() + begin;
    kept.live = kept_live_.device() + begin;
    kept.next_pos = kept_pos_.device() + begin;
    kept.pos = pos_.device() + layer_index(layer);
    kept.n_lanes = n_lanes();
    for (size_t lane = 0; lane < n_lanes(); ++lane) {
        kept.scores[lane] = scores_.device() + score_index(layer, lane, 0);
    }
    kept.query_weight = kept_weight_.device() + weights;
    kept.by_age = config_.policy->ranking() == Ranking::Age;
    kept.first_pos = static_cast<int32_t>(config_.n_sinks);
    kept.config = config_.evicts() && !ranks_in_place() ? &config_ : nullptr;
    Layer &state = layers_[layer];
    state.kept = state.stepping = true;
    state.appended = false;
    state.next_pos = pos;
}

bool Cache::is_kept() const {
    return std::all_of(layers_.begin(), layers_.end(),
                       [](const Layer &layer) { return layer.stepping && !layer.appended; });
}

void Cache::evict_kept(size_t layer) {
    if (!layers_[layer].appended) return;
    layers_[layer].appended = false;
    for (size_t head = 0; head < shape_.n_kv_heads && config_.evicts(); ++head) {
        Head &own = heads_[head_index(layer, head)];
        if (own.live <= budget(layer, head)) continue;
        own.n_holes = 1;
        --own.live;
        ++n_evicted_;
    }
    backend_.free_slots(slots(layer));
}

// Gives a chunk the slots behind those in use, which the host knows by their number. False where it
// has to know more.
bool Cache::enter_kept(size_t layer, int32_t first_pos, size_t m) {
    Layer &state = layers_[layer];
    if (!can_keep(layer)) return false;
    if (state.appended) recall(layer);
    if (state.stepping) close_kept(layer);
    for (size_t head = 0; head < shape_.n_kv_heads; ++head) {
        Head &own = heads_[head_index(layer, head)];
        if (own.n_holes > 0) {
            close_holes(layer, head);
            publish(layer, head, 0);
        }
        uint32_t *slot = new_slots_.data() + head * m;
        std::iota(slot, slot + m, own.live);
        own.live += static_cast<uint32_t>(m);
    }
    state.kept = true;
    state.next_pos = first_pos + static_cast<int32_t>(m);
    entering_ = {pos_.device() + layer_index(layer), n_lanes(), {}, first_pos};
    for (size_t lane = 0; lane < n_lanes(); ++lane) {
        entering_.scores[lane] = scores_.device() + score_index(layer, lane, 0);
    }
    return true;
}

VictimsArgs Cache::victims_args(size_t layer) {
    for (size_t head = 0; head < shape_.n_kv_heads; ++head) {
        live_[head] = heads_[head_index(layer, head)].live;
    }
    VictimsArgs args;
    args.slots = slots(layer);
    args.config = &config_;
    args.pos = pos_.device() + layer_index(layer);
    args.n_lanes = n_lanes();
    for (size_t lane = 0; lane < n_lanes(); ++lane) {
        args.scores[lane] = scores_.device() + score_index(layer, lane, 0);
    }
    args.live = live_.data();
    return args;
}

// The hole that the next token would have taken: the highest slot moves there.
void Cache::close_kept(size_t layer) {
    size_t n_closed = 0;
    for (size_t head = 0; head < shape_.n_kv_heads; ++head) {
        Head &own = heads_[head_index(layer, head)];
        n_closed += n_holes_[head] = own.n_holes;
        own.n_holes = 0;
    }
    if (n_closed > 0) backend_.close_kept(victims_args(layer), n_holes_.data());
    layers_[layer].stepping = false;
}

// The tokens of a chunk have entered, and now more than one may leave each head.
void Cache::evict_entered(size_t layer, bool guarded) {
    VictimsArgs args = victims_args(layer);
    for (size_t head = 0; head < shape_.n_kv_heads; ++head) {
        Head &own = heads_[head_index(layer, head)];
        const size_t most = std::min<size_t>(budget(layer, head), UINT32_MAX);
        budgets_[head] = static_cast<uint32_t>(most);
        recents_[head] = static_cast<int32_t>(n_recent(layer, head));
        if (own.live <= most) continue;
        n_evicted_ += own.live - most;
        own.live = budgets_[head];
    }
    args.guarded = guarded;
    args.budget = budgets_.data();
    args.n_recent = recents_.data();
    args.newest = layers_[layer].next_pos - 1;
    backend_.evict(args);
}

// The host knows all of a layer afterwards, and may change it. Waits if there is something to ask.
void Cache::recall(size_t layer) const {
    if (!device_keeps_) return;
    // A session may be looked into, and saved, by several threads.
    const std::lock_guard lock(recall_mutex_);
    Layer &state = layers_[layer];
    const size_t begin = layer_index(layer), n = layer_index(layer + 1) - begin;
    if (state.scored) scores_.fetch(n_lanes() * begin, n_lanes() * n);
    state.scored = false;
    if (!state.kept) return;
    pos_.fetch(begin, n);
    if (state.stepping) kept_slot_.fetch(head_index(layer, 0), shape_.n_kv_heads);
    recall_order(layer);
    state.kept = state.stepping = state.appended = false;
}

// The order of age, from the positions of slots.
void Cache::recall_order(size_t layer) const {
    backend_.each(shape_.n_kv_heads, [&](size_t head) {
        const size_t index = head_index(layer, head), base = first_[index];
        const Head &own = heads_[index];
        const uint32_t top = own.live + own.n_holes;
        const uint32_t hole = own.n_holes > 0 ? kept_slot_.host()[index] : top;
        if (own.n_holes > 0) holes_[base] = hole;
        uint32_t *order = order_.data() + base, *end = order;
        for (uint32_t slot = 0; slot < top; ++slot) {
            if (slot != hole) *end++ = slot;
        }
        const int32_t *pos = pos_.host() + base;
        std::sort(order, end, [pos](uint32_t a, uint32_t b) { return pos[a] < pos[b]; });
    });
}

void Cache::recall_all() const {
    for (size_t layer = 0; layer < shape_.n_layers; ++layer) recall(layer);
}

// Positions and scores of a head's slots from first_slot on, which the host has changed, for the
// device.
void Cache::publish(size_t layer, size_t head, uint32_t first_slot) {
    if (!device_keeps_) return;
    const Head &own = heads_[head_index(layer, head)];
    const size_t n = own.live + own.n_holes - first_slot;
    pos_.push(slot_index(layer, head) + first_slot, n);
    for (size_t lane = 0; lane < n_lanes(); ++lane) {
        scores_.push(score_index(layer, lane, head) + first_slot, n);
    }
}

}  // namespace a2sf
