// The line of CUDA in the table of devices. One of cuda_entry.cpp and cuda_missing.cpp is built.
#pragma once

#include <memory>
#include <string>

#include "backend/registry.h"

namespace a2sf {

std::string cuda_unavailable();
std::unique_ptr<Backend> create_cuda(const BackendOptions &options);
const char *cuda_isa();
OwnMemory cuda_memory();
void begin_cuda_peak();

}  // namespace a2sf
