// What all ways of attention share: their arguments, and which slots a query sees.
#pragma once

#include "backend/cuda/kv_rows.cuh"

#include "backend/cuda/cuda_kernels.h"
#include "evict/policy.h"

namespace a2sf {

struct LaneArgs {
    float *scores;
    float decay;
    const float *query_weight;  // [m]
    bool operator==(const LaneArgs &) const = default;
};

struct AttendArgs {
    const float *q;
    size_t q_stride;
    float *out;
    size_t out_stride;
    size_t m, group, n_heads, n_kv_heads, head_dim;
    size_t stride;  // head_dim, padded to 8
    const uint8_t *k, *v;
    size_t row_bytes;
    const int32_t *query_pos;
    const int32_t *pos;
    const size_t *first;
    const uint32_t *live;
    size_t longest;
    TurnedHead turned;  // place: of the whole layer
    int32_t window;
    float scale;
    int n_lanes;
    LaneArgs lanes[kMaxScoreLanes];
    float *workspace;
    bool operator==(const AttendArgs &) const = default;
};

AttendArgs attend_args(const CudaAttention &job);
using AttendKernel = void (*)(AttendArgs);

A2SF_INLINE KvHead head_rows(const AttendArgs &args, const uint8_t *rows, size_t first) {
    return {rows + first * args.row_bytes, args.row_bytes, args.head_dim};
}
A2SF_INLINE TurnedHead head_turns(const AttendArgs &args, size_t first) {
    TurnedHead turned = args.turned;
    if (turned.place != nullptr) turned.place += first;
    return turned;
}

// The KV head of a block, blockIdx.y, its first slot, and how many are live.
struct HeadSlots {
    size_t head, first, live;
};
A2SF_INLINE HeadSlots head_slots(const AttendArgs &args) {
    return {blockIdx.y, args.first[blockIdx.y], args.live[blockIdx.y]};
}

// What a score that is added to keeps of itself. With a decay of 0 nothing, whatever was there.
A2SF_INLINE float kept_score(const LaneArgs &lane, float score) {
    return lane.decay == 0.0f ? 0.0f : lane.decay * score;
}

A2SF_INLINE bool sees(const AttendArgs &args, int32_t query_pos, int32_t pos) {
    return pos <= query_pos && (args.window == 0 || pos > query_pos - args.window);
}

// Attention of one query, and of several.
size_t attend_one_workspace(const AttentionArgs &args, size_t longest);
void attend_one(CudaQueue &queue, const AttendArgs &args, KvType type);
size_t attend_batch_workspace(const AttentionArgs &args, size_t longest);
void attend_batch(CudaQueue &queue, const AttendArgs &args, KvType type);
// Of several on tensor cores, where K and V allow it.
bool attends_on_tensor_cores(KvType type, size_t head_dim);
size_t attend_tensor_workspace(const AttentionArgs &args);
void attend_tensor_batch(CudaQueue &queue, const AttendArgs &args, KvType type);

}  // namespace a2sf
