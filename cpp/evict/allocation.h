// How a budget is divided among heads.
#pragma once

#include <cstddef>
#include <vector>

#include "evict/options.h"

namespace a2sf {

// What one KV head may hold after a step, and how many of the newest are protected in it.
struct HeadBudget {
    size_t budget = 0;
    size_t n_recent = 0;
};

// Throws OptionError for an allocation of another number of heads; none at all is fine.
void check_n_shares(const std::vector<float> &allocation, size_t n_heads);

// [n_heads], n_heads = n_layers * n_kv_heads. In proportion to config.allocation, rounded so that
// they add up to budget * n_heads; none gets less than its protected tokens and one more, as far as
// the budget itself does. Without an allocation all are the same. Throws as check_n_shares()
// does.
std::vector<HeadBudget> head_budgets(const EvictionConfig &config, size_t n_heads);

}  // namespace a2sf
