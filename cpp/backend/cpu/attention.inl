// Attention of one tile: the query heads of one KV head by a few queries, over all live slots.
// Included by kernels.inl, after float.inl.

namespace a2sf {
namespace {

A2SF_INLINE void turn_key(const TurnedKeys &turned, size_t slot, float *key) {
    const float *cosines = turned.angles + (size_t)turned.place[slot] * turned.stride;
    const float *sines = cosines + turned.n_rot / 2;
    if (turned.halves) {
        rope_halves(cosines, sines, turned.n_rot, key);
    } else {
        rope_interleaved(cosines, sines, turned.n_rot, key);
    }
}

void load_turned(int kv_format, const uint8_t *k, size_t row_bytes, size_t first, size_t n_slots,
                 const TurnedKeys &turned, size_t n, float *to) {
    for (size_t i = 0; i < n_slots; ++i) {
        load_row(kv_format, k + (first + i) * row_bytes, n, to + i * n);
        turn_key(turned, first + i, to + i * n);
    }
}

// n <= kW rows of K or V from slot s on, as floats padded with zeros to `stride`; in place when the
// cache holds just that, else in `block` [kW, stride].
A2SF_INLINE const float *float_rows(const AttentionTile &tile, const uint8_t *rows, size_t s,
                                    size_t n, size_t stride, float *block) {
    const uint8_t *first = rows + s * tile.row_bytes;
    if (tile.kv_format == kKvF32 && tile.head_dim == stride) return (const float *)first;
    for (size_t j = 0; j < n; ++j) {
        load_row(tile.kv_format, first + j * tile.row_bytes, tile.head_dim, block + j * stride);
    }
    return block;
}

// n <= kW rows of K from slot s on, turned if they are stored before RoPE.
A2SF_INLINE const float *key_rows(const AttentionTile &tile, size_t s, size_t n, size_t stride,
                                  float *block) {
    if (tile.turned.place == nullptr) return float_rows(tile, tile.k, s, n, stride, block);
    for (size_t j = 0; j < n; ++j) {
        load_row(tile.kv_format, tile.k + (s + j) * tile.row_bytes, tile.head_dim,
                 block + j * stride);
        turn_key(tile.turned, s + j, block + j * stride);
    }
    return block;
}

// The range of positions that some row of the tile sees: low < pos <= high.
struct Reach {
    int32_t low, high;
};

A2SF_INLINE Reach reach_of(const AttentionTile &tile, size_t first, size_t last) {
    Reach reach;
    reach.high = tile.query_pos[last];
    reach.low = tile.window > 0 ? tile.query_pos[first] - tile.window : -1;
    return reach;
}

// Whether any of n slots from s on can be seen.
A2SF_INLINE bool any_seen(const int32_t *pos, size_t s, size_t n, Reach reach) {
    bool any = false;
    for (size_t j = 0; j < n; ++j) any |= (pos[s + j] > reach.low) & (pos[s + j] <= reach.high);
    return any;
}

// p[r, s] = scale * q[r] . k[s] where row r sees slot s, else minus infinity; padding likewise.
A2SF_INLINE void tile_logits(const AttentionTile &tile, const float *q, size_t stride,
                             float *block) {
    const size_t n_rows = tile.n_queries * tile.group, p_stride = padded(tile.live);
    const Reach reach = reach_of(tile, 0, tile.n_queries - 1);
    for (size_t s = 0; s < p_stride; s += kW) {
        const size_t left = tile.live > s ? tile.live - s : 0;
        const size_t n = left < kW ? left : kW;
        if (!any_seen(tile.pos, s, n, reach)) {
            for (size_t r = 0; r < n_rows; ++r) {
                store(tile.p + r * p_stride + s, set1(-__builtin_inff()));
            }
            continue;
        }
        int32_t slot_pos[kW];
        for (size_t j = 0; j < kW; ++j) slot_pos[j] = j < n ? tile.pos[s + j] : INT32_MAX;
        const I pos = load_i(slot_pos);
        const float *k = key_rows(tile, s, n, stride, block);
        for (size_t i = 0; i < tile.n_queries; ++i) {
            const Reach own = reach_of(tile, i, i);
            const I low = set1_i(own.low), high = set1_i(own.high);
            for (size_t r = i * tile.group; r < (i + 1) * tile.group; ++r) {
                const float *query = q + r * stride;
                F dots[kW];
                A2SF_UNROLL for (size_t j = 0; j < kW; ++j) dots[j] = set1(0.0f);
                for (size_t d = 0; d < stride; d += kW) {
                    const F part = load(query + d);
                    A2SF_UNROLL for (size_t j = 0; j < kW; ++j) {
                        const size_t row = j < n ? j : 0;
                        dots[j] = fma(part, load(k + row * stride + d), dots[j]);
                    }
                }
                const F logits = mul(sum_each(dots), set1(tile.scale));
                store(tile.p + r * p_stride + s, visible(logits, pos, low, high));
            }
        }
    }
}

// Softmax of n (a multiple of kW) logits in place; minus infinity becomes 0.
A2SF_INLINE void softmax_row(float *p, size_t n) {
    F top = load(p);
    for (size_t s = kW; s < n; s += kW) top = max(top, load(p + s));
    const F highest = set1(maximum(top));
    F total = set1(0.0f);
    for (size_t s = 0; s < n; s += kW) {
        const F e = exp_of(sub(load(p + s), highest));
        store(p + s, e);
        total = add(total, e);
    }
    const F inverse = set1(1.0f / sum(total));
    for (size_t s = 0; s < n; s += kW) store(p + s, mul(load(p + s), inverse));
}

// out[r] += sum over n slots of p[r, s] * v[s], for kRows rows and columns [d, d + kVectors * kW).
template <size_t kRows, size_t kVectors>
A2SF_INLINE void add_values(const float *p, size_t p_stride, const float *v, size_t n,
                            size_t stride, float *out) {
    F total[kRows][kVectors];
    A2SF_UNROLL for (size_t r = 0; r < kRows; ++r) {
        A2SF_UNROLL for (size_t c = 0; c < kVectors; ++c) {
            total[r][c] = load(out + r * stride + c * kW);
        }
    }
    for (size_t j = 0; j < n; ++j) {
        F value[kVectors];
        A2SF_UNROLL for (size_t c = 0; c < kVectors; ++c) {
            value[c] = load(v + j * stride + c * kW);
        }
        A2SF_UNROLL for (size_t r = 0; r < kRows; ++r) {
            const F weight = set1(p[r * p_stride + j]);
            A2SF_UNROLL for (size_t c = 0; c < kVectors; ++c) {
                total[r][c] = fma(weight, value[c], total[r][c]);
            }
        }
    }
    A2SF_UNROLL for (size_t r = 0; r < kRows; ++r) {
        A2SF_UNROLL for (size_t c = 0; c < kVectors; ++c) {
            store(out + r * stride + c * kW, total[r][c]);
        }
    }
}

template <size_t kRows>
A2SF_INLINE void add_value_rows(const float *p, size_t p_stride, const float *v, size_t n,
                                size_t stride, float *out) {
    size_t d = 0;
    for (; d + 4 * kW <= stride; d += 4 * kW) {
        add_values<kRows, 4>(p, p_stride, v + d, n, stride, out + d);
    }
    for (; d < stride; d += kW) add_values<kRows, 1>(p, p_stride, v + d, n, stride, out + d);
}

// out[r] = sum over slots of p[r, s] * v[s], out [n_rows, stride] zero on entry.
A2SF_INLINE void tile_values(const AttentionTile &tile, size_t stride, float *out, float *block) {
    const size_t n_rows = tile.n_queries * tile.group, p_stride = padded(tile.live);
    const Reach reach = reach_of(tile, 0, tile.n_queries - 1);
    for (size_t s = 0; s < tile.live; s += kW) {
        const size_t n = tile.live - s < kW ? tile.live - s : kW;
        if (!any_seen(tile.pos, s, n, reach)) continue;
        const float *v = float_rows(tile, tile.v, s, n, stride, block);
        size_t r = 0;
        for (; r + 4 <= n_rows; r += 4) {
            add_value_rows<4>(tile.p + r * p_stride + s, p_stride, v, n, stride, out + r * stride);
        }
        for (; r < n_rows; ++r) {
            add_value_rows<1>(tile.p + r * p_stride + s, p_stride, v, n, stride, out + r * stride);
        }
    }
}

void attention(const AttentionTile &tile) {
    const size_t n_rows = tile.n_queries * tile.group, stride = padded(tile.head_dim);
    float *q = tile.scratch;               // [n_rows, stride]
    float *out = q + n_rows * stride;      // [n_rows, stride]
    float *block = out + n_rows * stride;  // [kW, stride]
    memset(tile.scratch, 0, attention_scratch(n_rows, tile.head_dim) * sizeof(float));
    for (size_t r = 0; r < n_rows; ++r) {
        const size_t i = r / tile.group, g = r % tile.group;
        memcpy(q + r * stride, tile.q + i * tile.q_stride + g * tile.head_dim,
               tile.head_dim * sizeof(float));
    }
    tile_logits(tile, q, stride, block);
    for (size_t r = 0; r < n_rows; ++r)
        softmax_row(tile.p + r * padded(tile.live), padded(tile.live));
    tile_values(tile, stride, out, block);
    for (size_t r = 0; r < n_rows; ++r) {
        const size_t i = r / tile.group, g = r % tile.group;
        memcpy(tile.out + i * tile.out_stride + g * tile.head_dim, out + r * stride,
               tile.head_dim * sizeof(float));
    }
}

void add_scores(const float *p, size_t n_rows, const float *weight, size_t live, float decay,
                float *into) {
    const F factor = set1(decay);
    for (size_t s = 0; s < live; s += kW) {
        F total = set1(0.0f);
        for (size_t r = 0; r < n_rows; ++r) {
            total = fma(set1(weight[r]), load(p + r * padded(live) + s), total);
        }
        const size_t n = live - s;
        if (decay != 0.0f)
            total = fma(factor, n < kW ? load_n(into + s, n) : load(into + s), total);
        if (n < kW) {
            store_n(into + s, total, n);
        } else {
            store(into + s, total);
        }
    }
}

}  // namespace
}  // namespace a2sf
