// `a2sf bench --limits`: what fits into given amounts of memory. Loads the model and runs one layer
// of it, no text.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>
#include <vector>

#include "cli/bench_report.h"
#include "cli/common.h"

namespace a2sf::cli {

struct LimitsArguments {
    bool wanted = false;
    std::vector<size_t> memory;     // bytes; empty: what the process may use
    std::optional<KvType> kv_type;  // none: all
};

// "256M", "1.5G", "4GiB", "1000000" -> bytes; K M G T are powers of 1024. Throws UsageError.
size_t parse_size(std::string_view text);

// Throws Error when the model fits into none of the amounts.
void show_limits(const SharedArguments &shared, const LimitsArguments &limits, BenchFormat format);

}  // namespace a2sf::cli
