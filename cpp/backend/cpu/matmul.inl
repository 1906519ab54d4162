// Weight products. Weights stay in their GGUF blocks; rows are unpacked to small integers (or
// floats) in scratch just before use. Two kernels: matvec for one token, matmul for several.
// Included by kernels.inl, after float.inl.
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

// ---- one token -------------------------------------------------------------------------------

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

template <typename F_>
A2SF_INLINE float plain_row(const MatmulTask &task, const uint8_t *row) {
    constexpr size_t kBytes = F_::kBlockBytes / F_::kBlock;
    const size_t n = task.cols;
    F s0 = set1(0.0f), s1 = s0, s2 = s0, s3 = s0;
    size_t k = 0;
    for (; k + 4 * kW <= n; k += 4 * kW) {
        const uint8_t *w = row + k * kBytes;
        s0 = fma(load_plain<F_>(w), load(task.x + k), s0);
        s1 = fma(load_plain<F_>(w + kW * kBytes), load(task.x + k + kW), s1);
        s2 = fma(load_plain<F_>(w + 2 * kW * kBytes), load(task.x + k + 2 * kW), s2);
        s3 = fma(load_plain<F_>(w + 3 * kW * kBytes), load(task.x + k + 3 * kW), s3);
    }
    for (; k + kW <= n; k += kW) s0 = fma(load_plain<F_>(row + k * kBytes), load(task.x + k), s0);
    float total = sum(add(add(s0, s1), add(s2, s3)));
    for (; k < n; ++k) total += F_::decode(row + k * kBytes) * task.x[k];
    return total;
}

template <typename F_>
void matvec(const MatmulTask &task) {
    for (size_t r = task.row_begin; r < task.row_end; ++r) {
        const uint8_t *row = task.w + r * task.row_bytes;
        float total;
        if constexpr (F_::kGroup == 0) {
            total = plain_row<F_>(task, row);
        } else {
            total = quantized_row<F_>(task, row);
        }
        if (task.bias != nullptr) total += task.bias[r];
        task.y[r] = task.accumulate ? task.y[r] + total : total;
    }
}

// ---- several tokens --------------------------------------------------------------------------

// kPanelRows unpacked rows, neighbours in memory so that one vector holds kW of them.
struct Panel {
    int8_t *q;      // [cols / 4, kPanelRows, 4], flipped if kFlipWeights
    float *scale;   // [groups, kPanelRows]
    float *offset;  // [groups, kPanelRows]
    float *w;       // [cols, kPanelRows], plain formats
};

A2SF_INLINE Panel panel_in(void *scratch) {
    Panel panel;
    panel.q = (int8_t *)scratch;
    panel.scale = (float *)(panel.q + kPanelRows * kPanelCols);
    panel.offset = panel.scale + kPanelRows * (kPanelCols / 16);
    panel.w = panel.offset + kPanelRows * (kPanelCols / 16);
    return panel;
}

// Row `lane` of the panel from n unpacked elements.
A2SF_INLINE void place_row(const Panel &panel, size_t lane, const int8_t *q, size_t n) {
    for (size_t k = 0; k < n / 4; ++k) {
        uint32_t four;
        memcpy(&four, q + 4 * k, sizeof four);
        if (kFlipWeights) four ^= 0x80808080u;
        memcpy(panel.q + (k * kPanelRows + lane) * 4, &four, sizeof four);
    }
}

// Rows [r0, r0 + n_rows) of columns [k0, k0 + n); missing rows up to kPanelRows are zero.
template <typename F_>
A2SF_INLINE void fill_panel(const MatmulTask &task, size_t r0, size_t n_rows, size_t k0, size_t n,
                            const Panel &panel) {
    alignas(64) int8_t q[kPanelCols];
    float scale[kPanelCols / 16], offset[kPanelCols / 16];
    const size_t n_groups = n / F_::kGroup;
    for (size_t lane = 0; lane < kPanelRows; ++lane) {
        if (lane < n_rows) {
            const uint8_t *row = task.w + (r0 + lane) * task.row_bytes;
            unpack_row<F_>(row + k0 / F_::kBlock * F_::kBlockBytes, n, q, scale, offset);
        } else {
            memset(q, 0, n);
            memset(scale, 0, sizeof scale);
            memset(offset, 0, sizeof offset);
        }
        place_row(panel, lane, q, n);
        for (size_t g = 0; g < n_groups; ++g) {
            panel.scale[g * kPanelRows + lane] = scale[g];
            if constexpr (F_::kHasOffset) panel.offset[g * kPanelRows + lane] = offset[g];
        }
    }
}

