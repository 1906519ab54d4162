// phi3: Phi 3 and 3.5 mini. q, k, v in one tensor, gate and up in another; a window on all layers
// when the file names one.
#include "model/arch/architecture.h"

namespace a2sf {

const Architecture &phi3_architecture() {
    static constexpr Architecture architecture{
        .name = "phi3", .rope_style = RopeStyle::Halves, .fused = true, .window_period = 1};
    return architecture;
}

}  // namespace a2sf
