// An array in memory that a backend's operations and the host share (Backend::allocate_shared).
// Starts as zero bytes. Owner: whoever owns the backend, which must live longer.
#pragma once

#include <memory>

#include "backend/backend.h"

namespace a2sf {

template <typename T>
class SharedArray {
  public:
    SharedArray() = default;
    SharedArray(Backend &backend, size_t size, const char *what)
        : memory_(backend.allocate_shared(size * sizeof(T), what)),
          data_(static_cast<T *>(memory_->data())) {}

    T *data() const { return data_; }
    size_t n_bytes() const { return memory_ ? memory_->n_bytes() : 0; }
    T &operator[](size_t i) const { return data_[i]; }

  private:
    std::unique_ptr<DeviceMemory> memory_;
    T *data_ = nullptr;
};

}  // namespace a2sf
