// Kernels on float rows: normalisation, activations, RoPE, activation quantisation, K/V rows.
// Included by kernels.inl, after one simd_<isa>.h.

namespace a2sf {
namespace {

// exp(x) = 2^n * e^r with n = round(x / ln 2), |r| <= ln(2) / 2, e^r by its Taylor series to r^7
// (remainder below 6e-9). ln 2 is split so that n * kLn2High is exact. Not-a-number stays one.
A2SF_INLINE F exp_of(F x) {
    const F lowest = set1(-87.3f);
    const F clamped = max(lowest, min(set1(88.3f), x));
    const I n = round_i(mul(clamped, set1(1.44269504f)));
    const F n_float = to_float(n);
    F r = fma(n_float, set1(-0.693145751953125f), clamped);
    r = fma(n_float, set1(-1.42860677e-6f), r);
    F series = set1(1.0f / 5040.0f);
    series = fma(series, r, set1(1.0f / 720.0f));
    series = fma(series, r, set1(1.0f / 120.0f));
    series = fma(series, r, set1(1.0f / 24.0f));
    series = fma(series, r, set1(1.0f / 6.0f));
    series = fma(series, r, set1(0.5f));
    series = fma(series, r, set1(1.0f));
    series = fma(series, r, set1(1.0f));
    return keep_from(mul(series, pow2(n)), x, lowest);
}

// x / (1 + exp(-u)): SiLU for u = x.
A2SF_INLINE F times_sigmoid(F x, F u) {
    return div(x, add(set1(1.0f), exp_of(sub(set1(0.0f), u))));
}

A2SF_INLINE F silu_of(F x) {
    return times_sigmoid(x, x);
}

// 0.5 x (1 + tanh(t)) = x * sigmoid(2 t), t = sqrt(2 / pi) * (x + 0.044715 x^3).
A2SF_INLINE F gelu_of(F x) {
    const F cubic = fma(mul(mul(x, x), x), set1(0.044715f), x);
    return times_sigmoid(x, mul(cubic, set1(1.59576912f)));
}

void exp_row(const float *x, float *y, size_t n) {
    size_t i = 0;
    for (; i + kW <= n; i += kW) store(y + i, exp_of(load(x + i)));
    if (i < n) store_n(y + i, exp_of(load_n(x + i, n - i)), n - i);
}

void silu_gated(const float *gate, const float *up, size_t n, float *y) {
    size_t i = 0;
    for (; i + kW <= n; i += kW) store(y + i, mul(silu_of(load(gate + i)), load(up + i)));
    if (i == n) return;
    store_n(y + i, mul(silu_of(load_n(gate + i, n - i)), load_n(up + i, n - i)), n - i);
}

void gelu_gated(const float *gate, const float *up, size_t n, float *y) {
    size_t i = 0;
    for (; i + kW <= n; i += kW) store(y + i, mul(gelu_of(load(gate + i)), load(up + i)));
    if (i == n) return;
    store_n(y + i, mul(gelu_of(load_n(gate + i, n - i)), load_n(up + i, n - i)), n - i);
}

float dot_rows(const float *a, const float *b, size_t n) {
    F s0 = set1(0.0f), s1 = s0, s2 = s0, s3 = s0;
    size_t i = 0;
    for (; i + 4 * kW <= n; i += 4 * kW) {
        s0 = fma(load(a + i), load(b + i), s0);
        s1 = fma(load(a + i + kW), load(b + i + kW), s1);
        s2 = fma(load(a + i + 2 * kW), load(b + i + 2 * kW), s2);
        s3 = fma(load(a + i + 3 * kW), load(b + i + 3 * kW), s3);
    }
    for (; i + kW <= n; i += kW) s0 = fma(load(a + i), load(b + i), s0);
    if (i < n) s1 = fma(load_n(a + i, n - i), load_n(b + i, n - i), s1);
    return sum(add(add(s0, s1), add(s2, s3)));
}

void add_scaled(const float *x, float scale, float *y, size_t n) {
    const F factor = set1(scale);
    size_t i = 0;
    for (; i + kW <= n; i += kW) store(y + i, fma(load(x + i), factor, load(y + i)));
    if (i == n) return;
    store_n(y + i, fma(load_n(x + i, n - i), factor, load_n(y + i, n - i)), n - i);
}

void rms_norm(const float *x, const float *weight, size_t n, float eps, float *y, bool accumulate) {
    const float mean_square = dot_rows(x, x, n) / (float)n;
    const F factor = set1(1.0f / __builtin_sqrtf(mean_square + eps));
    const F keep = set1(accumulate ? 1.0f : 0.0f);
    size_t i = 0;
    for (; i + kW <= n; i += kW) {
        const F old = accumulate ? load(y + i) : keep;
        store(y + i, fma(mul(load(x + i), factor), load(weight + i), old));
    }
    if (i == n) return;
    const size_t tail = n - i;
    const F old = accumulate ? load_n(y + i, tail) : keep;
    store_n(y + i, fma(mul(load_n(x + i, tail), factor), load_n(weight + i, tail), old), tail);
}

void rope_interleaved(const float *cosines, const float *sines, size_t n_rot, float *head) {
    for (size_t i = 0; i < n_rot / 2; ++i) {
        const float a = head[2 * i], b = head[2 * i + 1];
        head[2 * i] = a * cosines[i] - b * sines[i];
        head[2 * i + 1] = a * sines[i] + b * cosines[i];
    }
}

void rope_halves(const float *cosines, const float *sines, size_t n_rot, float *head) {
    const size_t half = n_rot / 2;
    float *upper = head + half;
    size_t i = 0;
    for (; i + kW <= half; i += kW) {
        const F a = load(head + i), b = load(upper + i);
        const F c = load(cosines + i), s = load(sines + i);
        store(head + i, sub(mul(a, c), mul(b, s)));
        store(upper + i, add(mul(a, s), mul(b, c)));
    }
    for (; i < half; ++i) {
        const float a = head[i], b = upper[i];
        head[i] = a * cosines[i] - b * sines[i];
        upper[i] = a * sines[i] + b * cosines[i];
    }
}

// Largest magnitude of 32 floats.
A2SF_INLINE float largest_of_32(const float *x) {
    F largest = abs(load(x));
    for (size_t i = kW; i < 32; i += kW) largest = max(largest, abs(load(x + i)));
    return maximum(largest);
}

// The nearest integer, ties to even, for magnitudes below 2^22. No operation here or below is
// fused, so that every instruction set rounds, sums and so chooses alike.
A2SF_INLINE F nearest(F x) {
    const F magic = set1(12582912.0f);  // 1.5 * 2^23
    return sub(add(x, magic), magic);
}

// Sum of all lanes: halves added until one is left.
A2SF_INLINE float sum_of_halves(F a) {
    if constexpr (kW == 4) {
        float lanes[4];
        store(lanes, a);
        return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
    } else {
        return sum(a);
    }
}

// Sum of squared rounding errors of 32 floats quantised with this step. The order of the sum is
// fixed: 16 lanes, then halves.
A2SF_INLINE float rounding_error(const float *x, float inverse, float step) {
    const F by = set1(inverse), size = set1(step);
    F error[16 / kW];
    A2SF_UNROLL
    for (size_t i = 0; i < 16 / kW; ++i) {
        const F a = load(x + i * kW), b = load(x + i * kW + 16);
        const F low = sub(a, mul(size, nearest(mul(a, by))));
        const F high = sub(b, mul(size, nearest(mul(b, by))));
        error[i] = add(mul(low, low), mul(high, high));
    }
    A2SF_UNROLL
    for (size_t half = 8 / kW; half > 0; half /= 2) {
        for (size_t i = 0; i < half; ++i) error[i] = add(error[i], error[i + half]);
    }
    return sum_of_halves(error[0]);
}

// 0, or NaN if any of n floats, a multiple of 32, is not finite: what is no number must not vanish
// in rounding.
A2SF_INLINE float not_finite(const float *x, size_t n) {
    const F zero = set1(0.0f);
    F taint = zero, more = zero;
    for (size_t i = 0; i < n; i += 2 * kW) {
        taint = add(taint, mul(load(x + i), zero));
        more = add(more, mul(load(x + i + kW), zero));
    }
    return sum(add(taint, more));
}

// The largest magnitude of a group becomes 127 with any of these divisors (rounding never exceeds
// half a step). The one whose rounding errors happen to be smallest is taken: over 32 elements
// that saves about 7 % of the error that quantising activations costs.
constexpr size_t kNDivisors = 3;
constexpr float kDivisors[kNDivisors] = {127.4f, 126.6f, 125.8f};

// Below this magnitude a group counts as zero: the inverse of its step would overflow.
constexpr float kSmallestGroup = 1e-30f;

// Groups whose divisions are made at once.
constexpr size_t kGroupsAtOnce = 16;

// Quantises n_groups <= kGroupsAtOnce groups of 32 floats. scale [n_groups].
A2SF_INLINE void quantize_groups(const float *x, size_t n_groups, int8_t *q, float *scale) {
    float amax[kGroupsAtOnce];
    float inverse[kNDivisors][kGroupsAtOnce], step[kNDivisors][kGroupsAtOnce];
    for (size_t g = 0; g < kGroupsAtOnce; ++g) amax[g] = 1.0f;
    for (size_t g = 0; g < n_groups; ++g) amax[g] = largest_of_32(x + g * 32);
    const bool finite = not_finite(x, n_groups * 32) == 0.0f;
    for (size_t i = 0; i < kNDivisors; ++i) {
        for (size_t g = 0; g < kGroupsAtOnce; g += kW) {
            const F divisor = set1(kDivisors[i]), largest = load(amax + g);
            store(inverse[i] + g, div(divisor, largest));
            store(step[i] + g, div(largest, divisor));
        }
    }
    for (size_t g = 0; g < n_groups; ++g) {
        // Errors that overflow choose no divisor; the step is then infinite.
        float by = 0.0f, size = __builtin_inff(), least = size;
        A2SF_UNROLL
        for (size_t i = 0; i < kNDivisors; ++i) {
            const float error = rounding_error(x + g * 32, inverse[i][g], step[i][g]);
            const bool better = error < least;
            least = better ? error : least;
            by = better ? inverse[i][g] : by;
            size = better ? step[i][g] : size;
        }
        const bool zero = !(amax[g] > kSmallestGroup);
        by = zero ? 0.0f : by;
        scale[g] = zero ? 0.0f : size;
        A2SF_UNROLL
        for (size_t i = 0; i < 32; i += kW) {
            store_bytes(q + g * 32 + i, round_i(mul(load(x + g * 32 + i), set1(by))));
        }
    }
    for (size_t g = 0; g < n_groups && !finite; ++g) {
        const float taint = not_finite(x + g * 32, 32);
        if (taint == 0.0f) continue;
        scale[g] = taint;
        memset(q + g * 32, 0, 32);
    }
}

// Sums of 4, 16 and 32 of 64 quantised activations, from column k on; row t of the others.
A2SF_INLINE void sum_64(const QuantizedX &xq, size_t t, size_t k, bool lanes) {
    constexpr int32_t kStart = kFlipWeights ? -128 : 0;
    alignas(64) int8_t ones[4 * kW];
    memset(ones, 1, sizeof ones);
    alignas(64) int32_t fours[16];
    for (size_t i = 0; i < 16; i += kW) {
        const I sums = dot4(set1_i(0), load_panel(ones), load_x(xq.q + t * xq.cols + k + 4 * i));
        memcpy(fours + i, &sums, sizeof sums);
    }
    const float *scale = xq.scale + (t * xq.cols + k) / 32;
    int32_t sums[4];
    for (size_t i = 0; i < 4; ++i) {
        sums[i] = (fours[4 * i] + fours[4 * i + 1]) + (fours[4 * i + 2] + fours[4 * i + 3]);
        xq.sum16[(t * xq.cols + k) / 16 + i] = scale[i / 2] * (float)sums[i];
        xq.start16[(t * xq.cols + k) / 16 + i] = kStart * sums[i];
    }
    for (size_t i = 0; i < 2; ++i) {
        const int32_t both = sums[2 * i] + sums[2 * i + 1];
        xq.sum32[(t * xq.cols + k) / 32 + i] = scale[i] * (float)both;
        xq.start32[(t * xq.cols + k) / 32 + i] = kStart * both;
    }
    if (!lanes) return;
    int32_t *lane_start = xq.lane_start + (t * xq.cols + k) / 4;
    for (size_t i = 0; i < 16; ++i) lane_start[i] = kStart * fours[i];
}

void quantize_row(const float *x, size_t n, const QuantizedX &xq, size_t t, bool lanes) {
    int8_t *q = xq.q + t * xq.cols;
    float *scale = xq.scale + t * (xq.cols / 32);
    for (size_t k = 0; k < n; k += 32 * kGroupsAtOnce) {
        const size_t n_groups = n - k < 32 * kGroupsAtOnce ? (n - k) / 32 : kGroupsAtOnce;
        quantize_groups(x + k, n_groups, q + k, scale + k / 32);
    }
    for (size_t k = n; k < xq.cols; k += 32) {
        memset(q + k, 0, 32);
        scale[k / 32] = 0.0f;
    }
    for (size_t k = 0; k < xq.cols; k += kColsPad) sum_64(xq, t, k, lanes);
}

// Q8_0 with the inverse of the scale as stored, so that the stored half is the one that was used.
void kv_store_q8_0(const float *x, size_t n, uint8_t *row) {
    for (size_t i = 0; i < n; i += kKvBlock, row += kKvBlockBytes) {
        float wanted = largest_of_32(x + i) / 127.0f;
        wanted = wanted > 65504.0f ? 65504.0f : wanted;
        const uint16_t half = float_to_half(wanted);
        const float d = half_to_float(half);
        const F inverse = set1(d > 0.0f ? 1.0f / d : 0.0f), limit = set1(127.0f);
        memcpy(row, &half, sizeof half);
        int8_t *q = (int8_t *)(row + 2);
        for (size_t j = 0; j < kKvBlock; j += kW) {
            const F scaled = mul(load(x + i + j), inverse);
            store_bytes(q + j, round_i(max(set1(-127.0f), min(limit, scaled))));
        }
    }
}

void kv_store(int kv_format, const float *x, size_t n, uint8_t *row) {
    if (kv_format == kKvF32) {
        if (n > 0) memcpy(row, x, n * sizeof(float));
    } else if (kv_format == kKvF16) {
        size_t i = 0;
        for (; i + kW <= n; i += kW) store_halves(row + 2 * i, load(x + i));
        for (; i < n; ++i) {
            const uint16_t half = float_to_half(x[i]);
            memcpy(row + 2 * i, &half, sizeof half);
        }
    } else {
        kv_store_q8_0(x, n, row);
    }
}

A2SF_INLINE void load_row(int kv_format, const uint8_t *row, size_t n, float *x) {
    if (kv_format == kKvF32) {
        if (n > 0) memcpy(x, row, n * sizeof(float));
    } else if (kv_format == kKvF16) {
        size_t i = 0;
        for (; i + kW <= n; i += kW) store(x + i, load_halves(row + 2 * i));
        for (; i < n; ++i) x[i] = load_half(row + 2 * i);
    } else {
        for (size_t i = 0; i < n; i += kKvBlock, row += kKvBlockBytes) {
            const F d = set1(load_half(row));
            const int8_t *q = (const int8_t *)(row + 2);
            for (size_t j = 0; j < kKvBlock; j += kW) store(x + i + j, mul(d, load_bytes(q + j)));
        }
    }
}

void kv_load(int kv_format, const uint8_t *row, size_t n, float *x) {
    load_row(kv_format, row, n, x);
}

}  // namespace
}  // namespace a2sf
