// Products of weights and several tokens. A panel of weight rows is unpacked once per batch and
// then multiplied with all tokens. What a format brings is the filling of a panel; the product
// itself is compiled once for each way of scaling (groups of 16 or 32, with or without offsets) and
// once for floats. Included by kernels.inl, after matvec.inl.
//
// The order of the sums is the one that matvec.inl states: the same for every m and thread count.

namespace a2sf {
namespace {

// The rows [r0, r0 + n_rows) and columns [k0, k0 + n) that a panel holds.
struct Span {
    size_t r0, n_rows, k0, n;
};

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

// Fills a panel; missing rows up to kPanelRows are zero.
template <typename F_>
static void fill_panel(const MatmulTask &task, const Span &span, const Panel &panel) {
    alignas(64) int8_t q[kPanelCols];
    float scale[kPanelCols / 16], offset[kPanelCols / 16];
    const size_t n_groups = span.n / F_::kGroup;
    for (size_t lane = 0; lane < kPanelRows; ++lane) {
        if (lane < span.n_rows) {
            const uint8_t *row = task.w + (span.r0 + lane) * task.row_bytes;
            unpack_row<F_>(row + span.k0 / F_::kBlock * F_::kBlockBytes, span.n, q, scale, offset);
        } else {
            memset(q, 0, span.n);
            memset(scale, 0, sizeof scale);
            memset(offset, 0, sizeof offset);
        }
        place_row(panel, lane, q, span.n);
        for (size_t g = 0; g < n_groups; ++g) {
            panel.scale[g * kPanelRows + lane] = scale[g];
            if constexpr (F_::kHasOffset) panel.offset[g * kPanelRows + lane] = offset[g];
        }
    }
}

template <typename F_>
static void fill_float_panel(const MatmulTask &task, const Span &span, const Panel &panel) {
    constexpr size_t kBytes = F_::kBlockBytes / F_::kBlock;
    for (size_t lane = 0; lane < kPanelRows; ++lane) {
        const uint8_t *w = task.w + (span.r0 + lane) * task.row_bytes + span.k0 * kBytes;
        for (size_t k = 0; k < span.n; ++k) {
            panel.w[k * kPanelRows + lane] = lane < span.n_rows ? F_::decode(w + k * kBytes) : 0.0f;
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

// One panel for kTokens tokens from t0. kGroup 0: floats.
template <int kGroup, bool kHasOffset, size_t kTokens>
__attribute__((noinline)) static void panel_tokens(const MatmulTask &task, const Panel &panel,
                                                   const Span &span, size_t t0) {
    for (size_t lane = 0; lane < span.n_rows; lane += kTileVectors * kW) {
        Tile<kTokens> tile;
        tile.y = task.y + t0 * task.y_stride + span.r0 + lane;
        tile.y_stride = task.y_stride;
        tile.bias = task.bias == nullptr ? nullptr : task.bias + span.r0 + lane;
        tile.n_rows = span.n_rows - lane;
        tile.fresh = span.k0 == 0;
        tile.accumulate = task.accumulate;
        if constexpr (kGroup == 0) {
            const float *x = task.x + t0 * task.x_stride + span.k0;
            float_tile<kTokens>(panel, lane, span.n, x, task.x_stride, tile);
        } else {
            integer_tile<kTokens, kGroup, kHasOffset>(panel, lane, span.n, task.xq, t0, span.k0,
                                                      tile);
        }
    }
}

// The last n_tokens < kTokens + 1 tokens, with the tile of exactly that height.
template <int kGroup, bool kHasOffset, size_t kTokens>
A2SF_INLINE void panel_tail(const MatmulTask &task, const Panel &panel, const Span &span,
                            size_t t0) {
    if constexpr (kTokens > 0) {
        if (task.m - t0 == kTokens) {
            panel_tokens<kGroup, kHasOffset, kTokens>(task, panel, span, t0);
        } else {
            panel_tail<kGroup, kHasOffset, kTokens - 1>(task, panel, span, t0);
        }
    }
}

using FillPanel = void (*)(const MatmulTask &task, const Span &span, const Panel &panel);

template <int kGroup, bool kHasOffset>
__attribute__((noinline)) static void matmul_panels(const MatmulTask &task, FillPanel fill) {
    constexpr size_t kCols = kGroup == 0 ? kFloatPanelCols : kPanelCols;
    constexpr size_t kTokens = kGroup == 0 ? kFloatTileTokens : kTileTokens;
    const Panel panel = panel_in(task.scratch);
    for (size_t r0 = task.row_begin; r0 < task.row_end; r0 += kPanelRows) {
        const size_t left = task.row_end - r0;
        for (size_t k0 = 0; k0 < task.cols; k0 += kCols) {
            Span span;
            span.r0 = r0;
            span.n_rows = left < kPanelRows ? left : kPanelRows;
            span.k0 = k0;
            span.n = task.cols - k0 < kCols ? task.cols - k0 : kCols;
            fill(task, span, panel);
            size_t t0 = 0;
            for (; t0 + kTokens <= task.m; t0 += kTokens) {
                panel_tokens<kGroup, kHasOffset, kTokens>(task, panel, span, t0);
            }
            panel_tail<kGroup, kHasOffset, kTokens - 1>(task, panel, span, t0);
        }
    }
}

template <typename F_>
void matmul(const MatmulTask &task) {
    if constexpr (F_::kGroup == 0) {
        matmul_panels<0, false>(task, fill_float_panel<F_>);
    } else {
        matmul_panels<F_::kGroup, F_::kHasOffset>(task, fill_panel<F_>);
    }
}

}  // namespace
}  // namespace a2sf
