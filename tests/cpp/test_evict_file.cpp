// Eviction files: what is written reads back the same, and what is wrong is named by its line.
#include <doctest/doctest.h>

#include <string>

#include "base/error.h"
#include "evict/eviction_file.h"

using namespace a2sf;

namespace {

std::string refusal(const std::string &text) {
    try {
        parse_eviction_file(text);
    } catch (const OptionError &error) {
        return error.what();
    }
    return "";
}

}  // namespace

TEST_CASE("options read back as they were written") {
    EvictionOptions options{.policy = "a2sf", .budget = Amount::of_share(0.07)};
    options.forgetting_factor = 0.9973;
    options.sinks = 3;
    options.recent = Amount::of_tokens(9);
    options.pooling = 5;
    options.prefill = PromptMode::Token;
    options.scope = Scope::Head;
    options.positions = Positions::Original;
    options.pinned = {{2, 5}, {9, 11}};
    options.allocation = {0.1f, 1.0f / 3.0f, 2.5f, 1e-3f};
    const std::string text = eviction_file(options, "found on a text\nof two lines");
    CHECK(text.find("# found on a text\n# of two lines\n") != std::string::npos);
    CHECK(parse_eviction_file(text) == options);
    const EvictionOptions snap{.policy = "snapkv", .window = 16};
    CHECK(parse_eviction_file(eviction_file(snap)) == snap);
}

TEST_CASE("blank lines, other line ends and spaces do not matter") {
    const EvictionOptions found =
        parse_eviction_file("# a2sf eviction 1\r\n\r\n# a note\r\npolicy   h2o \r\n budget 20%");
    CHECK(found.policy == "h2o");
    CHECK(found.budget == Amount::of_share(0.2));
}

TEST_CASE("what is wrong is named, with its line") {
    const auto says = [](const std::string &text, const char *part) {
        const std::string found = refusal(text);
        CAPTURE(found);
        CHECK(found.find(part) != std::string::npos);
    };
    const std::string first = "# a2sf eviction 1\n";
    says("", "policy: a line with it expected");
    says("policy a2sf\n", "line 1: \"# a2sf eviction 1\" expected, found \"policy a2sf\"");
    says(first + "budget 9\n", "policy: a line with it");
    says(first + "policy a2sf\nbudgets 9\n", "line 3: option: one of policy, budget");
    says(first + "policy a2sf\nsinks many\n", "line 3: sinks: a number expected, found \"many\"");
    says(first + "policy a2sf\nsinks 1\nsinks 2\n", "line 4: sinks: once expected");
    says(first + "policy a2sf\nallocation 1 x\n", "line 3: allocation: a number");
    says(first + "policy a2sf\nallocation 1 -1\n", "allocation: shares above 0");
    says(first + "policy a3sf\n", "policy: one of");
    says(first + "policy streaming\nforgetting_factor 0.5\n", "forgetting_factor");
}
