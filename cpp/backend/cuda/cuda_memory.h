// Memory of the GPU, memory that both reach, and the way of small arrays from one to the other.
#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/registry.h"

namespace a2sf {

// Memory of the GPU. Contents are undefined. Throws DeviceError saying how much was wanted for what
// and how much was free.
class GpuMemory final : public DeviceMemory {
  public:
    GpuMemory(size_t n_bytes, const char *what);
    ~GpuMemory() override;
    GpuMemory(const GpuMemory &) = delete;
    GpuMemory &operator=(const GpuMemory &) = delete;

    // Of all there is and was; the total and what is free are left out.
    static OwnMemory taken();
    static void begin_peak();
};

// Memory of the host that the GPU reads and writes at the same addresses, page-locked and zeroed.
class SharedMemory final : public DeviceMemory {
  public:
    SharedMemory(size_t n_bytes, const char *what);
    ~SharedMemory() override;
    SharedMemory(const SharedMemory &) = delete;
    SharedMemory &operator=(const SharedMemory &) = delete;
};

// Copies arrays of the host, which may change as soon as the call returns, to the GPU in the order
// of its stream. A ring, four times the largest array and more: what copy() has copied stays for
// longer than one operation takes. Owner: one backend.
class Staging {
  public:
    explicit Staging(cudaStream_t stream) : stream_(stream) {}

    // Where it is on the GPU.
    const void *copy_bytes(const void *from, size_t n_bytes);
    // To memory of the GPU's.
    void copy_to(void *to, const void *from, size_t n_bytes);

    size_t n_bytes() const;  // on the GPU

  private:
    size_t take(size_t n_bytes);

    cudaStream_t stream_;
    std::unique_ptr<SharedMemory> host_;
    std::unique_ptr<GpuMemory> device_;
    std::vector<std::unique_ptr<GpuMemory>> old_devices_;  // too small; until all of them is read
    size_t used_ = 0;
};

}  // namespace a2sf
