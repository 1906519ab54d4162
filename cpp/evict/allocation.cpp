#include "evict/allocation.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace a2sf {

namespace {

size_t recent_of(const EvictionConfig &config, size_t budget) {
    if (config.recent_share == 0) return config.n_recent;
    return static_cast<size_t>(config.recent_share * static_cast<double>(budget) + 1e-9);
}

// The least budget that holds what is protected, and one token more where `most` allows it.
size_t least_budget(const EvictionConfig &config, size_t most) {
    size_t fixed = config.n_sinks;
    for (const PositionRange &range : config.pinned) {
        if (range.first > config.n_sinks) fixed += range.last - range.first;
    }
    size_t budget = fixed;
    while (budget < most && budget < fixed + recent_of(config, budget) + 1) ++budget;
    return std::min(budget, most);
}

// Shares scaled by `scale`, rounded down, but none below `least`.
size_t total_at(const std::vector<float> &share, double scale, size_t least) {
    size_t total = 0;
    for (const float one : share) {
        total += std::max(least, static_cast<size_t>(scale * static_cast<double>(one)));
    }
    return total;
}

}  // namespace

std::vector<HeadBudget> head_budgets(const EvictionConfig &config, size_t n_heads) {
    const std::vector<float> &share = config.allocation;
    if (share.empty()) return std::vector<HeadBudget>(n_heads, {config.budget, config.n_recent});
    if (share.size() != n_heads) {
        throw OptionError(str("allocation: ", n_heads, " shares (n_layers * n_kv_heads) expected, ",
                              "found ", share.size()));
    }
    const size_t wanted = config.budget * n_heads, least = least_budget(config, config.budget);
    // The largest scale that stays within what there is.
    double low = 0, high = static_cast<double>(wanted);
    high /= static_cast<double>(*std::min_element(share.begin(), share.end()));
    for (int i = 0; i < 200 && low < high; ++i) {
        const double middle = low + (high - low) / 2;
        (total_at(share, middle, least) <= wanted ? low : high) = middle;
    }
    std::vector<HeadBudget> result(n_heads);
    std::vector<size_t> by_rest(n_heads);
    std::vector<double> rest(n_heads);
    size_t left = wanted;
    for (size_t i = 0; i < n_heads; ++i) {
        const double exact = low * static_cast<double>(share[i]);
        result[i].budget = std::max(least, static_cast<size_t>(exact));
        rest[i] = exact - static_cast<double>(result[i].budget);
        left -= result[i].budget;
    }
    // What rounding left over goes to those that lost most by it.
    std::iota(by_rest.begin(), by_rest.end(), size_t{0});
    std::stable_sort(by_rest.begin(), by_rest.end(),
                     [&](size_t a, size_t b) { return rest[a] > rest[b]; });
    for (size_t i = 0; left > 0; i = (i + 1) % n_heads, --left) ++result[by_rest[i]].budget;
    for (HeadBudget &head : result) head.n_recent = recent_of(config, head.budget);
    return result;
}

}  // namespace a2sf
