// What the GPU can do at most, measured with events on the stream.
#include <algorithm>

#include "backend/cuda/cuda_backend.h"

namespace a2sf {

namespace {

constexpr size_t kCopyBytes = size_t{256} << 20;
constexpr float kLongEnough = 20.0f;  // milliseconds
constexpr int kFirstRounds = 16, kMostRounds = 1 << 20;

class Event {
  public:
    Event() { check_cuda(cudaEventCreate(&handle_), "making an event"); }
    ~Event() { cudaEventDestroy(handle_); }
    Event(const Event &) = delete;
    Event &operator=(const Event &) = delete;
    void record(cudaStream_t stream) { check_cuda(cudaEventRecord(handle_, stream), "an event"); }
    // Waits for `end`.
    static double seconds(const Event &begin, const Event &end) {
        float milliseconds = 0.0f;
        check_cuda(cudaEventSynchronize(end.handle_), "waiting for an event");
        check_cuda(cudaEventElapsedTime(&milliseconds, begin.handle_, end.handle_), "an event");
        return std::max(static_cast<double>(milliseconds), 1e-6) / 1000.0;
    }

  private:
    cudaEvent_t handle_ = nullptr;
};

}  // namespace

// launch(n_rounds) asks for a loop and returns its operations. Loops double until one is long
// against what its launch costs.
template <typename Launch>
double CudaBackend::operations_per_s(const Launch &launch) {
    Event begin, end;
    for (int n_rounds = kFirstRounds;; n_rounds *= 2) {
        begin.record(queue_.stream());
        const double n_operations = launch(n_rounds);
        end.record(queue_.stream());
        const double time_s = Event::seconds(begin, end);
        if (time_s * 1000.0 >= kLongEnough || n_rounds >= kMostRounds) {
            return n_operations / time_s;
        }
    }
}

// Bytes read plus bytes written.
double CudaBackend::copied_bytes_per_s() {
    size_t n_free = 0, n_total = 0;
    check_cuda(cudaMemGetInfo(&n_free, &n_total), "asking for free memory");
    const size_t n_bytes = std::min(kCopyBytes, n_free / 4);
    const auto from = allocate(n_bytes, "measuring memory"), to = allocate(n_bytes, "the same");
    return operations_per_s([&](int n_copies) {
        for (int i = 0; i < n_copies; ++i) {
            check_cuda(cudaMemcpyAsync(to->data(), from->data(), n_bytes, cudaMemcpyDeviceToDevice,
                                       queue_.stream()),
                       "copying within the GPU");
        }
        return 2.0 * n_copies * static_cast<double>(n_bytes);
    });
}

MachinePeaks CudaBackend::measure_peaks() {
    const size_t n = queue_.n_multiprocessors();
    const auto memory = allocate(sizeof(float), "measuring arithmetic");
    void *sink = memory->data();
    MachinePeaks peaks;
    peaks.read_gb_s = peaks.copy_gb_s = copied_bytes_per_s() / 1e9;
    const auto giga = [&](auto peak) {
        return operations_per_s([&](int rounds) { return peak(queue_, n, rounds, sink); }) / 1e9;
    };
    peaks.int8_gops = giga(cuda_peak_int8);
    peaks.float_gflops = giga(cuda_peak_float);
    peaks.bfloat16_gflops = giga(cuda_peak_bfloat);
    return peaks;
}

}  // namespace a2sf
