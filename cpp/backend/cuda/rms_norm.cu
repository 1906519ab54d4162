// RMS norm of every run of a matrix: a block per run.
#include "backend/cuda/device.cuh"

#include "backend/cuda/cuda_kernels.h"

namespace a2sf {
namespace {

constexpr unsigned kThreads = 128;

struct NormArgs {
    const float *x;
    size_t x_stride, width;
    const float *weight;
    float eps;
    float *y;
    size_t y_stride;
    bool accumulate;
    bool operator==(const NormArgs &) const = default;
};

// x and y may be the same run.
__global__ void __launch_bounds__(kThreads) norm_runs(NormArgs args) {
    after_others();
    __shared__ float scratch[kWarp];
    const float *x = args.x + blockIdx.x * args.x_stride + blockIdx.y * args.width;
    float *y = args.y + blockIdx.x * args.y_stride + blockIdx.y * args.width;
    float squares = 0.0f;
    for (size_t k = threadIdx.x; k < args.width; k += kThreads) squares += x[k] * x[k];
    squares = block_sum(squares, scratch);
    const float factor = 1.0f / sqrtf(squares / (float)args.width + args.eps);
    for (size_t k = threadIdx.x; k < args.width; k += kThreads) {
        const float value = x[k] * factor * args.weight[k];
        y[k] = args.accumulate ? y[k] + value : value;
    }
}

}  // namespace

void cuda_rms_norm(CudaQueue &queue, Matrix<const float> x, size_t width, const float *weight,
                   float eps, Matrix<float> y, bool accumulate) {
    const NormArgs args = {x.data, x.stride, width, weight, eps, y.data, y.stride, accumulate};
    const LaunchShape shape = {
        dim3(static_cast<unsigned>(x.rows), static_cast<unsigned>(x.cols / width)), dim3(kThreads)};
    launch("RMS norm", queue, shape, norm_runs, args);
}

}  // namespace a2sf
