// The table of CPU kernels: plain functions on plain pointers, one table per instruction set,
// filled by isa_<name>.cpp from one source (kernels.inl). Owner of nothing; the backend splits
// operations into tasks and passes scratch. Safe to include from per-ISA sources: no STL, nothing
// inline.
//
// Alignment: none is required of any pointer. Tails: any length is allowed where none is stated.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "quant/formats.h"

// Before a loop over the registers of a tile: unrolls it whole. Not in debug builds: 16 formats
// unrolled and instrumented take a sanitizer's compiler minutes per instruction set.
#if defined(A2SF_NO_UNROLL)
#define A2SF_UNROLL
#elif defined(__clang__)
#define A2SF_UNROLL _Pragma("unroll")
#else
#define A2SF_UNROLL _Pragma("GCC unroll 16")
#endif

namespace a2sf {

constexpr size_t kNFormats = 0
#define A2SF_COUNT(F) +1
    A2SF_WEIGHT_FORMATS(A2SF_COUNT);
#undef A2SF_COUNT

// Activations of m tokens as integers: x[t, k] ~ scale[t, k / 32] * q[t, k], |q| <= 127. Columns
// are padded to a multiple of kColsPad with q = 0 and scale = 0. Sums serve formats with offsets;
// the starts are what an integer dot product begins with, so that instruction sets that multiply
// unsigned by signed bytes can shift the weights by 128 and stay exact (0 elsewhere).
constexpr size_t kColsPad = 64;
struct QuantizedX {
    size_t cols;          // padded
    int8_t *q;            // [m, cols]
    float *scale;         // [m, cols / 32]
    float *sum16;         // [m, cols / 16], scale * sum of 16 q
    float *sum32;         // [m, cols / 32]
    int32_t *start16;     // [m, cols / 16]
    int32_t *start32;     // [m, cols / 32]
    int32_t *lane_start;  // [m, cols / 4]; only where matvec or few read it
};

// Activations of m tokens as bfloat16 tiles of 16 tokens by 32 columns, padded with zeros
// to whole tiles: [tokens / 16, cols / 32, 16, 32].
struct TileX {
    size_t cols;  // padded
    uint16_t *x;
};

// What a product of several tokens reads its activations as.
enum BatchX : int { kBatchFloats, kBatchIntegers, kBatchBfloat };

// Rows [row_begin, row_end) of y = x * w^T (+ bias) (+ y) for m tokens.
struct MatmulTask {
    const uint8_t *w;  // row 0; rows of row_bytes
    size_t row_bytes;
    size_t cols;  // a multiple of the format's block; of 32 when the format has groups
    size_t row_begin, row_end;
    size_t between;  // matvec, few: if not 0, also the rows 1, 2 and 3 times that many further on
    size_t m;
    const float *x;  // [m, cols], rows x_stride apart; read by plain formats only
    size_t x_stride;
    QuantizedX xq;  // read by quantised formats only
    TileX xt;       // read by batches whose BatchX says so
    float *y;       // [m, rows], rows y_stride apart
    size_t y_stride;
    const float *bias;  // [rows] or null
    bool accumulate;
    void *scratch;  // Kernels::panel_bytes, 64-byte aligned
};

// Rows of a batched task are best a multiple of kPanelRows. A panel is kPanelRows weight rows by
// kPanelCols columns, unpacked for all tokens at once.
constexpr size_t kPanelRows = 32;
constexpr size_t kPanelCols = 512;
constexpr size_t kFloatPanelCols = 256;
// Integers, then scales and offsets of groups of 16, then one float row; or a float panel.
constexpr size_t kPanelBytes = kPanelRows * kPanelCols +
                               2 * kPanelRows * (kPanelCols / 16) * sizeof(float) +
                               kPanelRows * kFloatPanelCols * sizeof(float);

// How K and V rows are stored; the values of KvType.
enum KvFormat : int { kKvF32, kKvF16, kKvQ8_0 };
constexpr size_t kKvBlock = 32;       // elements of a Q8_0 block
constexpr size_t kKvBlockBytes = 34;  // half scale, 32 signed bytes

// Stored keys that are turned as they are read: place[s] is a row of angles, n_rot / 2 cosines,
// then as many sines. place null: none.
struct TurnedKeys {
    const float *angles;
    size_t stride;  // of angles
    size_t n_rot;
    bool halves;           // RopeStyle::Halves
    const int32_t *place;  // [live] of one KV head
};

// n_queries queries, all `group` query heads of one KV head. Row r = i * group + g.
struct AttentionTile {
    const float *q;  // [n_queries, group * head_dim], rows q_stride apart
    size_t q_stride;
    float *out;  // likewise
    size_t out_stride;
    size_t n_queries, group, head_dim;
    const int32_t *query_pos;  // [n_queries]
    int32_t window;            // 0 = none
    float scale;
    int kv_format;
    const uint8_t *k, *v;  // [live] rows of row_bytes
    size_t row_bytes;
    const int32_t *pos;  // [live]
    size_t live;
    TurnedKeys turned;
    float *scratch;  // attention_scratch(...) floats, 64-byte aligned
    float *p;        // [n_queries * group, padded(live)], out: the attention probabilities
};

constexpr size_t kMaxLanes = 16;  // vector lanes of the widest instruction set
A2SF_INLINE constexpr size_t padded(size_t n) {
    return (n + kMaxLanes - 1) / kMaxLanes * kMaxLanes;
}
// Queries and outputs as padded rows, and one block of K or V rows as floats.
A2SF_INLINE constexpr size_t attention_scratch(size_t n_rows, size_t head_dim) {
    return (2 * n_rows + kMaxLanes) * padded(head_dim);
}

constexpr size_t kPeakMostRounds = size_t{1} << 19;
constexpr size_t kPeakReadFloats = 8 * kMaxLanes;

// One query, the `group` query heads of one KV head, over a run of n slots that it all sees. Rows
// of four heads lie side by side: p [group / 4, p_slots, 4].
constexpr size_t kOneRows = 4;
struct OneQuery {
    const float *q;          // [group, head_dim]
    size_t group, head_dim;  // head_dim: a multiple of kMaxLanes
    float scale;
    int kv_format;
    const uint8_t *k, *v;  // [n] rows of row_bytes
    size_t row_bytes;
    size_t n;
    const float *turned_k;  // [n, head_dim]: K instead of k, or null
    size_t p_slots;         // padded(n) or more
    float *p;               // out: exp(logit - top)
    float *out;             // [group, head_dim]: sum of p * v
    float *top;             // [group]: the highest logit
    float *total;           // [group]: the sum of p
};

// K and V of one KV head as bfloat16 tiles (tiles.inl).
constexpr size_t kSlotsPerPack = 32;
struct TileKv {
    size_t slots;     // padded to kSlotsPerPack
    size_t head_dim;  // a multiple of 32
    uint16_t *k;      // [slots / 16, head_dim / 32] right tiles
    uint16_t *v;      // [head_dim / 16, slots / 32] right tiles
    int32_t *pos;     // [slots], INT32_MAX from live on
};

// One accumulated score per slot: into[s] = decay * into[s] + sum over the queries i and heads g of
// query_weight[i] * p[i, g, s]; decay 0 overwrites.
constexpr size_t kMaxSums = 2;
struct ScoreSum {
    float *into;                // [live]
    const float *query_weight;  // [n_queries]
    float decay;
};

// An AttentionTile of at most kTiledRows rows over packed K and V, with its score sums. Of the tile
// k, v, pos, row_bytes, kv_format and p are not read; scratch: tiled_scratch(...) floats.
constexpr size_t kTiledRows = 32;
constexpr size_t kTiledBlockSlots = 256;
struct TiledAttention {
    AttentionTile tile;
    TileKv kv;
    size_t n_sums;
    ScoreSum sums[kMaxSums];
};
A2SF_INLINE constexpr size_t tiled_scratch(size_t slots, size_t head_dim) {
    const size_t n_blocks = (slots + kTiledBlockSlots - 1) / kTiledBlockSlots;
    const size_t floats = kTiledBlockSlots + kMaxLanes + head_dim + n_blocks + kMaxSums;
    return kTiledRows * floats + kTiledRows / 2 * (head_dim + slots);
}

struct Kernels {
    const char *name;

