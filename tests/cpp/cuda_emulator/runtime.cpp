// Memory, streams and events of the emulated GPU.
#include <algorithm>
#include <chrono>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#include "cuda_runtime.h"

// Work that nobody has waited for yet.
struct EmulatedGraph {
    std::vector<std::function<void()>> work;
};
struct EmulatedGraphExec {
    std::vector<std::function<void()>> work;
};
struct EmulatedStream {
    std::deque<std::function<void()>> work;
    std::unique_ptr<EmulatedGraph> captured;  // while it is
    cudaError_t status = cudaSuccess;         // of what ran; sticks until somebody waits
};
struct EmulatedEvent {
    EmulatedStream *stream = nullptr;
    std::chrono::steady_clock::time_point time;
};

namespace cuda_emulator {

Machine machine;
Counts counts;

namespace {

struct Allocation {
    std::byte *pages;
    size_t n_pages_bytes;
    size_t n_bytes;
};
std::map<std::byte *, Allocation> gpu_memory;  // by what cudaMalloc gave
std::map<std::byte *, std::vector<std::byte>> host_memory;
std::set<EmulatedStream *> streams;
bool gpu_is_open = false;
std::string failure;                 // of a kernel; sticks until asked for
thread_local size_t n_captures = 0;  // begun by this thread, which makes nothing meanwhile

// One call of one thread at a time, and all that it runs.
std::recursive_mutex calls;
using Alone = std::lock_guard<std::recursive_mutex>;

// Whether the machine still makes things: see Machine::n_makes_left.
bool makes() {
    if (machine.n_makes_left == 0) return false;
    if (machine.n_makes_left != SIZE_MAX) --machine.n_makes_left;
    return true;
}

void protect(const Allocation &allocation, bool open) {
    mprotect(allocation.pages, allocation.n_pages_bytes, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

// Whether all of it is memory of the GPU.
bool is_gpu(const void *memory) {
    auto *at = static_cast<std::byte *>(const_cast<void *>(memory));
    auto next = gpu_memory.upper_bound(at);
    if (next == gpu_memory.begin()) return false;
    const auto &[begin, allocation] = *--next;
    return at < begin + allocation.n_bytes;
}

bool is_pinned(const void *memory) {
    auto *at = static_cast<std::byte *>(const_cast<void *>(memory));
    auto next = host_memory.upper_bound(at);
    if (next == host_memory.begin()) return false;
    const auto &[begin, bytes] = *--next;
    return at < begin + bytes.size();
}

void run(EmulatedStream &stream) {
    if (stream.work.empty()) return;
    ++counts.n_waits;
    for (auto &entry : gpu_memory) protect(entry.second, true);
    gpu_is_open = true;
    while (!stream.work.empty()) {
        const std::function<void()> next = std::move(stream.work.front());
        stream.work.pop_front();
        try {
            next();
        } catch (const std::exception &error) {
            failure = error.what();
            stream.status = cudaErrorLaunchFailure;
            stream.work.clear();
        }
    }
    for (auto &entry : gpu_memory) protect(entry.second, false);
    gpu_is_open = false;
}

cudaError_t finish(EmulatedStream &stream) {
    if (stream.captured) return cudaErrorStreamCaptureUnsupported;
    run(stream);
    return std::exchange(stream.status, cudaSuccess);
}

}  // namespace

cudaError_t enqueue(cudaStream_t stream, std::function<void()> work) {
    const Alone alone(calls);
    if (streams.count(stream) == 0) return cudaErrorInvalidValue;
    if (stream->captured) {
        stream->captured->work.push_back(std::move(work));
    } else {
        stream->work.push_back(std::move(work));
    }
    return cudaSuccess;
}
cudaError_t enqueue_launch(cudaStream_t stream, std::function<void()> work) {
    const Alone alone(calls);
    ++counts.n_asked;
    return enqueue(stream, std::move(work));
}

}  // namespace cuda_emulator

using namespace cuda_emulator;

const char *cudaGetErrorName(cudaError_t status) {
    return status == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaError";
}
const char *cudaGetErrorString(cudaError_t status) {
    return status == cudaErrorLaunchFailure ? failure.c_str() : "emulated";
}
cudaError_t cudaGetLastError() {
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) {
    *version = machine.driver_version;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int *n_devices) {
    *n_devices = machine.n_devices;
    return machine.count_status;
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int) {
    *value = attribute == cudaDevAttrComputeCapabilityMajor ? machine.major
             : attribute == cudaDevAttrMultiProcessorCount  ? machine.n_multiprocessors
                                                            : 0;
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *n_free, size_t *n_total) {
    const Alone alone(calls);
    *n_total = machine.n_memory;
    *n_free = machine.n_memory - counts.n_bytes;
    return cudaSuccess;
}

// Ends where a page ends, so that what reads or writes behind it faults. 256-byte aligned.
cudaError_t cudaMalloc(void **memory, size_t n_bytes) {
    const Alone alone(calls);
    if (n_captures > 0) return cudaErrorStreamCaptureUnsupported;
    const size_t rounded = (n_bytes + 255) / 256 * 256;
    if (!makes() || counts.n_bytes + rounded > machine.n_memory) return cudaErrorMemoryAllocation;
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t n_pages_bytes = (rounded + page - 1) / page * page + page;
    void *pages = mmap(nullptr, n_pages_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) return cudaErrorMemoryAllocation;
    auto *begin = static_cast<std::byte *>(pages);
    mprotect(begin + n_pages_bytes - page, page, PROT_NONE);
    const Allocation allocation = {begin, n_pages_bytes - page, rounded};
    std::byte *data = begin + allocation.n_pages_bytes - rounded;
    std::memset(data, 0xff, std::min(rounded, size_t{1} << 20));
    gpu_memory[data] = allocation;
    protect(allocation, gpu_is_open);
    counts.n_bytes += rounded;
    ++counts.n_allocations;
    *memory = data;
    return cudaSuccess;
}
cudaError_t cudaFree(void *memory) {
    const Alone alone(calls);
    const auto at = gpu_memory.find(static_cast<std::byte *>(memory));
    if (at == gpu_memory.end()) return cudaErrorInvalidValue;
    for (EmulatedStream *stream : streams) run(*stream);  // the real one waits, too
    munmap(at->second.pages, at->second.n_pages_bytes + static_cast<size_t>(sysconf(_SC_PAGESIZE)));
    counts.n_bytes -= at->second.n_bytes;
    --counts.n_allocations;
    gpu_memory.erase(at);
    return cudaSuccess;
}
cudaError_t cudaHostAlloc(void **memory, size_t n_bytes, unsigned) {
    const Alone alone(calls);
    size_t n_used = 0;
    for (const auto &entry : host_memory) n_used += entry.second.size();
    if (!makes() || n_used + n_bytes > machine.most_host_bytes) return cudaErrorMemoryAllocation;
    std::vector<std::byte> bytes(n_bytes, std::byte{0xff});
    std::byte *data = bytes.data();
    host_memory.emplace(data, std::move(bytes));
    ++counts.n_allocations;
    *memory = data;
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void *memory) {
    const Alone alone(calls);
    const auto at = host_memory.find(static_cast<std::byte *>(memory));
    if (at == host_memory.end()) return cudaErrorInvalidValue;
    for (EmulatedStream *stream : streams) run(*stream);
    --counts.n_allocations;
    host_memory.erase(at);
    return cudaSuccess;
}

// Pageable memory is read before the call returns, page-locked memory when the stream gets there;
// what goes to pageable memory is there when the call returns.
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n_bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    const Alone alone(calls);
    const bool from_gpu = is_gpu(from), to_gpu = is_gpu(to);
    const bool wrong = (kind == cudaMemcpyHostToDevice && (from_gpu || !to_gpu)) ||
                       (kind == cudaMemcpyDeviceToHost && (!from_gpu || to_gpu)) ||
                       (kind == cudaMemcpyDeviceToDevice && (!from_gpu || !to_gpu));
    if (wrong) return cudaErrorInvalidValue;
    if (from_gpu && !to_gpu) counts.n_bytes_to_host += n_bytes;
    if (!from_gpu && !is_pinned(from)) {
        const auto *bytes = static_cast<const std::byte *>(from);
        return enqueue(stream, [to, copy = std::vector<std::byte>(bytes, bytes + n_bytes)] {
            std::memcpy(to, copy.data(), copy.size());
        });
    }
    const cudaError_t status =
        enqueue(stream, [to, from, n_bytes] { std::memmove(to, from, n_bytes); });
    if (status != cudaSuccess || to_gpu || is_pinned(to)) return status;
    return finish(*stream);
}
cudaError_t cudaMemsetAsync(void *memory, int value, size_t n_bytes, cudaStream_t stream) {
    const Alone alone(calls);
    if (!is_gpu(memory)) return cudaErrorInvalidValue;
    return enqueue(stream, [=] { std::memset(memory, value, n_bytes); });
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    const Alone alone(calls);
    if (!makes()) return cudaErrorMemoryAllocation;
    *stream = new EmulatedStream;
    streams.insert(*stream);
    ++counts.n_streams;
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    const Alone alone(calls);
    finish(*stream);
    streams.erase(stream);
    delete stream;
    --counts.n_streams;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    const Alone alone(calls);
    return finish(*stream);
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    const Alone alone(calls);
    if (stream->captured) return cudaErrorInvalidValue;
    stream->captured = std::make_unique<EmulatedGraph>();
    ++n_captures;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    const Alone alone(calls);
    if (!stream->captured) return cudaErrorInvalidValue;
    *graph = stream->captured.release();
    --n_captures;
    ++counts.n_graphs;
    ++counts.n_captures;
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    const Alone alone(calls);
    delete graph;
    --counts.n_graphs;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    const Alone alone(calls);
    if (!makes()) return cudaErrorMemoryAllocation;
    *exec = new EmulatedGraphExec{graph->work};
    ++counts.n_graphs;
    return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) {
    const Alone alone(calls);
    return makes() ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    const Alone alone(calls);
    ++counts.n_plays;
    for (const auto &work : exec->work) {
        const cudaError_t status = enqueue(stream, work);
        if (status != cudaSuccess) return status;
    }
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    const Alone alone(calls);
    delete exec;
    --counts.n_graphs;
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *event) {
    const Alone alone(calls);
    if (!makes()) return cudaErrorMemoryAllocation;
    *event = new EmulatedEvent;
    ++counts.n_events;
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    const Alone alone(calls);
    delete event;
    --counts.n_events;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    const Alone alone(calls);
    event->stream = stream;
    return enqueue(stream, [event] { event->time = std::chrono::steady_clock::now(); });
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    const Alone alone(calls);
    return finish(*event->stream);
}
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end) {
    const std::chrono::duration<float, std::milli> time = end->time - begin->time;
    *milliseconds = time.count();
    return cudaSuccess;
}
