// A build with CUDA: what this machine lacks of what it needs, and the first of its GPUs.
#include "backend/cuda/cuda_entry.h"

#include <cuda_runtime.h>

#include "backend/cuda/cuda_backend.h"
#include "base/error.h"

namespace a2sf {

namespace {

// What kernels need: bfloat16 on tensor cores.
constexpr int kLeastMajor = 8;

struct Capability {
    int major = 0;
    int minor = 0;
};

Capability capability() {
    Capability found;
    check_cuda(cudaDeviceGetAttribute(&found.major, cudaDevAttrComputeCapabilityMajor, 0),
               "reading the compute capability");
    check_cuda(cudaDeviceGetAttribute(&found.minor, cudaDevAttrComputeCapabilityMinor, 0),
               "reading the compute capability");
    return found;
}

}  // namespace

std::string cuda_unavailable() {
    int version = 0, n_devices = 0;
    if (cudaDriverGetVersion(&version) != cudaSuccess || version == 0) {
        cudaGetLastError();
        return "no NVIDIA driver";
    }
    const cudaError_t status = cudaGetDeviceCount(&n_devices);
    if (status == cudaErrorInsufficientDriver) {
        cudaGetLastError();
        return str("an NVIDIA driver for CUDA ", version / 1000, ".", version % 1000 / 10,
                   ", older than this a2sf needs (", CUDART_VERSION / 1000, ".",
                   CUDART_VERSION % 1000 / 10, ")");
    }
    if (status != cudaSuccess || n_devices == 0) {
        cudaGetLastError();
        return "an NVIDIA driver, but no GPU";
    }
    const Capability found = capability();
    if (found.major >= kLeastMajor) return {};
    return str("a GPU of compute capability ", found.major, ".", found.minor, ", at least ",
               kLeastMajor, ".0 is needed");
}

std::unique_ptr<Backend> create_cuda(const BackendOptions &options) {
    return std::make_unique<CudaBackend>(options.n_threads);
}

const char *cuda_isa() {
    static const std::string name = [] {
        const Capability found = capability();
        return str("sm_", found.major, found.minor);
    }();
    return name.c_str();
}

OwnMemory cuda_memory() {
    OwnMemory memory = GpuMemory::taken();
    check_cuda(cudaMemGetInfo(&memory.n_free, &memory.n_total), "asking for free memory");
    return memory;
}

void begin_cuda_peak() {
    GpuMemory::begin_peak();
}

}  // namespace a2sf
