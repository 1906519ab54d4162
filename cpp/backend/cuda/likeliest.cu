// The likeliest token of a row of logits: runs of them, a block each, then one block over the runs.
#include "backend/cuda/device.cuh"

#include "backend/cuda/cuda_kernels.h"

namespace a2sf {
namespace {

constexpr unsigned kThreads = 256;
constexpr size_t kRun = 4096;  // logits

// The highest of some logits, the first of equals; no logit is it: id UINT32_MAX.
struct Most {
    float logit;
    uint32_t id;
};

// What a run comes to.
struct Part {
    Most most;
    float total;    // sum of exp(logit - most)
    uint32_t lost;  // whether a logit is not a number
};

A2SF_INLINE Most higher(Most a, Most b) {
    const bool second = b.logit > a.logit || (b.logit == a.logit && b.id < a.id);
    return second ? b : a;
}

// In every thread: the highest of a block's. mosts [kThreads / kWarp], shared.
A2SF_INLINE Most most_of_block(Most most, Most *mosts) {
    for (int step = kWarp / 2; step > 0; step /= 2) {
        const Most other = {__shfl_xor_sync(kAllLanes, most.logit, step),
                            __shfl_xor_sync(kAllLanes, most.id, step)};
        most = higher(most, other);
    }
    if (threadIdx.x % kWarp == 0) mosts[threadIdx.x / kWarp] = most;
    __syncthreads();
    for (unsigned i = 0; i < kThreads / kWarp; ++i) most = higher(most, mosts[i]);
    return most;
}

struct LikeliestArgs {
    const float *logits;
    size_t n, n_parts;
    float scale;
    Part *parts;  // [n_parts]
    Likeliest *result;
    bool operator==(const LikeliestArgs &) const = default;
};

__global__ void __launch_bounds__(kThreads) search_run(LikeliestArgs args) {
    after_others();
    __shared__ Most mosts[kThreads / kWarp];
    __shared__ float scratch[kWarp];
    const size_t first = blockIdx.x * kRun;
    const size_t end = first + kRun < args.n ? first + kRun : args.n;
    Most most = {-INFINITY, UINT32_MAX};
    bool lost = false;
    for (size_t i = first + threadIdx.x; i < end; i += kThreads) {
        const float logit = args.logits[i] * args.scale;
        lost |= isnan(logit);
        most = higher(most, {logit, (uint32_t)i});
    }
    most = most_of_block(most, mosts);
    float total = 0.0f;
    for (size_t i = first + threadIdx.x; i < end; i += kThreads) {
        total += expf(args.logits[i] * args.scale - most.logit);
    }
    total = block_sum(total, scratch);
    const bool any_lost = __syncthreads_or(lost) != 0;
    if (threadIdx.x == 0) args.parts[blockIdx.x] = {most, total, any_lost};
}

__global__ void __launch_bounds__(kThreads) join_parts(LikeliestArgs args) {
    after_others();
    __shared__ Most mosts[kThreads / kWarp];
    __shared__ float scratch[kWarp];
    Most most = {-INFINITY, UINT32_MAX};
    bool lost = false;
    for (size_t i = threadIdx.x; i < args.n_parts; i += kThreads) {
        lost |= args.parts[i].lost != 0;
        most = higher(most, args.parts[i].most);
    }
    most = most_of_block(most, mosts);
    // What is -inf throughout is a run of tokens that never come.
    float total = 0.0f;
    for (size_t i = threadIdx.x; i < args.n_parts; i += kThreads) {
        const Part part = args.parts[i];
        if (part.most.logit != -INFINITY) {
            total += part.total * expf(part.most.logit - most.logit);
        }
    }
    total = block_sum(total, scratch);
    const bool any_lost = __syncthreads_or(lost) != 0;
    if (threadIdx.x != 0) return;
    Likeliest result;
    result.id = (int32_t)most.id;
    result.logprob = -logf(total);
    result.is_finite = !any_lost && !isinf(most.logit);
    *args.result = result;
}

}  // namespace

size_t cuda_likeliest_workspace(size_t n) {
    return n_blocks(n, kRun) * sizeof(Part);
}

void cuda_likeliest(CudaQueue &queue, Matrix<const float> logits, float scale, void *workspace,
                    Likeliest *result) {
    const unsigned n_parts = n_blocks(logits.cols, kRun);
    const LikeliestArgs args = {
        logits.data, logits.cols, n_parts, scale, static_cast<Part *>(workspace), result};
    launch("likeliest of a run", queue, {dim3(n_parts), dim3(kThreads)}, search_run, args);
    launch("likeliest token", queue, {dim3(1), dim3(kThreads)}, join_parts, args);
}

}  // namespace a2sf
