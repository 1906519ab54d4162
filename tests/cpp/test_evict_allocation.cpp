// A budget divided among heads: what each gets, and what is refused.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "base/error.h"
#include "evict/allocation.h"
#include "evict/registry.h"

using namespace a2sf;

namespace {

EvictionOptions with(std::vector<float> allocation, size_t budget = 40) {
    EvictionOptions options{.policy = "a2sf", .budget = Amount::of_tokens(budget)};
    options.allocation = std::move(allocation);
    return options;
}

std::vector<size_t> budgets(const EvictionOptions &options, size_t n_heads) {
    std::vector<size_t> found;
    for (const HeadBudget &head : head_budgets(resolve(options, 0), n_heads)) {
        found.push_back(head.budget);
    }
    return found;
}

std::string refusal(const EvictionOptions &options, size_t n_heads) {
    try {
        options.validate();
        head_budgets(resolve(options, 0), n_heads);
    } catch (const OptionError &error) {
        return error.what();
    }
    return "";
}

}  // namespace

TEST_CASE("without an allocation, or with equal shares, every head gets the budget") {
    CHECK(budgets(with({}), 3) == std::vector<size_t>{40, 40, 40});
    CHECK(budgets(with({2, 2, 2}), 3) == std::vector<size_t>{40, 40, 40});
}

TEST_CASE("heads get what is theirs in proportion, and all of it is given out") {
    CHECK(budgets(with({1, 2, 3}), 3) == std::vector<size_t>{20, 40, 60});
    for (size_t budget : {17, 40, 41, 100, 999}) {
        const std::vector<float> shares = {0.3f, 1.7f, 0.9f, 2.2f, 0.41f, 1.13f, 0.77f};
        const auto found = budgets(with(shares, budget), shares.size());
        CAPTURE(budget);
        CHECK(std::accumulate(found.begin(), found.end(), size_t{0}) == budget * shares.size());
        for (size_t i = 0; i < shares.size(); ++i) {
            for (size_t j = 0; j < shares.size(); ++j) {
                if (shares[i] > shares[j]) CHECK(found[i] >= found[j]);
            }
        }
    }
}

TEST_CASE("no head gets less than what is protected in it") {
    // 4 sinks and a quarter of its own budget, and one token that may go.
    const auto found = head_budgets(resolve(with({0.001f, 1, 1}), 0), 3);
    CHECK(found[0].budget == 6);
    CHECK(found[0].n_recent == 1);
    CHECK(found[1].budget + found[2].budget == 114);
    CHECK(found[1].n_recent == 14);
    EvictionOptions options = with({0.001f, 1, 1});
    options.recent = Amount::of_tokens(20);
    const auto fixed = head_budgets(resolve(options, 0), 3);
    CHECK(fixed[0].budget == 25);
    CHECK(fixed[0].n_recent == 20);
    // A budget that is protected throughout leaves nothing to divide.
    CHECK(budgets(with({1, 5, 9}, 5), 3) == std::vector<size_t>{5, 5, 5});
}

TEST_CASE("shares of any size, and protections of any size, divide what there is") {
    const std::vector<float> shares = {1e-38f, 3e38f, 1.0f, 1e-45f};
    const auto found = budgets(with(shares, 100), 4);
    CHECK(std::accumulate(found.begin(), found.end(), size_t{0}) == 400);
    CHECK(found[1] > 300);
    EvictionOptions options = with({1, 2, 3}, size_t{1} << 30);
    options.sinks = 0;
    options.recent = Amount::of_share(1.0);
    for (const HeadBudget &head : head_budgets(resolve(options, 0), 3)) {
        CHECK(head.budget == size_t{1} << 30);
    }
}

TEST_CASE("an allocation that cannot be is refused") {
    const auto says = [](const std::string &text, const char *part) {
        CAPTURE(text);
        CHECK(text.find(part) != std::string::npos);
    };
    says(refusal(with({1, 2}), 3), "3 shares (n_layers * n_kv_heads) expected, found 2");
    says(refusal(with({1, 0, 2}), 3), "above 0 expected, found 0");
    says(refusal(with({1, NAN, 2}), 3), "above 0");
    says(refusal(with({1, -1, 2}), 3), "found -1");
    EvictionOptions options = with({1, 2, 3});
    options.scope = Scope::Layer;
    says(refusal(options, 3), "scope head expected");
    options = with({1, 2, 3});
    options.division = Division::Auto;
    says(refusal(options, 3), "shares or auto expected, found both");
    options = {.policy = "full"};
    options.allocation = {1, 2, 3};
    says(refusal(options, 3), "allocation");
}

