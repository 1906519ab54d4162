// The kernel table for amx: that of avx512, with batch products and attention on tiles.
#include "backend/cpu/simd_avx512.h"
//
#include "backend/cpu/kernels.inl"
//
#include "backend/cpu/matvec_avx512.inl"
//
#include "backend/cpu/tiles.inl"
//
#include "backend/cpu/matmul_tiles.inl"
//
#include "backend/cpu/attention_tiles.inl"

namespace a2sf {

static constexpr Kernels kTable = with_tiled_attention(with_tiles(with_fused(make_table("amx"))));

const Kernels &kernels_amx() {
    return kTable;
}

}  // namespace a2sf
