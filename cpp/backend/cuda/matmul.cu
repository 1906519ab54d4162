// Products of a batch: tiles of weight rows by tokens. Weights are decoded to shared memory as
// bfloat16 and multiplied by tensor cores, as on a CPU that has tiles; F32 weights stay floats, so
// that what is exact on the CPU is here.
#include "backend/cuda/groups.cuh"
#include "backend/cuda/tensor.cuh"

#include "backend/cuda/cuda_kernels.h"

namespace a2sf {
namespace {

constexpr unsigned kTile = 64;  // weight rows and tokens of a block
constexpr int kStep = 32;       // columns at a time

struct MatmulArgs {
    const uint8_t *w;
    size_t row_bytes, rows, cols;
    size_t m;
    const float *x;  // F32: rows x_stride apart
    size_t x_stride;
    const uint16_t *bfloat;  // the others: rows `padded` apart
    size_t padded;
    const float *bias;
    float *y;
    size_t y_stride;
    bool accumulate;
    bool operator==(const MatmulArgs &) const = default;
};

A2SF_INLINE void put(const MatmulArgs &args, size_t row, size_t token, float sum) {
    if (row >= args.rows || token >= args.m) return;
    if (args.bias != nullptr) sum += args.bias[row];
    float *y = args.y + token * args.y_stride + row;
    *y = args.accumulate ? *y + sum : sum;
}

// Tiles of bfloat16 in shared memory, rows of 32 columns. 20 words from row to row spread the
// fragments of a warp over all banks.
constexpr int kTileStride = 40;
constexpr unsigned kTensorThreads = 128;

// Pairs of neighbours of row `row` from column `col` on.
A2SF_INLINE uint32_t pair_at(const uint16_t (&tile)[kTile][kTileStride], int row, int col) {
    return aligned_u32(reinterpret_cast<const uint8_t *>(&tile[row][col]));
}

// Columns [k, k + 32) of this thread's row of weights, or of its token.
template <typename F>
A2SF_INLINE void load_tiles(const MatmulArgs &args, size_t k, uint16_t (&w)[kTile][kTileStride],
                            uint16_t (&x)[kTile][kTileStride]) {
    const unsigned i = threadIdx.x % kTile;
    if (threadIdx.x < kTile) {
        const size_t row = size_t{blockIdx.x} * kTile + i;
        float values[32];
        for (float &value : values) value = 0.0f;
        if (row < args.rows) {
            decode_32<F>(args.w + row * args.row_bytes, k / 32, args.cols, values);
        }
#pragma unroll
        for (int j = 0; j < 32; ++j) w[i][j] = float_to_bfloat(values[j]);
    } else {
        const size_t token = size_t{blockIdx.y} * kTile + i;
        uint4 words[4] = {};
        if (token < args.m) {
            memcpy(words, __builtin_assume_aligned(args.bfloat + token * args.padded + k, 16), 64);
        }
        uint4 *to = reinterpret_cast<uint4 *>(&x[i][0]);
#pragma unroll
        for (int j = 0; j < 4; ++j) to[j] = words[j];
    }
}

// 4 warps, each 32 weight rows by 32 tokens.
template <typename F>
__global__ void __launch_bounds__(kTensorThreads) matmul_tensor(MatmulArgs args) {
    __shared__ __align__(16) uint16_t w[kTile][kTileStride];
    __shared__ __align__(16) uint16_t x[kTile][kTileStride];
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int g = lane / 4, t = lane % 4;
    const int first_row = warp % 2 * 32, first_token = warp / 2 * 32;
    float c[2][4][4] = {};
    for (size_t k = 0; k < args.padded; k += kStep) {
        __syncthreads();  // nobody reads the step before
        load_tiles<F>(args, k, w, x);
        __syncthreads();
#pragma unroll
        for (int col = 0; col < kStep; col += 16) {
            uint32_t a[2][4], b[4][2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int row = first_row + 16 * i + g;
                a[i][0] = pair_at(w, row, col + 2 * t);
                a[i][1] = pair_at(w, row + 8, col + 2 * t);
                a[i][2] = pair_at(w, row, col + 2 * t + 8);
                a[i][3] = pair_at(w, row + 8, col + 2 * t + 8);
            }
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int token = first_token + 8 * j + g;
                b[j][0] = pair_at(x, token, col + 2 * t);
                b[j][1] = pair_at(x, token, col + 2 * t + 8);
            }
#pragma unroll
            for (int i = 0; i < 2; ++i) {
#pragma unroll
                for (int j = 0; j < 4; ++j) multiply_tiles<false>(c[i][j], a[i], b[j][0], b[j][1]);
            }
        }
    }
    const size_t row = size_t{blockIdx.x} * kTile + first_row + g;
    const size_t token = size_t{blockIdx.y} * kTile + first_token + 2 * t;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const float (&own)[4] = c[i / 4][i % 4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            put(args, row + i / 4 * 16 + e / 2 * 8, token + i % 4 * 8 + e % 2, own[e]);
        }
    }
}