    // One run of n elements: y = x / sqrt(mean(x^2) + eps) * weight (+ y).
    void (*rms_norm)(const float *x, const float *weight, size_t n, float eps, float *y,
                     bool accumulate);
    // y = act(gate) * up, n elements.
    void (*silu_gated)(const float *gate, const float *up, size_t n, float *y);
    void (*gelu_gated)(const float *gate, const float *up, size_t n, float *y);
    // y[i] = exp(x[i]), n elements; within 2 units in the last place, 0 below -87.3.
    void (*exp)(const float *x, float *y, size_t n);

    // Rotates one head in place. cosines and sines [n_rot / 2].
    void (*rope_interleaved)(const float *cosines, const float *sines, size_t n_rot, float *head);
    void (*rope_halves)(const float *cosines, const float *sines, size_t n_rot, float *head);

    // Row t of xq from x [n]; n is a multiple of 32. `lanes` also fills lane_start.
    void (*quantize_row)(const float *x, size_t n, const QuantizedX &xq, size_t t, bool lanes);

    // Row t of xt from x [n], zeros where x is null. Null where no batch product reads tiles.
    void (*tile_row)(const float *x, size_t n, const TileX &xt, size_t t);

    // By WeightType::index. matvec: m == 1. few: tokens of which each gets the same whatever the
    // others are, and however many; all but for rounding what matvec would give it.
    // matmul: any m; a row's result is the same for every m.
    void (*matvec[kNFormats])(const MatmulTask &task);
    void (*few[kNFormats])(const MatmulTask &task);
    void (*matmul[kNFormats])(const MatmulTask &task);
    BatchX batch_x[kNFormats];
    size_t panel_bytes;  // of a matmul's scratch
    size_t panel_rows;   // most rows that a matmul unpacks at a time

