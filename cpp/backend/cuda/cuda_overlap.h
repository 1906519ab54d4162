// Whether a kernel's launch may overlap with the kernel before it (programmatic dependent launch).
#pragma once

namespace a2sf {

// Where the card is of compute capability 9.0 or later and the kernels are compiled for that, so
// that they wait themselves (after_others), unless A2SF_CUDA_OVERLAP=0 is in the environment.
bool cuda_launches_overlap();

}  // namespace a2sf
