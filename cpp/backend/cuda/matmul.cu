// Products of a batch: tiles of weight rows by tokens, multiplied by tensor cores. Columns come to
// shared memory 32 at a time, the next ones while the last are multiplied: activations and weights
// of 16 bits as they are, other weights decoded on the way to halves, or to bfloat16 where a type
// has its range. F32 weights stay floats, so that what is exact on the CPU is here.
#include "backend/cuda/products.cuh"
#include "backend/cuda/tensor.cuh"

namespace a2sf {
namespace {

// Which 16-bit numbers weights become: what they are, or what holds them best.
template <typename F>
constexpr bool kAsHalves = true;
template <>
constexpr bool kAsHalves<BF16> = false;
template <>
constexpr bool kAsHalves<MXFP4> = false;

constexpr unsigned kTensorThreads = 128;
constexpr unsigned kTensorRows = 128;  // weight rows of a block
constexpr int kStep = 32;              // columns at a time
constexpr int kStages = 3;             // steps that shared memory holds
constexpr int kWords = kStep / 8;      // 16-byte words of a row and step

// Where word i of a row is: eight neighbouring rows' words i lie in different banks.
A2SF_INLINE int word_at(int row, int i) {
    return row * kWords + (i ^ (row >> 1 & (kWords - 1)));
}

// One step's columns.
template <int kTokens>
struct Stage {
    uint4 w[kTensorRows * kWords];
    uint4 x[kTokens * kWords];
};

// Columns [k, k + 32) of n_rows rows of 16-bit numbers, on their way to shared memory; zeros behind
// column `cols` and behind the last row.
template <int kRows>
A2SF_INLINE void copy_rows(uint4 *to, const uint8_t *rows, size_t row_bytes, size_t first,
                           size_t n_rows, size_t k, size_t cols) {
    const int i = threadIdx.x % kWords;
    const size_t col = k + 8 * i;
    const size_t n_left = col < cols ? cols - col : 0;
    const uint32_t n_bytes = n_left < 8 ? 2 * (uint32_t)n_left : 16;
#pragma unroll
    for (int row = threadIdx.x / kWords; row < kRows; row += kTensorThreads / kWords) {
        const bool inside = n_bytes > 0 && first + row < n_rows;
        const uint8_t *from = inside ? rows + (first + row) * row_bytes + 2 * col : rows;
        copy_beside(to + word_at(row, i), from, inside ? n_bytes : 0);
    }
}

// 32 weights of a row as pairs, to shared memory. value(i): the i-th.
template <bool kHalf, typename Value>
A2SF_INLINE void put_row(uint4 *to, int row, const Value &value) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
        uint4 word;
        word.x = pack_pair<kHalf>(value(8 * i), value(8 * i + 1));
        word.y = pack_pair<kHalf>(value(8 * i + 2), value(8 * i + 3));
        word.z = pack_pair<kHalf>(value(8 * i + 4), value(8 * i + 5));
        word.w = pack_pair<kHalf>(value(8 * i + 6), value(8 * i + 7));
        to[word_at(row, i)] = word;
    }
}

// Weights on their way: rows [first, first + 128) of a part. begin() asks for a step's, finish()
// puts into shared memory what does not go there by itself.
template <typename F>
struct WeightRows {
    const ProductArgs &args;
    const uint8_t *w;
    size_t first, rows;
    Group group;

    static constexpr bool kGroups = F::kGroup != 0;
    __device__ __forceinline__ const uint8_t *own() const {
        return w + (first + threadIdx.x) * args.row_bytes;
    }
    __device__ __forceinline__ bool inside() const { return first + threadIdx.x < rows; }

