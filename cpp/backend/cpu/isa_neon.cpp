// The kernel table for neon.
#include "backend/cpu/simd_neon.h"
//
#include "backend/cpu/kernels.inl"

namespace a2sf {

static constexpr Kernels kTable = make_table("neon");

const Kernels &kernels_neon() {
    return kTable;
}

}  // namespace a2sf
