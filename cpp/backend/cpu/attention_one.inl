// Attention of one query, the step of decoding: the query heads of one KV head over a run of slots.
// K and V are read once for all heads of the group, in the form in which they are stored. Runs are
// joined by the backend (cpu_attention_one.cpp). Also: which slot a
// decoding step evicts. Included by kernels.inl, after attention.inl.

namespace a2sf {
namespace {

// Slots whose dot products fill one vector: kOneRows rows side by side for each.
constexpr size_t kOneSlots = kW / kOneRows;

// kW elements from d on of a stored row. d is a multiple of kW.
template <int kFormat>
A2SF_INLINE F stored_at(const uint8_t *row, size_t d) {
    if constexpr (kFormat == kKvF32) {
        return load((const float *)row + d);
    } else if constexpr (kFormat == kKvF16) {
        return load_halves(row + 2 * d);
    } else {
        const uint8_t *block = row + d / kKvBlock * kKvBlockBytes;
        return mul(set1(load_half(block)), load_bytes((const int8_t *)(block + 2 + d % kKvBlock)));
    }
}

// p[s, r] = scale * q[r] . k[s]; minus infinity from n up to a whole vector. Returns each lane's
// highest; lane i belongs to row i % kOneRows.
template <int kFormat, size_t kRows, bool kTurned>
A2SF_INLINE F one_logits(const OneQuery &one, const float *q, float *p) {
    F top = set1(-__builtin_inff());
    for (size_t s = 0; s < one.n; s += kOneSlots) {
        F dots[kW];
        A2SF_UNROLL for (size_t i = 0; i < kW; ++i) dots[i] = set1(0.0f);
        for (size_t d = 0; d < one.head_dim; d += kW) {
            F query[kRows];
            A2SF_UNROLL for (size_t r = 0; r < kRows; ++r) query[r] =
                load(q + r * one.head_dim + d);
            A2SF_UNROLL for (size_t j = 0; j < kOneSlots; ++j) {
                const size_t slot = s + j < one.n ? s + j : s;
                const F key = kTurned ? load(one.turned_k + slot * one.head_dim + d)
                                      : stored_at<kFormat>(one.k + slot * one.row_bytes, d);
                A2SF_UNROLL for (size_t r = 0; r < kRows; ++r) {
                    dots[j * kOneRows + r] = fma(query[r], key, dots[j * kOneRows + r]);
                }
            }
        }
        F logits = mul(sum_each(dots), set1(one.scale));
        store(p + s * kOneRows, logits);
        if (s + kOneSlots > one.n) {
            for (size_t i = (one.n - s) * kOneRows; i < kW; ++i) {
                p[s * kOneRows + i] = -__builtin_inff();
            }
            logits = load(p + s * kOneRows);
        }
        top = max(top, logits);
    }
    return top;
}

// Lanes of `a` that belong to one row, joined by `join`, in every lane of that row.
template <typename Join>
A2SF_INLINE F join_rows(F a, Join join) {
    float lanes[kW];
    store(lanes, a);
    for (size_t r = 0; r < kOneRows; ++r) {
        for (size_t i = r + kOneRows; i < kW; i += kOneRows) lanes[r] = join(lanes[r], lanes[i]);
        for (size_t i = r + kOneRows; i < kW; i += kOneRows) lanes[i] = lanes[r];
    }
    return load(lanes);
}

// out[r, d ..] = sum over slots of p[s, r] * v[s, d ..], kVectors vectors.
template <int kFormat, size_t kRows, size_t kVectors>
A2SF_INLINE void one_values(const OneQuery &one, const float *p, size_t d, float *out) {
    F total[kRows][kVectors];
    A2SF_UNROLL for (size_t r = 0; r < kRows; ++r) {
        A2SF_UNROLL for (size_t c = 0; c < kVectors; ++c) total[r][c] = set1(0.0f);
    }
    for (size_t s = 0; s < one.n; ++s) {
        const uint8_t *row = one.v + s * one.row_bytes;
        F value[kVectors];
        A2SF_UNROLL for (size_t c = 0; c < kVectors; ++c) {
            value[c] = stored_at<kFormat>(row, d + c * kW);
        }
        A2SF_UNROLL for (size_t r = 0; r < kRows; ++r) {
            const F weight = set1(p[s * kOneRows + r]);
            A2SF_UNROLL for (size_t c = 0; c < kVectors; ++c) {
                total[r][c] = fma(weight, value[c], total[r][c]);
            }
        }
    }
    A2SF_UNROLL for (size_t r = 0; r < kRows; ++r) {
        A2SF_UNROLL for (size_t c = 0; c < kVectors; ++c) {
            store(out + r * one.head_dim + d + c * kW, total[r][c]);
        }
    }
}

// kRows query heads from `first` on.
template <int kFormat, size_t kRows>
__attribute__((noinline)) static void one_rows(const OneQuery &one, size_t first) {
    const size_t n_vectors = (one.n + kOneSlots - 1) / kOneSlots;
    float *p = one.p + first * one.p_slots;
    const float *q = one.q + first * one.head_dim;
    const F found = one.turned_k != nullptr ? one_logits<kFormat, kRows, true>(one, q, p)
                                            : one_logits<kFormat, kRows, false>(one, q, p);
    const F top = join_rows(found, [](float a, float b) { return a > b ? a : b; });
    F total = set1(0.0f);
    for (size_t i = 0; i < n_vectors; ++i) {
        const F e = exp_of(sub(load(p + i * kW), top));
        store(p + i * kW, e);
        total = add(total, e);
    }
    total = join_rows(total, [](float a, float b) { return a + b; });
    float tops[kW], totals[kW];
    store(tops, top);
    store(totals, total);
    for (size_t r = 0; r < kRows; ++r) {
        one.top[first + r] = tops[r];
        one.total[first + r] = totals[r];
    }
    float *out = one.out + first * one.head_dim;
    size_t d = 0;
    for (; d + 4 * kW <= one.head_dim; d += 4 * kW) one_values<kFormat, kRows, 4>(one, p, d, out);
    for (; d < one.head_dim; d += kW) one_values<kFormat, kRows, 1>(one, p, d, out);
}

template <int kFormat>
A2SF_INLINE void one_groups(const OneQuery &one) {
    for (size_t first = 0; first < one.group; first += kOneRows) {
        switch (one.group - first) {
            case 1:
                one_rows<kFormat, 1>(one, first);
                break;
            case 2:
                one_rows<kFormat, 2>(one, first);
                break;
            case 3:
                one_rows<kFormat, 3>(one, first);
                break;
            default:
                one_rows<kFormat, 4>(one, first);
        }
    }
}

void attend_one(const OneQuery &one) {
    if (one.kv_format == kKvF32) {
        one_groups<kKvF32>(one);
    } else if (one.kv_format == kKvF16) {
        one_groups<kKvF16>(one);
    } else {
        one_groups<kKvQ8_0>(one);
    }
}

// into[s] = decay * into[s] + sum over r of factor[r] * p[s, r]; decay 0 overwrites.
void add_one_scores(const float *p, const float *factor, size_t n, float decay, float *into) {
    for (size_t s = 0; s < n; ++s) {
        const float *row = p + s * kOneRows;
        const float sum =
            (row[0] * factor[0] + row[1] * factor[1]) + (row[2] * factor[2] + row[3] * factor[3]);
        into[s] = decay == 0.0f ? sum : decay * into[s] + sum;
    }
}

// The scores of kW slots, negated, where first - 1 < pos <= last; minus infinity elsewhere.
A2SF_INLINE F negated_inside(const float *scores, const int32_t *pos, I low, I high) {
    return visible(sub(set1(0.0f), load(scores)), load_i(pos), low, high);
}

int32_t lowest_pos(const float *scores, const int32_t *pos, size_t n, int32_t first, int32_t last) {
    constexpr size_t kBlock = 4 * kW;
    const I low = set1_i(first - 1), high = set1_i(last);
    F top = set1(-__builtin_inff()), taint = set1(0.0f);
    size_t whole = 0;
    for (; whole + kBlock <= n; whole += kBlock) {
        A2SF_UNROLL for (size_t i = 0; i < kBlock; i += kW) {
            taint = fma(load(scores + whole + i), set1(0.0f), taint);
            top = max(negated_inside(scores + whole + i, pos + whole + i, low, high), top);
        }
    }
    float highest = maximum(top), rest = sum(taint);
    for (size_t s = whole; s < n; ++s) {
        rest += scores[s] * 0.0f;
        const bool inside = pos[s] >= first && pos[s] <= last;
        if (inside && -scores[s] > highest) highest = -scores[s];
    }
    if (rest != 0.0f) return -1;
    int32_t oldest = INT32_MAX;
    for (size_t s = 0; s < n; s += kBlock) {
        const size_t end = s + kBlock < n ? s + kBlock : n;
        if (s < whole) {
            F block = set1(-__builtin_inff());
            A2SF_UNROLL for (size_t i = 0; i < kBlock; i += kW) {
                block = max(negated_inside(scores + s + i, pos + s + i, low, high), block);
            }
            if (maximum(block) != highest) continue;
        }
        for (size_t i = s; i < end; ++i) {
            const bool leaves = pos[i] >= first && pos[i] <= last && -scores[i] == highest;
            if (leaves && pos[i] < oldest) oldest = pos[i];
        }
    }
    return oldest;
}

}  // namespace
}  // namespace a2sf
