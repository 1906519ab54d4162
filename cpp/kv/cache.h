// The KV cache of one session: slots, positions, scores, budget. It decides where a token is stored
// and, with the policy's ranks, which tokens leave. It protects sinks and recent tokens and holds
// the budget for every policy alike. It never looks inside K or V; the backend does that.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/mirrored_array.h"
#include "backend/shared_array.h"
#include "base/buffer.h"
#include "base/bytes.h"
#include "evict/allocation.h"
#include "evict/options.h"
#include "evict/policy.h"

namespace a2sf {

struct CacheShape {
    size_t n_layers = 0;
    size_t n_kv_heads = 0;
    size_t head_dim = 0;
    KvType type = KvType::F16;
};

// Slots of a head, where heads may have different numbers of them.
struct CacheRoom {
    size_t mean = 0;  // rounded up
    size_t most = 0;
};

// What a cache takes for each slot of that room.
struct SlotBytes {
    size_t kept = 0;     // of the mean, in all heads together: K, V, and what is known of a slot
    size_t scratch = 0;  // of the most, for a step

    size_t of(const CacheRoom &room) const { return room.mean * kept + room.most * scratch; }
};

// Slots [0, live) of a head are in use while attention runs. A token that leaves alone leaves a
// hole, which the next one fills in place, so that steady decoding never moves anything; where more
// leave, the highest slots move down into the holes that the next tokens do not fill.
//
// Where the device keeps slots (Backend::keeps_slots), it also stores, chooses and evicts: the host
// counts, and asks where tokens are only when it must know
// (device_steps.cpp).
class Cache {
  public:
    Cache(Backend &backend, const CacheShape &shape);

    // Takes effect at once; a smaller budget than what is live evicts at the next step. Throws
    // OptionError for an allocation that is not one of this cache's heads.
    void configure(const EvictionConfig &config);
    const EvictionConfig &config() const { return config_; }

    // Shares for Division::Auto, [n_layers * n_kv_heads]: what is over a head's new budget leaves
    // at once, and so does the room for it.
    void divide(std::vector<float> allocation);

    // What a head may hold after a step; 0 without eviction.
    size_t budget(size_t layer, size_t head) const {
        return head_budgets_[head_index(layer, head)].budget;
    }
    // How many of a head's newest tokens never leave.
    size_t n_recent(size_t layer, size_t head) const {
        return head_budgets_[head_index(layer, head)].n_recent;
    }
    size_t most_budget() const;  // of any head
    const CacheShape &shape() const { return shape_; }

    // Makes room for `capacity` slots per head, keeping what is stored; changes nothing where that
    // throws DeviceError. Where heads have budgets of their own, a head gets no more than its
    // budget and `extra`, the tokens that enter at once.
    void reserve(size_t capacity, size_t extra = 0);
    // Whether reserve() would find all the room there; and what it would come to.
    bool has_room(size_t capacity, size_t extra) const;
    CacheRoom room_for(size_t capacity, size_t extra) const;
    size_t capacity() const { return capacity_; }  // of the head that has most

    // What reserve() takes for each slot. Growing takes the old room and the new at once.
    static SlotBytes slot_bytes(const CacheShape &shape, size_t n_lanes);
    // And for the host's copy of a slot, where the device keeps slots.
    static size_t mirror_bytes(const CacheShape &shape, size_t n_lanes);

    void clear();

    // What is stored, in the slots where it is: a cache that loads it goes on bit for bit. load()
    // expects the shape and the configuration of the one that was saved, takes what it needs of
    // room, and throws SavedSessionError for bytes that no cache could have saved; the cache must
    // then be cleared. n_tokens: positions are below it.
    void save(ByteWriter &out) const;
    void load(ByteReader &in, size_t n_tokens);

    // Gives the tokens at positions [first_pos, first_pos + m) a slot in every head of a layer and
    // scores of zero. Returns the slots, [n_kv_heads, m], valid until the next call; none where
    // slots() says that the device chooses.
    std::span<const uint32_t> append(size_t layer, int32_t first_pos, size_t m);

