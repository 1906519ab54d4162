// What becomes of a CUDA call's result.
#pragma once

#include <cuda_runtime.h>

namespace a2sf {

[[noreturn]] void throw_cuda(cudaError_t status, const char *what);

// Throws DeviceError "cuda: <what>: ..." unless the call succeeded.
inline void check_cuda(cudaError_t status, const char *what) {
    if (status != cudaSuccess) throw_cuda(status, what);
}

}  // namespace a2sf
