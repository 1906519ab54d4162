// The kernel table for avx2.
#include "backend/cpu/simd_avx2.h"
//
#include "backend/cpu/kernels.inl"

namespace a2sf {

static constexpr Kernels kTable = make_table("avx2");

const Kernels &kernels_avx2() {
    return kTable;
}

}  // namespace a2sf
