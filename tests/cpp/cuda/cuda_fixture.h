// What the tests of the CUDA backend share: arrays on the GPU, emulated or not, and beside it.
#pragma once

#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/cuda/cuda_backend.h"
#include "backend/registry.h"
#include "base/error.h"
#include "test_kernels.h"

namespace a2sf::testing {

#ifdef A2SF_EMULATED_GPU
// The emulated machine as it was, at the end of a test that changes it.
struct Restored {
    cuda_emulator::Machine before = cuda_emulator::machine;
    ~Restored() { cuda_emulator::machine = before; }
};
inline void set_multiprocessors(int n) {
    cuda_emulator::machine.n_multiprocessors = n;
}
inline std::optional<size_t> launches_so_far() {
    return cuda_emulator::counts.n_launches;
}
#else
// A card is what it is, and counts nothing.
struct Restored {
    Restored() {}
};
inline void set_multiprocessors(int) {}
inline std::optional<size_t> launches_so_far() {
    return std::nullopt;
}
#endif

// What the body's DeviceError says; nothing if there is none.
inline std::string message_of(const std::function<void()> &body) {
    try {
        body();
    } catch (const DeviceError &error) {
        return error.what();
    }
    return {};
}

// An array of the host, copied to the GPU.
template <typename T>
class OnDevice {
  public:
    OnDevice(Backend &backend, const std::vector<T> &values)
        : backend_(backend),
          size_(values.size()),
          memory_(backend.allocate(size_ * sizeof(T), "test")) {
        backend.copy_to_device(memory_->data(), values.data(), size_ * sizeof(T));
    }
    T *data() const { return static_cast<T *>(memory_->data()); }
    Matrix<T> matrix(size_t rows, size_t cols, size_t stride) const {
        return {data(), rows, cols, stride};
    }
    Matrix<T> matrix(size_t rows, size_t cols) const { return {data(), rows, cols}; }
    std::vector<T> fetch() const {
        std::vector<T> values(size_);
        backend_.copy_to_host(values.data(), data(), size_ * sizeof(T));
        return values;
    }

  private:
    Backend &backend_;
    size_t size_;
    std::unique_ptr<DeviceMemory> memory_;
};

// An array that host and GPU share.
template <typename T>
class Shared {
  public:
    Shared(Backend &backend, size_t size)
        : size_(size), memory_(backend.allocate_shared(size * sizeof(T), "test")) {}
    Shared(Backend &backend, const std::vector<T> &values) : Shared(backend, values.size()) {
        std::copy(values.begin(), values.end(), data());
    }
    T *data() const { return static_cast<T *>(memory_->data()); }
    T &operator[](size_t i) const { return data()[i]; }
    std::vector<T> values() const { return {data(), data() + size_}; }

  private:
    size_t size_;
    std::unique_ptr<DeviceMemory> memory_;
};

inline double largest_difference(const std::vector<float> &a, const std::vector<float> &b) {
    double largest = a.size() == b.size() ? 0.0 : INFINITY;
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
        const double difference = std::fabs(static_cast<double>(a[i]) - b[i]);
        // Not-a-number is as far off as can be.
        if (!(difference <= largest)) largest = std::isnan(difference) ? INFINITY : difference;
    }
    return largest;
}

}  // namespace a2sf::testing
