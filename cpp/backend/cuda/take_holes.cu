// The slot of the token that leaves a head is the next token's.
#include "backend/cuda/device.cuh"

#include "backend/cuda/cuda_kernels.h"

namespace a2sf {
namespace {

constexpr unsigned kThreads = 256;

// A block per head.
struct HoleJob {
    KeptSlots kept;
    const uint32_t *gone;
    bool operator==(const HoleJob &) const = default;
};

__global__ void __launch_bounds__(kThreads) take_holes(HoleJob job) {
    after_others();
    const unsigned head = blockIdx.x;
    const uint32_t live = job.kept.live[head];
    __syncthreads();  // all have read before anything changes
    if (threadIdx.x == 0) job.kept.next_pos[head] += 1;
    if (live <= job.kept.budget[head]) {
        if (threadIdx.x == 0) job.kept.slot[head] = live;
        if (threadIdx.x == 0) job.kept.live[head] = live + 1;
        return;
    }
    const size_t row = job.kept.first[head];
    for (uint32_t slot = threadIdx.x; slot < live; slot += kThreads) {
        if (job.gone[row + slot] != 0) job.kept.slot[head] = slot;
    }
}

}  // namespace

void cuda_take_holes(CudaQueue &queue, size_t n_kv_heads, const KeptSlots &kept,
                     const uint32_t *gone) {
    const HoleJob job = {kept, gone};
    const LaunchShape shape = {dim3(static_cast<unsigned>(n_kv_heads)), dim3(kThreads)};
    launch("freeing slots", queue, shape, take_holes, job);
}

}  // namespace a2sf