TEST_CASE("shares follow the need between the least and the most, and are 1 in the mean") {
    const auto mean = [](const std::vector<float> &share) {
        return std::accumulate(share.begin(), share.end(), 0.0) / static_cast<double>(share.size());
    };
    const std::vector<float> need = {0.0f, 1.0f, 1.2f, 1.4f, 2.0f, 0.9f};
    const std::vector<float> share = shares_of_need(need, 1, 100);
    CHECK(mean(share) == doctest::Approx(1));
    CHECK(share[0] == doctest::Approx(kLeastShare));
    CHECK(share[4] / share[1] == doctest::Approx(2));
    CHECK(share[3] / share[2] == doctest::Approx(1.4 / 1.2));
    // Two heads in a row that hold the same tokens.
    const std::vector<float> pairs = shares_of_need(need, 2, 100);
    CHECK(pairs[0] == pairs[1]);
    CHECK(pairs[4] == pairs[5]);
    CHECK(mean(pairs) == doctest::Approx(1));
    // Nothing needed, or nothing to give.
    CHECK(shares_of_need(std::vector<float>(3, 0.0f), 1, 100) == std::vector<float>(3, 1.0f));
    CHECK(shares_of_need(need, 1, 1) == std::vector<float>(6, 1.0f));
    CHECK(shares_of_need({std::vector<float>{NAN, 1, 1}}, 1, 100)[0] ==
          doctest::Approx(kLeastShare));
}

TEST_CASE("a head that needs half of the most gets all of it") {
    std::vector<float> need(200, 1.0f);
    need[3] = 2.5f;
    need[7] = 2.0f;
    need[8] = 100.0f;
    const std::vector<float> share = shares_of_need(need, 1, 100);
    CHECK(share[8] == doctest::Approx(kMostShare));
    CHECK(share[3] == doctest::Approx(kMostShare));  // not 2.5 / 2 of the next
    CHECK(share[7] < kAllFrom * kMostShare);
    CHECK(share[7] / share[0] == doctest::Approx(2));
    CHECK(std::accumulate(share.begin(), share.end(), 0.0) == doctest::Approx(200));
    // However far the others are behind.
    const std::vector<float> few =
        shares_of_need(std::vector<float>{10, 9, 0.02f, 0.005f, 0}, 1, 1.4);
    CHECK(few[0] == doctest::Approx(1.4));
    CHECK(few[2] == doctest::Approx(1.4));
    CHECK(std::accumulate(few.begin(), few.end(), 0.0) == doctest::Approx(5));
    const std::vector<float> less = shares_of_need(need, 1, 2);
    CHECK(*std::max_element(less.begin(), less.end()) == doctest::Approx(2));
    CHECK(less[7] == doctest::Approx(2));
}

TEST_CASE("heads that get all take a third of the budget at most, those that need most first") {
    std::vector<float> need(30, 0.5f);
    for (size_t i = 0; i < 15; ++i) need[i] = 2.0f + 0.1f * static_cast<float>(i);
    const std::vector<float> share = shares_of_need(need, 1, 2.5);
    // All fifteen would get half of 2.5; four of them are a third of 30.
    for (size_t i = 11; i < 15; ++i) CHECK(share[i] == doctest::Approx(2.5));
    CHECK(share[10] / share[0] == doctest::Approx(1.5));
    CHECK(share[20] == doctest::Approx(kLeastShare));
    CHECK(std::accumulate(share.begin(), share.end(), 0.0) == doctest::Approx(30));
    // Heads that hold the same tokens get all together, or not at all.
    for (size_t i = 0; i < need.size(); ++i) need[i] = i < 4 ? 10.0f : 1.0f;
    const std::vector<float> pairs = shares_of_need(need, 2, 4);
    CHECK(pairs[0] == doctest::Approx(4));
    CHECK(pairs[1] == doctest::Approx(4));
    CHECK(pairs[2] == pairs[3]);
}
