// What users may ask of the eviction: numbers, presets, and every refusal with its message.
#include <doctest/doctest.h>

#include <cstdint>
#include <string>

#include "base/error.h"
#include "evict/options.h"
#include "evict/registry.h"

using namespace a2sf;

namespace {

std::string refusal(const EvictionOptions &options) {
    try {
        options.validate();
    } catch (const OptionError &error) {
        return error.what();
    }
    return "accepted";
}

bool contains(const std::string &text, const std::string &part) {
    return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("an amount is a number of tokens or a share") {
    CHECK(Amount::parse("1024", "budget").tokens == size_t{1024});
    CHECK(Amount::parse("20%", "budget").share == doctest::Approx(0.2));
    CHECK(Amount::parse("12.5%", "budget").to_string() == "12.5%");
    for (const char *wrong : {"", "%", "-1", "12x", "1.5", "a%", " 3", "99999999999999999999"}) {
        CAPTURE(wrong);
        CHECK_THROWS_AS(Amount::parse(wrong, "budget"), OptionError);
    }
}

TEST_CASE("every policy resolves with its preset") {
    for (const Policy *policy : policies()) {
        CAPTURE(policy->name);
        const EvictionConfig config = resolve({.policy = policy->name}, 100);
        CHECK(config.policy == policy);
        CHECK(config.budget == (policy->evicts() ? kDefaultBudget : 0));
        CHECK(config.forgetting_factor == policy->preset.forgetting_factor);
        CHECK(config.n_sinks == policy->preset.n_sinks);
    }
    CHECK(resolve({.policy = "a2sf"}, 0).n_recent == 256);
    CHECK(resolve({.policy = "h2o", .budget = Amount::of_tokens(101)}, 0).n_recent == 50);
    CHECK(resolve({.policy = "snapkv"}, 0).window == 32);
    CHECK(resolve({.policy = "a2sf-paper"}, 0).prefill == PromptMode::Token);
}

TEST_CASE("the factor of a2sf remembers two fifths of the budget, and a hundred queries at most") {
    const auto factor = [](size_t budget) {
        return resolve({.policy = "a2sf", .budget = Amount::of_tokens(budget)}, 0)
            .forgetting_factor;
    };
    CHECK(factor(50) == doctest::Approx(0.95));
    CHECK(factor(125) == doctest::Approx(0.98));
    CHECK(factor(249) < 0.99f);
    CHECK(factor(250) == 0.99f);
    CHECK(factor(100000) == 0.99f);
    CHECK(resolve({.policy = "a2sf", .budget = Amount::of_share(0.05)}, 1000).forgetting_factor ==
          doctest::Approx(0.95));
    CHECK(resolve({.policy = "a2sf", .budget = Amount::of_tokens(50), .forgetting_factor = 0.99}, 0)
              .forgetting_factor == 0.99f);
    CHECK(find_policy("a2sf").preset.factor_at(1) == 0.0f);
    CHECK(resolve({.policy = "a2sf-dual", .budget = Amount::of_tokens(50)}, 0).forgetting_factor ==
          0.99f);
}

TEST_CASE("a share of the prompt is rounded to the nearest token, at least one") {
    const auto budget = [](double share, size_t n_prompt) {
        return resolve({.policy = "tova", .budget = Amount::of_share(share)}, n_prompt).budget;
    };
    CHECK(budget(0.2, 1536) == 307);
    CHECK(budget(0.5, 3) == 2);
    CHECK(budget(0.01, 3) == 1);
}

TEST_CASE("options that make no sense are refused, with what was expected and found") {
    CHECK(contains(refusal({.policy = "lru"}), "streaming"));
    CHECK(contains(refusal({.policy = "lru"}), "found \"lru\""));
    CHECK(contains(refusal({.policy = "a2sf", .forgetting_factor = 1.5}), "found 1.5"));
    CHECK(contains(refusal({.policy = "a2sf", .forgetting_factor = -0.1}), "0 to 1"));
    CHECK(contains(refusal({.policy = "a2sf", .budget = Amount::of_tokens(0)}), "at least 1"));
    CHECK(contains(refusal({.policy = "a2sf", .pooling = 4}), "odd"));
    CHECK(contains(refusal({.policy = "snapkv", .window = 0}), "at least 1"));
    CHECK(contains(refusal({.policy = "a2sf", .budget = Amount::of_tokens(8), .sinks = 9}),
                   "9 sinks + 2 recent"));
    CHECK(contains(refusal({.policy = "snapkv", .budget = Amount::of_tokens(16)}), "32 recent"));
    CHECK(contains(refusal({.policy = "a2sf", .budget = Amount::of_share(1.5)}), "150 %"));
}

TEST_CASE("an option that the policy would ignore is refused") {
    CHECK(contains(refusal({.policy = "full", .budget = Amount::of_tokens(9)}), "budget"));
    CHECK(contains(refusal({.policy = "full", .prefill = PromptMode::Full}), "prefill"));
    CHECK(contains(refusal({.policy = "streaming", .forgetting_factor = 0.5}), "streaming"));
    CHECK(contains(refusal({.policy = "streaming", .pooling = 3}), "pooling"));
    CHECK(contains(refusal({.policy = "streaming", .scope = Scope::Layer}), "scope"));
    CHECK(contains(refusal({.policy = "streaming", .recent = Amount::of_tokens(4)}), "recent"));
    CHECK(refusal({.policy = "keydiff", .pooling = 3}) == "accepted");
    CHECK(contains(refusal({.policy = "snapkv", .forgetting_factor = 0.5}), "window"));
    CHECK(contains(refusal({.policy = "a2sf", .window = 8}), "window"));
    CHECK(refusal({.policy = "h2o", .forgetting_factor = 0.5}) == "accepted");
}

TEST_CASE("pinned ranges are ordered, joined and counted in the budget") {
    using Ranges = std::vector<PositionRange>;
    CHECK(parse_ranges("57") == Ranges{{0, 57}});
    CHECK(parse_ranges("100-120,0-57") == Ranges{{0, 57}, {100, 120}});
    CHECK(parse_ranges("10-20,15-30,30-31,7-7") == Ranges{{10, 31}});
    CHECK(to_text(parse_ranges("9,100-120")) == "0-9,100-120");
    for (const char *wrong : {"", "-", "1-", "-1", "3-2", "1,", ",1", "1--2", "a-b", "1-2-3",
                              "0-2147483648", "99999999999999999999"}) {
        CAPTURE(wrong);
        CHECK_THROWS_AS(parse_ranges(wrong), OptionError);
    }
    EvictionOptions options{.policy = "a2sf", .budget = Amount::of_tokens(40)};
    options.pinned = {{100, 110}, {2, 20}};
    const EvictionConfig config = resolve(options, 0);
    CHECK(config.n_sinks == 20);
    CHECK(config.pinned == Ranges{{2, 20}, {100, 110}});
    CHECK(config.pins_behind_sinks());
    options.pinned = {{0, 31}};
    CHECK(contains(refusal(options), "at least 41 tokens (4 sinks + 27 pinned + 10 recent)"));
    options.pinned = {{0, 30}};
    CHECK(refusal(options) == "accepted");
    CHECK(!resolve(options, 0).pins_behind_sinks());
    options.pinned = {{7, 3}};
    CHECK(contains(refusal(options), "found 7-3"));
    options = {.policy = "full"};
    options.pinned = {{0, 3}};
    CHECK(contains(refusal(options), "pinned: no such option"));
}

TEST_CASE("numbers beyond any position are refused, not wrapped") {
    const size_t huge = (size_t{1} << 32) + 1;
    CHECK(contains(refusal({.policy = "a2sf", .pooling = huge}), "pooling: at most"));
    CHECK(contains(refusal({.policy = "a2sf", .sinks = SIZE_MAX}), "sinks: at most"));
    CHECK(contains(refusal({.policy = "snapkv", .window = huge}), "window: at most"));
    CHECK(contains(refusal({.policy = "a2sf", .budget = Amount::of_tokens(SIZE_MAX)}), "budget"));
    CHECK(contains(refusal({.policy = "a2sf", .recent = Amount::of_tokens(huge)}), "recent"));
}

TEST_CASE("protections may fill the budget but not exceed it") {
    EvictionOptions options{.policy = "a2sf", .budget = Amount::of_tokens(10), .sinks = 4};
    options.recent = Amount::of_tokens(6);
    CHECK(refusal(options) == "accepted");
    options.recent = Amount::of_tokens(7);
    CHECK(contains(refusal(options), "at least 11"));
    // With a share of the prompt the same is checked once the prompt is known.
    options.budget = Amount::of_share(0.1);
    CHECK(refusal(options) == "accepted");
    CHECK_THROWS_AS(resolve(options, 50), OptionError);
    CHECK(resolve(options, 200).budget == 20);
}
