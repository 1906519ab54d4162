// a2sf-paper: A2SF as published (arXiv 2407.20485): factor 0.3, nothing protected, a step per
// token.
#include "evict/policy.h"

namespace a2sf {

const Policy &a2sf_paper_policy() {
    static const Policy policy("a2sf-paper",
                               "A2SF as published: factor 0.3, nothing protected, token by token",
                               Preset{.forgetting_factor = 0.3f, .prefill = PromptMode::Token});
    return policy;
}

}  // namespace a2sf
