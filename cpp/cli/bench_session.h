// Times one configuration of a model at given depths of text, for `a2sf bench`. Knows no options
// and writes no results; it shows progress.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/session.h"

namespace a2sf::cli {

// Reading a prompt of n tokens in one call, or n tokens one after the other as in generation.
struct BenchTest {
    bool is_prompt = true;
    size_t n_tokens = 0;

    std::string name() const { return (is_prompt ? "pp" : "tg") + std::to_string(n_tokens); }
};

struct Measurement {
    std::vector<double> tokens_per_s;    // [n_repetitions]
    MachinePeaks peaks;                  // medians of those measured before each and after the last
    double kv_bytes_per_token = 0;       // K and V that a token of the test had to read, on average
    size_t kv_bytes = 0;                 // allocated, at the end
    size_t kv_bytes_full = 0;            // K and V of depth + n tokens
    size_t peak_rss_bytes = 0;           // of the process, during this measurement
    std::optional<size_t> device_bytes;  // the same, of the device's own memory if it has some
};

// Peaks are measured beside every repetition that takes a while: on a machine with other work they
// move as much as speeds do.
//
// Owner: the command. At most one session lives at a time.
//
// Texts are pseudo-random ordinary tokens, the same for the same seed: each token of a tg test is
// given, not chosen. Sampling is left out, but where the device finds the likeliest token itself:
// that is then part of a step, as in greedy generation.
class BenchSession {
  public:
    // The machine is what peaks are measured with: a backend like the sessions'.
    BenchSession(const Engine &engine, Backend &machine, uint64_t seed, size_t n_repetitions,
                 bool quiet);

    // Times the test after `depth` tokens. Repetitions start at the same depth, as far as that is
    // cheap: see can_continue(). The budget in the options is a number of tokens or none. Throws
    // Interrupted at Ctrl-C.
    Measurement measure(const SessionOptions &options, const BenchTest &test, size_t depth);

    // Frees the session: to be called when the options change.
    void close() { session_.reset(); }

    // Of the newest measurement.
    const Session &session() const { return *session_; }

  private:
    void begin_memory_peaks() const;
    void keep_memory_peaks(Measurement &result) const;
    bool can_continue(size_t depth, size_t n_tokens) const;
    void warm_up(const BenchTest &test, size_t depth);
    size_t most_tokens() const;
    void start_at(size_t depth, size_t n_tokens, const std::string &what);
    double feed(const BenchTest &test, const std::string &what);
    void read_token(int32_t id);

    const Engine &engine_;
    Backend &machine_;
    uint64_t seed_;
    size_t n_repetitions_;
    bool quiet_;
    std::vector<int32_t> ordinary_;  // ids to draw from
    std::vector<int32_t> ids_;       // being read
    size_t depth_ = 0;               // that of the newest measurement
    MachinePeaks peaks_;
    std::chrono::steady_clock::time_point peaks_at_;  // the clock's start: none yet
    std::unique_ptr<Session> session_;
};

// Of each peak by itself.
MachinePeaks median_of(const std::vector<MachinePeaks> &peaks);
double median_of(std::vector<double> values);

}  // namespace a2sf::cli
