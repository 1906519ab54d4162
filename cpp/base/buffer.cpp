#include "base/buffer.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "base/error.h"

namespace a2sf {

namespace {

constexpr size_t kAlignment = 64;
// From this size on memory is mapped, which keeps untouched pages free.
constexpr size_t kMappedBytes = size_t{1} << 20;

thread_local size_t n_buffer_bytes = 0;

}  // namespace

RawBuffer::RawBuffer(size_t n_bytes, const char *what) : n_bytes_(n_bytes) {
    if (n_bytes == 0) return;
    if (n_bytes >= kMappedBytes) {
        data_ = mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (data_ == MAP_FAILED) data_ = nullptr;
    } else {
        const size_t rounded = (n_bytes + kAlignment - 1) / kAlignment * kAlignment;
        data_ = std::aligned_alloc(kAlignment, rounded);
        if (data_ != nullptr) std::memset(data_, 0, rounded);
    }
    if (data_ == nullptr) {
        throw DeviceError(
            str(what, ": ", n_bytes, " bytes of memory wanted, the system gave none"));
    }
    n_buffer_bytes += n_bytes;
}

RawBuffer::~RawBuffer() {
    if (data_ == nullptr) return;
    n_buffer_bytes -= n_bytes_;
    if (n_bytes_ >= kMappedBytes) {
        munmap(data_, n_bytes_);
    } else {
        std::free(data_);
    }
}

size_t buffer_bytes() {
    return n_buffer_bytes;
}

}  // namespace a2sf