    // Fills in the cache's part of an attention over m new queries: slots, positions, score lanes;
    // places too if args.turns says where the last query is. Valid until the next call.
    void bind_attention(size_t layer, size_t m, AttentionArgs &args);

    // Where RoPE sees the next token, for Positions::Compact: behind the tokens of the head that
    // has most. Those of other heads stand before it as closely.
    size_t place() const { return most_live(); }

    KvSlots slots(size_t layer) const;

    // Whether the device hands out slots in all layers: then a step of one token asks the host for
    // nothing.
    bool is_kept() const;

    // Evicts until no head of the layer holds more than the budget.
    void evict(size_t layer);

    // What is live, oldest first.
    size_t live(size_t layer, size_t head) const { return heads_[head_index(layer, head)].live; }
    size_t most_live() const;  // of any head
    size_t mean_live() const;  // of all heads, rounded up
    std::vector<int32_t> positions(size_t layer, size_t head) const;
    std::vector<float> scores(size_t layer, size_t head, size_t lane = 0) const;

    size_t n_evicted() const { return n_evicted_; }  // tokens x heads
    size_t n_bytes() const;                          // allocated: K, V, positions, scores
    size_t n_bytes_full(size_t n_tokens) const;      // K and V of a full cache of n_tokens

  private:
    // Slot bookkeeping of one (layer, head).
    struct Head {
        uint32_t live = 0;
        uint32_t n_holes = 0;
    };

    // Of a layer: what the host does not know.
    struct Layer {
        bool kept = false;      // where tokens are; order_ and holes_ are of the past
        bool stepping = false;  // kept, and kept_ says where the next token goes; else no holes
        bool appended = false;  // stepping, and a token has come for which none has left yet
        bool scored = false;    // scores
        int32_t next_pos = 0;   // kept: of the next token
    };

    bool append_kept(size_t layer, int32_t pos);
    bool can_step(size_t layer) const;
    void begin_steps(size_t layer, int32_t pos);
    void evict_kept(size_t layer);
    bool can_keep(size_t layer) const;
    bool enter_kept(size_t layer, int32_t first_pos, size_t m);
    void close_kept(size_t layer);
    void evict_entered(size_t layer, bool guarded);
    VictimsArgs victims_args(size_t layer);
    void recall(size_t layer) const;
    void recall_order(size_t layer) const;
    void recall_all() const;
    void publish(size_t layer, size_t head, uint32_t first_slot);
    bool ranks_in_place() const;
    size_t wanted_room(size_t index, size_t capacity, size_t extra) const;
    void grow(std::span<const size_t> room);
    std::unique_ptr<DeviceMemory> grown_rows(const std::unique_ptr<DeviceMemory> &memory,
                                             std::span<const size_t> first, const char *what) const;
    size_t head_index(size_t layer, size_t head) const { return layer * shape_.n_kv_heads + head; }
    void save_head(size_t index, ByteWriter &out, std::span<std::byte> rows) const;
    void load_head(size_t index, ByteReader &in, size_t n_tokens, std::span<std::byte> rows);
    void check_slots(size_t index, const ByteReader &in) const;
    void check_positions(size_t index, const ByteReader &in, size_t n_tokens) const;
    void append_head(size_t layer, size_t head, int32_t first_pos, size_t m, uint32_t *slot);
    void close_holes(size_t layer, size_t head);
    void move_slot(size_t layer, size_t head, uint32_t from, uint32_t to);
    void bind_places(size_t layer, AttentionArgs &args);
    void guard(size_t layer, Matrix<float> rank);
    bool evict_one_each(size_t layer);
    uint32_t *find_pos(size_t layer, size_t head, size_t pos);
    void remove_pos(size_t layer, size_t head, int32_t pos);
    void gather_views(size_t layer, bool similar);
    void allocate_scratch(size_t capacity);
    size_t layer_index(size_t layer) const { return first_[layer * shape_.n_kv_heads]; }
    size_t slot_index(size_t layer, size_t head) const { return first_[head_index(layer, head)]; }
    void remove(size_t layer, size_t head, std::span<const uint32_t> victims);
    size_t n_lanes() const { return config_.policy == nullptr ? 0 : config_.policy->n_lanes(); }
    size_t score_index(size_t layer, size_t lane, size_t head) const {
        const size_t begin = layer_index(layer), n = layer_index(layer + 1) - begin;
        return n_lanes() * begin + lane * n + slot_index(layer, head) - begin;
    }
    // The host's.
    float *score_row(size_t layer, size_t lane, size_t head) const {
        return scores_.host() + score_index(layer, lane, head);
    }

