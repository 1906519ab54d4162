// An array that operations read and write and the host looks into: on a device with memory of its
// own it lies there, with a copy beside it that is the host's; else both are one. Starts as zero
// bytes. Owner: whoever owns the backend, which must live longer.
#pragma once

#include <memory>

#include "backend/backend.h"
#include "base/buffer.h"

namespace a2sf {

template <typename T>
class MirroredArray {
  public:
    MirroredArray() = default;
    MirroredArray(Backend &backend, size_t size, const char *what)
        : backend_(&backend), memory_(backend.allocate(size * sizeof(T), what)) {
        if (backend.keeps_slots()) mirror_ = Buffer<T>(size, what);
    }

    T *device() const { return memory_ ? static_cast<T *>(memory_->data()) : nullptr; }
    T *host() const { return is_one() ? device() : mirror_.data(); }
    size_t n_bytes() const { return memory_ ? memory_->n_bytes() : 0; }

    // Elements [first, first + n) of the device become the host's, once all operations asked for so
    // far are done; and the other way round, before all that are asked for later.
    void fetch(size_t first, size_t n) const {
        if (!is_one()) backend_->copy_to_host(host() + first, device() + first, n * sizeof(T));
    }
    void push(size_t first, size_t n) const {
        if (!is_one()) backend_->put(device() + first, host() + first, n * sizeof(T));
    }

  private:
    bool is_one() const { return mirror_.size() == 0; }

    Backend *backend_ = nullptr;
    std::unique_ptr<DeviceMemory> memory_;
    Buffer<T> mirror_;
};

}  // namespace a2sf
