// What the .cu files do, as plain functions: each asks a queue for its kernels and returns.
// All pointers are the device's unless their name begins with host. Sizes as in backend/backend.h.
#pragma once

#include <cuda_runtime.h>

#include <span>

#include "backend/backend.h"
#include "backend/cuda/cuda_queue.h"
#include "evict/policy.h"

namespace a2sf {

// out[i] = scale * table[ids[i]].
void cuda_embed(CudaQueue &queue, const Weight &table, const int32_t *ids, float scale,
                Matrix<float> out);

// The forms of an input that products read; null where none does. Rows of q, half and bfloat are
// padded_cols(cols) long, padded with zeros; x[t, k] ~ scale[t, k / 32] * q[t, k] and ~
// half_size[t]
// * half[t, k].
enum class CudaForm { Floats, Bytes, Halves, Bfloats };
struct CudaForms {
    float *rows = nullptr;       // [m, cols]
    int8_t *q = nullptr;         // [m, padded]
    float *scale = nullptr;      // [m, padded / 32]
    uint16_t *half = nullptr;    // [m, padded]
    float *half_size = nullptr;  // [m], powers of two
    uint16_t *bfloat = nullptr;  // [m, padded]
    bool operator==(const CudaForms &) const = default;
};
constexpr size_t padded_cols(size_t cols) {
    return (cols + 31) / 32 * 32;
}
void cuda_prepare(CudaQueue &queue, const Input &input, const CudaForms &forms);

// Products of one input that are one launch: weights of one type, all sums or none. matvec: each
// row alone, of x for plain formats and of q and scale for the others. matmul: rows together, of
// what cuda_batch_form says.
constexpr size_t kCudaMostProducts = 4;
struct CudaProducts {
    std::span<const Product> products;
    Matrix<const float> x;
    CudaForms forms;
    std::span<uint16_t> decoded;  // of cuda_matmul_workspace() elements, or a row at least
};
// GGUF's number of F32, whose products are exact on every device.
constexpr uint32_t kGgmlF32 = 0;
CudaForm cuda_batch_form(const Weight &w);
// Weights that matmul decodes first: all, or as many rows at a time as this holds.
constexpr size_t kMostDecodedBytes = size_t{64} << 20;
size_t cuda_matmul_workspace(std::span<const Product> products);
void cuda_matvec(CudaQueue &queue, const CudaProducts &job);
void cuda_matmul(CudaQueue &queue, const CudaProducts &job);

// Rows [first, first + n_rows) as halves or, where those do not hold them, as bfloat16, padded with
// zeros. to [n_rows, padded_cols(w.cols)].
bool cuda_decodes_halves(const Weight &w);
void cuda_decode(CudaQueue &queue, const Weight &w, size_t first, size_t n_rows, uint16_t *to);

void cuda_rms_norm(CudaQueue &queue, Matrix<const float> x, size_t width, const float *weight,
                   float eps, Matrix<float> y, bool accumulate);

// frequency [n_rot / 2], pos [angles.rows].
void cuda_rope_angles(CudaQueue &queue, const int32_t *pos, const float *frequency, float magnitude,
                      Matrix<float> angles);
void cuda_rope(CudaQueue &queue, RopeStyle style, size_t head_dim, Matrix<const float> angles,
               Matrix<float> x);

// first [n_kv_heads]: what KvSlots::at gives. slot [n_kv_heads, k.rows]. turns: q and k are turned
// before; null: they have been.
void cuda_kv_write(CudaQueue &queue, const KvSlots &slots, const size_t *first,
                   const uint32_t *slot, Matrix<const float> k, Matrix<const float> v,
                   const NewTurns *turns);

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

// victim [n_kv_heads].
void cuda_lowest(CudaQueue &queue, const LowestArgs &args, const size_t *first,
                 const uint32_t *live, const int32_t *last_pos, int32_t *victim);

// Backend::free_slots.
void cuda_free_slots(CudaQueue &queue, size_t n_kv_heads, const KeptSlots &kept);

// What Backend::evict and free_slots choose by. [n_kv_heads] each.
struct CudaHeads {
    size_t n_heads = 0;
    const size_t *first = nullptr;  // KvSlots::at
    const uint32_t *live = nullptr;
    const uint32_t *budget = nullptr;
    const int32_t *n_recent = nullptr;
    const int32_t *newest = nullptr;
    bool operator==(const CudaHeads &) const = default;
};

// What is found, in a workspace: by head, from first[head] on.
struct CudaVictims {
    uint64_t *key = nullptr;  // by slot, like guard_key and final_key
    uint64_t *guard_key = nullptr;
    uint64_t *final_key = nullptr;
    uint32_t *aged = nullptr;     // slots, oldest first; null where nobody's neighbours count
    uint32_t *gone = nullptr;     // by slot: 1 for those that leave, of heads where some do
    uint32_t *from = nullptr;     // slots that move
    uint32_t *to = nullptr;       // and where to
    float *similarity = nullptr;  // by slot
    uint32_t *n_moves = nullptr;  // [n_kv_heads]
    // Of Ranking::TwoScores: by slot, and sums over the tokens of a block, [n_kv_heads, blocks].
    float *fast = nullptr;
    double *fast_sum = nullptr;
    double *slow_sum = nullptr;
    bool operator==(const CudaVictims &) const = default;
};

struct CudaEviction {
    const VictimsArgs *args = nullptr;
    CudaHeads heads;
    const PositionRange *pinned = nullptr;
    size_t n_pinned = 0;
    size_t longest = 0;       // of the heads
    size_t most_victims = 0;  // 0: nothing is to move
    size_t n_slots = 0;       // of all heads, from the first one's on
    void *workspace = nullptr;
    float *key_sums = nullptr;  // of cuda_similarity_workspace() floats, where keys are compared
};
size_t cuda_victims_workspace(size_t n_slots, size_t n_heads, size_t longest);  // bytes
CudaVictims cuda_victims(CudaQueue &queue, const CudaEviction &eviction);

// Backend::find_places; newest, budget and n_recent are not looked at.
void cuda_find_places(CudaQueue &queue, const CudaHeads &heads, size_t longest,
                      const PlacesArgs &args);

// Rows, positions and scores from slot to slot. from, to: as MoveJob has them.
struct CudaMoves {
    const size_t *first = nullptr;
    const uint32_t *n_moves = nullptr;
    const uint32_t *from = nullptr;
    const uint32_t *to = nullptr;
    bool one_each = false;  // from and to are [n_kv_heads]
    size_t most = 0;        // of any head
};
void cuda_move(CudaQueue &queue, const VictimsArgs &args, const CudaMoves &moves);

// The slot that is gone is the next token's, in heads over their budget.
void cuda_take_holes(CudaQueue &queue, size_t n_kv_heads, const KeptSlots &kept,
                     const uint32_t *gone);

// Backend::key_similarity.
struct CudaKeys {
    const size_t *first = nullptr;   // [n_kv_heads]
    const uint32_t *live = nullptr;  // [n_kv_heads]
    size_t longest = 0;              // of the heads, not 0
    float *workspace = nullptr;      // of cuda_similarity_workspace() floats
    float *similarity = nullptr;     // by head, by slot
};
size_t cuda_similarity_workspace(const KvSlots &slots, size_t longest);
void cuda_key_similarity(CudaQueue &queue, const KvSlots &slots, const CudaKeys &keys);

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
