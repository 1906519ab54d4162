// A build without CUDA.
#include "backend/cuda/cuda_entry.h"
#include "base/error.h"

namespace a2sf {

std::string cuda_unavailable() {
    return "this a2sf was built without CUDA (CMake option A2SF_CUDA)";
}

std::unique_ptr<Backend> create_cuda(const BackendOptions &) {
    throw DeviceError("device 'cuda': " + cuda_unavailable());
}

const char *cuda_isa() {
    return "";
}

OwnMemory cuda_memory() {
    return {};
}

void begin_cuda_peak() {}

}  // namespace a2sf
