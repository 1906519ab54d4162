// THE list of architectures. To add one: write arch/<name>.cpp and list it in registry.cpp.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/arch/architecture.h"

namespace a2sf {

// Names of all, in the order in which messages show them.
std::vector<std::string> architectures();

// By general.architecture; throws UnsupportedError listing the known ones.
const Architecture &find_architecture(std::string_view name);

}  // namespace a2sf
