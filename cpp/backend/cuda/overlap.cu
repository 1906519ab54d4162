// Kernels that overlap: which version of them runs here.
#include "backend/cuda/device.cuh"

#include <cstdlib>

#include "backend/cuda/cuda_overlap.h"

namespace a2sf {
namespace {

constexpr int kLeastMajor = 9;
constexpr int kLeastRuntime = 12030;  // whose graphs keep such launches as they are

// Compiled as all others are.
__global__ void do_nothing(int) {
    after_others();
}

bool is_compiled_for(int major) {
    cudaFuncAttributes attributes = {};
    check_cuda(cudaFuncGetAttributes(&attributes, do_nothing), "asking for a kernel's version");
    return attributes.ptxVersion >= 10 * major;
}

}  // namespace

bool cuda_launches_overlap() {
    const char *wanted = std::getenv("A2SF_CUDA_OVERLAP");
    if (wanted != nullptr && strcmp(wanted, "0") == 0) return false;
    int driver = 0, major = 0;
    check_cuda(cudaDriverGetVersion(&driver), "asking for the driver's version");
    check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0),
               "reading the compute capability");
    return CUDART_VERSION >= kLeastRuntime && driver >= kLeastRuntime && major >= kLeastMajor &&
           is_compiled_for(kLeastMajor);
}

}  // namespace a2sf
