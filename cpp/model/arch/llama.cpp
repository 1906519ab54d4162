// llama: Llama 1 to 3.x, SmolLM, TinyLlama, Mistral. Q and K rows are stored so that neighbouring
// elements rotate together.
#include "model/arch/architecture.h"

namespace a2sf {

const Architecture &llama_architecture() {
    static constexpr Architecture architecture{.name = "llama",
                                               .rope_style = RopeStyle::Interleaved};
    return architecture;
}

}  // namespace a2sf