template <typename F_>
A2SF_INLINE void fill_float_panel(const MatmulTask &task, size_t r0, size_t n_rows, size_t k0,
                                  size_t n, const Panel &panel) {
    constexpr size_t kBytes = F_::kBlockBytes / F_::kBlock;
    for (size_t lane = 0; lane < kPanelRows; ++lane) {
        const uint8_t *w = task.w + (r0 + lane) * task.row_bytes + k0 * kBytes;
        for (size_t k = 0; k < n; ++k) {
            panel.w[k * kPanelRows + lane] = lane < n_rows ? F_::decode(w + k * kBytes) : 0.0f;
        }
    }
}

// The output tile of kTokens tokens by V vectors of rows: loads it (or what it starts with: bias,
// zero or the old y) before the first columns, stores it after each block of columns.
template <size_t kTokens>
struct Tile {
    float *y;  // token 0, first row of the tile
    size_t y_stride;
    const float *bias;  // of the first row, or null
    size_t n_rows;      // rows of the tile that exist
    bool fresh;         // nothing of this product is in y yet
    bool accumulate;
};

A2SF_INLINE F load_up_to(const float *p, size_t n) {
    return n >= kW ? load(p) : load_n(p, n);
}

template <size_t kTokens>
A2SF_INLINE void load_tile(const Tile<kTokens> &tile, F (&total)[kTokens][kTileVectors]) {
    A2SF_UNROLL for (size_t v = 0; v < kTileVectors; ++v) {
        const size_t n = tile.n_rows > v * kW ? tile.n_rows - v * kW : 0;
        F first = set1(0.0f);
        if (tile.fresh && tile.bias != nullptr && n > 0) first = load_up_to(tile.bias + v * kW, n);
        A2SF_UNROLL for (size_t t = 0; t < kTokens; ++t) {
            total[t][v] = first;
            if ((tile.fresh && !tile.accumulate) || n == 0) continue;
            total[t][v] = add(first, load_up_to(tile.y + t * tile.y_stride + v * kW, n));
        }
    }
}

template <size_t kTokens>
A2SF_INLINE void store_tile(const Tile<kTokens> &tile, const F (&total)[kTokens][kTileVectors]) {
    A2SF_UNROLL for (size_t v = 0; v < kTileVectors; ++v) {
        const size_t n = tile.n_rows > v * kW ? tile.n_rows - v * kW : 0;
        A2SF_UNROLL for (size_t t = 0; t < kTokens; ++t) {
            float *y = tile.y + t * tile.y_stride + v * kW;
            if (n >= kW) {
                store(y, total[t][v]);
            } else if (n > 0) {
                store_n(y, total[t][v], n);
            }
        }
    }
}

// Adds n columns: kTokens tokens from t0, kTileVectors * kW rows from `lane`.
template <size_t kTokens, int kGroup, bool kHasOffset>
A2SF_INLINE void integer_tile(const Panel &panel, size_t lane, size_t n, const QuantizedX &xq,
                              size_t t0, size_t k0, const Tile<kTokens> &tile) {
    F total[kTokens][kTileVectors];
    load_tile(tile, total);
    const int8_t *x = xq.q + t0 * xq.cols + k0;
    const size_t x_groups = xq.cols / kGroup;
    const int32_t *start = (kGroup == 16 ? xq.start16 : xq.start32) + t0 * x_groups + k0 / kGroup;
    const float *x_sum = (kGroup == 16 ? xq.sum16 : xq.sum32) + t0 * x_groups + k0 / kGroup;
    const float *x_scale = xq.scale + t0 * (xq.cols / 32) + k0 / 32;
    for (size_t g = 0; g < n / kGroup; ++g) {
        I dots[kTokens][kTileVectors];
        A2SF_UNROLL for (size_t t = 0; t < kTokens; ++t) {
            const I first = set1_i(kFlipWeights ? start[t * x_groups + g] : 0);
            A2SF_UNROLL for (size_t v = 0; v < kTileVectors; ++v) dots[t][v] = first;
        }
        const int8_t *q = panel.q + (g * (kGroup / 4) * kPanelRows + lane) * 4;
        A2SF_UNROLL for (size_t j = 0; j < kGroup / 4; ++j) {
            W8 w[kTileVectors];
            A2SF_UNROLL for (size_t v = 0; v < kTileVectors; ++v) {
                w[v] = load_panel(q + (j * kPanelRows + v * kW) * 4);
            }
            A2SF_UNROLL for (size_t t = 0; t < kTokens; ++t) {
                const X8 spread = spread_x(x + t * xq.cols + g * kGroup + j * 4);
                A2SF_UNROLL for (size_t v = 0; v < kTileVectors; ++v) {
                    dots[t][v] = dot4(dots[t][v], w[v], spread);
                }
            }
        }
        A2SF_UNROLL for (size_t v = 0; v < kTileVectors; ++v) {
            const F scale = load(panel.scale + g * kPanelRows + lane + v * kW);
            A2SF_UNROLL for (size_t t = 0; t < kTokens; ++t) {
                const F by_x = set1(x_scale[t * (xq.cols / 32) + g * kGroup / 32]);
                total[t][v] = fma(mul(to_float(dots[t][v]), by_x), scale, total[t][v]);
            }
            if constexpr (kHasOffset) {
                const F offset = load(panel.offset + g * kPanelRows + lane + v * kW);
                A2SF_UNROLL for (size_t t = 0; t < kTokens; ++t) {
                    total[t][v] = fma(set1(x_sum[t * x_groups + g]), offset, total[t][v]);
                }
            }
        }
    }
    store_tile(tile, total);
}

