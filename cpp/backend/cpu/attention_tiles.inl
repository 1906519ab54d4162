// Attention of many queries on AMX tiles: the query heads of one KV head by up to 32 rows, over all
// live slots. K and V are turned into bfloat16 tiles once per chunk and KV head. Queries and
// probabilities are rounded as they are used: what q, k and v went through in their own products.
// Sums, softmax and scores are float32. Included by isa_amx.cpp, after tiles.inl.

namespace a2sf {
namespace {

// 16 rows of K by 32 columns as a right tile. rows [16, 32]: scratch.
A2SF_INLINE void pack_keys(const float *values, size_t stride, uint16_t *rows, uint16_t *to) {
    for (size_t i = 0; i < kTileRows; ++i) {
        const float *from = values + i * stride;
        _mm512_storeu_si512(rows + i * kTileCols, to_bfloats(load(from), load(from + kW)));
    }
    transpose_tile(rows, kTileCols, to);
}

// 32 rows of V by 16 columns as a right tile: pairs of slots side by side.
A2SF_INLINE void pack_values(const float *values, size_t stride, uint16_t *to) {
    const __m512i pairs =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (size_t j = 0; j < kTileRows; ++j) {
        const float *from = values + 2 * j * stride;
        const __m512i both = to_bfloats(load(from), load(from + stride));
        _mm512_storeu_si512(to + j * kTileCols, _mm512_permutexvar_epi16(pairs, both));
    }
}

// Slots [first, first + 32) of one KV head; those from live on become zeros. `values`: scratch.
void pack_slots(int kv_format, const uint8_t *k, const uint8_t *v, size_t row_bytes, size_t live,
                size_t first, const TileKv &to, float *values) {
    const size_t n = to.head_dim;
    alignas(64) uint16_t rows[kTileSize];
    const auto read = [&](const uint8_t *from) {
        for (size_t i = 0; i < kSlotsPerPack; ++i) {
            if (first + i < live) {
                load_row(kv_format, from + (first + i) * row_bytes, n, values + i * n);
            } else {
                memset(values + i * n, 0, n * sizeof(float));
            }
        }
    };
    read(k);
    for (size_t half = 0; half < 2; ++half) {
        for (size_t d = 0; d < n; d += kTileCols) {
            const size_t tile = (first / kTileRows + half) * (n / kTileCols) + d / kTileCols;
            pack_keys(values + half * kTileRows * n + d, n, rows, to.k + tile * kTileSize);
        }
    }
    read(v);
    for (size_t d = 0; d < n; d += kTileRows) {
        const size_t tile = d / kTileRows * (to.slots / kTileCols) + first / kTileCols;
        pack_values(values + d, n, to.v + tile * kTileSize);
    }
}

// Scratch of one tile of rows.
struct TiledRows {
    uint16_t *q;                // [row tiles, head_dim / 32] left tiles
    uint16_t *p;                // [row tiles, slots / 32] left tiles of exp(logit - highest)
    float *logits;              // [kTiledRows, stride]
    float *out;                 // [kTiledRows, head_dim]
    int32_t *pos;               // [slots], out of reach from live on
    float inverse[kTiledRows];  // 1 / the sum of a row of p
    size_t stride, slots;       // slots: only those that some row may see
};

A2SF_INLINE TiledRows tiled_rows_in(const TiledAttention &job, size_t slots) {
    const size_t head_dim = job.tile.head_dim;
    TiledRows rows;
    rows.slots = slots;
    // Not a multiple of a page: rows of one column would fall in the same sets of the cache.
    rows.stride = slots + kMaxLanes;
    rows.logits = job.tile.scratch;
    rows.out = rows.logits + kTiledRows * rows.stride;
    rows.pos = (int32_t *)(rows.out + kTiledRows * head_dim);
    rows.q = (uint16_t *)(rows.pos + slots);
    rows.p = rows.q + kTiledRows * head_dim;
    return rows;
}

// Slots up to the last one in reach of any row, in whole packs.
A2SF_INLINE size_t slots_in_reach(const AttentionTile &tile) {
    const Reach reach = reach_of(tile, 0, tile.n_queries - 1);
    size_t s = (tile.live + kSlotsPerPack - 1) / kSlotsPerPack * kSlotsPerPack;
    for (; s > kSlotsPerPack; s -= kSlotsPerPack) {
        const size_t first = s - kSlotsPerPack, left = tile.live - first;
        if (any_seen(tile.pos, first, left < kSlotsPerPack ? left : kSlotsPerPack, reach)) break;
    }
    return s;
}

A2SF_INLINE void load_queries(const AttentionTile &tile, const TiledRows &rows) {
    const size_t n = tile.head_dim, n_rows = tile.n_queries * tile.group;
    const TileX to = {n, rows.q};
    for (size_t r = 0; r < kTiledRows; ++r) {
        const float *q = tile.q + r / tile.group * tile.q_stride + r % tile.group * n;
        tile_row(r < n_rows ? q : nullptr, n, to, r);
    }
}

// logits[r, s] = q[r] . k[s], not scaled.
A2SF_INLINE void tiled_logits(const TiledAttention &job, const TiledRows &rows) {
    const size_t n_tiles = job.tile.head_dim / kTileCols;
    const Operand q = {rows.q, n_tiles * kTileSize};
    const size_t row_bytes = rows.stride * sizeof(float);
    for (size_t s = 0; s < rows.slots; s += 2 * kTileRows) {
        const size_t at = s / kTileRows * n_tiles * kTileSize;
        const Operand k = {job.kv.k + at, n_tiles * kTileSize};
        tile_clear<0>(), tile_clear<1>(), tile_clear<2>(), tile_clear<3>();
        multiply_tiles<2>(q, k, n_tiles);
        float *to = rows.logits + s, *second = to + kTileRows * rows.stride;
        tile_store<0>(to, row_bytes);
        tile_store<1>(to + kTileRows, row_bytes);
        tile_store<2>(second, row_bytes);
        tile_store<3>(second + kTileRows, row_bytes);
    }
    memory_barrier();
}

// Row r of logits becomes exp(logit - highest), 0 where the row does not see the slot. Returns the
// sum.
A2SF_INLINE float exponentials(const AttentionTile &tile, const TiledRows &rows, size_t r) {
    float *x = rows.logits + r * rows.stride;
    const Reach own = reach_of(tile, r / tile.group, r / tile.group);
    const I low = set1_i(own.low), high = set1_i(own.high);
    const F scale = set1(tile.scale);
    F top = set1(-__builtin_inff());
    for (size_t s = 0; s < rows.slots; s += kW) {
        const F logit = visible(mul(load(x + s), scale), load_i(rows.pos + s), low, high);
        store(x + s, logit);
        top = max(top, logit);
    }
    const F highest = set1(maximum(top));
    F total = set1(0.0f), other = total;
    for (size_t s = 0; s < rows.slots; s += 2 * kW) {
        const F first = exp_of(sub(load(x + s), highest));
        const F second = exp_of(sub(load(x + s + kW), highest));
        store(x + s, first);
        store(x + s + kW, second);
        total = add(total, first);
        other = add(other, second);
    }
    return sum(add(total, other));
}

// Rounds 32 slots of all rows into p (of rows that do not exist p is not set and out not used) and
// adds them up, weighted, to each lane's sums.
A2SF_INLINE void round_and_add(const TiledAttention &job, const TiledRows &rows, size_t s,
                               const float (*weight)[kTiledRows]) {
    const size_t n_rows = job.tile.n_queries * job.tile.group;
    const size_t row_tile = rows.slots / kTileCols * kTileSize;
    uint16_t *p = rows.p + s / kTileCols * kTileSize;
    F sums[kMaxSums][2];
    for (size_t lane = 0; lane < kMaxSums; ++lane) sums[lane][0] = sums[lane][1] = set1(0.0f);
    for (size_t r = 0; r < n_rows; ++r) {
        const float *x = rows.logits + r * rows.stride + s;
        const size_t at = r / kTileRows * row_tile + r % kTileRows * kTileCols;
        const F first = load(x), second = load(x + kW);
        _mm512_storeu_si512(p + at, to_bfloats(first, second));
        A2SF_UNROLL for (size_t lane = 0; lane < kMaxSums; ++lane) {
            sums[lane][0] = fma(set1(weight[lane][r]), first, sums[lane][0]);
            sums[lane][1] = fma(set1(weight[lane][r]), second, sums[lane][1]);
        }
    }
    for (size_t lane = 0; lane < job.n_sums; ++lane) {
        for (size_t half = 0; half < 2; ++half) {
            const size_t at = s + half * kW, left = job.tile.live > at ? job.tile.live - at : 0;
            float *into = job.sums[lane].into + at;
            const F decay = set1(job.sums[lane].decay);
            if (left == 0) continue;
            if (left < kW) {
                const F old = job.sums[lane].decay == 0.0f ? decay : load_n(into, left);
                store_n(into, fma(decay, old, sums[lane][half]), left);
            } else {
                const F old = job.sums[lane].decay == 0.0f ? decay : load(into);
                store(into, fma(decay, old, sums[lane][half]));
            }
        }
    }
}

// Slots that no row sees: the sums only fade.
A2SF_INLINE void fade_rest(const TiledAttention &job, size_t slots) {
    for (size_t lane = 0; lane < job.n_sums; ++lane) {
        const float decay = job.sums[lane].decay;
        if (decay == 1.0f) continue;
        for (size_t s = slots; s < job.tile.live; ++s) {
            float &value = job.sums[lane].into[s];
            value = decay == 0.0f ? 0.0f : decay * value;
        }
    }
}

A2SF_INLINE void tiled_values(const TiledAttention &job, const TiledRows &rows) {
    const size_t n = job.tile.head_dim, n_tiles = rows.slots / kTileCols;
    const size_t v_tiles = job.kv.slots / kTileCols * kTileSize;
    const size_t row_tile = n_tiles * kTileSize;
    const Operand p = {rows.p, row_tile};
    const size_t row_bytes = n * sizeof(float);
    for (size_t d = 0; d < n; d += 2 * kTileRows) {
        const size_t at = d / kTileRows * v_tiles;
        const Operand v = {job.kv.v + at, v_tiles};
        tile_clear<0>(), tile_clear<1>(), tile_clear<2>(), tile_clear<3>();
        multiply_tiles<2>(p, v, n_tiles);
        float *to = rows.out + d, *second = to + kTileRows * n;
        tile_store<0>(to, row_bytes);
        tile_store<1>(to + kTileRows, row_bytes);
        tile_store<2>(second, row_bytes);
        tile_store<3>(second + kTileRows, row_bytes);
    }
    memory_barrier();
}

void attend_tiles(const TiledAttention &job) {
    const AttentionTile &tile = job.tile;
    const size_t n_rows = tile.n_queries * tile.group, n = tile.head_dim;
    TiledRows rows = tiled_rows_in(job, slots_in_reach(tile));
    for (size_t s = 0; s < rows.slots; ++s) rows.pos[s] = s < tile.live ? tile.pos[s] : INT32_MAX;
    load_queries(tile, rows);
    memory_barrier();
    tiles_on();
    tiled_logits(job, rows);
    float weight[kMaxSums][kTiledRows] = {};
    for (size_t r = 0; r < n_rows; ++r) {
        rows.inverse[r] = 1.0f / exponentials(tile, rows, r);
        for (size_t lane = 0; lane < job.n_sums; ++lane) {
            weight[lane][r] = job.sums[lane].query_weight[r / tile.group] * rows.inverse[r];
        }
    }
    for (size_t s = 0; s < rows.slots; s += kTileCols) round_and_add(job, rows, s, weight);
    fade_rest(job, rows.slots);
    memory_barrier();
    tiled_values(job, rows);
    tiles_off();
    for (size_t r = 0; r < n_rows; ++r) {
        float *to = tile.out + r / tile.group * tile.out_stride + r % tile.group * n;
        const F inverse = set1(rows.inverse[r]);
        for (size_t d = 0; d < n; d += kW) store(to + d, mul(load(rows.out + r * n + d), inverse));
    }
}

constexpr Kernels with_tiled_attention(Kernels table) {
    table.pack_slots = pack_slots;
    table.attend_tiles = attend_tiles;
    return table;
}

}  // namespace
}  // namespace a2sf
