// Angles of rotary positions: a thread per pair.
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

}  // namespace

void cuda_rope_angles(CudaQueue &queue, const int32_t *pos, const float *frequency, float magnitude,
                      Matrix<float> angles) {
    const size_t half = angles.cols / 2;
    const AngleArgs args = {pos, frequency, half, magnitude, angles.data, angles.stride};
    const LaunchShape shape = {dim3(static_cast<unsigned>(angles.rows), n_blocks(half, kThreads)),
                               dim3(kThreads)};
    launch("angles of RoPE", queue, shape, make_angles, args);
}

}  // namespace a2sf