    __device__ __forceinline__ void begin(size_t k, uint4 *to) {
        if constexpr (kGroups) {
            constexpr size_t kPerBlock = F::kBlock / 32;
            const size_t g = k / 32;
            if (inside()) {
                Groups<F>::load(own() + g / kPerBlock * F::kBlockBytes, (int)(g % kPerBlock),
                                group);
            }
        } else if (args.vectors) {
            copy_rows<kTensorRows>(to, w, args.row_bytes, first, rows, k, args.cols);
        }
    }
    __device__ __forceinline__ void finish(size_t k, uint4 *to) {
        if constexpr (kGroups) {
            const bool valid = inside();
            put_row<kAsHalves<F>>(to, threadIdx.x,
                                  [&](int i) { return valid ? group_value<F>(group, i) : 0.0f; });
        } else if (!args.vectors) {
            put_row<kAsHalves<F>>(to, threadIdx.x, [&](int i) {
                const size_t col = k + i;
                if (!inside() || col >= args.cols) return 0.0f;
                return F::decode(own() + col * F::kBlockBytes);
            });
        }
    }
};

// 4 warps, each 64 weight rows by half of the tokens.
template <typename F, int kTokens>
__global__ void __launch_bounds__(kTensorThreads) matmul_tensor(ProductArgs args) {
    after_others();
    static_assert(kTensorRows == kTensorThreads, "a thread decodes a row");
    static_assert(sizeof(Stage<kTokens>) * kStages <= kMostShared, "stages fit");
    constexpr bool kHalf = kAsHalves<F>;
    constexpr int kPairs = kTokens / 32;  // of 8 tokens, twice, of a warp
    auto *stages = reinterpret_cast<Stage<kTokens> *>(shared_memory());
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int own_row = warp % 2 * 64, own_token = warp / 2 * (kTokens / 2);
    const ProductPart part = part_of(args, blockIdx.y);
    const size_t first_row = size_t{blockIdx.y - part.first_block} * kTensorRows;
    const size_t first_token = size_t{blockIdx.x} * kTokens;
    const auto *x = reinterpret_cast<const uint8_t *>(kHalf ? args.forms.half : args.forms.bfloat);
    WeightRows<F> weights = {args, part.w, first_row, part.rows, {}};
    const int n_steps = (int)(args.padded / kStep);
    const auto begin = [&](int step) {
        Stage<kTokens> &to = stages[step % kStages];
        const size_t k = size_t(step) * kStep;
        copy_rows<kTokens>(to.x, x, args.padded * 2, first_token, args.m, k, args.padded);
        weights.begin(k, to.w);
    };
    const auto finish = [&](int step) {
        weights.finish(size_t(step) * kStep, stages[step % kStages].w);
    };
    for (int step = 0; step < kStages - 1; ++step) {
        if (step < n_steps) begin(step);
        if (step < n_steps) finish(step);
        end_copies();
    }
    float c[4][2 * kPairs][4] = {};
    for (int step = 0; step < n_steps; ++step) {
        // This step's columns are there; nobody reads those of the step before, whose place the
        // next ones take.
        wait_for_copies<kStages - 2>();
        __syncthreads();
        const int next = step + kStages - 1;
        if (next < n_steps) begin(next);
        end_copies();
        const Stage<kTokens> &from = stages[step % kStages];
#pragma unroll
        for (int i = 0; i < kWords; i += 2) {
            uint32_t a[4][4];
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                const int row = own_row + 16 * r + lane % 16;
                load_matrices(from.w + word_at(row, i + lane / 16), a[r]);
            }
#pragma unroll
            for (int p = 0; p < kPairs; ++p) {
                const int token = own_token + 16 * p + lane / 16 * 8 + lane % 8;
                uint32_t b[4];
                load_matrices(from.x + word_at(token, i + lane / 8 % 2), b);
#pragma unroll
                for (int r = 0; r < 4; ++r) {
                    multiply_tiles<kHalf>(c[r][2 * p], a[r], b[0], b[1]);
                    multiply_tiles<kHalf>(c[r][2 * p + 1], a[r], b[2], b[3]);
                }
            }
        }
        if (next < n_steps) finish(next);
    }
    const size_t row = first_row + own_row + lane / 4;
    const size_t token = first_token + own_token + lane % 4 * 2;
