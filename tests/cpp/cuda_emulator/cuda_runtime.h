// The words of CUDA that cpp/backend/cuda uses, with a meaning on the processor: its sources
// compile against this file as C++, and tests run them. Fast it is not; strict it is meant to be:
//
//  - Launches and copies run when somebody waits for them and not before, as on a busy GPU, so that
//    a host that reads too early or writes too soon is found out.
//  - What a stream is asked for while it is captured does not run; the graph of it runs as often as
//    it is launched, with the arguments of that time. Nothing may wait for a stream in between.
//  - Memory of the GPU cannot be touched by the host: it faults. It begins as rubbish.
//  - A block's threads are fibers. A barrier or shuffle that some thread of the block or warp does
//    not reach is an error. Shared memory begins as rubbish.
//
// What it cannot show: races between threads that run at once, alignment, speed, and what nvcc
// makes of the code.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __shared__ static  // blocks run one after the other
#define __align__(n) __attribute__((aligned(n)))

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    constexpr dim3(unsigned the_x = 1, unsigned the_y = 1, unsigned the_z = 1)
        : x(the_x), y(the_y), z(the_z) {}
};
// Of the running thread.
extern dim3 threadIdx, blockIdx, blockDim;

struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorLaunchFailure = 719,
    cudaErrorStreamCaptureUnsupported = 900,
};
enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault,
};
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
};
#define CUDART_VERSION 13000
#define A2SF_EMULATED_GPU
constexpr unsigned cudaStreamNonBlocking = 1, cudaHostAllocPortable = 1;
using cudaStream_t = struct EmulatedStream *;
using cudaEvent_t = struct EmulatedEvent *;
using cudaGraph_t = struct EmulatedGraph *;
using cudaGraphExec_t = struct EmulatedGraphExec *;
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal };

enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization = 6 };
struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    struct {
        int programmaticStreamSerializationAllowed;
    } val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes = 0;
    cudaStream_t stream = nullptr;
    cudaLaunchAttribute *attrs = nullptr;
    unsigned numAttrs = 0;
};

const char *cudaGetErrorName(cudaError_t status);
const char *cudaGetErrorString(cudaError_t status);
cudaError_t cudaGetLastError();
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaGetDeviceCount(int *n_devices);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
cudaError_t cudaMemGetInfo(size_t *n_free, size_t *n_total);
cudaError_t cudaMalloc(void **memory, size_t n_bytes);
cudaError_t cudaFree(void *memory);
cudaError_t cudaHostAlloc(void **memory, size_t n_bytes, unsigned flags);
cudaError_t cudaFreeHost(void *memory);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n_bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *memory, int value, size_t n_bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
                                 unsigned long long flags);
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaEventCreate(cudaEvent_t *event);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end);

struct cudaFuncAttributes {
    int ptxVersion;
};

namespace cuda_emulator {

// What the machine of a test is like. Several threads may use it, one call at a time.
struct Machine {
    int driver_version = 13000;  // 0: no driver
    cudaError_t count_status = cudaSuccess;
    int n_devices = 1;
    int major = 8;
    int n_multiprocessors = 1;
    int ptx_version = 80;  // of the compiled kernels
    size_t n_memory = size_t{1} << 30;
    size_t most_host_bytes = size_t{1} << 30;
    size_t n_makes_left = SIZE_MAX;     // memory, streams and events, until no more are given
    size_t n_launches_left = SIZE_MAX;  // that run, until one fails; those after it run again
};
extern Machine machine;

// What is alive of all that was made.
struct Counts {
    size_t n_allocations = 0;  // of the GPU and page-locked
    size_t n_streams = 0;
    size_t n_events = 0;
    size_t n_waits = 0;          // that had something to wait for, since the beginning
    size_t n_launches = 0;       // since the beginning
    size_t n_overlapping = 0;    // launches that may, since the beginning
    size_t n_asked = 0;          // launches that no graph holds, since the beginning
    size_t n_graphs = 0;         // and what is made of them
    size_t n_captures = 0;       // since the beginning
    size_t n_plays = 0;          // of graphs, since the beginning
    size_t n_bytes = 0;          // of the GPU
    size_t n_bytes_to_host = 0;  // copied, since the beginning
};
extern Counts counts;

unsigned char *shared_memory();
void after_others();  // every thread of a kernel calls it, or it is an error
void block_barrier();
int block_or(int value);
void warp_barrier();
uint64_t exchange(uint64_t value, unsigned lane);  // what that lane of the warp has
void multiply_tiles(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                    float (*to_float)(uint16_t));
void load_matrices(const void *row, uint32_t (&to)[4], bool transposed);
// Done when they are waited for and not before.
void copy_beside(void *to, const void *from, uint32_t n_bytes);
void end_copies();
void wait_for_copies(size_t n_newest);

cudaError_t enqueue(cudaStream_t stream, std::function<void()> work);
cudaError_t enqueue_launch(cudaStream_t stream, std::function<void()> work);
void run_kernel(const cudaLaunchConfig_t &config, const std::function<void()> &thread);

template <typename T>
T shuffle(T value, unsigned lane) {
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = exchange(bits, lane);
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline unsigned lane() {
    return threadIdx.x % 32;
}

}  // namespace cuda_emulator

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Parameters...),
                               Arguments &&...arguments) {
    const cudaLaunchConfig_t at = *config;
    if (at.dynamicSmemBytes > 48 * 1024 || at.gridDim.y > 65535 || at.gridDim.z > 65535 ||
        at.gridDim.x == 0 || at.gridDim.y == 0 || at.blockDim.x == 0 || at.blockDim.x > 1024 ||
        at.blockDim.x % 32 != 0) {
        return cudaErrorInvalidValue;
    }
    return cuda_emulator::enqueue_launch(
        at.stream, [at, kernel, ... copies = std::decay_t<Parameters>(arguments)] {
            cuda_emulator::run_kernel(at, [&] { kernel(copies...); });
        });
}

template <typename Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, Kernel) {
    attributes->ptxVersion = cuda_emulator::machine.ptx_version;
    return cudaSuccess;
}

inline void __syncthreads() {
    cuda_emulator::block_barrier();
}
inline int __syncthreads_or(int value) {
    return cuda_emulator::block_or(value);
}
inline void __syncwarp() {
    cuda_emulator::warp_barrier();
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int step) {
    return cuda_emulator::shuffle(value, cuda_emulator::lane() ^ static_cast<unsigned>(step));
}
template <typename T>
T __shfl_sync(unsigned, T value, int lane) {
    return cuda_emulator::shuffle(value, static_cast<unsigned>(lane));
}
inline int __any_sync(unsigned, int value) {
    value = value != 0;
    for (int step = 16; step > 0; step /= 2) value |= __shfl_xor_sync(0u, value, step);
    return value;
}
inline int __all_sync(unsigned, int value) {
    return !__any_sync(0u, !value);
}
inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; ++i) {
        c += static_cast<int8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i);
    }
    return c;
}
// The larger of each pair of signed bytes.
inline unsigned __vmaxs4(unsigned a, unsigned b) {
    unsigned result = 0;
    for (int i = 0; i < 4; ++i) {
        const auto x = static_cast<int8_t>(a >> 8 * i), y = static_cast<int8_t>(b >> 8 * i);
        result |= static_cast<unsigned>(static_cast<uint8_t>(x > y ? x : y)) << 8 * i;
    }
    return result;
}
