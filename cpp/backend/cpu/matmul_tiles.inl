// Products of weights and several tokens on AMX tiles. Weights are unpacked to bfloat16 once per
// batch, activations rounded to it once per product; sums are float32. Quantised weights lose less
// that way than by 8-bit activations (0.16 % of each factor on average, 2^-8 at most); F16 weights
// lose three bits. F32 stays with the vector kernels. Included by isa_amx.cpp, after tiles.inl.

namespace a2sf {
namespace {

// A panel (192 KiB) and the sums that wait for its next columns (192 KiB) stay in L2. Sums that
// went back to y between panels would be rows a power of two apart, all in the same sets of the
// cache.
constexpr size_t kRunCols = 1024;
constexpr size_t kRunRows = 96;
constexpr size_t kRunTokens = 512;

// Up to kRunRows weight rows by kRunCols columns.
struct TilePanel {
    uint16_t *w;     // [rows / 16, cols / 32] right tiles
    uint16_t *rows;  // [kTileRows, kRunCols]: rows before they are turned
    float *sums;     // [kRunTokens / 16, kRunRows / 16, 16, 16]: y between two runs of columns
    float *corner;   // [16, 16]: a tile of y that is not whole
};

constexpr size_t kTilePanelBytes = 2 * (kRunRows + kTileRows) * kRunCols +
                                   sizeof(float) * (kRunTokens * kRunRows + kTileRows * kTileRows);

A2SF_INLINE TilePanel tile_panel_in(void *scratch) {
    TilePanel panel;
    panel.w = (uint16_t *)scratch;
    panel.rows = panel.w + kRunRows * kRunCols;
    panel.sums = (float *)(panel.rows + kTileRows * kRunCols);
    panel.corner = panel.sums + kRunTokens * kRunRows;
    return panel;
}

// n columns from k0 of one row as bfloat16.
template <typename F_>
A2SF_INLINE void quantized_bfloats(const uint8_t *row, size_t k0, size_t n, uint16_t *to) {
    alignas(64) int8_t q[kRunCols];
    float scale[kRunCols / 16], offset[kRunCols / 16];
    unpack_row<F_>(row + k0 / F_::kBlock * F_::kBlockBytes, n, q, scale, offset);
    constexpr size_t kSecond = F_::kGroup == 16 ? 1 : 0;
    for (size_t k = 0; k < n; k += 2 * kW) {
        const size_t g = k / F_::kGroup;
        F first = load_bytes(q + k), second = load_bytes(q + k + kW);
        if constexpr (F_::kHasOffset) {
            first = fma(first, set1(scale[g]), set1(offset[g]));
            second = fma(second, set1(scale[g + kSecond]), set1(offset[g + kSecond]));
        } else {
            first = mul(first, set1(scale[g]));
            second = mul(second, set1(scale[g + kSecond]));
        }
        _mm512_storeu_si512(to + k, to_bfloats(first, second));
    }
}

template <typename F_>
A2SF_INLINE void plain_bfloats(const uint8_t *row, size_t k0, size_t n, uint16_t *to) {
    const uint8_t *w = row + 2 * k0;
    for (size_t k = 0; k < n; k += 2 * kW) {
        alignas(64) uint8_t block[4 * kW] = {};
        const uint8_t *from = w + 2 * k;
        if (n - k < 2 * kW) {
            memcpy(block, from, 2 * (n - k));
            from = block;
        }
        if constexpr (F_::kGgmlId == BF16::kGgmlId) {
            _mm512_storeu_si512(to + k, _mm512_loadu_si512(from));
        } else {
            _mm512_storeu_si512(to + k, to_bfloats(load_halves(from), load_halves(from + 2 * kW)));
        }
    }
}

template <typename F_>
static void fill_tile_panel(const MatmulTask &task, const Span &span, const TilePanel &panel) {
    const size_t n_tiles = (span.n + kTileCols - 1) / kTileCols;
    for (size_t r = 0; r < span.n_rows; r += kTileRows) {
        for (size_t i = 0; i < kTileRows; ++i) {
            uint16_t *to = panel.rows + i * kRunCols;
            const uint8_t *row = task.w + (span.r0 + r + i) * task.row_bytes;
            if (r + i >= span.n_rows) {
                memset(to, 0, n_tiles * kTileStride);
            } else if constexpr (F_::kGroup == 0) {
                plain_bfloats<F_>(row, span.k0, span.n, to);
            } else {
                quantized_bfloats<F_>(row, span.k0, span.n, to);
            }
        }
        for (size_t k = 0; k < n_tiles; ++k) {
            const size_t to = (r / kTileRows * n_tiles + k) * kTileSize;
            transpose_tile(panel.rows + k * kTileCols, kRunCols, panel.w + to);
        }
    }
    // Rows come in pairs of tiles; what stands for the missing one is never stored.
    if (span.n_rows % (2 * kTileRows) - 1 < kTileRows) {
        const size_t to = (span.n_rows / kTileRows + (span.n_rows % kTileRows != 0)) * n_tiles;
        memset(panel.w + to * kTileSize, 0, n_tiles * 2 * kTileSize);
    }
}

// 16 tokens by 16 rows of y, or what exists of them.
struct Corner {
    float *y;
    size_t y_stride;
    const float *bias;  // of the first row, or null
    float *sums;        // [16, 16]: where they wait
    size_t n_tokens, n_rows;
    bool first, last, accumulate;  // of the runs of columns
    float *whole;                  // [16, 16] scratch
};

A2SF_INLINE bool is_whole(const Corner &corner) {
    return corner.n_tokens >= kTileRows && corner.n_rows >= kTileRows;
}

// Loads the sums, or what they start with.
template <int kTile>
A2SF_INLINE void load_corner(const Corner &corner) {
    const bool bias = corner.bias != nullptr;
    if (!corner.first) {
        tile_load<kTile>(corner.sums, kTileStride);
        return;
    }
    if (corner.n_rows == 0 || (!corner.accumulate && !bias)) {
        tile_clear<kTile>();
        return;
    }
    if (is_whole(corner) && !bias) {
        tile_load<kTile>(corner.y, corner.y_stride * sizeof(float));
        return;
    }
    const size_t n = corner.n_rows < kTileRows ? corner.n_rows : kTileRows;
    const F start = bias ? load_n(corner.bias, n) : set1(0.0f);
    for (size_t t = 0; t < kTileRows; ++t) {
        const bool exists = corner.accumulate && t < corner.n_tokens;
        const F y = exists ? load_n(corner.y + t * corner.y_stride, n) : set1(0.0f);
        store(corner.whole + t * kTileRows, add(y, start));
    }
    memory_barrier();
    tile_load<kTile>(corner.whole, kTileStride);
}

template <int kTile>
A2SF_INLINE void store_corner(const Corner &corner) {
    if (!corner.last) {
        tile_store<kTile>(corner.sums, kTileStride);
        return;
    }
    if (corner.n_rows == 0) return;
    if (is_whole(corner)) {
        tile_store<kTile>(corner.y, corner.y_stride * sizeof(float));
        return;
    }
    tile_store<kTile>(corner.whole, kTileStride);
    memory_barrier();
    const size_t n = corner.n_rows < kTileRows ? corner.n_rows : kTileRows;
    for (size_t t = 0; t < kTileRows && t < corner.n_tokens; ++t) {
        store_n(corner.y + t * corner.y_stride, load(corner.whole + t * kTileRows), n);
    }
    memory_barrier();
}

// Token t of the batch, i of the run of tokens; row r of the panel.
A2SF_INLINE Corner corner_at(const MatmulTask &task, const Span &span, const TilePanel &panel,
                             size_t t, size_t i, size_t r) {
    Corner corner;
    corner.y = task.y + t * task.y_stride + span.r0 + r;
    corner.y_stride = task.y_stride;
    corner.bias = task.bias == nullptr ? nullptr : task.bias + span.r0 + r;
    corner.sums = panel.sums + (i / kTileRows * (kRunRows / kTileRows) + r / kTileRows) * 256;
    corner.n_tokens = task.m > t ? task.m - t : 0;
    corner.n_rows = span.n_rows > r ? span.n_rows - r : 0;
    corner.first = span.k0 == 0;
    corner.last = span.k0 + span.n == task.cols;
    corner.accumulate = task.accumulate;
    corner.whole = panel.corner;
    return corner;
}

// kTokenTiles tiles of tokens from t0 + i, all rows of the panel.
template <int kTokenTiles>
__attribute__((noinline)) static void tile_tokens(const MatmulTask &task, const Span &span,
                                                  const TilePanel &panel, size_t t0, size_t i) {
    const size_t t = t0 + i, u = t + kTileRows, j = i + kTileRows;
    const size_t n_tiles = (span.n + kTileCols - 1) / kTileCols;
    const size_t x_tiles = task.xt.cols / kTileCols;
    const size_t x_at = (t / kTileRows * x_tiles + span.k0 / kTileCols) * kTileSize;
    Operand left;
    left.first = task.xt.x + x_at;
    left.to_second = x_tiles * kTileSize;
    for (size_t r = 0; r < span.n_rows; r += 2 * kTileRows) {
        const size_t w_at = r / kTileRows * n_tiles * kTileSize;
        Operand right;
        right.first = panel.w + w_at;
        right.to_second = n_tiles * kTileSize;
        load_corner<0>(corner_at(task, span, panel, t, i, r));
        load_corner<1>(corner_at(task, span, panel, t, i, r + kTileRows));
        if constexpr (kTokenTiles == 2) {
            load_corner<2>(corner_at(task, span, panel, u, j, r));
            load_corner<3>(corner_at(task, span, panel, u, j, r + kTileRows));
        }
        multiply_tiles<kTokenTiles>(left, right, n_tiles);
        store_corner<0>(corner_at(task, span, panel, t, i, r));
        store_corner<1>(corner_at(task, span, panel, t, i, r + kTileRows));
        if constexpr (kTokenTiles == 2) {
            store_corner<2>(corner_at(task, span, panel, u, j, r));
            store_corner<3>(corner_at(task, span, panel, u, j, r + kTileRows));
        }
    }
}

using FillTilePanel = void (*)(const MatmulTask &task, const Span &span, const TilePanel &panel);

// One panel for the tokens [t0, t0 + n).
A2SF_INLINE void tile_run(const MatmulTask &task, const Span &span, const TilePanel &panel,
                          size_t t0, size_t n) {
    size_t i = 0;
    for (; i + kTileRows < n; i += 2 * kTileRows) {
        tile_tokens<2>(task, span, panel, t0, i);
    }
    if (i < n) tile_tokens<1>(task, span, panel, t0, i);
}

__attribute__((noinline)) static void matmul_tile_panels(const MatmulTask &task,
                                                         FillTilePanel fill) {
    const TilePanel panel = tile_panel_in(task.scratch);
    tiles_on();
    for (size_t r0 = task.row_begin; r0 < task.row_end; r0 += kRunRows) {
        for (size_t t0 = 0; t0 < task.m; t0 += kRunTokens) {
            for (size_t k0 = 0; k0 < task.cols; k0 += kRunCols) {
                const size_t rows = task.row_end - r0, cols = task.cols - k0, m = task.m - t0;
                Span span;
                span.r0 = r0;
                span.n_rows = rows < kRunRows ? rows : kRunRows;
                span.k0 = k0;
                span.n = cols < kRunCols ? cols : kRunCols;
                fill(task, span, panel);
                memory_barrier();
                tile_run(task, span, panel, t0, m < kRunTokens ? m : kRunTokens);
            }
        }
    }
    tiles_off();
    memory_barrier();
}

template <typename F_>
static void matmul_tiles(const MatmulTask &task) {
    matmul_tile_panels(task, fill_tile_panel<F_>);
}

template <typename F_>
constexpr void use_tiles(Kernels &table, size_t index) {
    if constexpr (F_::kGgmlId != F32::kGgmlId) {
        table.matmul[index] = matmul_tiles<F_>;
        table.batch_x[index] = kBatchBfloat;
    }
}

constexpr Kernels with_tiles(Kernels table) {
    size_t n = 0;
#define A2SF_TILES(F_) use_tiles<F_>(table, n++);
    A2SF_WEIGHT_FORMATS(A2SF_TILES)
#undef A2SF_TILES
    table.name = "amx";
    table.tile_row = tile_row;
    table.peak_tiles = peak_tiles;
    table.panel_bytes = kTilePanelBytes < kPanelBytes ? kPanelBytes : kTilePanelBytes;
    table.panel_rows = kRunRows;
    return table;
}

}  // namespace
}  // namespace a2sf