constexpr unsigned kFloatThreads = 256;
constexpr int kFloatStep = 16;

// Plain floats: 256 threads, each 4 rows by 4 tokens, 16 apart.
__global__ void __launch_bounds__(kFloatThreads) matmul_floats(MatmulArgs args) {
    __shared__ float w[kFloatStep][kTile + 1], x[kFloatStep][kTile + 1];
    const size_t first_row = size_t{blockIdx.x} * kTile, first_token = size_t{blockIdx.y} * kTile;
    const unsigned r = threadIdx.x % 16, c = threadIdx.x / 16;
    float sum[4][4] = {};
    for (size_t k = 0; k < args.cols; k += kFloatStep) {
        __syncthreads();
        for (unsigned i = c; i < kTile; i += 16) {
            const size_t row = first_row + i, token = first_token + i;
            const bool inside = k + r < args.cols;
            const float *weights = reinterpret_cast<const float *>(args.w + row * args.row_bytes);
            w[r][i] = inside && row < args.rows ? weights[k + r] : 0.0f;
            x[r][i] = inside && token < args.m ? args.x[token * args.x_stride + k + r] : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int j = 0; j < kFloatStep; ++j) {
#pragma unroll
            for (int i = 0; i < 16; ++i) {
                sum[i / 4][i % 4] += w[j][r + i / 4 * 16] * x[j][c + i % 4 * 16];
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 16; ++i) {
        put(args, first_row + r + i / 4 * 16, first_token + c + i % 4 * 16, sum[i / 4][i % 4]);
    }
}

using MatmulKernel = void (*)(MatmulArgs);
template <typename F>
struct MatmulOf {
    static constexpr MatmulKernel kKernel = matmul_tensor<F>;
    static constexpr unsigned kThreads = kTensorThreads;
};
template <>
struct MatmulOf<F32> {
    static constexpr MatmulKernel kKernel = matmul_floats;
    static constexpr unsigned kThreads = kFloatThreads;
};
struct MatmulEntry {
    MatmulKernel kernel;
    unsigned n_threads;
};
constexpr MatmulEntry kMatmul[] = {
#define A2SF_ENTRY(F) {MatmulOf<F>::kKernel, MatmulOf<F>::kThreads},
    A2SF_WEIGHT_FORMATS(A2SF_ENTRY)
#undef A2SF_ENTRY
};

}  // namespace

void cuda_matmul(CudaQueue &queue, const CudaProduct &job) {
    const Product &product = *job.product;
    const Weight &w = *product.w;
    const MatmulArgs args = {static_cast<const uint8_t *>(w.data),
                             w.type->row_bytes(w.cols),
                             w.rows,
                             w.cols,
                             job.x.rows,
                             job.x.data,
                             job.x.stride,
                             job.forms.bfloat,
                             padded_cols(w.cols),
                             product.bias,
                             product.y.data,
                             product.y.stride,
                             product.accumulate};
    const MatmulEntry &entry = kMatmul[w.type->index];
    const LaunchShape shape = {dim3(n_blocks(w.rows, kTile), n_blocks(job.x.rows, kTile)),
                               dim3(entry.n_threads)};
    launch("product of a batch", queue, shape, entry.kernel, args);
}

}  // namespace a2sf
