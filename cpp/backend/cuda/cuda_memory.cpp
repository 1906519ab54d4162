#include "backend/cuda/cuda_memory.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "backend/cuda/cuda_check.h"
#include "base/error.h"

namespace a2sf {

namespace {

constexpr size_t kStagingBytes = size_t{4} << 20;
constexpr size_t kAlignment = 64;
constexpr size_t kLargestShare = 4;  // an array is at most this part of the ring

// Bytes asked for, without what the driver rounds up and takes itself.
std::atomic<size_t> n_taken = 0, n_peak = 0;
thread_local size_t n_by_thread = 0;

void count_taken(size_t n_bytes) {
    n_by_thread += n_bytes;
    const size_t now = n_taken += n_bytes;
    for (size_t peak = n_peak; now > peak && !n_peak.compare_exchange_weak(peak, now);) continue;
}

void count_freed(size_t n_bytes) {
    n_by_thread -= n_bytes;
    n_taken -= n_bytes;
}

}  // namespace

GpuMemory::GpuMemory(size_t n_bytes, const char *what) {
    n_bytes_ = n_bytes;
    if (n_bytes == 0) return;
    const cudaError_t status = cudaMalloc(&data_, n_bytes);
    if (status == cudaSuccess) {
        count_taken(n_bytes);
        return;
    }
    data_ = nullptr;
    if (status != cudaErrorMemoryAllocation) throw_cuda(status, what);
    cudaGetLastError();
    size_t n_free = 0, n_total = 0;
    check_cuda(cudaMemGetInfo(&n_free, &n_total), "asking for free memory");
    throw DeviceError(str(what, ": ", n_bytes, " bytes of GPU memory wanted, ", n_free, " of ",
                          n_total, " are free"));
}

GpuMemory::~GpuMemory() {
    if (data_ == nullptr) return;
    cudaFree(data_);  // a destructor has nobody to tell
    count_freed(n_bytes_);
}

OwnMemory GpuMemory::taken() {
    return {.n_taken = n_taken, .n_peak = n_peak, .n_by_thread = n_by_thread};
}

void GpuMemory::begin_peak() {
    n_peak = n_taken.load();
}

SharedMemory::SharedMemory(size_t n_bytes, const char *what) {
    n_bytes_ = n_bytes;
    if (n_bytes == 0) return;
    const cudaError_t status = cudaHostAlloc(&data_, n_bytes, cudaHostAllocPortable);
    if (status == cudaSuccess) {
        std::memset(data_, 0, n_bytes);
        return;
    }
    data_ = nullptr;
    if (status != cudaErrorMemoryAllocation) throw_cuda(status, what);
    cudaGetLastError();
    throw DeviceError(
        str(what, ": ", n_bytes, " bytes of page-locked memory wanted, the system gave none"));
}

SharedMemory::~SharedMemory() {
    if (data_ != nullptr) cudaFreeHost(data_);
}

// Where in the ring n_bytes fit. An operation has one or two large arrays: with small ones they are
// less than the ring, and none covers another whose kernel has yet to be launched.
size_t Staging::take(size_t n_bytes) {
    const size_t room = (n_bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (!device_ || used_ + room > device_->n_bytes()) {
        // Once around: what was copied before this operation must have been read.
        check_cuda(cudaStreamSynchronize(stream_), "waiting for the GPU");
        old_devices_.clear();
        used_ = 0;
    }
    if (!device_ || room > device_->n_bytes() / kLargestShare) {
        const size_t size = std::max(kStagingBytes, kLargestShare * room);
        auto host = std::make_unique<SharedMemory>(size, "arguments of operations");
        auto device = std::make_unique<GpuMemory>(size, "arguments of operations");
        // The host's ring is copied from; the GPU's holds arrays of this operation.
        check_cuda(cudaStreamSynchronize(stream_), "waiting for the GPU");
        if (device_) old_devices_.push_back(std::move(device_));
        host_ = std::move(host);
        device_ = std::move(device);
        used_ = 0;
    }
    used_ += room;
    return used_ - room;
}

size_t Staging::n_bytes() const {
    size_t total = device_ ? device_->n_bytes() : 0;
    for (const auto &memory : old_devices_) total += memory->n_bytes();
    return total;
}

const void *Staging::copy_bytes(const void *from, size_t n_bytes) {
    const size_t at = take(n_bytes);
    auto *host = static_cast<std::byte *>(host_->data()) + at;
    auto *device = static_cast<std::byte *>(device_->data()) + at;
    if (n_bytes == 0) return device;
    std::memcpy(host, from, n_bytes);
    check_cuda(cudaMemcpyAsync(device, host, n_bytes, cudaMemcpyHostToDevice, stream_),
               "copying arguments");
    return device;
}

void Staging::copy_to(void *to, const void *from, size_t n_bytes) {
    for (size_t done = 0; done < n_bytes;) {
        const size_t n = std::min(n_bytes - done, kStagingBytes / 2), at = take(n);
        std::byte *host = static_cast<std::byte *>(host_->data()) + at;
        std::memcpy(host, static_cast<const std::byte *>(from) + done, n);
        check_cuda(cudaMemcpyAsync(static_cast<std::byte *>(to) + done, host, n,
                                   cudaMemcpyHostToDevice, stream_),
                   "copying to the GPU");
        done += n;
    }
}

}  // namespace a2sf
