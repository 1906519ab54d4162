// Products of a batch: tiles of weight rows by tokens, multiplied by tensor cores. Weights of 16
// bits are read as they are; others are decoded first (decode.cu), as many rows at a time as there
// is scratch for, to halves, or to bfloat16 where a type has its range. Columns come to shared
// memory 32 at a time, the next ones while the last are multiplied. F32 weights stay floats, so
// that what is exact on the CPU is here.
#include <algorithm>

#include "backend/cuda/products.cuh"
#include "backend/cuda/tensor.cuh"

namespace a2sf {
namespace {

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

// Rows of 16-bit numbers, whole words, on their way to shared memory: kRows of them from `first`
// on. Each thread brings one word of every 32nd row.
template <int kRows>
struct RowCopies {
    const uint8_t *own;  // this thread's word of the first step, in the first of its rows
    size_t row_step;     // bytes between its rows
    int n_rows;          // its rows that are there
    size_t cols, col;

    static constexpr int kRowsApart = kTensorThreads / kWords;
    __device__ __forceinline__ RowCopies(const uint8_t *rows, size_t row_bytes, size_t first,
                                         size_t n_all, size_t n_cols)
        : cols(n_cols), col(threadIdx.x % kWords * 8) {
        const size_t row = first + threadIdx.x / kWords;
        own = rows + row * row_bytes + 2 * col;
        row_step = kRowsApart * row_bytes;
        n_rows = row < n_all ? (int)((n_all - row + kRowsApart - 1) / kRowsApart) : 0;
    }

    // Of a step; zeros behind the last row and column.
    __device__ __forceinline__ void begin(int step, uint4 *to) const {
        const bool has_word = col + size_t(step) * kStep < cols;
        const uint8_t *from = own + size_t(step) * kStep * 2;
#pragma unroll
        for (int i = 0; i < kRows / kRowsApart; ++i) {
            const bool inside = has_word && i < n_rows;
            const int row = threadIdx.x / kWords + i * kRowsApart;
            copy_beside(to + word_at(row, threadIdx.x % kWords), inside ? from + i * row_step : own,
                        inside ? 16 : 0);
        }
    }
};

// Adds a step's products to those of a warp's 64 weight rows from `first_row` and half of the
// tokens from `first_token`.
template <bool kHalf, int kTokens>
A2SF_INLINE void multiply_stage(const Stage<kTokens> &from, int first_row, int first_token,
                                float (&c)[4][kTokens / 16][4]) {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int i = 0; i < kWords; i += 2) {
        uint32_t a[4][4];
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            const int row = first_row + 16 * r + lane % 16;
            load_matrices(from.w + word_at(row, i + lane / 16), a[r]);
        }
#pragma unroll
        for (int p = 0; p < kTokens / 32; ++p) {
            const int token = first_token + 16 * p + lane / 16 * 8 + lane % 8;
            uint32_t b[4];
            load_matrices(from.x + word_at(token, i + lane / 8 % 2), b);
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                multiply_tiles<kHalf>(c[r][2 * p], a[r], b[0], b[1]);
                multiply_tiles<kHalf>(c[r][2 * p + 1], a[r], b[2], b[3]);
            }
        }
    }
}

