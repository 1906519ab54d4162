// Places of tokens in compact positions: how many of their head are older.
#include "backend/cuda/all_pairs.cuh"

#include "backend/cuda/cuda_kernels.h"

namespace a2sf {
namespace {

constexpr unsigned kThreads = kPairThreads;

struct PlacesJob {
    CudaHeads heads;
    const int32_t *pos;
    int32_t last_place;
    int32_t *place;
    bool operator==(const PlacesJob &) const = default;
};

__global__ void __launch_bounds__(kThreads) find_places(PlacesJob job) {
    after_others();
    const unsigned head = blockIdx.y;
    const size_t row = job.heads.first[head], live = job.heads.live[head];
    const size_t slot = size_t{blockIdx.x} * kThreads + threadIdx.x;
    if (size_t{blockIdx.x} * kThreads >= live) return;
    const size_t older = count_older(job.pos + row, live, slot);
    if (slot < live) job.place[row + slot] = job.last_place + 1 - (int32_t)(live - older);
}

}  // namespace

void cuda_find_places(CudaQueue &queue, const CudaHeads &heads, size_t longest,
                      const PlacesArgs &args) {
    const PlacesJob job = {heads, args.pos, args.last_place, args.place};
    const LaunchShape shape = {
        dim3(n_blocks(longest, kThreads), static_cast<unsigned>(heads.n_heads)), dim3(kThreads)};
    launch("places of tokens", queue, shape, find_places, job);
}

}  // namespace a2sf
