// The slot that leaves each KV head: a block per head.
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
};

// A candidate; pos INT32_MAX: none.
struct Best {
    float score;
    int32_t pos;
};

// The lower score, the older of equals.
A2SF_INLINE Best better(Best a, Best b) {
    const bool second = b.score < a.score || (b.score == a.score && b.pos < a.pos);
    return second ? b : a;
}

A2SF_INLINE Best best_of_warp(Best best) {
    for (int step = kWarp / 2; step > 0; step /= 2) {
        const Best other = {__shfl_xor_sync(kAllLanes, best.score, step),
                            __shfl_xor_sync(kAllLanes, best.pos, step)};
        best = better(best, other);
    }
    return best;
}

__global__ void __launch_bounds__(kThreads) find_lowest(FindArgs args) {
    __shared__ Best bests[kThreads / kWarp];
    const unsigned head = blockIdx.x;
    const size_t row = args.first[head];
    const int32_t last_pos = args.last_pos[head];
    Best best = {INFINITY, INT32_MAX};
    float taint = 0.0f;  // not 0 once a score was no finite number
    for (size_t s = threadIdx.x; s < args.live[head]; s += kThreads) {
        const float score = args.scores == nullptr ? 0.0f : args.scores[row + s];
        const int32_t pos = args.pos[row + s];
        taint += score * 0.0f;
        if (pos >= args.first_pos && pos <= last_pos) best = better(best, {score, pos});
    }
    best = best_of_warp(best);
    if (threadIdx.x % kWarp == 0) bests[threadIdx.x / kWarp] = best;
    const bool lost = __syncthreads_or(taint != 0.0f) != 0;
    if (threadIdx.x != 0) return;
    for (unsigned i = 1; i < kThreads / kWarp; ++i) best = better(best, bests[i]);
    args.victim[head] = lost ? Backend::kNoVictim : best.pos;
}

}  // namespace

void cuda_lowest(cudaStream_t stream, const LowestArgs &args, const size_t *first,
                 const uint32_t *live, const int32_t *last_pos, int32_t *victim) {
    const FindArgs job = {args.scores, args.pos, first, live, args.first_pos, last_pos, victim};
    const LaunchShape shape = {dim3(static_cast<unsigned>(args.slots.n_kv_heads)), dim3(kThreads)};
    launch("lowest score", stream, shape, find_lowest, job);
}

}  // namespace a2sf
