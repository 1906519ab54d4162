// h2o: the plain sum of attention received, half the budget for the newest tokens (arXiv
// 2306.14048).
#include "evict/policy.h"

namespace a2sf {

const Policy &h2o_policy() {
    static const Policy policy("h2o",
                               "accumulated attention, the newest half of the budget protected",
                               Preset{.forgetting_factor = 1.0f, .recent_share = 0.5f});
    return policy;
}

}  // namespace a2sf
