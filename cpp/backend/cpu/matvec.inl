// Products of weights and one token, or a few that have nothing to do with each other: each of
// these gets bit for bit what it would get alone. Weights stay in their GGUF blocks; each row is
// unpacked to small integers in L1 just before use. Included by kernels.inl, after float.inl; an
// instruction set may replace a format's function by one that never leaves the registers.
//
// Quantised: y[t, r] = sum over groups g of  w_scale[r, g] * x_scale[t, g] * dot(q_w, q_x)
//                                          + w_offset[r, g] * x_sum[t, g]
// with exact integer dot products. The order of the float sums depends on the instruction set and
// on nothing else: not on threads, not on m within matmul. matvec sums in another order than
// matmul.

namespace a2sf {
namespace {

// n elements (a multiple of the block) from their blocks.
template <typename F_>
A2SF_INLINE void unpack_row(const uint8_t *blocks, size_t n, int8_t *q, float *scale,
                            float *offset) {
    constexpr size_t kGroups = F_::kBlock / F_::kGroup;
    for (size_t b = 0; b < n / F_::kBlock; ++b) {
        F_::unpack(blocks + b * F_::kBlockBytes, q + b * F_::kBlock, scale + b * kGroups,
                   offset + b * kGroups);
    }
}

// kW consecutive weights of a plain format.
template <typename F_>
A2SF_INLINE F load_plain(const uint8_t *p) {
    if constexpr (F_::kGgmlId == F32::kGgmlId) {
        return load((const float *)p);
    } else if constexpr (F_::kGgmlId == F16::kGgmlId) {
        return load_halves(p);
    } else if constexpr (F_::kGgmlId == BF16::kGgmlId) {
        return load_bfloats(p);
    } else {
        float values[kW];
        for (size_t i = 0; i < kW; ++i) values[i] = F_::decode(p + i * F_::kBlockBytes);
        return load(values);
    }
}

constexpr size_t kRowCols = 1024;  // columns unpacked at a time: stays in L1

// Sum over n columns of one unpacked row and the activations from column k0 on.
template <int kGroup, bool kHasOffset>
A2SF_INLINE F row_dot(const int8_t *q, const float *scale, const float *offset, size_t n,
                      const QuantizedX &xq, size_t k0, F total) {
    alignas(64) float c[kRowCols / 16];
    const float *x_scale = xq.scale + k0 / 32;
    const size_t n_groups = (n + kColsPad - 1) / kColsPad * kColsPad / kGroup;
    for (size_t g = 0; g < n_groups; ++g) c[g] = scale[g] * x_scale[g * kGroup / 32];
    const int8_t *x = xq.q + k0;
    const int32_t *start = xq.lane_start + k0 / 4;
    for (size_t i = 0; i * 4 * kW < n; ++i) {
        const I first = kFlipWeights ? load_i(start + i * kW) : set1_i(0);
        const I d = dot4(first, load_weights(q + i * 4 * kW), load_x(x + i * 4 * kW));
        total = fma(to_float(d), lane_scales<kGroup>(c, i), total);
    }
    if constexpr (kHasOffset) {
        const float *x_sum = (kGroup == 16 ? xq.sum16 : xq.sum32) + k0 / kGroup;
        size_t g = 0;
        for (; g + kW <= n / kGroup; g += kW) total = fma(load(offset + g), load(x_sum + g), total);
        const size_t tail = n / kGroup - g;
        if (tail > 0) total = fma(load_n(offset + g, tail), load_n(x_sum + g, tail), total);
    }
    return total;
}

template <typename F_>
A2SF_INLINE float quantized_row(const MatmulTask &task, const uint8_t *row) {
    alignas(64) int8_t q[kRowCols];
    alignas(64) float scale[kRowCols / 16], offset[kRowCols / 16];
    F total = set1(0.0f);
    for (size_t k0 = 0; k0 < task.cols; k0 += kRowCols) {
        const size_t n = task.cols - k0 < kRowCols ? task.cols - k0 : kRowCols;
        unpack_row<F_>(row + k0 / F_::kBlock * F_::kBlockBytes, n, q, scale, offset);
        // Up to kColsPad: activations are zero there, but the scales must be numbers.
        for (size_t k = n; k % kColsPad != 0; ++k) q[k] = 0;
        for (size_t g = n / F_::kGroup; g * F_::kGroup % kColsPad != 0; ++g) scale[g] = 0.0f;
        total = row_dot<F_::kGroup, F_::kHasOffset>(q, scale, offset, n, task.xq, k0, total);
    }
    return sum(total);
}

// y[t, r] from the sum of row r.
A2SF_INLINE void finish_row(const MatmulTask &task, size_t r, size_t t, float total) {
    float *y = task.y + t * task.y_stride + r;
    if (task.bias != nullptr) total += task.bias[r];
    *y = task.accumulate ? *y + total : total;
}

// What token t reads.
A2SF_INLINE QuantizedX token_x(QuantizedX xq, size_t t) {
    xq.q += t * xq.cols;
    xq.scale += t * (xq.cols / 32);
    xq.sum16 += t * (xq.cols / 16);
    xq.sum32 += t * (xq.cols / 32);
    xq.start16 += t * (xq.cols / 16);
    xq.start32 += t * (xq.cols / 32);
    xq.lane_start += t * (xq.cols / 4);
    return xq;
}

// kRows rows of a plain format, `between` rows apart from r on.
template <typename F_, size_t kRows>
A2SF_INLINE void plain_rows(const MatmulTask &task, size_t r, size_t between) {
    constexpr size_t kBytes = F_::kBlockBytes / F_::kBlock;
    const size_t n = task.cols, stride = between * task.row_bytes;
    const uint8_t *w = task.w + r * task.row_bytes;
    F even[kRows], odd[kRows];
    A2SF_UNROLL for (size_t i = 0; i < kRows; ++i) even[i] = odd[i] = set1(0.0f);
    size_t k = 0;
    for (; k + 2 * kW <= n; k += 2 * kW) {
        const F first = load(task.x + k), second = load(task.x + k + kW);
        A2SF_UNROLL for (size_t i = 0; i < kRows; ++i) {
            const uint8_t *row = w + i * stride + k * kBytes;
            even[i] = fma(load_plain<F_>(row), first, even[i]);
            odd[i] = fma(load_plain<F_>(row + kW * kBytes), second, odd[i]);
        }
    }
    for (size_t i = 0; i < kRows; ++i) {
        const uint8_t *row = w + i * stride;
        size_t tail = k;
        if (tail + kW <= n) {
            even[i] = fma(load_plain<F_>(row + tail * kBytes), load(task.x + tail), even[i]);
            tail += kW;
        }
        float total = sum(add(even[i], odd[i]));
        for (; tail < n; ++tail) total += F_::decode(row + tail * kBytes) * task.x[tail];
        finish_row(task, r + i * between, 0, total);
    }
}

template <typename F_>
void matvec(const MatmulTask &task) {
    const size_t between = task.between;
    for (size_t r = task.row_begin; r < task.row_end; ++r) {
        if constexpr (F_::kGroup == 0) {
            if (between != 0) {
                plain_rows<F_, 4>(task, r, between);
            } else {
                plain_rows<F_, 1>(task, r, 0);
            }
        } else {
            for (size_t i = 0; i < (between != 0 ? 4 : 1); ++i) {
                const size_t row = r + i * between;
                finish_row(task, row, 0, quantized_row<F_>(task, task.w + row * task.row_bytes));
            }
        }
    }
}

// Token by token, while a row is in the first-level cache.
template <typename F_>
void few(const MatmulTask &task) {
    for (size_t r = task.row_begin; r < task.row_end; ++r) {
        for (size_t t = 0; t < task.m; ++t) {
            MatmulTask one = task;
            one.row_begin = r;
            one.row_end = r + 1;
            one.m = 1;
            one.x += t * task.x_stride;
            if constexpr (F_::kGroup != 0) one.xq = token_x(task.xq, t);
            one.y += t * task.y_stride;
            matvec<F_>(one);
        }
    }
}

}  // namespace
}  // namespace a2sf
