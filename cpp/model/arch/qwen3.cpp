// qwen3: the dense Qwen 3 models, a norm on every query and key head.
#include "model/arch/architecture.h"

namespace a2sf {

const Architecture &qwen3_architecture() {
    static constexpr Architecture architecture{.name = "qwen3",
                                               .rope_style = RopeStyle::Halves,
                                               .qk_norm = true,
                                               .default_rope_base = 1000000.0};
    return architecture;
}

}  // namespace a2sf
