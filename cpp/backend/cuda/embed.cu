// Rows of the embedding, decoded. A thread decodes 32 weights.
#include "backend/cuda/groups.cuh"

#include "backend/cuda/cuda_kernels.h"

namespace a2sf {
namespace {

constexpr unsigned kThreads = 128;

struct EmbedArgs {
    const uint8_t *table;
    size_t row_bytes, cols;
    const int32_t *ids;
    float scale;
    float *out;
    size_t stride;
    bool operator==(const EmbedArgs &) const = default;
};

template <typename F>
__global__ void __launch_bounds__(kThreads) embed_rows(EmbedArgs args) {
    after_others();
    const size_t g = size_t{blockIdx.y} * kThreads + threadIdx.x, i = blockIdx.x;
    if (32 * g >= args.cols) return;
    float values[32];
    decode_32<F>(args.table + (size_t)args.ids[i] * args.row_bytes, g, args.cols, values);
    for (size_t k = 0; k < 32 && 32 * g + k < args.cols; ++k) {
        args.out[i * args.stride + 32 * g + k] = values[k] * args.scale;
    }
}

using EmbedKernel = void (*)(EmbedArgs);
constexpr EmbedKernel kEmbed[] = {
#define A2SF_ENTRY(F) embed_rows<F>,
    A2SF_WEIGHT_FORMATS(A2SF_ENTRY)
#undef A2SF_ENTRY
};

}  // namespace

void cuda_embed(CudaQueue &queue, const Weight &table, const int32_t *ids, float scale,
                Matrix<float> out) {
    const EmbedArgs args = {static_cast<const uint8_t *>(table.data),
                            table.type->row_bytes(table.cols),
                            table.cols,
                            ids,
                            scale,
                            out.data,
                            out.stride};
    const LaunchShape shape = {
        dim3(static_cast<unsigned>(out.rows), n_blocks(padded_cols(table.cols) / 32, kThreads)),
        dim3(kThreads)};
    launch("embed", queue, shape, kEmbed[table.type->index], args);
}

}  // namespace a2sf
