// The kernel table for avx512.
#include "backend/cpu/simd_avx512.h"
//
#include "backend/cpu/kernels.inl"

namespace a2sf {

static constexpr Kernels kTable = make_table("avx512");

const Kernels &kernels_avx512() {
    return kTable;
}

}  // namespace a2sf
