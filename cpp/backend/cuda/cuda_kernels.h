// What the .cu files do, as plain functions: each asks a queue for its kernels and returns.
// All pointers are the device's unless their name begins with host. Sizes as in backend/backend.h.
#pragma once

#include <cuda_runtime.h>

#include "backend/backend.h"
#include "backend/cuda/cuda_queue.h"
#include "evict/policy.h"

namespace a2sf {

// out[i] = scale * table[ids[i]].
void cuda_embed(CudaQueue &queue, const Weight &table, const int32_t *ids, float scale,
                Matrix<float> out);

// The forms of an input that products read; null where none does. Rows of q and bfloat are
// padded_cols(cols) long, padded with zeros; x[t, k] ~ scale[t, k / 32] * q[t, k].
struct CudaForms {
    float *rows = nullptr;       // [m, cols]
    int8_t *q = nullptr;         // [m, padded]
    float *scale = nullptr;      // [m, padded / 32]
    uint16_t *bfloat = nullptr;  // [m, padded]
    bool operator==(const CudaForms &) const = default;
};
constexpr size_t padded_cols(size_t cols) {
    return (cols + 31) / 32 * 32;
}
void cuda_prepare(CudaQueue &queue, const Input &input, const CudaForms &forms);

// One product. matvec: each row alone, of x for plain formats and of q and scale for the others.
// matmul: rows together, of x for F32 and of bfloat for the others.
struct CudaProduct {
    const Product *product = nullptr;
    Matrix<const float> x;
    CudaForms forms;
};
void cuda_matvec(CudaQueue &queue, const CudaProduct &job);
void cuda_matmul(CudaQueue &queue, const CudaProduct &job);

void cuda_rms_norm(CudaQueue &queue, Matrix<const float> x, size_t width, const float *weight,
                   float eps, Matrix<float> y, bool accumulate);

// frequency [n_rot / 2], pos [angles.rows].
void cuda_rope_angles(CudaQueue &queue, const int32_t *pos, const float *frequency, float magnitude,
                      Matrix<float> angles);
void cuda_rope(CudaQueue &queue, RopeStyle style, size_t head_dim, Matrix<const float> angles,
               Matrix<float> x);

// first [n_kv_heads]: what KvSlots::at gives. slot [n_kv_heads, k.rows].
void cuda_kv_write(CudaQueue &queue, const KvSlots &slots, const size_t *first,
                   Matrix<const float> k, Matrix<const float> v, const uint32_t *slot);

// One text's attention. What is small and the host's in `args` is there once more for the device.
struct CudaAttention {
    const AttentionArgs *args = nullptr;
    size_t longest = 0;                              // of args->live
    const size_t *first = nullptr;                   // [n_kv_heads]
    const uint32_t *live = nullptr;                  // [n_kv_heads]
    const int32_t *query_pos = nullptr;              // [m]
    const float *query_weight[kMaxScoreLanes] = {};  // [m] each
    float *workspace = nullptr;                      // of cuda_attention_workspace() floats
};
size_t cuda_attention_workspace(const AttentionArgs &args, size_t longest);
void cuda_attention(CudaQueue &queue, const CudaAttention &job);

// What attention holds in shared memory and registers: elements of a head, query heads per KV head.
constexpr size_t kCudaMostHeadDim = 256;
constexpr size_t kCudaMostGroup = 28;

// GGUF's number of F32, whose products are exact on every device.
constexpr uint32_t kGgmlF32 = 0;

// victim [n_kv_heads].
void cuda_lowest(CudaQueue &queue, const LowestArgs &args, const size_t *first,
                 const uint32_t *live, const int32_t *last_pos, int32_t *victim);

// Backend::free_slots.
void cuda_free_slots(CudaQueue &queue, size_t n_kv_heads, const KeptSlots &kept);

void cuda_key_similarity(CudaQueue &queue, const KvSlots &slots, const size_t *first,
                         const uint32_t *live, float *similarity);

// Backend::likeliest. workspace: so many bytes; result: the device's.
size_t cuda_likeliest_workspace(size_t n);
void cuda_likeliest(CudaQueue &queue, Matrix<const float> logits, float scale, void *workspace,
                    Likeliest *result);

// What a device can do at most: loops of n_rounds of one kind of arithmetic; the operations of one
// launch. sink: 4 bytes that may be written.
double cuda_peak_int8(CudaQueue &queue, size_t n_multiprocessors, int n_rounds, void *sink);
double cuda_peak_float(CudaQueue &queue, size_t n_multiprocessors, int n_rounds, void *sink);
double cuda_peak_bfloat(CudaQueue &queue, size_t n_multiprocessors, int n_rounds, void *sink);

}  // namespace a2sf
