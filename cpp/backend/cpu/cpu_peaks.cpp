// What this machine can do at most with the backend's threads and instruction set: memory reads,
// byte and float multiply-adds. Arithmetic: the best of a few short runs, since others on the
// machine only ever make one slower. Reading: the median, what memory gives now; whoever shares it
// is there for the engine as well.
#include <algorithm>
#include <array>
#include <chrono>

#include "backend/cpu/cpu_backend.h"
#include "base/process_memory.h"

namespace a2sf {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRuns = 3;
constexpr int kReads = 5;
constexpr double kRunS = 0.05;
constexpr size_t kMostReadBytes = size_t{1} << 30;   // more than caches hold
constexpr size_t kLeastReadBytes = size_t{1} << 24;  // still a number where memory is short
constexpr size_t kReadTaskBytes = size_t{1} << 22;   // 2^22 divides by kPeakReadFloats floats
constexpr size_t kPageBytes = 4096;                  // the smallest that systems have
constexpr size_t kRounds = 4096;                     // microseconds to a few milliseconds
static_assert(kRounds <= kPeakMostRounds);
static_assert(kReadTaskBytes % (kPeakReadFloats * sizeof(float)) == 0);

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

// A quarter of what is available, within the limits above, in whole tasks.
size_t read_bytes() {
    const size_t available = available_memory();
    const size_t wanted = available == 0
                              ? kMostReadBytes
                              : std::clamp(available / 4, kLeastReadBytes, kMostReadBytes);
    return wanted / kReadTaskBytes * kReadTaskBytes;
}

// The best rate in 1e9/s of a kernel that every worker calls for kRunS seconds.
double best_rate(ThreadPool &pool, double (*kernel)(size_t n_rounds)) {
    double best = 0;
    Buffer<double> n_done(pool.n_threads(), "peaks");  // by task
    for (int run = 0; run < kRuns; ++run) {
        const Clock::time_point start = Clock::now();
        pool.run(pool.n_threads(), [&](size_t task, size_t) {
            const Clock::time_point task_start = Clock::now();
            n_done[task] = 0;
            while (seconds_since(task_start) < kRunS) n_done[task] += kernel(kRounds);
        });
        const double time_s = seconds_since(start);
        double total = 0;
        for (const double n : n_done.span()) total += n;
        best = std::max(best, total / time_s / 1e9);
    }
    return best;
}

double usual_read(ThreadPool &pool, const Kernels &kernels) {
    const size_t n_bytes = read_bytes(), n_tasks = n_bytes / kReadTaskBytes;
    const size_t n_floats = kReadTaskBytes / sizeof(float);
    const Buffer<float> buffer(n_bytes / sizeof(float), "memory to measure reading with");
    // Written first, or every page would be the system's one page of zeros.
    pool.run(n_tasks, [&](size_t task, size_t) {
        float *part = buffer.data() + task * n_floats;
        for (size_t i = 0; i < n_floats; i += kPageBytes / sizeof(float)) part[i] = 1.0f;
    });
    std::array<double, kReads> rates = {};
    for (double &rate : rates) {
        const Clock::time_point start = Clock::now();
        pool.run(n_tasks, [&](size_t task, size_t) {
            kernels.read_floats(buffer.data() + task * n_floats, n_floats);
        });
        rate = static_cast<double>(n_bytes) / seconds_since(start) / 1e9;
    }
    std::nth_element(rates.begin(), rates.begin() + kReads / 2, rates.end());
    return rates[kReads / 2];
}

}  // namespace

MachinePeaks CpuBackend::measure_peaks() {
    MachinePeaks peaks;
    peaks.int8_gops = best_rate(pool_, kernels_.peak_int8);
    peaks.float_gflops = best_rate(pool_, kernels_.peak_float);
    if (kernels_.peak_tiles != nullptr) {
        peaks.bfloat16_gflops = best_rate(pool_, kernels_.peak_tiles);
    }
    peaks.read_gb_s = usual_read(pool_, kernels_);
    return peaks;
}

}  // namespace a2sf
