// The kernel table for avx512.
#include "backend/cpu/simd_avx512.h"
//
#include "backend/cpu/kernels.inl"
//
#include "backend/cpu/fused_formats.inl"
//
#include "backend/cpu/matvec_avx512.inl"
//
#include "backend/cpu/few_avx512.inl"

namespace a2sf {

static constexpr Kernels kTable = with_panels(with_fused(make_table("avx512")));

const Kernels &kernels_avx512() {
    return kTable;
}

}  // namespace a2sf
