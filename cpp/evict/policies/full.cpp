// full: the cache as everyone has it, bounded by the model's context alone.
#include "evict/policy.h"

namespace a2sf {

namespace {

class Full final : public Policy {
  public:
    Full() : Policy("full", "keep every token (no eviction)", Preset{}) {}
    bool evicts() const override { return false; }
    size_t n_lanes() const override { return 0; }
};

}  // namespace

const Policy &full_policy() {
    static const Full policy;
    return policy;
}

}  // namespace a2sf
