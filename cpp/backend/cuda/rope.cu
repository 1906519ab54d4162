// Rotary positions: angles, and rows turned by them. A thread per pair.
#include "backend/cuda/device.cuh"

#include "backend/cuda/cuda_kernels.h"

namespace a2sf {
namespace {

constexpr unsigned kThreads = 128;

struct AngleArgs {
    const int32_t *pos;
    const float *frequency;
    size_t half;
    float magnitude;
    float *angles;
    size_t stride;
    bool operator==(const AngleArgs &) const = default;
};

// In double: at position 100,000 a float angle is off by 4e-3.
__global__ void __launch_bounds__(kThreads) make_angles(AngleArgs args) {
    after_others();
    const size_t j = size_t{blockIdx.y} * kThreads + threadIdx.x, i = blockIdx.x;
    if (j >= args.half) return;
    const double angle = (double)args.pos[i] * args.frequency[j];
    float *row = args.angles + i * args.stride;
    row[j] = (float)(cos(angle) * args.magnitude);
    row[args.half + j] = (float)(sin(angle) * args.magnitude);
}

struct RopeArgs {
    const float *angles;
    size_t angle_stride, half, head_dim, n_heads;
    bool halves;
    float *x;
    size_t x_stride;
    bool operator==(const RopeArgs &) const = default;
};

__global__ void __launch_bounds__(kThreads) turn_rows(RopeArgs args) {
    after_others();
    const size_t pair = size_t{blockIdx.y} * kThreads + threadIdx.x;
    if (pair >= args.half * args.n_heads) return;
    const size_t head = pair / args.half, j = pair % args.half;
    const float *angles = args.angles + blockIdx.x * args.angle_stride;
    const float cosine = angles[j], sine = angles[args.half + j];
    float *x = args.x + blockIdx.x * args.x_stride + head * args.head_dim;
    float *low = args.halves ? x + j : x + 2 * j;
    float *high = args.halves ? low + args.half : low + 1;
    const float a = *low, b = *high;
    *low = a * cosine - b * sine;
    *high = a * sine + b * cosine;
}

}  // namespace

void cuda_rope_angles(CudaQueue &queue, const int32_t *pos, const float *frequency, float magnitude,
                      Matrix<float> angles) {
    const size_t half = angles.cols / 2;
    const AngleArgs args = {pos, frequency, half, magnitude, angles.data, angles.stride};
    const LaunchShape shape = {dim3(static_cast<unsigned>(angles.rows), n_blocks(half, kThreads)),
                               dim3(kThreads)};
    launch("angles of RoPE", queue, shape, make_angles, args);
}

void cuda_rope(CudaQueue &queue, RopeStyle style, size_t head_dim, Matrix<const float> angles,
               Matrix<float> x) {
    const size_t half = angles.cols / 2, n_heads = x.cols / head_dim;
    const RopeArgs args = {angles.data, angles.stride, half,
                           head_dim,    n_heads,       style == RopeStyle::Halves,
                           x.data,      x.stride};
    const LaunchShape shape = {
        dim3(static_cast<unsigned>(x.rows), n_blocks(half * n_heads, kThreads)), dim3(kThreads)};
    launch("RoPE", queue, shape, turn_rows, args);
}

}  // namespace a2sf
