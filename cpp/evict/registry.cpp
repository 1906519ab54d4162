#include "evict/registry.h"

#include <string>
#include <vector>

#include "base/error.h"

namespace a2sf {

// Each is defined in policies/<name>.cpp.
const Policy &full_policy();
const Policy &a2sf_policy();
const Policy &a2sf_paper_policy();
const Policy &a2sf_dual_policy();
const Policy &h2o_policy();
const Policy &tova_policy();
const Policy &streaming_policy();
const Policy &snapkv_policy();
const Policy &keydiff_policy();

std::span<const Policy *const> policies() {
    static const Policy *const list[] = {
        &full_policy(),      &a2sf_policy(),   &a2sf_paper_policy(),
        &a2sf_dual_policy(), &h2o_policy(),    &tova_policy(),
        &streaming_policy(), &snapkv_policy(), &keydiff_policy(),
    };
    return list;
}

const Policy &find_policy(std::string_view name) {
    std::vector<const char *> known;
    for (const Policy *policy : policies()) {
        if (name == policy->name) return *policy;
        known.push_back(policy->name);
    }
    throw OptionError(str("policy: one of ", join(known), " expected, found \"", name, "\""));
}

}  // namespace a2sf
