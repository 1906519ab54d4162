#include "evict/allocation.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace a2sf {

namespace {

size_t recent_of(const EvictionConfig &config, size_t budget) {
    return config.recent_share == 0 ? config.n_recent : floor_share(config.recent_share, budget);
}

// The least budget that holds what is protected, and one token more where `most` allows it.
size_t least_budget(const EvictionConfig &config, size_t most) {
    const size_t fixed = config.n_sinks + config.n_pinned_behind_sinks();
    // What is not recent grows with the budget, so that the least can be searched by halves.
    size_t low = std::min(fixed, most), high = most;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (middle >= fixed + recent_of(config, middle) + 1) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

// A share scaled, rounded down, from `least` to `most`; shares may be any floats above 0.
size_t scaled(float share, double scale, size_t least, size_t most) {
    const double exact = std::min(scale * static_cast<double>(share), static_cast<double>(most));
    return std::max(least, static_cast<size_t>(exact));
}

size_t total_at(const std::vector<float> &share, double scale, size_t least, size_t most) {
    size_t total = 0;
    for (const float one : share) total += scaled(one, scale, least, most);
    return total;
}

}  // namespace

void check_n_shares(const std::vector<float> &allocation, size_t n_heads) {
    if (allocation.empty() || allocation.size() == n_heads) return;
    throw OptionError(str("allocation: ", n_heads, " shares (n_layers * n_kv_heads) expected, ",
                          "found ", allocation.size()));
}

std::vector<HeadBudget> head_budgets(const EvictionConfig &config, size_t n_heads) {
    const std::vector<float> &share = config.allocation;
    if (share.empty()) return std::vector<HeadBudget>(n_heads, {config.budget, config.n_recent});
    check_n_shares(config.allocation, n_heads);
    const size_t wanted = config.budget * n_heads, least = least_budget(config, config.budget);
    // The largest scale that stays within what there is.
    double low = 0, high = static_cast<double>(wanted);
    high /= static_cast<double>(*std::min_element(share.begin(), share.end()));
    for (;;) {
        const double middle = low + (high - low) / 2;
        if (middle <= low || middle >= high) break;  // neighbours
        (total_at(share, middle, least, wanted) <= wanted ? low : high) = middle;
    }
    std::vector<HeadBudget> result(n_heads);
    std::vector<size_t> by_rest(n_heads);
    std::vector<double> rest(n_heads);
    size_t left = wanted;
    for (size_t i = 0; i < n_heads; ++i) {
        result[i].budget = scaled(share[i], low, least, wanted);
        rest[i] = low * static_cast<double>(share[i]) - static_cast<double>(result[i].budget);
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

size_t longest_budget(const EvictionConfig &config, size_t n_ctx) {
    size_t longest = config.budget;
    if (!config.allocation.empty()) {
        for (const HeadBudget &head : head_budgets(config, config.allocation.size())) {
            longest = std::max(longest, head.budget);
        }
    } else if (config.division == Division::Auto) {
        const auto most = static_cast<size_t>(kMostShare * static_cast<double>(config.budget));
        longest = std::max(longest, std::min(most, n_ctx));
    }
    return longest;
}

std::vector<float> shares_of_need(std::span<const float> need, size_t group, double most) {
    const size_t n_heads = need.size();
    std::vector<double> wanted(n_heads);
    for (size_t i = 0; i < n_heads; ++i) {
        wanted[i] = std::isfinite(need[i]) ? static_cast<double>(need[i]) : 0.0;
    }
    for (size_t i = 0; i < n_heads; i += group) {
        const auto first = wanted.begin() + static_cast<std::ptrdiff_t>(i);
        const auto last = first + static_cast<std::ptrdiff_t>(group);
        std::fill(first, last, std::accumulate(first, last, 0.0) / static_cast<double>(group));
    }
    std::vector<float> share(n_heads, 1.0f);
    const double largest = *std::max_element(wanted.begin(), wanted.end());
    most = std::min(most, kMostShare);
    if (!(largest > 0) || most <= 1) return share;
    // Of the largest; above 0, so that some scale gives anyone the most.
    constexpr double kLeastWanted = 1e-6;
    for (double &one : wanted) one = std::max(one / largest, kLeastWanted);
    std::vector<bool> gets_all(n_heads);
    const auto fill_in = [&](double scale) {
        double total = 0;
        for (size_t i = 0; i < n_heads; ++i) {
            const double one = std::clamp(wanted[i] * scale, kLeastShare, most);
            share[i] = static_cast<float>(gets_all[i] ? most : one);
            total += static_cast<double>(share[i]);
        }
        return total;
    };
    // At the scale at which the mean is 1, by halves.
    const auto divide = [&] {
        double low = 0, high = most / kLeastWanted;
        for (int i = 0; i < 64; ++i) {
            const double middle = low + (high - low) / 2;
            (fill_in(middle) > static_cast<double>(n_heads) ? high : low) = middle;
        }
        fill_in(low);
    };
    divide();
    std::vector<size_t> by_need(n_heads / group);  // first heads of groups
    for (size_t i = 0; i < by_need.size(); ++i) by_need[i] = i * group;
    std::stable_sort(by_need.begin(), by_need.end(),
                     [&](size_t a, size_t b) { return wanted[a] > wanted[b]; });
    double left = kShareForAll * static_cast<double>(n_heads);
    for (const size_t first : by_need) {
        left -= most * static_cast<double>(group);
        if (left < 0 || static_cast<double>(share[first]) < kAllFrom * most) break;
        std::fill_n(gets_all.begin() + static_cast<std::ptrdiff_t>(first), group, true);
    }
    divide();
    return share;
}

}  // namespace a2sf
