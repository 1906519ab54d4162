// tova: the newest query's attention alone decides (arXiv 2401.06104; there the heads of a layer
// vote together, here each KV head decides for itself unless scope is layer).
#include "evict/policy.h"

namespace a2sf {

const Policy &tova_policy() {
    static const Policy policy("tova", "the newest query's attention decides",
                               Preset{.forgetting_factor = 0.0f});
    return policy;
}

}  // namespace a2sf
