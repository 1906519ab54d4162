// K and V of new tokens into their slots: a warp per token, KV head, and K or V.
#include "backend/cuda/kv_rows.cuh"

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

__global__ void __launch_bounds__(kWarps *kWarp) write_rows(WriteArgs args) {
    after_others();
    const size_t item = size_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
    if (item >= args.m * args.n_kv_heads) return;
    const size_t i = item / args.n_kv_heads, head = item % args.n_kv_heads;
    const unsigned which = blockIdx.y, lane = threadIdx.x % kWarp;
    const float *x = args.from[which] + i * args.stride[which] + head * args.head_dim;
    const size_t slot = args.first[head] + args.slot[head * args.m + i];
    uint8_t *row = args.to[which] + slot * args.row_bytes;
    if (args.pos != nullptr && which == 0 && lane == 0) {
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
                   Matrix<const float> k, Matrix<const float> v, const uint32_t *slot) {
    WriteArgs args = {slots.type,
                      slots.n_kv_heads,
                      slots.head_dim,
                      kv_row_bytes(slots.type, slots.head_dim),
                      k.rows,
                      first,
                      slot,
                      {k.data, v.data},
                      {k.stride, v.stride},
                      {static_cast<uint8_t *>(slots.k), static_cast<uint8_t *>(slots.v)},
                      nullptr,
                      nullptr,
                      0,
                      {}};
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
    const LaunchShape shape = {dim3(n_blocks(k.rows * slots.n_kv_heads, kWarps), 2),
                               dim3(kWarps * kWarp)};
    launch("writing K and V", queue, shape, write_rows, args);
}

}  // namespace a2sf
