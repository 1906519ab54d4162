// Products of single tokens: a warp per weight row and token. Quantised weights go through shared
// memory, so that they are read in 16-byte words whatever the size of their blocks, two chunks
// ahead of what is multiplied; then a lane takes 32 of them and dp4a multiplies bytes by bytes.
#include "backend/cuda/products.cuh"

namespace a2sf {
namespace {

constexpr unsigned kWarps = 4;

// The row of this warp within its part; all rows for warps behind the last.
A2SF_INLINE size_t row_of(const ProductPart &part) {
    return size_t{blockIdx.x - part.first_block} * kWarps + threadIdx.x / kWarp;
}

// The sum over the lanes.
A2SF_INLINE void finish(const ProductArgs &args, const ProductPart &part, size_t row, float sum) {
    sum = warp_sum(sum);
    if (threadIdx.x % kWarp == 0) put(args, part, row, blockIdx.y, sum);
}

// What a warp multiplies at a time: 32 groups of 32.
template <typename F>
struct Chunk {
    static constexpr int kPerBlock = F::kBlock / 32;
    static constexpr int kBytes = kWarp / kPerBlock * F::kBlockBytes;
    // 16-byte words, one per lane and load, that hold it wherever it begins.
    static constexpr int kLoads = (kBytes + 15 + 16 * kWarp - 1) / (16 * kWarp);
};

// Words of the chunk at `at` of a row: from the multiple of 16 before it to that behind its end,
// which an upload has room for.
template <typename F>
A2SF_INLINE void fetch(const uint8_t *row, size_t at, size_t row_bytes,
                       uint4 (&words)[Chunk<F>::kLoads]) {
    const size_t left = row_bytes - at;
    const uint8_t *end = row + at + (left < (size_t)Chunk<F>::kBytes ? left : Chunk<F>::kBytes);
    const uint8_t *first = row + at - (uintptr_t)(row + at) % 16 + threadIdx.x % kWarp * 16;
#pragma unroll
    for (int i = 0; i < Chunk<F>::kLoads; ++i) {
        const uint8_t *from = first + i * 16 * kWarp;
        if (from < end) words[i] = *reinterpret_cast<const uint4 *>(from);
    }
}

// The product of a group of weights with the activations of the same columns.
template <typename F>
A2SF_INLINE float dot_group(const uint8_t *block, int g, const int8_t *q, float scale) {
    Group group;
    Groups<F>::load(block, g, group);
    uint32_t x[8];
    memcpy(x, __builtin_assume_aligned(q, 16), 32);
    float total = 0.0f;
#pragma unroll
    for (int p = 0; p < Groups<F>::kParts; ++p) {
        int product = 0, sum = 0;
#pragma unroll
        for (int i = 0; i < 8 / Groups<F>::kParts; ++i) {
            const int word = p * (8 / Groups<F>::kParts) + i;
            product = __dp4a((int)group.q[word], (int)x[word], product);
            if (Groups<F>::kOffset) sum = __dp4a(0x01010101, (int)x[word], sum);
        }
        total += group.scale[p] * (float)product;
        if (Groups<F>::kOffset) total += group.offset[p] * (float)sum;
    }
    return total * scale;
}

constexpr int kAhead = 2;  // chunks on their way

template <typename F>
__global__ void __launch_bounds__(kWarps *kWarp) matvec_groups(ProductArgs args) {
    using C = Chunk<F>;
    __shared__ uint4 stages[kWarps][C::kLoads * kWarp];
    const unsigned lane = threadIdx.x % kWarp;
    const ProductPart part = part_of(args, blockIdx.x);
    const size_t row = row_of(part);
    uint4 *stage = stages[threadIdx.x / kWarp];
    const uint8_t *weights = part.w + row * args.row_bytes;
    uint4 words[kAhead][C::kLoads] = {};
#pragma unroll
    for (size_t i = 0; i < kAhead; ++i) {
        if (row >= part.rows || i * C::kBytes >= args.row_bytes) break;
        fetch<F>(weights, i * C::kBytes, args.row_bytes, words[i]);
    }
    after_others();
    if (row >= part.rows) return;
    const int8_t *q = args.forms.q + blockIdx.y * args.padded;
    const float *scale = args.forms.scale + blockIdx.y * (args.padded / 32);
    const size_t n_groups = args.cols / 32;
    float sum = 0.0f;
    size_t g = lane;
    for (size_t first = 0; first < args.row_bytes; first += kAhead * C::kBytes) {
#pragma unroll
        for (size_t i = 0; i < kAhead; ++i, g += kWarp) {
            const size_t at = first + i * C::kBytes, next = at + kAhead * C::kBytes;
            if (at >= args.row_bytes) break;
            __syncwarp();  // nobody reads the chunk before
#pragma unroll
            for (int j = 0; j < C::kLoads; ++j) stage[j * kWarp + lane] = words[i][j];
            __syncwarp();
            if (next < args.row_bytes) fetch<F>(weights, next, args.row_bytes, words[i]);
            if (g >= n_groups) continue;
            const uint8_t *chunk =
                reinterpret_cast<const uint8_t *>(stage) + (uintptr_t)(weights + at) % 16;
            sum += dot_group<F>(chunk + lane / C::kPerBlock * F::kBlockBytes, lane % C::kPerBlock,
                                q + 32 * g, scale[g]);
        }
    }
    finish(args, part, row, sum);
}

// Plain formats: 8 neighbouring weights per lane, a few such runs on their way at once.
constexpr int kRuns = 4;
constexpr size_t kRunStep = 8 * kWarp;

template <typename F>
struct Runs {
    static constexpr int kWords = F::kBlockBytes * 8 / 16;
    uint4 words[kRuns][kWords];