    Backend &backend_;
    const bool device_keeps_;    // Backend::keeps_slots
    const bool closes_at_once_;  // Backend::closes_holes_at_once
    CacheShape shape_;
    EvictionConfig config_;
    size_t capacity_ = 0;  // the most slots of any head
    size_t n_evicted_ = 0;
    std::vector<Head> heads_;               // [n_layers * n_kv_heads]
    std::vector<HeadBudget> head_budgets_;  // the same
    // Where each head's slots begin, and behind the last one where all end: room for heads of
    // different sizes. The same in every array "by head"; within a layer in first_in_layer_.
    std::vector<size_t> first_;           // [n_layers * n_kv_heads + 1]
    std::vector<size_t> first_in_layer_;  // [n_layers * n_kv_heads]
    std::vector<uint32_t> live_;          // [n_kv_heads], for AttentionArgs
    std::unique_ptr<DeviceMemory> k_;     // by head: rows
    std::unique_ptr<DeviceMemory> v_;     // the same
    MirroredArray<int32_t> pos_;          // by head: positions of slots
    MirroredArray<float> scores_;         // [n_layers, n_lanes], then by head: of slots
    Buffer<uint32_t> order_;              // by head: slots, oldest first
    Buffer<uint32_t> holes_;              // by head: slots
    // Scratch of one step.
    Buffer<uint32_t> new_slots_;    // [n_kv_heads, capacity]
    MirroredArray<int32_t> place_;  // by head of one layer, by slot: how many are older
    Buffer<float> query_weight_;    // [kMaxScoreLanes, capacity]
    ScoreLane lanes_[kMaxScoreLanes];
    Buffer<int32_t> aged_pos_;       // [n_kv_heads, capacity], oldest first
    Buffer<float> aged_scores_;      // [n_lanes, n_kv_heads, capacity], oldest first
    SharedArray<float> similarity_;  // by head of one layer, by slot
    Buffer<float> aged_similarity_;  // [n_kv_heads, capacity], oldest first
    Buffer<float> rank_;             // [n_kv_heads, capacity]
    Buffer<float> rank_scratch_;     // [capacity]
    Buffer<uint32_t> victims_;       // [n_kv_heads, capacity]
    Buffer<uint64_t> keys_;          // [n_kv_heads, capacity]: of a selection
    std::vector<int32_t> victim_;    // [n_kv_heads], positions
    std::vector<int32_t> last_pos_;  // [n_kv_heads], for LowestArgs
    std::vector<HeadView> views_;    // [n_kv_heads]
    // Of slots that the device hands out; the arrays [n_layers * n_kv_heads], as KeptSlots has
    // them.
    mutable std::vector<Layer> layers_;  // [n_layers]
    mutable std::mutex recall_mutex_;    // of layers_, order_, holes_ in recall()
    std::vector<KeptSlots> kept_;        // [n_layers]
    EnteringTokens entering_;            // of the last chunk
    std::vector<uint32_t> budgets_;      // [n_kv_heads], for VictimsArgs, like those that follow
    std::vector<uint32_t> n_holes_;
    std::vector<int32_t> recents_;
    MirroredArray<size_t> kept_first_;
    MirroredArray<uint32_t> kept_budget_, kept_slot_, kept_live_;
    MirroredArray<int32_t> kept_recent_, kept_pos_;
    MirroredArray<float> kept_weight_;  // [n_layers, kMaxScoreLanes]
};

}  // namespace a2sf
