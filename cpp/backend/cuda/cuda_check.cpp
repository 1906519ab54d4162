#include "backend/cuda/cuda_check.h"

#include "base/error.h"

namespace a2sf {

void throw_cuda(cudaError_t status, const char *what) {
    cudaGetLastError();  // what can be taken back is: the next call does not fail for this one
    throw DeviceError(str("cuda: ", what, ": success expected, found ", cudaGetErrorName(status),
                          " (", cudaGetErrorString(status), ")"));
}

}  // namespace a2sf
