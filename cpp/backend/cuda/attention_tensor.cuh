// What both kernels of attention on tensor cores share: tiles of 64 rows, pairs of query and query
// head of one KV head, or of 64 slots, as halves in shared memory; who sees whom; and what the
// first kernel leaves the second.
#pragma once

#include "backend/cuda/attention.cuh"
#include "backend/cuda/tensor.cuh"

namespace a2sf {

constexpr unsigned kTileThreads = 128;
constexpr int kTile = 64;
constexpr int kWarpRows = 16;                     // of a tile: a warp's
constexpr size_t kFewDims = 64, kManyDims = 128;  // of a head, with zeros behind the last

// 64 rows of kDim halves in shared memory.
template <int kDim>
struct Tile {
    static constexpr int kWords = kDim / 8;  // of 16 bytes, of a row
    uint4 words[kTile * kWords];
    // Eight neighbouring rows' words i lie in different banks.
    static __device__ __forceinline__ int place(int row, int i) {
        return row * kWords + (i ^ (row & 7));
    }
    __device__ __forceinline__ uint4 *at(int row, int i) { return words + place(row, i); }
    __device__ __forceinline__ const uint4 *at(int row, int i) const {
        return words + place(row, i);
    }
};

// What the first kernel leaves of a row: its weight for a slot is 2^(size * q * k - base), q being
// what it has left of the query. An infinite base: no weight anywhere.
struct alignas(8) RowSum {
    float size, base;
};

// The workspace.
struct RowArrays {
    size_t n_rows;  // per KV head, of whole tiles
    uint4 *q;       // [n_kv_heads, n_rows, words of a row]: halves
    RowSum *sums;   // [n_kv_heads, n_rows]
};
__host__ __device__ inline size_t tiles_of(size_t m, size_t group) {
    return (m * group + kTile - 1) / kTile;
}
template <int kDim>
A2SF_INLINE RowArrays arrays_of(const AttendArgs &args) {
    RowArrays arrays = {};
    arrays.n_rows = tiles_of(args.m, args.group) * kTile;
    arrays.q = reinterpret_cast<uint4 *>(args.workspace);
    arrays.sums =
        reinterpret_cast<RowSum *>(arrays.q + args.n_kv_heads * arrays.n_rows * Tile<kDim>::kWords);
    return arrays;
}

// The first and last position of a tile's queries.
struct QueryRange {
    int32_t first, last;
};
A2SF_INLINE QueryRange queries_of(const AttendArgs &args, uint32_t tile) {
    const uint32_t group = (uint32_t)args.group, n = (uint32_t)args.m;
    const uint32_t last = (tile * kTile + kTile - 1) / group;
    return {args.query_pos[tile * kTile / group], args.query_pos[last < n ? last : n - 1]};
}

// Whether any, and whether all, of these queries see a position.
A2SF_INLINE bool any_sees(const AttendArgs &args, QueryRange queries, int32_t pos) {
    return pos <= queries.last && (args.window == 0 || pos > queries.first - args.window);
}
A2SF_INLINE bool all_see(const AttendArgs &args, QueryRange queries, int32_t pos) {
    return pos <= queries.first && (args.window == 0 || pos > queries.last - args.window);
}

// K or V of the slots from `slot` on, zeros behind the last: halves as they are, beside the
// arithmetic, where their rows are whole words; others are decoded.
template <KvType kType, bool kKeys, int kDim>
A2SF_INLINE void load_slots(const AttendArgs &args, const HeadSlots &at, size_t slot,
                            Tile<kDim> &to) {
    constexpr int kWords = Tile<kDim>::kWords;
    const KvHead head = head_rows(args, kKeys ? args.k : args.v, at.first + slot);
    const TurnedHead turned = head_turns(args, at.first + slot);
    const bool turns = kKeys && turned.place != nullptr;
    const int n = at.live - slot < kTile ? (int)(at.live - slot) : kTile;
    const int word = threadIdx.x % kWords;
    const bool has_word = word * 8 < (int)args.stride;
    if (kType == KvType::F16 && !turns && head.row_bytes % 16 == 0) {
#pragma unroll
        for (int i = 0; i < kTile * kWords / (int)kTileThreads; ++i) {
            const int s = threadIdx.x / kWords + i * ((int)kTileThreads / kWords);
            const bool inside = has_word && s < n;
            const uint8_t *from = inside ? head.rows + s * head.row_bytes + word * 16 : head.rows;
            copy_beside(to.at(s, word), from, inside ? 16 : 0);
        }
        return;
    }
#pragma unroll 2
    for (int s = threadIdx.x / kWords; s < kTile; s += kTileThreads / kWords) {
        float values[8] = {};
        if (has_word && s < n) {
            if (kKeys) {
                key_load_8<kType>(head, turned, s, word * 8, values);
            } else {
                kv_load_8<kType>(head, head.rows + s * head.row_bytes, word * 8, values);
            }
        }
        *to.at(s, word) = {
            pack_pair<true>(values[0], values[1]), pack_pair<true>(values[2], values[3]),
            pack_pair<true>(values[4], values[5]), pack_pair<true>(values[6], values[7])};
    }
}

// c += a [16, kDim] * rows [64, kDim], transposed.
template <int kDim>
A2SF_INLINE void multiply_rows(const uint32_t (&a)[kDim / 16][4], const Tile<kDim> &rows,
                               float (&c)[kTile / 8][4]) {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
        for (int p = 0; p < kTile / 16; ++p) {
            uint32_t b[4];
            load_matrices(rows.at(16 * p + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2), b);
            multiply_tiles<true>(c[2 * p], a[k], b[0], b[1]);
            multiply_tiles<true>(c[2 * p + 1], a[k], b[2], b[3]);
        }
    }
}

// a [16, kDim]: a warp's rows of a tile.
template <int kDim>
A2SF_INLINE void load_factors(const Tile<kDim> &rows, uint32_t (&a)[kDim / 16][4]) {
    const int lane = threadIdx.x % kWarp, row = threadIdx.x / kWarp * kWarpRows + lane % 16;
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) load_matrices(rows.at(row, 2 * k + lane / 16), a[k]);
}

// The second kernel: scores of a batch, from what the first has left.
void score_tensor_batch(CudaQueue &queue, const AttendArgs &args, KvType type);

}  // namespace a2sf
