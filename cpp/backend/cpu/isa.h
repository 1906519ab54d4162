// Which kernel tables this build has, which the processor can run, and which one to use.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "backend/cpu/kernels.h"

namespace a2sf {

// Instruction sets usable here, best last; always holds "scalar".
std::vector<std::string> isas();

// The table of a usable instruction set; OptionError listing isas() for any other name.
const Kernels &kernels_for(std::string_view name);

// What the environment variable A2SF_ISA names, else the best usable one.
const Kernels &default_kernels();

}  // namespace a2sf
