// The kernel table for scalar.
#include "backend/cpu/simd_scalar.h"
//
#include "backend/cpu/kernels.inl"

namespace a2sf {

static constexpr Kernels kTable = make_table("scalar");

const Kernels &kernels_scalar() {
    return kTable;
}

}  // namespace a2sf
