// Weights decoded to 16-bit numbers, for the products of a batch: a thread per group of 32.
#include "backend/cuda/groups.cuh"
#include "backend/cuda/tensor.cuh"

#include "backend/cuda/cuda_kernels.h"

namespace a2sf {
namespace {

constexpr unsigned kThreads = 128;

// Which numbers weights become: what they are, or what holds them best.
template <typename F>
constexpr bool kAsHalves = true;
template <>
constexpr bool kAsHalves<BF16> = false;
template <>
constexpr bool kAsHalves<MXFP4> = false;

struct DecodeArgs {
    const uint8_t *w;
    size_t row_bytes, rows, cols, padded;
    uint16_t *to;  // [rows, padded], zeros behind the last column; 16-byte aligned
    bool operator==(const DecodeArgs &) const = default;
};

template <typename F>
__global__ void __launch_bounds__(kThreads) decode_rows(DecodeArgs args) {
    after_others();
    const size_t i = size_t{blockIdx.x} * kThreads + threadIdx.x, n_groups = args.padded / 32;
    if (i >= args.rows * n_groups) return;
    const size_t row = i / n_groups, g = i % n_groups;
    float values[32];
    decode_32<F>(args.w + row * args.row_bytes, g, args.cols, values);
    auto *to = reinterpret_cast<uint4 *>(args.to + 32 * i);
#pragma unroll
    for (int j = 0; j < 32; j += 8) {
        uint4 word;
        word.x = pack_pair<kAsHalves<F>>(values[j], values[j + 1]);
        word.y = pack_pair<kAsHalves<F>>(values[j + 2], values[j + 3]);
        word.z = pack_pair<kAsHalves<F>>(values[j + 4], values[j + 5]);
        word.w = pack_pair<kAsHalves<F>>(values[j + 6], values[j + 7]);
        to[j / 8] = word;
    }
}

using DecodeKernel = void (*)(DecodeArgs);
struct DecodeEntry {
    DecodeKernel kernel;
    bool halves;
};
template <typename F>
constexpr DecodeEntry kEntry = {decode_rows<F>, kAsHalves<F>};
template <>
constexpr DecodeEntry kEntry<F32> = {nullptr, false};  // floats as they are
constexpr DecodeEntry kDecode[] = {
#define A2SF_ENTRY(F) kEntry<F>,
    A2SF_WEIGHT_FORMATS(A2SF_ENTRY)
#undef A2SF_ENTRY
};

}  // namespace

bool cuda_decodes_halves(const Weight &w) {
    return kDecode[w.type->index].halves;
}

void cuda_decode(CudaQueue &queue, const Weight &w, size_t first, size_t n_rows, uint16_t *to) {
    const size_t row_bytes = w.type->row_bytes(w.cols), padded = padded_cols(w.cols);
    const DecodeArgs args = {static_cast<const uint8_t *>(w.data) + first * row_bytes,
                             row_bytes,
                             n_rows,
                             w.cols,
                             padded,
                             to};
    const LaunchShape shape = {dim3(n_blocks(n_rows * (padded / 32), kThreads)), dim3(kThreads)};
    launch("decoding weights", queue, shape, kDecode[w.type->index].kernel, args);
}

}  // namespace a2sf
