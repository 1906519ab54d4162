// The tile registers of AMX: how they are loaded, and products of bfloat16 tiles.
//
// A tile holds 16 rows of 64 bytes. Two layouts of 1 KiB each feed a product:
//   left tile   16 rows x 32 columns of bfloat16, as they are
//   right tile  16 pairs of columns x 16 rows x 2: pair j of row n at dword 16 * j + n
// left x right adds 16 x 16 floats. Included by isa_amx.cpp, after simd_avx512.h.

namespace a2sf {
namespace {

constexpr size_t kTileRows = 16;
constexpr size_t kTileCols = 32;
constexpr size_t kTileSize = kTileRows * kTileCols;  // bfloat16 elements of a tile
constexpr size_t kTileStride = 64;                   // bytes

// GCC's tile macros paste the number into an instruction, so a number must be spelled out.
template <int kTile>
A2SF_INLINE void tile_load(const void *from, size_t stride) {
    static_assert(kTile >= 0 && kTile < 8);
    if constexpr (kTile == 0) _tile_loadd(0, from, stride);
    if constexpr (kTile == 1) _tile_loadd(1, from, stride);
    if constexpr (kTile == 2) _tile_loadd(2, from, stride);
    if constexpr (kTile == 3) _tile_loadd(3, from, stride);
    if constexpr (kTile == 4) _tile_loadd(4, from, stride);
    if constexpr (kTile == 5) _tile_loadd(5, from, stride);
    if constexpr (kTile == 6) _tile_loadd(6, from, stride);
    if constexpr (kTile == 7) _tile_loadd(7, from, stride);
}

// Sums live in tiles 0 to 3: token tile i, row tile j in tile 2 * i + j.
template <int kTile>
A2SF_INLINE void tile_store(void *to, size_t stride) {
    static_assert(kTile >= 0 && kTile < 4);
    if constexpr (kTile == 0) _tile_stored(0, to, stride);
    if constexpr (kTile == 1) _tile_stored(1, to, stride);
    if constexpr (kTile == 2) _tile_stored(2, to, stride);
    if constexpr (kTile == 3) _tile_stored(3, to, stride);
}

template <int kTile>
A2SF_INLINE void tile_clear() {
    static_assert(kTile >= 0 && kTile < 4);
    if constexpr (kTile == 0) _tile_zero(0);
    if constexpr (kTile == 1) _tile_zero(1);
    if constexpr (kTile == 2) _tile_zero(2);
    if constexpr (kTile == 3) _tile_zero(3);
}

// The macros do not tell the compiler that they touch memory.
A2SF_INLINE void memory_barrier() {
    asm volatile("" ::: "memory");
}

// All eight tiles whole, for the current thread, until tiles_off().
A2SF_INLINE void tiles_on() {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (size_t i = 0; i < 8; ++i) {
        config.row_bytes[i] = kTileStride;
        config.rows[i] = kTileRows;
    }
    // GCC 12 takes the instruction for one that reads 8 bytes.
    asm volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
}
A2SF_INLINE void tiles_off() {
    _tile_release();
}

// Adds left tiles (4, and 5 of a second token tile) times right tiles (6 and 7) to the sums.
template <int kTokenTiles>
A2SF_INLINE void add_products() {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (kTokenTiles == 2) {
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

template <int kTokenTiles>
A2SF_INLINE void load_left(const uint16_t *first, size_t to_second) {
    tile_load<4>(first, kTileStride);
    if constexpr (kTokenTiles == 2) tile_load<5>(first + to_second, kTileStride);
}
A2SF_INLINE void load_right(const uint16_t *first, size_t to_second) {
    tile_load<6>(first, kTileStride);
    tile_load<7>(first + to_second, kTileStride);
}

// Where an operand lies: consecutive tiles along the columns, the second token or row tile
// `to_second` elements after the first.
struct Operand {
    const uint16_t *first;
    size_t to_second;
};

// Adds the products of n_tiles tiles along the columns.
template <int kTokenTiles>
A2SF_INLINE void multiply_tiles(const Operand &left, const Operand &right, size_t n_tiles) {
    for (size_t k = 0; k < n_tiles; ++k) {
        load_left<kTokenTiles>(left.first + k * kTileSize, left.to_second);
        load_right(right.first + k * kTileSize, right.to_second);
        add_products<kTokenTiles>();
    }
}

// ---- floats to bfloat16 ----------------------------------------------------------------------

// 32 floats as bfloat16, rounded to nearest even.
A2SF_INLINE __m512i to_bfloats(F first, F second) {
    return (__m512i)_mm512_cvtne2ps_pbh(second, first);
}
// to[j][n] = from[n][j] for 16 x 16 dwords; rows of `from` are stride elements of 2 bytes apart.
A2SF_INLINE void transpose_tile(const uint16_t *from, size_t stride, uint16_t *to) {
    __m512i a[16], b[16];
    A2SF_UNROLL for (size_t i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(from + i * stride);
    A2SF_UNROLL for (size_t i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    A2SF_UNROLL for (size_t i = 0; i < 16; i += 4) {
        A2SF_UNROLL for (size_t j = 0; j < 2; ++j) {
            a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + j + 2]);
            a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + j + 2]);
        }
    }
    // a[4 * q + c] holds, in 128-bit lane l, column 4 * l + c of rows 4 * q to 4 * q + 3.
    A2SF_UNROLL for (size_t c = 0; c < 4; ++c) {
        const __m512i even01 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0x88);
        const __m512i odd01 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0xdd);
        const __m512i even23 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0x88);
        const __m512i odd23 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0xdd);
        _mm512_storeu_si512(to + 32 * c, _mm512_shuffle_i32x4(even01, even23, 0x88));
        _mm512_storeu_si512(to + 32 * (c + 4), _mm512_shuffle_i32x4(odd01, odd23, 0x88));
        _mm512_storeu_si512(to + 32 * (c + 8), _mm512_shuffle_i32x4(even01, even23, 0xdd));
        _mm512_storeu_si512(to + 32 * (c + 12), _mm512_shuffle_i32x4(odd01, odd23, 0xdd));
    }
}

// Row t of a left operand from x [n], zeros up to whole tiles; a null x gives a row of zeros.
void tile_row(const float *x, size_t n, const TileX &to, size_t t) {
    const size_t tile = t / kTileRows * (to.cols / kTileCols);
    for (size_t k = 0; k < n; k += kTileCols) {
        const size_t at = (tile + k / kTileCols) * kTileSize + t % kTileRows * kTileCols;
        const size_t left = x == nullptr ? 0 : n - k;
        F first = set1(0.0f), second = first;
        if (left >= 2 * kW) {
            first = load(x + k);
            second = load(x + k + kW);
        } else if (left > 0) {
            first = left >= kW ? load(x + k) : load_n(x + k, left);
            second = left > kW ? load_n(x + k + kW, left - kW) : second;
        }
        _mm512_storeu_si512(to.x + at, to_bfloats(first, second));
    }
}

// Four sums as in a product, of zeros that never leave the registers (peaks.inl).
double peak_tiles(size_t n_rounds) {
    tiles_on();
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
    tile_clear<0>(), tile_clear<1>(), tile_clear<2>(), tile_clear<3>();
    for (size_t round = 0; round < n_rounds; ++round) add_products<2>();
    tiles_off();
    return 2.0 * (double)(4 * kTileRows * kTileSize) * (double)n_rounds;
}

}  // namespace
}  // namespace a2sf
