// The kernel table for amx: that of avx512, with the batch products on tiles.
#include "backend/cpu/simd_avx512.h"
//
#include "backend/cpu/kernels.inl"
//
#include "backend/cpu/tiles.inl"
//
#include "backend/cpu/matmul_tiles.inl"

namespace a2sf {

static constexpr Kernels kTable = with_tiles(make_table("amx"));

const Kernels &kernels_amx() {
    return kTable;
}

}  // namespace a2sf
