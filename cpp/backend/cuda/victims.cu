// The tokens that leave KV heads where a look at each of them alone does not tell: many at once, or
// ranked with their neighbours, with other heads, or by their keys. Every token is compared with
// every other of its head, on threads of its own, so that nothing is sorted and nobody waits.
//
//   order_by_age   which slot has the i-th oldest token, where neighbours count
//   sum_scores     a2sf-dual's fast score over heads, and what both scores are in all
//   rank_slots     a key for every token that may leave (evict/victim_key.h), and one for the guard
//   apply_guard    guarded tokens go last
//   choose         who leaves
//   pair_moves     which slots go into the holes (moves.cu), if the hole is not the next token's
//                  (take_holes.cu)
#include "backend/cuda/all_pairs.cuh"

#include "backend/cuda/cuda_kernels.h"
#include "evict/victim_key.h"

namespace a2sf {
namespace {

constexpr unsigned kThreads = kPairThreads;
constexpr uint64_t kStays = UINT64_MAX;  // no key is as high

// Arrays of a layer "by head", from first[head] on.
struct VictimsJob {
    CudaHeads heads;
    const int32_t *pos;
    Ranking ranking;
    const float *scores;       // by head, by slot
    const float *fast_scores;  // the same of the second lane
    const float *similarity;   // the same; null where nothing needs it
    bool by_layer;             // heads hold the same tokens, in the same slots
    int32_t reach;             // of pooling
    int32_t first_pos;         // tokens before it stay
    const PositionRange *pinned;
    size_t n_pinned;
    double guard;    // 0: nothing is guarded
    size_t n_parts;  // blocks of a head
    CudaVictims found;
    bool operator==(const VictimsJob &) const = default;
};

A2SF_INLINE size_t n_victims(const CudaHeads &heads, unsigned head) {
    const uint32_t live = heads.live[head], budget = heads.budget[head];
    return live > budget ? live - budget : 0;
}

// Where nobody leaves and no other head asks, nothing need be known of a head.
A2SF_INLINE bool is_idle(const VictimsJob &job, unsigned head) {
    return job.ranking != Ranking::TwoScores && n_victims(job.heads, head) == 0;
}

__global__ void __launch_bounds__(kThreads) order_by_age(VictimsJob job) {
    after_others();
    const unsigned head = blockIdx.y;
    const size_t row = job.heads.first[head], live = job.heads.live[head];
    const size_t slot = size_t{blockIdx.x} * kThreads + threadIdx.x;
    if (size_t{blockIdx.x} * kThreads >= live || is_idle(job, head)) return;
    const size_t older = count_older(job.pos + row, live, slot);
    if (slot < live) job.found.aged[row + older] = (uint32_t)slot;
}

// A value of a slot: its own, or the sum over heads.
A2SF_INLINE float value_of(const VictimsJob &job, unsigned head, size_t slot, const float *values) {
    if (!job.by_layer) return values[job.heads.first[head] + slot];
    float total = values[job.heads.first[0] + slot];
    for (size_t h = 1; h < job.heads.n_heads; ++h) total += values[job.heads.first[h] + slot];
    return total;
}

A2SF_INLINE float rank_of(const VictimsJob &job, unsigned head, size_t slot) {
    if (job.ranking == Ranking::Score) return value_of(job, head, slot, job.scores);
    if (job.ranking == Ranking::Similarity) return -value_of(job, head, slot, job.similarity);
    return 0.0f;  // by age alone
}

A2SF_INLINE bool may_leave(const VictimsJob &job, unsigned head, int32_t pos) {
    if (pos < job.first_pos || pos > job.heads.newest[head] - job.heads.n_recent[head]) {
        return false;
    }
    for (size_t i = 0; i < job.n_pinned; ++i) {
        if ((size_t)pos >= job.pinned[i].first && (size_t)pos < job.pinned[i].last) return false;
    }
    return true;
}

// visit(slot) for the tokens within reach of the i-th oldest, older ones first.
template <typename Visit>
A2SF_INLINE void each_neighbour(const VictimsJob &job, unsigned head, size_t i, int32_t reach,
                                const Visit &visit) {
    const size_t row = job.heads.first[head], live = job.heads.live[head];
    const uint32_t *aged = job.found.aged + row;
    const int32_t *pos = job.pos + row;
    const int32_t own = pos[aged[i]];
    size_t at = i;
    while (at > 0 && own - pos[aged[at - 1]] <= reach) --at;
    for (; at < live && pos[aged[at]] - own <= reach; ++at) visit(aged[at]);
}

// The age of a head's first token at or behind a position.
A2SF_INLINE size_t find_age(const VictimsJob &job, size_t head, int32_t pos) {
    const size_t row = job.heads.first[head];
    size_t low = 0, high = job.heads.live[head];
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (job.pos[row + job.found.aged[row + middle]] < pos) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

// visit(h, slot) for every token of any head, heads in order, at positions [first, last].
template <typename Visit>
A2SF_INLINE void each_between(const VictimsJob &job, int32_t first, int32_t last,
                              const Visit &visit) {
    for (size_t h = 0; h < job.heads.n_heads; ++h) {
        const size_t row = job.heads.first[h], live = job.heads.live[h];
        for (size_t i = find_age(job, h, first); i < live; ++i) {
            const uint32_t slot = job.found.aged[row + i];
            if (job.pos[row + slot] > last) break;
            visit(h, slot);
        }
    }
}

// Sum over a block, in thread 0. sums [kThreads / kWarp], shared.
A2SF_INLINE double sum_of_block(double value, double *sums) {
    for (int step = kWarp / 2; step > 0; step /= 2) {
        value += __shfl_xor_sync(kAllLanes, value, step);
    }
    __syncthreads();
    if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = value;
    __syncthreads();
    double total = 0.0;
    for (unsigned i = 0; threadIdx.x == 0 && i < kThreads / kWarp; ++i) total += sums[i];
    return total;
}

__global__ void __launch_bounds__(kThreads) sum_scores(VictimsJob job) {
    after_others();
    __shared__ double sums[kThreads / kWarp];
    const unsigned head = blockIdx.y;
    const size_t row = job.heads.first[head];
    const size_t slot = size_t{blockIdx.x} * kThreads + threadIdx.x;
    double fast = 0.0, slow = 0.0;
    if (slot < job.heads.live[head]) {
        const int32_t pos = job.pos[row + slot];
        float total = 0.0f;
        size_t first_holder = head;
        each_between(job, pos, pos, [&](size_t h, size_t other) {
            total += job.fast_scores[job.heads.first[h] + other];
            if (h < first_holder) first_holder = h;
        });
        job.found.fast[row + slot] = total;
        if (first_holder == head) fast = total;  // each position once
        slow = value_of(job, head, slot, job.scores);
    }
    fast = sum_of_block(fast, sums);
    slow = sum_of_block(slow, sums);
    if (threadIdx.x != 0) return;
    job.found.fast_sum[size_t{head} * job.n_parts + blockIdx.x] = fast;
    job.found.slow_sum[size_t{head} * job.n_parts + blockIdx.x] = slow;
}

// Sums of both scores: of the layer, and of the head.
struct TwoTotals {
    float fast, slow;
};
// In all threads of a block, which all call it. to, sums [kThreads / kWarp]: shared.
A2SF_INLINE TwoTotals two_totals(const VictimsJob &job, unsigned head, TwoTotals &to,
                                 double *sums) {
    double fast = 0.0, slow = 0.0;
    for (size_t i = threadIdx.x; i < job.heads.n_heads * job.n_parts; i += kThreads) {
        fast += job.found.fast_sum[i];
    }
    for (size_t i = threadIdx.x; i < job.n_parts; i += kThreads) {
        slow += job.found.slow_sum[size_t{head} * job.n_parts + i];
    }
    fast = sum_of_block(fast, sums);
    slow = sum_of_block(slow, sums);
    if (threadIdx.x == 0) to = {(float)fast, (float)slow};
    __syncthreads();
    return to;
}

// evict/policies/a2sf_dual.cpp
A2SF_INLINE float rank_by_two(const VictimsJob &job, unsigned head, size_t slot, int32_t pos,
                              TwoTotals total) {
    float most = -INFINITY;
    each_between(job, pos - job.reach, pos + job.reach, [&](size_t h, size_t other) {
        most = fmaxf(most, job.found.fast[job.heads.first[h] + other]);
    });
    const float fast = total.fast > 0 ? most / total.fast : 0.0f;
    const float slow = total.slow > 0 ? value_of(job, head, slot, job.scores) / total.slow : 0.0f;
    return fast < slow ? slow : fast;
}

__global__ void __launch_bounds__(kThreads) rank_slots(VictimsJob job) {
    after_others();
    __shared__ double sums[kThreads / kWarp];
    __shared__ TwoTotals found;
    const unsigned head = blockIdx.y;
    const size_t row = job.heads.first[head], i = size_t{blockIdx.x} * kThreads + threadIdx.x;
    const bool by_two = job.ranking == Ranking::TwoScores;
    TwoTotals totals = {};
    if (by_two) totals = two_totals(job, head, found, sums);
    if (i >= job.heads.live[head] || n_victims(job.heads, head) == 0) return;
    const size_t slot = job.found.aged == nullptr ? i : job.found.aged[row + i];
    const int32_t pos = job.pos[row + slot];
    uint64_t key = kStays, guard_key = 0;  // no key of a candidate
    if (may_leave(job, head, pos)) {
        float rank = by_two ? rank_by_two(job, head, slot, pos, totals) : rank_of(job, head, slot);
        if (job.reach > 0 && !by_two) {
            bool is_first = true;
            each_neighbour(job, head, i, job.reach, [&](size_t other) {
                const float value = rank_of(job, head, other);
                if (is_first || rank < value) rank = value;
                is_first = false;
            });
        }
        key = victim_key(rank, (uint32_t)pos);
        if (job.guard > 0) {
            float total = 0.0f;
            int n = 0;
            each_neighbour(job, head, i, kGuardReach, [&](size_t other) {
                total += value_of(job, head, other, job.similarity);
                ++n;
            });
            guard_key = victim_key(-total / (float)n, (uint32_t)pos + 1);
        }
    }
    job.found.key[row + slot] = key;
    if (job.guard > 0) job.found.guard_key[row + slot] = guard_key;
}

__global__ void __launch_bounds__(kThreads) apply_guard(VictimsJob job) {
    after_others();
    const unsigned head = blockIdx.y;
    const size_t row = job.heads.first[head], live = job.heads.live[head];
    const size_t slot = size_t{blockIdx.x} * kThreads + threadIdx.x, n = n_victims(job.heads, head);
    if (size_t{blockIdx.x} * kThreads >= live || n == 0) return;
    const uint64_t own = slot < live ? job.found.guard_key[row + slot] : 0;
    unsigned higher = 0, candidates = 0;
    visit_all(job.found.guard_key + row, live, [&](uint64_t key, size_t) {
        higher += key > own ? 1 : 0;
        candidates += key != 0 ? 1 : 0;
    });
    if (slot >= live) return;
    const uint64_t key = job.found.key[row + slot];
    const bool guarded = key != kStays && higher < share_of(job.guard, candidates - n);
    job.found.final_key[row + slot] =
        guarded ? victim_key(INFINITY, (uint32_t)job.pos[row + slot]) : key;
}

__global__ void __launch_bounds__(kThreads) choose(VictimsJob job) {
    after_others();
    const unsigned head = blockIdx.y;
    const size_t row = job.heads.first[head], live = job.heads.live[head];
    const size_t slot = size_t{blockIdx.x} * kThreads + threadIdx.x, n = n_victims(job.heads, head);
    if (size_t{blockIdx.x} * kThreads >= live || n == 0) return;
    const uint64_t *keys = (job.guard > 0 ? job.found.final_key : job.found.key) + row;
    const uint64_t own = slot < live ? keys[slot] : kStays;
    unsigned lower = 0;
    visit_all(keys, live, [&](uint64_t key, size_t) { lower += key < own ? 1 : 0; });
    if (slot < live) job.found.gone[row + slot] = own != kStays && lower < n ? 1 : 0;
}

__global__ void __launch_bounds__(kThreads) pair_moves(VictimsJob job) {
    after_others();
    const unsigned head = blockIdx.y;
    const size_t row = job.heads.first[head], live = job.heads.live[head];
    const size_t slot = size_t{blockIdx.x} * kThreads + threadIdx.x, n = n_victims(job.heads, head);
    if (n == 0 && slot == 0) job.found.n_moves[head] = 0;
    if (size_t{blockIdx.x} * kThreads >= live || n == 0) return;
    const size_t left = live - n;  // slots from here on are given up
    const uint32_t *gone = job.found.gone + row;
    const bool moves = slot >= left;
    // Of a hole: those below it. Of a slot that is given up: the tokens above it.
    unsigned before = 0;
    visit_all(gone, live, [&](uint32_t is_gone, size_t at) {
        before += (moves ? at > slot && is_gone == 0 : at < slot && is_gone != 0) ? 1 : 0;
    });
    if (slot == left) job.found.n_moves[head] = before + (gone[slot] == 0 ? 1 : 0);
    if (slot >= live) return;
    if (moves && gone[slot] == 0) job.found.from[row + before] = (uint32_t)slot;
    if (!moves && gone[slot] != 0) job.found.to[row + before] = (uint32_t)slot;
}

// The arrays of a layer, one after the other: those of 8 bytes first.
CudaVictims victims_in(void *workspace, size_t n_slots, size_t n_sums) {
    CudaVictims found;
    found.key = static_cast<uint64_t *>(workspace);
    found.guard_key = found.key + n_slots;
    found.final_key = found.guard_key + n_slots;
    found.fast_sum = reinterpret_cast<double *>(found.final_key + n_slots);
    found.slow_sum = found.fast_sum + n_sums;
    found.aged = reinterpret_cast<uint32_t *>(found.slow_sum + n_sums);
    found.gone = found.aged + n_slots;
    found.from = found.gone + n_slots;
    found.to = found.from + n_slots;
    found.similarity = reinterpret_cast<float *>(found.to + n_slots);
    found.fast = found.similarity + n_slots;
    found.n_moves = reinterpret_cast<uint32_t *>(found.fast + n_slots);
    return found;
}

}  // namespace

size_t cuda_victims_workspace(size_t n_slots, size_t n_heads, size_t longest) {
    return n_slots * (3 * sizeof(uint64_t) + 6 * sizeof(uint32_t)) +
           n_heads * (2 * n_blocks(longest, kThreads) * sizeof(double) + sizeof(uint32_t));
}

CudaVictims cuda_victims(CudaQueue &queue, const CudaEviction &eviction) {
    const VictimsArgs &args = *eviction.args;
    const EvictionConfig &config = *args.config;
    const CudaHeads &heads = eviction.heads;
    const Ranking ranking = config.policy->ranking();
    CudaVictims found = victims_in(eviction.workspace, eviction.n_slots,
                                   heads.n_heads * n_blocks(eviction.longest, kThreads));
    if (eviction.key_sums != nullptr) {
        cuda_key_similarity(
            queue, args.slots,
            {heads.first, heads.live, eviction.longest, eviction.key_sums, found.similarity});
    }
    const int32_t reach = static_cast<int32_t>(std::min<size_t>(config.pooling / 2, INT32_MAX));
    const bool by_two = ranking == Ranking::TwoScores;
    const bool has_neighbours = args.guarded || reach > 0 || by_two;
    if (!has_neighbours) found.aged = nullptr;
    const VictimsJob job = {heads,
                            args.pos,
                            ranking,
                            args.scores[0],
                            args.scores[1],
                            found.similarity,
                            config.scope == Scope::Layer,
                            reach,
                            static_cast<int32_t>(config.n_sinks),
                            eviction.pinned,
                            eviction.n_pinned,
                            args.guarded ? config.guard : 0.0,
                            n_blocks(eviction.longest, kThreads),
                            found};
    const LaunchShape shape = {
        dim3(n_blocks(eviction.longest, kThreads), static_cast<unsigned>(heads.n_heads)),
        dim3(kThreads)};
    if (has_neighbours) launch("tokens by age", queue, shape, order_by_age, job);
    if (by_two) launch("sums of scores", queue, shape, sum_scores, job);
    launch("ranks of tokens", queue, shape, rank_slots, job);
    if (args.guarded) launch("guarding keys", queue, shape, apply_guard, job);
    launch("choosing tokens", queue, shape, choose, job);
    if (eviction.most_victims > 0) launch("pairing slots", queue, shape, pair_moves, job);
    return found;
}

}  // namespace a2sf
