// The token that leaves each KV head: a block per head. find_lowest tells the host; free_slot makes
// its slot the next token's, and nobody waits.
#include "backend/cuda/device.cuh"

#include "backend/cuda/cuda_kernels.h"

namespace a2sf {
namespace {

constexpr unsigned kThreads = 256;

struct FindArgs {
    const float *scores;
    const int32_t *pos;
    const size_t *first;
    const uint32_t *live;
    int32_t first_pos;
    const int32_t *last_pos;
    int32_t *victim;
    bool operator==(const FindArgs &) const = default;
};

// A candidate; pos INT32_MAX: none.
struct Best {
    float score;
    int32_t pos;
    uint32_t slot;
};

// Not-a-number first, then the lower score, the older of equals: evict/select.h's order.
A2SF_INLINE Best better(Best a, Best b) {
    const bool lost_a = isnan(a.score), lost_b = isnan(b.score);
    const bool equal = lost_a ? lost_b : a.score == b.score;
    const bool second = equal ? b.pos < a.pos : lost_b || b.score < a.score;
    return second ? b : a;
}

// In thread 0: the best of a block's. bests: shared.
A2SF_INLINE Best best_of_block(Best best, Best (&bests)[kThreads / kWarp]) {
    for (int step = kWarp / 2; step > 0; step /= 2) {
        const Best other = {__shfl_xor_sync(kAllLanes, best.score, step),
                            __shfl_xor_sync(kAllLanes, best.pos, step),
                            __shfl_xor_sync(kAllLanes, best.slot, step)};
        best = better(best, other);
    }
    if (threadIdx.x % kWarp == 0) bests[threadIdx.x / kWarp] = best;
    __syncthreads();
    for (unsigned i = 0; threadIdx.x == 0 && i < kThreads / kWarp; ++i) {
        best = better(best, bests[i]);
    }
    return best;
}

__global__ void __launch_bounds__(kThreads) find_lowest(FindArgs args) {
    after_others();
    __shared__ Best bests[kThreads / kWarp];
    const unsigned head = blockIdx.x;
    const size_t row = args.first[head];
    const int32_t last_pos = args.last_pos[head];
    Best best = {INFINITY, INT32_MAX, 0};
    float taint = 0.0f;  // not 0 once a score was no finite number
    for (size_t s = threadIdx.x; s < args.live[head]; s += kThreads) {
        const float score = args.scores == nullptr ? 0.0f : args.scores[row + s];
        const int32_t pos = args.pos[row + s];
        taint += score * 0.0f;
        if (pos >= args.first_pos && pos <= last_pos)
            best = better(best, {score, pos, (uint32_t)s});
    }
    best = best_of_block(best, bests);
    const bool lost = __syncthreads_or(taint != 0.0f) != 0;
    if (threadIdx.x == 0) args.victim[head] = lost ? Backend::kNoVictim : best.pos;
}

__global__ void __launch_bounds__(kThreads) free_slot(KeptSlots kept) {
    after_others();
    __shared__ Best bests[kThreads / kWarp];
    const unsigned head = blockIdx.x;
    const uint32_t live = kept.live[head];
    const int32_t newest = kept.next_pos[head];
    __syncthreads();  // all have read before anything changes
    if (threadIdx.x == 0) kept.next_pos[head] = newest + 1;
    if (live <= kept.budget[head]) {
        if (threadIdx.x == 0) kept.slot[head] = live;
        if (threadIdx.x == 0) kept.live[head] = live + 1;
        return;
    }
    const int32_t last_pos = newest - kept.n_recent[head];
    const bool scored = kept.n_lanes > 0 && !kept.by_age;
    const size_t row = kept.first[head];
    Best best = {INFINITY, INT32_MAX, 0};
    for (uint32_t s = threadIdx.x; s < live; s += kThreads) {
        const int32_t pos = kept.pos[row + s];
        if (pos < kept.first_pos || pos > last_pos) continue;
        best = better(best, {scored ? kept.scores[0][row + s] : 0.0f, pos, s});
    }
    best = best_of_block(best, bests);
    if (threadIdx.x == 0) kept.slot[head] = best.slot;
}

}  // namespace

void cuda_lowest(CudaQueue &queue, const LowestArgs &args, const size_t *first,
                 const uint32_t *live, const int32_t *last_pos, int32_t *victim) {
    const FindArgs job = {args.scores, args.pos, first, live, args.first_pos, last_pos, victim};
    const LaunchShape shape = {dim3(static_cast<unsigned>(args.slots.n_kv_heads)), dim3(kThreads)};
    launch("lowest score", queue, shape, find_lowest, job);
}

void cuda_free_slots(CudaQueue &queue, size_t n_kv_heads, const KeptSlots &kept) {
    const LaunchShape shape = {dim3(static_cast<unsigned>(n_kv_heads)), dim3(kThreads)};
    launch("freeing slots", queue, shape, free_slot, kept);
}

}  // namespace a2sf
