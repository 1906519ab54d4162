// How a budget is divided among heads.
#pragma once

#include <cstddef>
#include <span>
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

// What a head may hold at most: of an allocation, or of one that is still to come from what heads
// need (Division::Auto), n_ctx being the model's context.
size_t longest_budget(const EvictionConfig &config, size_t n_ctx);

// Shares for Division::Auto from what heads need, both [n_heads]: in proportion to the
// need, none below kLeastShare of the mean or above kMostShare, or above `most` where that is less.
// A head that would get kAllFrom of the most gets all of it at the others' expense, those that
// need most first, as long as they take no more than kShareForAll of the whole: such heads look up
// what was read long ago, and half of it is nothing found.
// group: so many heads in a row get what they need in the mean, for those that hold the same
// tokens. All the same where nothing is needed.
constexpr double kLeastShare = 0.3;
constexpr double kMostShare = 4.25;  // all of a text and of an answer at a quarter of it
constexpr double kAllFrom = 0.5;
constexpr double kShareForAll = 1.0 / 3;
std::vector<float> shares_of_need(std::span<const float> need, size_t group, double most);

}  // namespace a2sf