    // One K or V row of n floats; n is a multiple of 32 for kKvQ8_0.
    void (*kv_store)(int kv_format, const float *x, size_t n, uint8_t *row);
    void (*kv_load)(int kv_format, const uint8_t *row, size_t n, float *x);

    // Slot s of n_slots from `first` on, turned, as floats [n_slots, n].
    void (*load_turned)(int kv_format, const uint8_t *k, size_t row_bytes, size_t first,
                        size_t n_slots, const TurnedKeys &turned, size_t n, float *to);

    void (*attention)(const AttentionTile &tile);
    void (*attend_one)(const OneQuery &one);
    // into[s] = decay * into[s] + sum over r < 4 of factor[r] * p[s, r]; decay 0 overwrites.
    void (*add_one_scores)(const float *p, const float *factor, size_t n, float decay, float *into);
    // Packs slots [first, first + kSlotsPerPack) of one KV head, zeros from live on; values
    // [kSlotsPerPack, head_dim] is scratch. Both are null where there are no tiles.
    void (*pack_slots)(int kv_format, const uint8_t *k, const uint8_t *v, size_t row_bytes,
                       size_t live, size_t first, const TurnedKeys &turned, const TileKv &to,
                       float *values);
    void (*attend_tiles)(const TiledAttention &job);
    // into[s] = decay * into[s] + sum over rows r of weight[r] * p[r, s]; decay 0 overwrites.
    // p rows are padded(live) apart.
    void (*add_scores)(const float *p, size_t n_rows, const float *weight, size_t live, float decay,
                       float *into);

    // Of the slots with first <= pos <= last, the position of the lowest score, the oldest of
    // equals; without scores the oldest. -1 where a score is not a finite number.
    int32_t (*lowest_pos)(const float *scores, const int32_t *pos, size_t n, int32_t first,
                          int32_t last);

    // sum of a[i] * b[i], and y += scale * x; n elements.
    float (*dot)(const float *a, const float *b, size_t n);
    void (*add_scaled)(const float *x, float scale, float *y, size_t n);

    // What the instruction set can do at most (peaks.inl), for `a2sf bench`. The first three return
    // the operations done; n_rounds <= kPeakMostRounds. n is a multiple of kPeakReadFloats.
    double (*peak_int8)(size_t n_rounds);
    double (*peak_float)(size_t n_rounds);
    double (*peak_tiles)(size_t n_rounds);  // null where there are no tiles
    void (*read_floats)(const float *p, size_t n);
};

}  // namespace a2sf