template <size_t kTokens>
A2SF_INLINE void float_tile(const Panel &panel, size_t lane, size_t n, const float *x,
                            size_t x_stride, const Tile<kTokens> &tile) {
    F total[kTokens][kTileVectors];
    load_tile(tile, total);
    for (size_t k = 0; k < n; ++k) {
        F w[kTileVectors];
        A2SF_UNROLL for (size_t v = 0; v < kTileVectors; ++v) {
            w[v] = load(panel.w + k * kPanelRows + lane + v * kW);
        }
        A2SF_UNROLL for (size_t t = 0; t < kTokens; ++t) {
            const F spread = set1(x[t * x_stride + k]);
            A2SF_UNROLL for (size_t v = 0; v < kTileVectors; ++v) {
                total[t][v] = fma(w[v], spread, total[t][v]);
            }
        }
    }
    store_tile(tile, total);
}

// One panel's columns [k0, k0 + n) for kTokens tokens from t0.
template <typename F_, size_t kTokens>
__attribute__((noinline)) static void panel_tokens(const MatmulTask &task, const Panel &panel,
                                                   size_t r0, size_t n_rows, size_t k0, size_t n,
                                                   size_t t0) {
    for (size_t lane = 0; lane < n_rows; lane += kTileVectors * kW) {
        Tile<kTokens> tile;
        tile.y = task.y + t0 * task.y_stride + r0 + lane;
        tile.y_stride = task.y_stride;
        tile.bias = task.bias == nullptr ? nullptr : task.bias + r0 + lane;
        tile.n_rows = n_rows - lane;
        tile.fresh = k0 == 0;
        tile.accumulate = task.accumulate;
        if constexpr (F_::kGroup == 0) {
            float_tile<kTokens>(panel, lane, n, task.x + t0 * task.x_stride + k0, task.x_stride,
                                tile);
        } else {
            integer_tile<kTokens, F_::kGroup, F_::kHasOffset>(panel, lane, n, task.xq, t0, k0,
                                                              tile);
        }
    }
}

// The last n_tokens < kTokens + 1 tokens, with the tile of exactly that height.
template <typename F_, size_t kTokens>
A2SF_INLINE void panel_tail(const MatmulTask &task, const Panel &panel, size_t r0, size_t n_rows,
                            size_t k0, size_t n, size_t t0) {
    if constexpr (kTokens > 0) {
        if (task.m - t0 == kTokens) {
            panel_tokens<F_, kTokens>(task, panel, r0, n_rows, k0, n, t0);
        } else {
            panel_tail<F_, kTokens - 1>(task, panel, r0, n_rows, k0, n, t0);
        }
    }
}

template <typename F_>
void matmul(const MatmulTask &task) {
    constexpr size_t kCols = F_::kGroup == 0 ? kFloatPanelCols : kPanelCols;
    constexpr size_t kTokens = F_::kGroup == 0 ? kFloatTileTokens : kTileTokens;
    const Panel panel = panel_in(task.scratch);
    for (size_t r0 = task.row_begin; r0 < task.row_end; r0 += kPanelRows) {
        const size_t left = task.row_end - r0;
        const size_t n_rows = left < kPanelRows ? left : kPanelRows;
        for (size_t k0 = 0; k0 < task.cols; k0 += kCols) {
            const size_t n = task.cols - k0 < kCols ? task.cols - k0 : kCols;
            if constexpr (F_::kGroup == 0) {
                fill_float_panel<F_>(task, r0, n_rows, k0, n, panel);
            } else {
                fill_panel<F_>(task, r0, n_rows, k0, n, panel);
            }
            size_t t0 = 0;
            for (; t0 + kTokens <= task.m; t0 += kTokens) {
                panel_tokens<F_, kTokens>(task, panel, r0, n_rows, k0, n, t0);
            }
            panel_tail<F_, kTokens - 1>(task, panel, r0, n_rows, k0, n, t0);
        }
    }
}

}  // namespace
}  // namespace a2sf
