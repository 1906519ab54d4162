// Cosines of a head's keys and their mean (arXiv 2504.15364): a block per KV head, a warp per slot.
#include "backend/cuda/kv_rows.cuh"

#include "backend/cuda/cuda_kernels.h"

namespace a2sf {
namespace {

constexpr unsigned kThreads = 256;

struct SimilarityArgs {
    const uint8_t *k;
    size_t row_bytes, head_dim;
    const size_t *first;
    const uint32_t *live;
    float *similarity;
    bool operator==(const SimilarityArgs &) const = default;
};

// Shared: mean [head_dim].
template <KvType kType>
__global__ void __launch_bounds__(kThreads) compare_keys(SimilarityArgs args) {
    __shared__ float scratch[kWarp];
    float *mean = reinterpret_cast<float *>(shared_memory());
    const size_t first = args.first[blockIdx.x], n = args.live[blockIdx.x];
    const uint8_t *keys = args.k + first * args.row_bytes;
    const float share = n == 0 ? 0.0f : 1.0f / (float)n;
    float squares = 0.0f;
    for (size_t d = threadIdx.x; d < args.head_dim; d += kThreads) {
        float sum = 0.0f;
        for (size_t s = 0; s < n; ++s) {
            sum += kv_element<kType>(keys + s * args.row_bytes, d) * share;
        }
        mean[d] = sum;
        squares += sum * sum;
    }
    const float mean_length = sqrtf(block_sum(squares, scratch));  // and mean is whole
    for (size_t s = threadIdx.x / kWarp; s < n; s += kThreads / kWarp) {
        float product = 0.0f, own = 0.0f;
        for (size_t d = threadIdx.x % kWarp; d < args.head_dim; d += kWarp) {
            const float key = kv_element<kType>(keys + s * args.row_bytes, d);
            product += key * mean[d];
            own += key * key;
        }
        product = warp_sum(product);
        const float length = sqrtf(warp_sum(own)) * mean_length;
        if (threadIdx.x % kWarp == 0) {
            args.similarity[first + s] = length > 0.0f ? product / length : 0.0f;
        }
    }
}

using SimilarityKernel = void (*)(SimilarityArgs);
constexpr SimilarityKernel kSimilarity[] = {compare_keys<KvType::F32>, compare_keys<KvType::F16>,
                                            compare_keys<KvType::Q8_0>};

}  // namespace

void cuda_key_similarity(CudaQueue &queue, const KvSlots &slots, const size_t *first,
                         const uint32_t *live, float *similarity) {
    const SimilarityArgs args = {static_cast<const uint8_t *>(slots.k),
                                 kv_row_bytes(slots.type, slots.head_dim),
                                 slots.head_dim,
                                 first,
                                 live,
                                 similarity};
    const LaunchShape shape = {dim3(static_cast<unsigned>(slots.n_kv_heads)), dim3(kThreads),
                               slots.head_dim * sizeof(float)};
    launch("similarity of keys", queue, shape, kSimilarity[static_cast<int>(slots.type)], args);
}

}  // namespace a2sf
