// Room of the cache: how many slots each head has, and how it gets more of them.
#include <algorithm>

#include "base/error.h"
#include "kv/cache.h"

namespace a2sf {

namespace {

constexpr size_t kMostBytes = size_t{1} << 46;  // half of what a process can address

}  // namespace

// Slots that a head is to have, those it has included.
size_t Cache::wanted_room(size_t index, size_t capacity, size_t extra) const {
    const size_t room = first_[index + 1] - first_[index];
    if (config_.allocation.empty()) return std::max(room, capacity);
    const Head &head = heads_[index];
    const size_t most = std::max<size_t>(head_budgets_[index].budget, head.live);
    return std::max(room, std::min(capacity, most + extra));
}

bool Cache::has_room(size_t capacity, size_t extra) const {
    for (size_t i = 0; i < heads_.size(); ++i) {
        if (wanted_room(i, capacity, extra) > first_[i + 1] - first_[i]) return false;
    }
    return true;
}

CacheRoom Cache::room_for(size_t capacity, size_t extra) const {
    CacheRoom room;
    size_t total = 0;
    for (size_t i = 0; i < heads_.size(); ++i) {
        const size_t wanted = wanted_room(i, capacity, extra);
        total += wanted;
        room.most = std::max(room.most, wanted);
    }
    room.mean = (total + heads_.size() - 1) / heads_.size();
    return room;
}

void Cache::reserve(size_t capacity, size_t extra) {
    const size_t n_bytes = 2 * kv_row_bytes(shape_.type, shape_.head_dim);
    if (capacity > kMostBytes / n_bytes / heads_.size()) {
        throw DeviceError(str("KV cache: room for ", capacity, " tokens wanted in ", heads_.size(),
                              " heads of ", n_bytes, " bytes, more than any machine has"));
    }
    std::vector<size_t> room(heads_.size());
    for (size_t i = 0; i < room.size(); ++i) room[i] = wanted_room(i, capacity, extra);
    grow(room);
}

// Rows of K or V with the room that `first` says, and those in use copied.
std::unique_ptr<DeviceMemory> Cache::grown_rows(const std::unique_ptr<DeviceMemory> &memory,
                                                std::span<const size_t> first,
                                                const char *what) const {
    const size_t row = kv_row_bytes(shape_.type, shape_.head_dim);
    auto larger = backend_.allocate(first.back() * row, what);
    for (size_t i = 0; i < heads_.size() && memory; ++i) {
        const Head &head = heads_[i];
        backend_.copy_to_device(static_cast<std::byte *>(larger->data()) + first[i] * row,
                                static_cast<std::byte *>(memory->data()) + first_[i] * row,
                                (head.live + head.n_holes) * row);
    }
    return larger;
}

// room: slots of each head, no fewer than are in use. Nothing is done where it has as many.
void Cache::grow(std::span<const size_t> room) {
    const size_t n_heads = heads_.size(), n_kv_heads = shape_.n_kv_heads;
    std::vector<size_t> first(n_heads + 1), first_in_layer(n_heads);
    for (size_t i = 0; i < n_heads; ++i) {
        first[i + 1] = first[i] + room[i];
        first_in_layer[i] = first[i] - first[i - i % n_kv_heads];
    }
    if (first == first_) return;
    const size_t capacity = *std::max_element(room.begin(), room.end());
    recall_all();
    backend_.wait();
    allocate_scratch(capacity);
    const auto copy_heads = [&](const auto *from, auto *to) {
        for (size_t i = 0; i < n_heads; ++i) {
            std::copy_n(from + first_[i], std::min(first_[i + 1] - first_[i], room[i]),
                        to + first[i]);
        }
    };
    const size_t n_slots = first[n_heads];
    auto k = grown_rows(k_, first, "keys of the KV cache");
    auto v = grown_rows(v_, first, "values of the KV cache");
    MirroredArray<int32_t> pos(backend_, n_slots, "positions of the KV cache");
    Buffer<uint32_t> order(n_slots, "order of the KV cache");
    Buffer<uint32_t> holes(n_slots, "holes of the KV cache");
    MirroredArray<float> scores(backend_, n_lanes() * n_slots, "scores of the KV cache");
    copy_heads(pos_.host(), pos.host());
    copy_heads(order_.data(), order.data());
    copy_heads(holes_.data(), holes.data());
    for (size_t i = 0; i < n_heads; ++i) {
        const size_t layer = i / n_kv_heads, begin = first[layer * n_kv_heads];
        const size_t n = first[(layer + 1) * n_kv_heads] - begin;
        for (size_t lane = 0; lane < n_lanes(); ++lane) {
            std::copy_n(score_row(layer, lane, i % n_kv_heads),
                        std::min(first_[i + 1] - first_[i], room[i]),
                        scores.host() + n_lanes() * begin + lane * n + first_in_layer[i]);
        }
    }
    pos.push(0, n_slots);
    scores.push(0, n_lanes() * n_slots);
    // All there is room for: from here on nothing fails.
    k_ = std::move(k);
    v_ = std::move(v);
    pos_ = std::move(pos);
    order_ = std::move(order);
    holes_ = std::move(holes);
    scores_ = std::move(scores);
    first_ = std::move(first);
    first_in_layer_ = std::move(first_in_layer);
    capacity_ = capacity;
}

// Nothing in it outlives a step, so that it may be larger than the cache.
void Cache::allocate_scratch(size_t capacity) {
    const size_t step = shape_.n_kv_heads * capacity;
    new_slots_ = Buffer<uint32_t>(step, "eviction scratch");
    place_ = MirroredArray<int32_t>(backend_, step, "eviction scratch");
    query_weight_ = Buffer<float>(kMaxScoreLanes * capacity, "eviction scratch");
    aged_pos_ = Buffer<int32_t>(step, "eviction scratch");
    aged_scores_ = Buffer<float>(n_lanes() * step, "eviction scratch");
    similarity_ = SharedArray<float>(backend_, step, "eviction scratch");
    aged_similarity_ = Buffer<float>(step, "eviction scratch");
    rank_ = Buffer<float>(step, "eviction scratch");
    rank_scratch_ = Buffer<float>(capacity, "eviction scratch");
    victims_ = Buffer<uint32_t>(step, "eviction scratch");
    keys_ = Buffer<uint64_t>(step, "eviction scratch");
}

SlotBytes Cache::slot_bytes(const CacheShape &shape, size_t n_lanes) {
    const size_t row = kv_row_bytes(shape.type, shape.head_dim);
    const size_t lanes = n_lanes * sizeof(float);
    // K, V; positions, order, holes, scores.
    const size_t kept = 2 * row + 3 * sizeof(uint32_t) + lanes;
    // New slots, places, aged positions and scores, both similarities, ranks, victims, keys.
    const size_t scratch = 7 * sizeof(uint32_t) + lanes + sizeof(uint64_t);
    // Query weights and the scratch of ranks, which heads share.
    const size_t shared = (kMaxScoreLanes + 1) * sizeof(float);
    return {shape.n_kv_heads * shape.n_layers * kept, shape.n_kv_heads * scratch + shared};
}

// Positions and scores of every layer, places of one.
size_t Cache::mirror_bytes(const CacheShape &shape, size_t n_lanes) {
    const size_t kept = sizeof(int32_t) + n_lanes * sizeof(float);
    return shape.n_kv_heads * (shape.n_layers * kept + sizeof(int32_t));
}

}  // namespace a2sf
