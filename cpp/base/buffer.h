// A 64-byte aligned, move-only block of memory. Purpose: weights' scratch, activations, KV slots.
// Pages come zeroed and untouched from the system, so a large reservation costs only what is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>

namespace a2sf {

// Owns n_bytes of zeroed, 64-byte aligned memory. Throws DeviceError naming `what` when there is
// none.
class RawBuffer {
  public:
    RawBuffer() = default;
    RawBuffer(size_t n_bytes, const char *what);
    ~RawBuffer();
    RawBuffer(RawBuffer &&other) noexcept { swap(other); }
    RawBuffer &operator=(RawBuffer &&other) noexcept {
        swap(other);
        return *this;
    }
    RawBuffer(const RawBuffer &) = delete;
    RawBuffer &operator=(const RawBuffer &) = delete;

    void *data() const { return data_; }
    size_t n_bytes() const { return n_bytes_; }

  private:
    void swap(RawBuffer &other) noexcept {
        std::swap(data_, other.data_);
        std::swap(n_bytes_, other.n_bytes_);
    }
    void *data_ = nullptr;
    size_t n_bytes_ = 0;
};

// Bytes of all RawBuffers that this thread made, less those it freed: what an operation takes is
// the difference before and after it. Modulo 2^64, for a buffer may be freed by another thread.
size_t buffer_bytes();

// The same, typed. Only for trivial element types: memory starts as zero bytes.
template <typename T>
class Buffer {
  public:
    Buffer() = default;
    explicit Buffer(size_t size, const char *what = "buffer")
        : raw_(size * sizeof(T), what), size_(size) {}

    T *data() const { return static_cast<T *>(raw_.data()); }
    size_t size() const { return size_; }
    size_t n_bytes() const { return raw_.n_bytes(); }
    T &operator[](size_t i) const { return data()[i]; }
    std::span<T> span() const { return {data(), size_}; }

  private:
    RawBuffer raw_;
    size_t size_ = 0;
};

// A row-major view: rows x cols elements, `stride` elements from one row to the next.
template <typename T>
struct Matrix {
    T *data = nullptr;
    size_t rows = 0;
    size_t cols = 0;
    size_t stride = 0;

    Matrix() = default;
    Matrix(T *first, size_t n_rows, size_t n_cols) : Matrix(first, n_rows, n_cols, n_cols) {}
    Matrix(T *first, size_t n_rows, size_t n_cols, size_t row_stride)
        : data(first), rows(n_rows), cols(n_cols), stride(row_stride) {}
    T *row(size_t i) const { return data + i * stride; }
    // What may be written may be read.
    template <typename U>
        requires(std::is_same_v<T, const U>)
    Matrix(const Matrix<U> &other)
        : data(other.data), rows(other.rows), cols(other.cols), stride(other.stride) {}
};

// Rows [first, first + n).
template <typename T>
Matrix<T> rows_of(Matrix<T> matrix, size_t first, size_t n) {
    return {matrix.row(first), n, matrix.cols, matrix.stride};
}

}  // namespace a2sf