#pragma unroll
    for (int e = 0; e < 4 * kPairs; ++e) {
        const size_t t = token + e / 2 * 8 + e % 2;
        const float size = kHalf && t < args.m ? args.forms.half_size[t] : 1.0f;
#pragma unroll
        for (int r = 0; r < 8; ++r) {
            const float sum = c[r / 2][e / 2][r % 2 * 2 + e % 2];
            put(args, part, row + r * 8, t, kHalf ? sum * size : sum);
        }
    }
}

constexpr unsigned kFloatThreads = 256;
constexpr unsigned kFloatTile = 64;  // weight rows and tokens of a block
constexpr int kFloatStep = 16;

// Plain floats: 256 threads, each 4 rows by 4 tokens, 16 apart.
__global__ void __launch_bounds__(kFloatThreads) matmul_floats(ProductArgs args) {
    after_others();
    __shared__ float w[kFloatStep][kFloatTile + 1], x[kFloatStep][kFloatTile + 1];
    const ProductPart part = part_of(args, blockIdx.y);
    const size_t first_row = size_t{blockIdx.y - part.first_block} * kFloatTile;
    const size_t first_token = size_t{blockIdx.x} * kFloatTile;
    const unsigned r = threadIdx.x % 16, c = threadIdx.x / 16;
    float sum[4][4] = {};
    for (size_t k = 0; k < args.cols; k += kFloatStep) {
        __syncthreads();
        for (unsigned i = c; i < kFloatTile; i += 16) {
            const size_t row = first_row + i, token = first_token + i;
            const bool inside = k + r < args.cols;
            const float *weights = reinterpret_cast<const float *>(part.w + row * args.row_bytes);
            w[r][i] = inside && row < part.rows ? weights[k + r] : 0.0f;
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
        put(args, part, first_row + r + i / 4 * 16, first_token + c + i % 4 * 16,
            sum[i / 4][i % 4]);
    }
}

using MatmulKernel = void (*)(ProductArgs);
struct MatmulEntry {
    CudaForm form;
    MatmulKernel few, many;  // for kFew tokens, and for more
};
constexpr unsigned kFew = 64, kMany = 128;
template <typename F>
constexpr MatmulEntry kEntry = {kAsHalves<F> ? CudaForm::Halves : CudaForm::Bfloats,
                                matmul_tensor<F, kFew>, matmul_tensor<F, kMany>};
template <>
constexpr MatmulEntry kEntry<F32> = {CudaForm::Floats, matmul_floats, matmul_floats};
constexpr MatmulEntry kMatmul[] = {
#define A2SF_ENTRY(F) kEntry<F>,
    A2SF_WEIGHT_FORMATS(A2SF_ENTRY)
#undef A2SF_ENTRY
};

}  // namespace

CudaForm cuda_batch_form(const Weight &w) {
    return kMatmul[w.type->index].form;
}

void cuda_matmul(CudaQueue &queue, const CudaProducts &job) {
    const MatmulEntry &entry = kMatmul[job.products.front().w->type->index];
    const bool floats = entry.form == CudaForm::Floats, few = job.x.rows <= kFew;
    const unsigned n_tokens = floats ? kFloatTile : few ? kFew : kMany;
    unsigned n_row_blocks = 0;
    const ProductArgs args = product_args(job, floats ? kFloatTile : kTensorRows, &n_row_blocks);
    // Blocks of the same weights are neighbours: weights are read from far away once.
    LaunchShape shape = {dim3(n_blocks(job.x.rows, n_tokens), n_row_blocks),
                         dim3(floats ? kFloatThreads : kTensorThreads)};
    if (!floats) shape.n_shared = kStages * (few ? sizeof(Stage<kFew>) : sizeof(Stage<kMany>));
    launch("product of a batch", queue, shape, few ? entry.few : entry.many, args);
}

}  // namespace a2sf
