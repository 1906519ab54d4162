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
                size_t first, const TurnedKeys &turned, const TileKv &to, float *values) {
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
    for (size_t i = 0; turned.place != nullptr && i < kSlotsPerPack && first + i < live; ++i) {
        turn_key(turned, first + i, values + i * n);
    }
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

// Slots are taken in blocks that stay in the first level of cache from logits to values.
constexpr size_t kBlockSlots = kTiledBlockSlots;
// Not a multiple of a page: rows of one column would fall in the same sets of the cache.
constexpr size_t kLogitStride = kBlockSlots + kMaxLanes;
// A row's probabilities are 2^(t - ref), t = logit * scale / ln 2. ref follows the highest t seen
// only when it is that much behind: seldom after the first block, and far from any overflow.
constexpr float kMostBehind = 16.0f;

// Scratch of one tile of rows.
struct TiledRows {
    uint16_t *q;    // [row tiles, head_dim / 32] left tiles
    uint16_t *p;    // [row tiles, slots / 32] left tiles of 2^(t - ref)
    float *logits;  // [kTiledRows, kLogitStride] of one block
    float *out;     // [kTiledRows, head_dim]
    float *refs;    // [blocks, kTiledRows]: ref when p of that block was made
    float *weight;  // [kMaxSums, kTiledRows] of one block
    float ref[kTiledRows], total[kTiledRows];
    size_t slots;  // only those that some row may see
};

A2SF_INLINE TiledRows tiled_rows_in(const TiledAttention &job, size_t slots) {
    const size_t head_dim = job.tile.head_dim;
    TiledRows rows;
    rows.slots = slots;
    rows.logits = job.tile.scratch;
    rows.out = rows.logits + kTiledRows * kLogitStride;
    rows.refs = rows.out + kTiledRows * head_dim;
    rows.weight = rows.refs + (slots + kBlockSlots - 1) / kBlockSlots * kTiledRows;
    rows.q = (uint16_t *)(rows.weight + kMaxSums * kTiledRows);
    rows.p = rows.q + kTiledRows * head_dim;
    for (size_t r = 0; r < kTiledRows; ++r) rows.ref[r] = -__builtin_inff(), rows.total[r] = 0.0f;
    memset(rows.out, 0, kTiledRows * head_dim * sizeof(float));
    return rows;
}

// Slots up to the last one in reach of any row, in whole packs.
A2SF_INLINE size_t slots_in_reach(const TiledAttention &job) {
    const Reach reach = reach_of(job.tile, 0, job.tile.n_queries - 1);
    size_t s = (job.tile.live + kSlotsPerPack - 1) / kSlotsPerPack * kSlotsPerPack;
    while (s > kSlotsPerPack && !any_seen(job.kv.pos, s - kSlotsPerPack, kSlotsPerPack, reach)) {
        s -= kSlotsPerPack;
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

// The four sums as 32 rows by 32 columns, rows `stride` floats apart.
A2SF_INLINE void store_sums(float *to, size_t stride) {
    const size_t row_bytes = stride * sizeof(float);
    float *second = to + kTileRows * stride;
    tile_store<0>(to, row_bytes);
    tile_store<1>(to + kTileRows, row_bytes);
    tile_store<2>(second, row_bytes);
    tile_store<3>(second + kTileRows, row_bytes);
}

// logits[r, s] = q[r] . k[s], not scaled, of n slots from `first` on.
A2SF_INLINE void tiled_logits(const TiledAttention &job, const TiledRows &rows, size_t first,
                              size_t n) {
    const size_t n_tiles = job.tile.head_dim / kTileCols;
    const Operand q = {rows.q, n_tiles * kTileSize};
    for (size_t s = 0; s < n; s += 2 * kTileRows) {
        const size_t at = (first + s) / kTileRows * n_tiles * kTileSize;
        const Operand k = {job.kv.k + at, n_tiles * kTileSize};
        tile_clear<0>(), tile_clear<1>(), tile_clear<2>(), tile_clear<3>();
        multiply_tiles<2>(q, k, n_tiles);
        store_sums(rows.logits + s, kLogitStride);
    }
    memory_barrier();
}

// Whether low < pos <= high in all lanes.
A2SF_INLINE bool all_between(I pos, I low, I high) {
    const __mmask16 above = _mm512_cmpgt_epi32_mask(pos, low);
    return _mm512_mask_cmple_epi32_mask(above, pos, high) == 0xffff;
}

// Logits of slots that a row does not see become minus infinity.
A2SF_INLINE void hide_unseen(const TiledAttention &job, const TiledRows &rows, size_t first,
                             size_t n) {
    const AttentionTile &tile = job.tile;
    const size_t n_rows = tile.n_queries * tile.group;
    // What all rows see: above the newest query's window, not after the oldest query.
    const I low = set1_i(reach_of(tile, tile.n_queries - 1, tile.n_queries - 1).low);
    const I high = set1_i(reach_of(tile, 0, 0).high);
    for (size_t s = 0; s < n; s += kW) {
        const I pos = load_i(job.kv.pos + first + s);
        if (all_between(pos, low, high)) continue;
        for (size_t r = 0; r < n_rows; ++r) {
            const Reach own = reach_of(tile, r / tile.group, r / tile.group);
            float *x = rows.logits + r * kLogitStride + s;
            store(x, visible(load(x), pos, set1_i(own.low), set1_i(own.high)));
        }
    }
}

// 2^t for t <= kMostBehind, 0 at minus infinity: 2^floor(t) times a polynomial in t - floor(t) that
// is exact at 0 and 1 and within 3.4e-6 between, a thousandth of what rounding p costs.
A2SF_INLINE F tile_exp2(F t) {
    const F x = _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    F series = fma(set1(0.013555747f), x, set1(0.052032369f));
    series = fma(series, x, set1(0.24137976f));
    series = fma(series, x, set1(0.69303212f));
    series = fma(series, x, set1(1.0f));
    return _mm512_scalef_ps(series, t);
}

// Moves row r's ref up to the highest t of its n logits, and all it has summed with it.
void raise_ref(TiledRows &rows, size_t r, size_t head_dim, F top, float to_t) {
    const float ref = maximum(top) * to_t;
    const F factor = tile_exp2(set1(rows.ref[r] - ref));
    rows.total[r] *= _mm512_cvtss_f32(factor);
    rows.ref[r] = ref;
    float *out = rows.out + r * head_dim;
    for (size_t d = 0; d < head_dim; d += kW) store(out + d, mul(load(out + d), factor));
}

// p of n slots of row r from their logits.
A2SF_INLINE void tiled_exponentials(const TiledAttention &job, TiledRows &rows, size_t r,
                                    size_t first, size_t n) {
    const float *x = rows.logits + r * kLogitStride;
    const float to_t = job.tile.scale * 1.44269504f;
    F top = load(x), other = load(x + kW);
    for (size_t s = 2 * kW; s < n; s += 2 * kW) {
        top = max(top, load(x + s));
        other = max(other, load(x + s + kW));
    }
    top = max(top, other);
    const F most = set1((rows.ref[r] + kMostBehind) / to_t);
    if (_mm512_cmp_ps_mask(top, most, _CMP_GT_OQ) != 0) {
        raise_ref(rows, r, job.tile.head_dim, top, to_t);
    }
    // A row that has seen nothing yet has no ref; what it does not see is 0 for any.
    const bool blind = rows.ref[r] == -__builtin_inff();
    const F factor = set1(to_t), ref = set1(blind ? 0.0f : -rows.ref[r]);
    uint16_t *p = rows.p + r / kTileRows * (rows.slots / kTileCols) * kTileSize +
                  first / kTileCols * kTileSize + r % kTileRows * kTileCols;
    F total = set1(0.0f);
    other = total;
    for (size_t s = 0; s < n; s += kTileCols) {
        const F one = tile_exp2(fma(load(x + s), factor, ref));
        const F two = tile_exp2(fma(load(x + s + kW), factor, ref));
        _mm512_storeu_si512(p + s / kTileCols * kTileSize, to_bfloats(one, two));
        total = add(total, one);
        other = add(other, two);
    }
    rows.total[r] += sum(add(total, other));
}

// into[s] = decay * into[s] + added for up to kW slots.
A2SF_INLINE void add_to_sum(const ScoreSum &score, size_t s, size_t live, F added) {
    if (s >= live) return;
    const size_t left = live - s;
    float *into = score.into + s;
    if (left < kW) {
        const F old = score.decay == 0.0f ? set1(0.0f) : load_n(into, left);
        return store_n(into, fma(set1(score.decay), old, added), left);
    }
    const F old = score.decay == 0.0f ? set1(0.0f) : load(into);
    store(into, fma(set1(score.decay), old, added));
}

// Weighted sums of 32 slots, for each lane: even and odd slots apart, and rows of two parities, so
// that there are chains enough to hide an addition's latency.
template <size_t kSums>
struct SlotSums {
    F of[kSums][2][2];
};

template <size_t kSums>
A2SF_INLINE void add_row(const uint16_t *p, const float *weight, size_t parity,
                         SlotSums<kSums> &sums) {
    const __m512i both = _mm512_loadu_si512(p);
    const F even = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
    const F odd = _mm512_castsi512_ps(_mm512_and_si512(both, set1_i((int32_t)0xffff0000)));
    A2SF_UNROLL for (size_t lane = 0; lane < kSums; ++lane) {
        F *sum = sums.of[lane][parity];
        sum[0] = fma(set1(weight[lane * kTiledRows]), even, sum[0]);
        sum[1] = fma(set1(weight[lane * kTiledRows]), odd, sum[1]);
    }
}

// Adds 32 slots of all rows, weighted, to each lane's sums.
template <size_t kSums>
A2SF_INLINE void add_weighted(const TiledAttention &job, const TiledRows &rows, size_t s) {
    const size_t n_rows = job.tile.n_queries * job.tile.group;
    const size_t row_tile = rows.slots / kTileCols * kTileSize;
    SlotSums<kSums> sums;
    A2SF_UNROLL for (size_t lane = 0; lane < kSums; ++lane) {
        A2SF_UNROLL for (size_t i = 0; i < 4; ++i) sums.of[lane][i / 2][i % 2] = set1(0.0f);
    }
    for (size_t first = 0; first < n_rows; first += kTileRows) {
        const uint16_t *p = rows.p + first / kTileRows * row_tile + s / kTileCols * kTileSize;
        const float *weight = rows.weight + first;
        const size_t n = n_rows - first < kTileRows ? n_rows - first : kTileRows;
        size_t r = 0;
        for (; r + 2 <= n; r += 2) {
            add_row(p + r * kTileCols, weight + r, 0, sums);
            add_row(p + (r + 1) * kTileCols, weight + r + 1, 1, sums);
        }
        if (r < n) add_row(p + r * kTileCols, weight + r, 0, sums);
    }
    const I low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const I high = _mm512_add_epi32(low, set1_i(8));
    A2SF_UNROLL for (size_t lane = 0; lane < kSums; ++lane) {
        const F even = add(sums.of[lane][0][0], sums.of[lane][1][0]);
        const F odd = add(sums.of[lane][0][1], sums.of[lane][1][1]);
        const ScoreSum &score = job.sums[lane];
        add_to_sum(score, s, job.tile.live, _mm512_permutex2var_ps(even, low, odd));
        add_to_sum(score, s + kW, job.tile.live, _mm512_permutex2var_ps(even, high, odd));
    }
}

// The scores, once every row's total is known: p of a block counts 2^(its ref - the last) / total.
A2SF_INLINE void tiled_sums(const TiledAttention &job, const TiledRows &rows) {
    const AttentionTile &tile = job.tile;
    float base[kMaxSums][kTiledRows] = {};
    for (size_t lane = 0; lane < job.n_sums; ++lane) {
        for (size_t r = 0; r < tile.n_queries * tile.group; ++r) {
            base[lane][r] = job.sums[lane].query_weight[r / tile.group] / rows.total[r];
        }
    }
    for (size_t first = 0; first < rows.slots; first += kBlockSlots) {
        const float *refs = rows.refs + first / kBlockSlots * kTiledRows;
        for (size_t r = 0; r < kTiledRows; r += kW) {
            const F factor = tile_exp2(sub(load(refs + r), load(rows.ref + r)));
            for (size_t lane = 0; lane < job.n_sums; ++lane) {
                store(rows.weight + lane * kTiledRows + r, mul(load(base[lane] + r), factor));
            }
        }
        const size_t left = rows.slots - first, n = left < kBlockSlots ? left : kBlockSlots;
        for (size_t s = first; s < first + n; s += kTileCols) {
            job.n_sums == 1 ? add_weighted<1>(job, rows, s) : add_weighted<kMaxSums>(job, rows, s);
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

// out[r] += sum of p[r, s] * v[s] over n slots from `first` on.
A2SF_INLINE void tiled_values(const TiledAttention &job, const TiledRows &rows, size_t first,
                              size_t n) {
    const size_t head_dim = job.tile.head_dim;
    const size_t v_tiles = job.kv.slots / kTileCols * kTileSize;
    const size_t at = first / kTileCols * kTileSize;
    const Operand p = {rows.p + at, rows.slots / kTileCols * kTileSize};
    const size_t row_bytes = head_dim * sizeof(float);
    for (size_t d = 0; d < head_dim; d += 2 * kTileRows) {
        const Operand v = {job.kv.v + d / kTileRows * v_tiles + at, v_tiles};
        float *to = rows.out + d, *second = to + kTileRows * head_dim;
        tile_load<0>(to, row_bytes);
        tile_load<1>(to + kTileRows, row_bytes);
        tile_load<2>(second, row_bytes);
        tile_load<3>(second + kTileRows, row_bytes);
        multiply_tiles<2>(p, v, n / kTileCols);
        store_sums(to, head_dim);
    }
    memory_barrier();
}

void attend_tiles(const TiledAttention &job) {
    const AttentionTile &tile = job.tile;
    const size_t n_rows = tile.n_queries * tile.group, n = tile.head_dim;
    TiledRows rows = tiled_rows_in(job, slots_in_reach(job));
    load_queries(tile, rows);
    memory_barrier();
    tiles_on();
    for (size_t first = 0; first < rows.slots; first += kBlockSlots) {
        const size_t left = rows.slots - first, n_slots = left < kBlockSlots ? left : kBlockSlots;
        tiled_logits(job, rows, first, n_slots);
        hide_unseen(job, rows, first, n_slots);
        for (size_t r = 0; r < n_rows; ++r) tiled_exponentials(job, rows, r, first, n_slots);
        memcpy(rows.refs + first / kBlockSlots * kTiledRows, rows.ref, sizeof rows.ref);
        memory_barrier();
        tiled_values(job, rows, first, n_slots);
    }
    tiles_off();
    if (job.n_sums > 0) tiled_sums(job, rows);
    fade_rest(job, rows.slots);
    for (size_t r = 0; r < n_rows; ++r) {
        float *to = tile.out + r / tile.group * tile.out_stride + r % tile.group * n;
        const F inverse = set1(1.0f / rows.total[r]);
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
