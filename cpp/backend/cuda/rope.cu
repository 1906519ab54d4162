// Rows turned by angles of rotary positions: a thread per pair.
#include "backend/cuda/turns.cuh"

#include "backend/cuda/cuda_kernels.h"

namespace a2sf {
namespace {

constexpr unsigned kThreads = 128;

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

void cuda_rope(CudaQueue &queue, RopeStyle style, size_t head_dim, Matrix<const float> angles,
               Matrix<float> x) {
    const RopeArgs args = {row_turns(style, angles), head_dim, x.cols / head_dim, x.data, x.stride};
    const unsigned n_pairs = n_blocks(args.turns.half * args.n_heads, kThreads);
    const LaunchShape shape = {dim3(static_cast<unsigned>(x.rows), n_pairs), dim3(kThreads)};
    launch("RoPE", queue, shape, turn_rows, args);
}

}  // namespace a2sf
