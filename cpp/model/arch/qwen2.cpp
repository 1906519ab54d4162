// qwen2: Qwen 2 and 2.5, biases on q, k and v (biases are taken wherever a file has them).
#include "model/arch/architecture.h"

namespace a2sf {

const Architecture &qwen2_architecture() {
    static constexpr Architecture architecture{
        .name = "qwen2", .rope_style = RopeStyle::Halves, .default_rope_base = 1000000.0};
    return architecture;
}

}  // namespace a2sf
