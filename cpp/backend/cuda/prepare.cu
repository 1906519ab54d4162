// An input made ready for its products: normed or gated on the way, then as floats, as bytes with a
// scale for each 32, as halves of a size, or as bfloat16. One block per row where there are
// many; else several, each of which finds out by itself what the whole row says.
#include "backend/cuda/tensor.cuh"

#include <algorithm>

#include "backend/cuda/cuda_kernels.h"

namespace a2sf {
namespace {

constexpr unsigned kThreads = 256;
constexpr size_t kEnoughBlocks = 128;

struct PrepareArgs {
    const float *x;
    size_t x_stride;
    const float *norm;
    float eps;
    const float *up;
    size_t up_stride;
    bool gelu;
    size_t cols, padded;
    size_t cols_each;  // of a block
    CudaForms forms;
    bool operator==(const PrepareArgs &) const = default;
};

// x * sigmoid(u).
A2SF_INLINE float times_sigmoid(float x, float u) {
    return x / (1.0f + expf(-u));
}

// As backend/cpu/float.inl has it: 0.5 x (1 + tanh(t)) = x * sigmoid(2 t).
A2SF_INLINE float activated(float x, bool gelu) {
    return times_sigmoid(x, gelu ? (x * x * x * 0.044715f + x) * 1.59576912f : x);
}

// The divisors, one of which makes 32 values the bytes whose rounding errors are smallest: those of
// the CPU (backend/cpu/float.inl), so that both devices round activations alike.
constexpr int kNDivisors = 3;
constexpr float kSmallestGroup = 1e-30f;
A2SF_INLINE float divisor(int i) {
    return i == 0 ? 127.4f : i == 1 ? 126.6f : 125.8f;
}

// One group of 32, a value per lane.
A2SF_INLINE void quantize_group(float value, int8_t *q, float *scale) {
    const unsigned lane = threadIdx.x % kWarp;
    const float amax = warp_max(fabsf(value));
    // What is no number must not vanish in rounding: 0, or not a number.
    const float taint = warp_sum(value * 0.0f);
    float by = 0.0f, size = INFINITY, least = INFINITY;
    for (int i = 0; i < kNDivisors; ++i) {
        const float inverse = divisor(i) / amax, step = amax / divisor(i);
        const float error = value - step * rintf(value * inverse);
        const float total = warp_sum(error * error);
        if (!(total < least)) continue;
        least = total;
        by = inverse;
        size = step;
    }
    const bool lost = taint != 0.0f, zero = lost || !(amax > kSmallestGroup);
    q[lane] = zero ? (int8_t)0 : (int8_t)(int)rintf(value * by);
    if (lane == 0) *scale = lost ? taint : zero ? 0.0f : size;
}

// Element k of row t, normed by `factor` or gated.
A2SF_INLINE float made(const PrepareArgs &args, size_t t, size_t k, float factor) {
    float value = args.x[t * args.x_stride + k];
    if (args.norm != nullptr) value = value * factor * args.norm[k];
    if (args.up == nullptr) return value;
    return activated(value, args.gelu) * args.up[t * args.up_stride + k];
}

__global__ void __launch_bounds__(kThreads) prepare_rows(PrepareArgs args) {
    after_others();
    __shared__ float scratch[kWarp];
    const size_t t = blockIdx.x;
    float factor = 1.0f, power = 1.0f;
    if (args.norm != nullptr) {
        const float *x = args.x + t * args.x_stride;
        float squares = 0.0f;
        for (size_t k = threadIdx.x; k < args.cols; k += kThreads) squares += x[k] * x[k];
        squares = block_sum(squares, scratch);
        factor = 1.0f / sqrtf(squares / (float)args.cols + args.eps);
    }
    if (args.forms.half != nullptr) {
        float amax = 0.0f;
        for (size_t k = threadIdx.x; k < args.cols; k += kThreads) {
            amax = fmaxf(amax, fabsf(made(args, t, k, factor)));
        }
        power = half_power(block_max(amax, scratch));
        if (blockIdx.y == 0 && threadIdx.x == 0) args.forms.half_size[t] = 1.0f / power;
    }
    // A warp takes whole groups of 32: all its lanes stay together.
    const size_t first = blockIdx.y * args.cols_each;
    const size_t end = first + args.cols_each < args.padded ? first + args.cols_each : args.padded;
    for (size_t k = first + threadIdx.x; k < end; k += kThreads) {
        const float value = k < args.cols ? made(args, t, k, factor) : 0.0f;
        if (args.forms.rows != nullptr && k < args.cols) args.forms.rows[t * args.cols + k] = value;
        if (args.forms.half != nullptr) {
            args.forms.half[t * args.padded + k] = (uint16_t)pack_pair<true>(value * power, 0.0f);
        }
        if (args.forms.bfloat != nullptr) {
            args.forms.bfloat[t * args.padded + k] = float_to_bfloat(value);
        }
        if (args.forms.q != nullptr) {
            const size_t group = (t * args.padded + k) / 32;
            quantize_group(value, args.forms.q + group * 32, args.forms.scale + group);
        }
    }
}

}  // namespace

void cuda_prepare(CudaQueue &queue, const Input &input, const CudaForms &forms) {
    const size_t m = input.x.rows, padded = padded_cols(input.x.cols);
    const size_t n_runs = n_blocks(padded, kThreads);
    const size_t n_wanted = std::clamp(kEnoughBlocks / m, size_t{1}, n_runs);
    const size_t cols_each = n_blocks(n_runs, n_wanted) * size_t{kThreads};
    const PrepareArgs args = {input.x.data,
                              input.x.stride,
                              input.norm,
                              input.eps,
                              input.up.data,
                              input.up.stride,
                              input.act == Activation::GeluTanh,
                              input.x.cols,
                              padded,
                              cols_each,
                              forms};
    const LaunchShape shape = {dim3(static_cast<unsigned>(m), n_blocks(padded, cols_each)),
                               dim3(kThreads)};
    launch("input of a product", queue, shape, prepare_rows, args);
}

}  // namespace a2sf
