// The rows of `a2sf bench` and their three forms. Each row is written when it is there, so that
// Ctrl-C leaves those that were finished.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "backend/backend.h"

namespace a2sf::cli {

// One line of the result. The members are the columns of JSON and CSV, in this order.
struct BenchRow {
    std::string model;        // the file's own name for it, else the file's name
    std::string weight_type;  // the type that holds most bytes
    size_t n_params = 0;
    std::string policy;
    std::optional<size_t> budget;  // none: nothing is evicted
    std::string prefill;           // empty likewise
    std::string kv_type;
    std::string device;
    std::string isa;
    size_t threads = 0;
    std::string test;         // "pp512", "tg128"
    size_t depth = 0;         // tokens read before
    double tokens_per_s = 0;  // the median repetition
    double tokens_per_s_min = 0;
    double tokens_per_s_max = 0;
    size_t kv_bytes = 0;       // the cache as allocated
    size_t kv_bytes_full = 0;  // K and V of a cache that kept every token
    size_t peak_rss_bytes = 0;
    std::optional<size_t> device_bytes;  // none: the device uses the host's memory
    size_t weight_bytes_per_token = 0;
    MachinePeaks peaks;
    double fraction_of_peak = 0;  // engine/work.h: decode_fraction or prompt_fraction

    std::optional<double> copy_gb_s() const {
        return device_bytes ? std::optional(peaks.copy_gb_s) : std::nullopt;
    }
};

enum class BenchFormat { Markdown, Json, Csv };

class BenchReport {
  public:
    // model_width: of the first column of the Markdown table.
    BenchReport(BenchFormat format, size_t model_width)
        : format_(format), model_width_(model_width) {}

    void begin();
    void add(const BenchRow &row);
    void end();

  private:
    BenchFormat format_;
    size_t model_width_;
    size_t n_rows_ = 0;
};

}  // namespace a2sf::cli
