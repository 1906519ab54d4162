// Loops that do nothing but one kind of arithmetic, to measure what a device can do at most.
#include "backend/cuda/tensor.cuh"

#include "backend/cuda/cuda_kernels.h"

namespace a2sf {
namespace {

constexpr unsigned kThreads = 256, kBlocksEach = 8;  // of a multiprocessor
constexpr int kChains = 8;                           // independent of each other

struct LoopArgs {
    int n_rounds;
    void *sink;
    bool operator==(const LoopArgs &) const = default;
};

// What is written in the end depends on all that was computed, so nothing of it is left out.
__global__ void __launch_bounds__(kThreads) bytes_loop(LoopArgs args) {
    after_others();
    int sums[kChains];
    for (int i = 0; i < kChains; ++i) sums[i] = (int)threadIdx.x + i;
    for (int round = 0; round < args.n_rounds; ++round) {
#pragma unroll
        for (int i = 0; i < kChains; ++i) sums[i] = __dp4a(sums[i], 0x01010101, sums[i]);
    }
    int all = 0;
    for (int i = 0; i < kChains; ++i) all |= sums[i];
    if (all == 0x7ffffffe) *static_cast<int *>(args.sink) = all;
}

__global__ void __launch_bounds__(kThreads) floats_loop(LoopArgs args) {
    after_others();
    float sums[kChains];
    for (int i = 0; i < kChains; ++i) sums[i] = (float)threadIdx.x + (float)i;
    for (int round = 0; round < args.n_rounds; ++round) {
#pragma unroll
        for (int i = 0; i < kChains; ++i) sums[i] = fmaf(sums[i], 0.999f, 0.001f);
    }
    float all = 0.0f;
    for (int i = 0; i < kChains; ++i) all += sums[i];
    if (all < 0.0f) *static_cast<float *>(args.sink) = all;
}

__global__ void __launch_bounds__(kThreads) tensor_loop(LoopArgs args) {
    after_others();
    float c[kChains][4] = {};
    // Numbers from 1 to 2: zeros take less power, and so a higher clock.
    uint32_t a[4], b[2];
    for (uint32_t i = 0; i < 4; ++i)
        a[i] = 0x3f803f80u | (threadIdx.x * (i + 5) & 0x7fu) * 0x10001u;
    for (uint32_t i = 0; i < 2; ++i)
        b[i] = 0x3f803f80u | (threadIdx.x * (i + 9) & 0x7fu) * 0x10001u;
    for (int round = 0; round < args.n_rounds; ++round) {
#pragma unroll
        for (int i = 0; i < kChains; ++i) multiply_tiles<false>(c[i], a, b[0], b[1]);
    }
    float all = 0.0f;
    for (int i = 0; i < kChains; ++i) all += c[i][0];
    if (all < 0.0f) *static_cast<float *>(args.sink) = all;
}

LaunchShape whole_device(size_t n_multiprocessors) {
    return {dim3(static_cast<unsigned>(n_multiprocessors * kBlocksEach)), dim3(kThreads)};
}

double n_steps(const LaunchShape &shape, int n_rounds) {
    return static_cast<double>(shape.grid.x) * kThreads * kChains * n_rounds;
}

}  // namespace

double cuda_peak_int8(CudaQueue &queue, size_t n_multiprocessors, int n_rounds, void *sink) {
    const LaunchShape shape = whole_device(n_multiprocessors);
    launch("peak of bytes", queue, shape, bytes_loop, LoopArgs{n_rounds, sink});
    return n_steps(shape, n_rounds) * 8;
}

double cuda_peak_float(CudaQueue &queue, size_t n_multiprocessors, int n_rounds, void *sink) {
    const LaunchShape shape = whole_device(n_multiprocessors);
    launch("peak of floats", queue, shape, floats_loop, LoopArgs{n_rounds, sink});
    return n_steps(shape, n_rounds) * 2;
}

double cuda_peak_bfloat(CudaQueue &queue, size_t n_multiprocessors, int n_rounds, void *sink) {
    const LaunchShape shape = whole_device(n_multiprocessors);
    launch("peak of bfloat16", queue, shape, tensor_loop, LoopArgs{n_rounds, sink});
    return n_steps(shape, n_rounds) / kWarp * (16 * 8 * 16 * 2);
}

}  // namespace a2sf