// 4 warps, each 64 weight rows by half of the tokens.
template <bool kHalf, int kTokens>
__global__ void __launch_bounds__(kTensorThreads) matmul_tensor(ProductArgs args) {
    after_others();
    static_assert(sizeof(Stage<kTokens>) * kStages <= kMostShared, "stages fit");
    auto *stages = reinterpret_cast<Stage<kTokens> *>(shared_memory());
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int own_row = warp % 2 * 64, own_token = warp / 2 * (kTokens / 2);
    const ProductPart part = part_of(args, blockIdx.y);
    const size_t first_row = size_t{blockIdx.y - part.first_block} * kTensorRows;
    const size_t first_token = size_t{blockIdx.x} * kTokens;
    const auto *x = reinterpret_cast<const uint8_t *>(kHalf ? args.forms.half : args.forms.bfloat);
    const RowCopies<kTensorRows> weights(part.w, args.row_bytes, first_row, part.rows, args.cols);
    const RowCopies<kTokens> tokens(x, args.padded * 2, first_token, args.m, args.padded);
    const int n_steps = (int)(args.padded / kStep);
    const auto begin = [&](int step) {
        if (step < n_steps) {
            Stage<kTokens> &to = stages[step % kStages];
            weights.begin(step, to.w);
            tokens.begin(step, to.x);
        }
        end_copies();
    };
    for (int step = 0; step < kStages - 1; ++step) begin(step);
    float c[4][kTokens / 16][4] = {};
    for (int step = 0; step < n_steps; ++step) {
        // This step's columns are there; nobody reads those of the step before, whose place the
        // next ones take.
        wait_for_copies<kStages - 2>();
        __syncthreads();
        begin(step + kStages - 1);
        multiply_stage<kHalf>(stages[step % kStages], own_row, own_token, c);
    }
    const size_t row = first_row + own_row + lane / 4;
    const size_t token = first_token + own_token + lane % 4 * 2;
#pragma unroll
    for (int e = 0; e < kTokens / 8; ++e) {
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

constexpr unsigned kFew = 64, kMany = 128;  // tokens of a block
// Smaller blocks where a multiprocessor would have fewer: one alone does not hide what it waits
// for.
constexpr size_t kEnoughBlocks = 2;

void launch_tensor(CudaQueue &queue, const ProductArgs &args, unsigned n_row_blocks, bool halves) {
    const size_t n_large = size_t{n_blocks(args.m, kMany)} * n_row_blocks;
    const bool few = args.m <= kFew || n_large < kEnoughBlocks * queue.n_multiprocessors();
    // Blocks of the same weights are neighbours: weights are read from far away once.
    const LaunchShape shape = {dim3(n_blocks(args.m, few ? kFew : kMany), n_row_blocks),
                               dim3(kTensorThreads),
                               kStages * (few ? sizeof(Stage<kFew>) : sizeof(Stage<kMany>))};
    const auto kernel = halves ? few ? matmul_tensor<true, kFew> : matmul_tensor<true, kMany>
                        : few  ? matmul_tensor<false, kFew>
                               : matmul_tensor<false, kMany>;
    launch("product of a batch", queue, shape, kernel, args);
}

size_t rows_of(std::span<const Product> products) {
    size_t n = 0;
    for (const Product &product : products) n += product.w->rows;
    return n;
}

// Rows of `cols` weights that are decoded at a time.
size_t most_decoded(size_t cols) {
    const size_t n = kMostDecodedBytes / (padded_cols(cols) * sizeof(uint16_t));
    return std::max(n / kTensorRows, size_t{1}) * kTensorRows;
}

bool are_decoded(std::span<const Product> products) {
    const CudaForm form = cuda_batch_form(*products.front().w);
    if (form == CudaForm::Floats) return false;
    return products.front().w->type->group != 0 || !have_vectors(products);
}

// Decodes and multiplies as many rows at a time as there is scratch for.
void multiply_decoded(CudaQueue &queue, const CudaProducts &job, bool halves) {
    const size_t padded = padded_cols(job.products.front().w->cols);
    const size_t most = job.decoded.size() / padded;
    ProductArgs args = product_args(job);
    args.row_bytes = padded * sizeof(uint16_t);
    args.cols = padded;
    size_t n_decoded = 0;
    unsigned n_row_blocks = 0;
    const auto multiply = [&] {
        if (args.n_parts > 0) launch_tensor(queue, args, n_row_blocks, halves);
        args.n_parts = 0;
        n_decoded = n_row_blocks = 0;
    };
    for (const Product &product : job.products) {
        for (size_t first = 0; first < product.w->rows;) {
            const size_t n = std::min(product.w->rows - first, most - n_decoded);
            uint16_t *to = job.decoded.data() + n_decoded * padded;
            cuda_decode(queue, *product.w, first, n, to);
            add_part(args, product, to, first, n, n_row_blocks);
            n_row_blocks += n_blocks(n, kTensorRows);
            n_decoded += n;
            first += n;
            if (n_decoded == most) multiply();
        }
    }
    multiply();
}

}  // namespace

CudaForm cuda_batch_form(const Weight &w) {
    if (w.type->ggml_id == kGgmlF32) return CudaForm::Floats;
    return cuda_decodes_halves(w) ? CudaForm::Halves : CudaForm::Bfloats;
}

size_t cuda_matmul_workspace(std::span<const Product> products) {
    if (!are_decoded(products)) return 0;
    const size_t cols = products.front().w->cols;
    return std::min(rows_of(products), most_decoded(cols)) * padded_cols(cols);
}

void cuda_matmul(CudaQueue &queue, const CudaProducts &job) {
    const CudaForm form = cuda_batch_form(*job.products.front().w);
    if (are_decoded(job.products)) {
        return multiply_decoded(queue, job, form == CudaForm::Halves);
    }
    const bool floats = form == CudaForm::Floats;
    ProductArgs args = product_args(job);
    const unsigned n_row_blocks = add_parts(args, job.products, floats ? kFloatTile : kTensorRows);
    if (!floats) return launch_tensor(queue, args, n_row_blocks, form == CudaForm::Halves);
    const LaunchShape shape = {dim3(n_blocks(args.m, kFloatTile), n_row_blocks),
                               dim3(kFloatThreads)};
    launch("product of a batch", queue, shape, matmul_floats, args);
}

}  // namespace a2sf
