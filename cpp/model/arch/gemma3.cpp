// gemma3: Gemma 3 text models. Five layers with a sliding window, then one without; the windowed
// ones keep their own RoPE base, unscaled. Norm weights are stored with the 1 already added.
#include "model/arch/architecture.h"

namespace a2sf {

const Architecture &gemma3_architecture() {
    static constexpr Architecture architecture{.name = "gemma3",
                                               .rope_style = RopeStyle::Halves,
                                               .activation = Activation::GeluTanh,
                                               .qk_norm = true,
                                               .post_norms = true,
                                               .scaled_embedding = true,
                                               .window_period = 6,
                                               .dim_scaled_layers = 62,
                                               .local_rope_base = 10000.0f,
                                               .default_rope_base = 1000000.0};
    return architecture;
}

}  // namespace a2sf
