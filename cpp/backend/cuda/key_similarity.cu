// Cosines of a head's keys and their mean (arXiv 2504.15364): sums over parts of the slots, then
// each key against the mean, a warp per slot.
#include "backend/cuda/kv_rows.cuh"

#include "backend/cuda/cuda_kernels.h"

namespace a2sf {
namespace {

constexpr unsigned kThreads = 256, kWarps = kThreads / kWarp;
constexpr size_t kPartSlots = 128;
constexpr size_t kMostParts = 64;

struct SimilarityArgs {
    const uint8_t *k;
    size_t row_bytes, head_dim;
    const size_t *first;
    const uint32_t *live;
    size_t n_parts, part_slots;
    float *sums;  // [n_kv_heads, n_parts, head_dim]
    float *similarity;
    bool operator==(const SimilarityArgs &) const = default;
};

// Shared: sums of each warp, [kWarps, head_dim].
template <KvType kType>
__global__ void __launch_bounds__(kThreads) sum_keys(SimilarityArgs args) {
    after_others();
    float *of_warps = reinterpret_cast<float *>(shared_memory());
    const unsigned part = blockIdx.x, head = blockIdx.y;
    const unsigned warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    const size_t live = args.live[head], begin = part * args.part_slots;
    const size_t end = begin + args.part_slots < live ? begin + args.part_slots : live;
    const uint8_t *keys = args.k + args.first[head] * args.row_bytes;
    for (size_t d = lane; d < args.head_dim; d += kWarp) {
        float sum = 0.0f;
        for (size_t s = begin + warp; s < end; s += kWarps) {
            sum += kv_element<kType>(keys + s * args.row_bytes, d);
        }
        of_warps[warp * args.head_dim + d] = sum;
    }
    __syncthreads();
    float *sums = args.sums + (head * args.n_parts + part) * args.head_dim;
    for (size_t d = threadIdx.x; d < args.head_dim; d += kThreads) {
        float sum = 0.0f;
        for (unsigned w = 0; w < kWarps; ++w) sum += of_warps[w * args.head_dim + d];
        sums[d] = sum;
    }
}

// Shared: mean [head_dim].
template <KvType kType>
__global__ void __launch_bounds__(kThreads) compare_keys(SimilarityArgs args) {
    after_others();
    __shared__ float scratch[kWarp];
    float *mean = reinterpret_cast<float *>(shared_memory());
    const unsigned part = blockIdx.x, head = blockIdx.y;
    const size_t first = args.first[head], live = args.live[head];
    const size_t begin = part * args.part_slots;
    if (begin >= live) return;
    const size_t end = begin + args.part_slots < live ? begin + args.part_slots : live;
    const float share = 1.0f / (float)live;
    const float *sums = args.sums + head * args.n_parts * args.head_dim;
    float squares = 0.0f;
    for (size_t d = threadIdx.x; d < args.head_dim; d += kThreads) {
        float sum = 0.0f;
        for (size_t i = 0; i < args.n_parts; ++i) sum += sums[i * args.head_dim + d];
        mean[d] = sum * share;
        squares += mean[d] * mean[d];
    }
    const float mean_length = sqrtf(block_sum(squares, scratch));  // and mean is whole
    const uint8_t *keys = args.k + first * args.row_bytes;
    for (size_t s = begin + threadIdx.x / kWarp; s < end; s += kWarps) {
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

struct SimilarityKernels {
    void (*sum)(SimilarityArgs);
    void (*compare)(SimilarityArgs);
};
constexpr SimilarityKernels kSimilarity[] = {{sum_keys<KvType::F32>, compare_keys<KvType::F32>},
                                             {sum_keys<KvType::F16>, compare_keys<KvType::F16>},
                                             {sum_keys<KvType::Q8_0>, compare_keys<KvType::Q8_0>}};

size_t slots_of_part(size_t longest) {
    const size_t least = (longest + kMostParts - 1) / kMostParts;
    return least > kPartSlots ? least : kPartSlots;
}

}  // namespace

size_t cuda_similarity_workspace(const KvSlots &slots, size_t longest) {
    return slots.n_kv_heads * n_blocks(longest, slots_of_part(longest)) * slots.head_dim;
}

void cuda_key_similarity(CudaQueue &queue, const KvSlots &slots, const CudaKeys &keys) {
    const size_t part_slots = slots_of_part(keys.longest);
    const unsigned n_parts = n_blocks(keys.longest, part_slots);
    const SimilarityArgs args = {static_cast<const uint8_t *>(slots.k),
                                 kv_row_bytes(slots.type, slots.head_dim),
                                 slots.head_dim,
                                 keys.first,
                                 keys.live,
                                 n_parts,
                                 part_slots,
                                 keys.workspace,
                                 keys.similarity};
    const SimilarityKernels &kernels = kSimilarity[static_cast<int>(slots.type)];
    const dim3 grid(n_parts, static_cast<unsigned>(slots.n_kv_heads));
    const size_t row = slots.head_dim * sizeof(float);
    launch("sums of keys", queue, {grid, dim3(kThreads), kWarps * row}, kernels.sum, args);
    launch("similarity of keys", queue, {grid, dim3(kThreads), row}, kernels.compare, args);
}

}  // namespace a2sf
