// K and V of new tokens into their slots, a warp per token, KV head, and K or V; RoPE of keys on
// their way, and of the queries of the same tokens, a warp per head of them.
#include <algorithm>

#include "backend/cuda/kv_rows.cuh"
#include "backend/cuda/turns.cuh"

#include "backend/cuda/cuda_kernels.h"

namespace a2sf {
namespace {

constexpr unsigned kWarps = 4;

struct WriteArgs {
    KvType type;
    size_t n_kv_heads, head_dim, row_bytes, m;
    const size_t *first;
    const uint32_t *slot;
    const float *from[2];  // k, v
    size_t stride[2];
    uint8_t *to[2];
    RowTurns turns;
    float *turned[2];  // k, q; null where they are not to be turned
    size_t q_stride, n_heads;
    // Null where the host has written positions and scores. Else the token's position, or
    // first_pos and those behind it where next_pos is null.
    int32_t *pos;
    const int32_t *next_pos;
    int32_t first_pos;
    float *scores[kMaxScoreLanes];  // null from the first that is not there
    bool operator==(const WriteArgs &) const = default;
};

// As backend/cpu/float.inl stores it: the inverse of the scale as stored.
A2SF_INLINE void store_q8(const float *x, size_t n, uint8_t *row) {
    const unsigned lane = threadIdx.x % kWarp;
    for (size_t i = 0; i < n; i += kQ8Block, row += kKvBlockSize) {
        const float value = x[i + lane];
        const float wanted = fminf(warp_max(fabsf(value)) / 127.0f, 65504.0f);
        const uint16_t half = float_to_half(wanted);
        const float scale = half_to_float(half);
        const float scaled = value * (scale > 0.0f ? 1.0f / scale : 0.0f);
        const int q = (int)rintf(fmaxf(-127.0f, fminf(127.0f, scaled)));
        row[2 + lane] = (uint8_t)(int8_t)q;
        if (lane == 0) memcpy(row, &half, sizeof half);
    }
}

// A head of a row, keys or queries, by a warp.
A2SF_INLINE void turn_head(const WriteArgs &args, int which, size_t item, size_t n_heads,
                           size_t stride) {
    if (args.turned[which] == nullptr || item >= args.m * n_heads) return;
    const size_t i = item / n_heads;
    float *head = args.turned[which] + i * stride + item % n_heads * args.head_dim;
    for (size_t j = threadIdx.x % kWarp; j < args.turns.half; j += kWarp) {
        turn_pair(args.turns, i, j, head);
    }
}

// What blocks do by blockIdx.y; values are 1.
constexpr unsigned kKeys = 0, kQueries = 2;

__global__ void __launch_bounds__(kWarps *kWarp) write_rows(WriteArgs args) {
    after_others();
    const size_t item = size_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
    const unsigned which = blockIdx.y, lane = threadIdx.x % kWarp;
    if (which == kQueries) return turn_head(args, 1, item, args.n_heads, args.q_stride);
    if (item >= args.m * args.n_kv_heads) return;
    if (which == kKeys) turn_head(args, 0, item, args.n_kv_heads, args.stride[0]);
    __syncwarp();  // what other lanes have turned
    const size_t i = item / args.n_kv_heads, head = item % args.n_kv_heads;
    const float *x = args.from[which] + i * args.stride[which] + head * args.head_dim;
    const size_t slot = args.first[head] + args.slot[head * args.m + i];
    uint8_t *row = args.to[which] + slot * args.row_bytes;
    if (args.pos != nullptr && which == kKeys && lane == 0) {
        args.pos[slot] = args.next_pos != nullptr ? args.next_pos[head] : args.first_pos + (int)i;
        for (float *scores : args.scores) {
            if (scores != nullptr) scores[slot] = 0.0f;
        }
    }
    if (args.type == KvType::Q8_0) {
        store_q8(x, args.head_dim, row);
        return;
    }
    for (size_t d = lane; d < args.head_dim; d += kWarp) {
        if (args.type == KvType::F32) {
            reinterpret_cast<float *>(row)[d] = x[d];
        } else {
            reinterpret_cast<uint16_t *>(row)[d] = float_to_half(x[d]);
        }
    }
}

}  // namespace

void cuda_kv_write(CudaQueue &queue, const KvSlots &slots, const size_t *first,
                   const uint32_t *slot, Matrix<const float> k, Matrix<const float> v,
                   const NewTurns *turns) {
    WriteArgs args = {};
    args.type = slots.type;
    args.n_kv_heads = slots.n_kv_heads;
    args.head_dim = slots.head_dim;
    args.row_bytes = kv_row_bytes(slots.type, slots.head_dim);
    args.m = k.rows;
    args.first = first;
    args.slot = slot;
    args.from[0] = k.data;
    args.from[1] = v.data;
    args.stride[0] = k.stride;
    args.stride[1] = v.stride;
    args.to[0] = static_cast<uint8_t *>(slots.k);
    args.to[1] = static_cast<uint8_t *>(slots.v);
    if (turns != nullptr) {
        args.turns = row_turns(turns->style, turns->angles);
        args.turned[0] = turns->k.data;
        args.turned[1] = turns->q.data;
        args.q_stride = turns->q.stride;
        args.n_heads = turns->q.cols / slots.head_dim;
    }
    if (slots.kept != nullptr) {
        args.pos = slots.kept->pos;
        args.next_pos = slots.kept->next_pos;
        for (size_t lane = 0; lane < slots.kept->n_lanes; ++lane) {
            args.scores[lane] = slots.kept->scores[lane];
        }
    } else if (slots.entering != nullptr) {
        args.pos = slots.entering->pos;
        args.first_pos = slots.entering->first_pos;
        for (size_t lane = 0; lane < slots.entering->n_lanes; ++lane) {
            args.scores[lane] = slots.entering->scores[lane];
        }
    }
    const size_t n_warps = args.m * std::max(slots.n_kv_heads, args.n_heads);
    const LaunchShape shape = {dim3(n_blocks(n_warps, kWarps), args.n_heads > 0 ? 3 : 2),
                               dim3(kWarps * kWarp)};
    launch("writing K and V", queue, shape, write_rows, args);
}

}  // namespace a2sf
