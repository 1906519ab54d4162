// THE list of eviction policies. To add one: write policies/<name>.cpp with a function that returns
// its only instance, declare and list it in registry.cpp.
#pragma once

#include <span>
#include <string_view>

#include "evict/policy.h"

namespace a2sf {

// All policies, in the order in which --help shows them.
std::span<const Policy *const> policies();

// By name; throws OptionError listing the known ones.
const Policy &find_policy(std::string_view name);

}  // namespace a2sf
