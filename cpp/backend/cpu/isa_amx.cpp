// The kernel table for amx: that of avx512, with batch products and attention on tiles.
#include "backend/cpu/simd_avx512.h"
//
#include "backend/cpu/float.inl"
//
#include "backend/cpu/attention.inl"
//
#include "backend/cpu/matvec.inl"
//
#include "backend/cpu/matmul.inl"
//
#include "backend/cpu/tiles.inl"
//
#include "backend/cpu/matmul_tiles.inl"
//
#include "backend/cpu/attention_tiles.inl"

namespace a2sf {

const Kernels &kernels_avx512();

// The kernels that are not replaced are avx512's own, not compiled again.
const Kernels &kernels_amx() {
    static const Kernels table = with_tiled_attention(with_tiles(kernels_avx512()));
    return table;
}

}  // namespace a2sf
