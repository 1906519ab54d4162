// a2sf: accumulated attention with a forgetting factor (arXiv 2407.20485), with sinks and the
// newest quarter of the budget protected. The protection is this project's: it is what lets the
// factor rise.
#include "evict/policy.h"

namespace a2sf {

const Policy &a2sf_policy() {
    static const Policy policy(
        "a2sf", "accumulated attention with a forgetting factor, recent protected",
        Preset{.forgetting_factor = 0.99f, .n_sinks = 4, .recent_share = 0.25f});
    return policy;
}

}  // namespace a2sf