    __device__ __forceinline__ void fetch(const uint8_t *row, size_t k, size_t cols) {
#pragma unroll
        for (int i = 0; i < kRuns; ++i) {
            const size_t at = k + i * kRunStep;
            if (at + 8 > cols) break;
            memcpy(words[i], __builtin_assume_aligned(row + at * F::kBlockBytes, 16),
                   sizeof words[i]);
        }
    }
};

// sum += of up to 8 weights from column k on, one at a time.
template <typename F>
A2SF_INLINE void add_each(const uint8_t *row, const float *x, size_t k, size_t cols, float &sum) {
    for (size_t i = k; i < k + 8 && i < cols; ++i) {
        sum += F::decode(row + i * F::kBlockBytes) * x[i];
    }
}

template <typename F>
__global__ void __launch_bounds__(kWarps *kWarp) matvec_plain(ProductArgs args) {
    const ProductPart part = part_of(args, blockIdx.x);
    const size_t row = row_of(part), first = threadIdx.x % kWarp * 8;
    const uint8_t *weights = part.w + row * args.row_bytes;
    const float *x = args.x + blockIdx.y * args.x_stride;
    const bool vectors = args.vectors && is_vector(x);
    Runs<F> runs;
    if (vectors && row < part.rows) runs.fetch(weights, first, args.cols);
    after_others();
    if (row >= part.rows) return;
    float sum = 0.0f;
    for (size_t k = first; k < args.cols; k += kRuns * kRunStep) {
        if (vectors && k != first) runs.fetch(weights, k, args.cols);
#pragma unroll
        for (int i = 0; i < kRuns; ++i) {
            const size_t at = k + i * kRunStep;
            if (!vectors || at + 8 > args.cols) {
                add_each<F>(weights, x, at, args.cols, sum);
                continue;
            }
            float factors[8];
            memcpy(factors, __builtin_assume_aligned(x + at, 16), sizeof factors);
            const uint8_t *bytes = reinterpret_cast<const uint8_t *>(runs.words[i]);
#pragma unroll
            for (int j = 0; j < 8; ++j) sum += F::decode(bytes + j * F::kBlockBytes) * factors[j];
        }
    }
    finish(args, part, row, sum);
}

using MatvecKernel = void (*)(ProductArgs);
template <typename F>
constexpr MatvecKernel matvec_of() {
    if constexpr (F::kGroup == 0) {
        return matvec_plain<F>;
    } else {
        return matvec_groups<F>;
    }
}
constexpr MatvecKernel kMatvec[] = {
#define A2SF_ENTRY(F) matvec_of<F>(),
    A2SF_WEIGHT_FORMATS(A2SF_ENTRY)
#undef A2SF_ENTRY
};

}  // namespace

void cuda_matvec(CudaQueue &queue, const CudaProducts &job) {
    ProductArgs args = product_args(job);
    const unsigned n_row_blocks = add_parts(args, job.products, kWarps);
    const LaunchShape shape = {dim3(n_row_blocks, static_cast<unsigned>(job.x.rows)),
                               dim3(kWarps * kWarp)};
    const size_t type = job.products.front().w->type->index;
    launch("product of a token", queue, shape, kMatvec[type], args);
}

}  // namespace a2sf
