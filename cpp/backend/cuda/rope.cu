// Rotary positions: angles, and rows turned by them. A thread per pair.
#include "backend/cuda/turns.cuh"

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
    RowTurns turns;
    size_t head_dim, n_heads;
    float *x;
    size_t x_stride;
    bool operator==(const RopeArgs &) const = default;
};

__global__ void __launch_bounds__(kThreads) turn_rows(RopeArgs args) {
    after_others();
    const size_t pair = size_t{blockIdx.y} * kThreads + threadIdx.x;
    const size_t half = args.turns.half;
    if (pair >= half * args.n_heads) return;
    float *head = args.x + blockIdx.x * args.x_stride + pair / half * args.head_dim;
    turn_pair(args.turns, blockIdx.x, pair % half, head);
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
    const RopeArgs args = {row_turns(style, angles), head_dim, x.cols / head_dim, x.data, x.stride};
    const unsigned n_pairs = n_blocks(args.turns.half * args.n_heads, kThreads);
    const LaunchShape shape = {dim3(static_cast<unsigned>(x.rows), n_pairs), dim3(kThreads)};
    launch("RoPE", queue, shape, turn_rows, args);
}

}  // namespace a2sf
