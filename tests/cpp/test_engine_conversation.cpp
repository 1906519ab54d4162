// Conversations: turns are read once, openings stay, answers can be stopped, budgets change.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "engine/conversation.h"
#include "evict/registry.h"
#include "tiny_model.h"

using namespace a2sf;
using namespace a2sf_test;

namespace {

SessionOptions with(const std::string &policy, size_t budget) {
    SessionOptions options{.n_threads = 1, .batch = 32};
    options.eviction.policy = policy;
    if (find_policy(policy).evicts()) options.eviction.budget = Amount::of_tokens(budget);
    return options;
}

Conversation converse(const SessionOptions &options, std::optional<std::string> system = "S") {
    const ChatFormat format("", std::string("zephyr"), "<bos>", "<end>");
    return {tiny(), format, options, std::move(system)};
}

GenerateOptions at_most(size_t n) {
    GenerateOptions options;
    options.max_tokens = n;
    options.ignore_end = true;
    return options;
}

}  // namespace

TEST_CASE("turns read what one text of them all would be") {
    Conversation turns = converse(with("full", 0));
    std::string text = "<|system|>\nS<end>\n<|user|>\nhi<end>\n<|assistant|>\n";
    std::vector<int32_t> ids = tiny().tokenizer->encode(text);
    const Generation one = turns.ask("hi", at_most(5));
    ids.insert(ids.end(), one.ids.begin(), one.ids.end());
    const Generation two = turns.ask("and?", at_most(5));
    const auto more =
        tiny().tokenizer->encode("<end>\n<|user|>\nand?<end>\n<|assistant|>\n", {.add_bos = false});
    ids.insert(ids.end(), more.begin(), more.end());
    Session whole(tiny().model, with("full", 0));
    Generator generator(whole, *tiny().tokenizer, at_most(5));
    generator.start(ids);
    GeneratedToken token;
    while (generator.next(token)) continue;
    CHECK(generator.result().ids == two.ids);
    CHECK(turns.session().n_tokens() == ids.size() + two.ids.size());
    CHECK(turns.n_turns() == 2);
}

TEST_CASE("the opening stays in every head, whatever the policy") {
    for (const Policy *policy : policies()) {
        if (!policy->evicts()) continue;
        CAPTURE(policy->name);
        SessionOptions options = with(policy->name, 90);
        options.eviction.positions = Positions::Compact;
        Conversation turns = converse(options, "be kind");
        for (int i = 0; i < 12; ++i) turns.ask("a question", at_most(9));
        const Cache &cache = turns.session().cache();
        CHECK(turns.n_pinned() >= 16);
        CHECK(mean_live(cache) == 90);
        for (size_t layer = 0; layer < 2; ++layer) {
            for (size_t head = 0; head < 2; ++head) {
                const auto pos = cache.positions(layer, head);
                REQUIRE(pos.size() == cache.budget(layer, head));
                for (size_t i = 0; i < turns.n_pinned(); ++i) {
                    CHECK(pos[i] == static_cast<int32_t>(i));
                }
            }
        }
    }
}

TEST_CASE("a stopped answer leaves a conversation that goes on") {
    for (size_t stop_at : {0, 1, 3}) {
        Conversation turns = converse(with("a2sf", 80));
        size_t n = 0;
        ChatListener listener;
        listener.on_text = [&](std::string_view) { ++n; };
        listener.stops = [&] { return n >= stop_at; };
        const Generation cut = turns.ask("hi", at_most(50), listener);
        CHECK(cut.finish_reason == FinishReason::Interrupted);
        CHECK(cut.ids.size() >= stop_at);
        CHECK(cut.ids.size() < 50);
        CHECK(turns.ask("hi", at_most(4)).ids.size() == 4);
    }
}

TEST_CASE("a message stopped between its chunks leaves a conversation that goes on") {
    for (const char *mode : {"chunk", "full", "token"}) {
        SessionOptions options = with("a2sf", 60);
        options.eviction.prefill = parse_prompt_mode(mode);
        Conversation turns = converse(options);
        turns.ask("hi", at_most(4));
        ChatListener listener;
        bool stop = false;
        listener.on_progress = [&](size_t n_done, size_t) { stop = n_done >= 64; };
        listener.stops = [&] { return stop; };
        const Generation cut = turns.ask(std::string(200, 'x'), at_most(4), listener);
        CHECK(cut.finish_reason == FinishReason::Interrupted);
        CHECK(cut.ids.empty());
        CHECK(cut.stats.n_prompt == 64);
        CHECK(mean_live(turns.session().cache()) <= 60);
        for (int i = 0; i < 5; ++i) CHECK(turns.ask("and?", at_most(4)).ids.size() == 4);
        CHECK(mean_live(turns.session().cache()) == 60);
    }
}

TEST_CASE("a budget changes at once, and stays") {
    Conversation turns = converse(with("a2sf", 120));
    for (int i = 0; i < 8; ++i) turns.ask("a question", at_most(9));
    CHECK(mean_live(turns.session().cache()) == 120);
    turns.set_budget(Amount::of_tokens(50));
    CHECK(mean_live(turns.session().cache()) == 50);
    turns.ask(std::string(100, 'x'), at_most(9));
    CHECK(mean_live(turns.session().cache()) == 50);
    turns.set_budget(Amount::of_tokens(150));
    for (int i = 0; i < 8; ++i) turns.ask("a question", at_most(9));
    CHECK(mean_live(turns.session().cache()) == 150);
    CHECK_THROWS_WITH_AS(turns.set_budget(Amount::of_tokens(8)), doctest::Contains("pinned"),
                         OptionError);
    CHECK(turns.session().cache().config().budget == 150);
    turns.clear();
    turns.ask("hi", at_most(2));
    CHECK(turns.session().cache().config().budget == 150);
    Conversation full = converse(with("full", 0));
    CHECK_THROWS_AS(full.set_budget(Amount::of_tokens(50)), OptionError);
}

TEST_CASE("a session that has read keeps its policy and positions") {
    Session session(tiny().model, with("a2sf", 40));
    session.set_eviction(with("h2o", 40).eviction);
    session.feed(some_ids(60));
    EvictionOptions other = with("a2sf", 40).eviction;
    CHECK_THROWS_WITH_AS(session.set_eviction(other), doctest::Contains("policy: h2o"),
                         OptionError);
    other = session.options().eviction;
    other.positions = Positions::Compact;
    CHECK_THROWS_WITH_AS(session.set_eviction(other), doctest::Contains("positions"), OptionError);
    session.reset();
    session.set_eviction(other);
    session.feed(some_ids(60));
    CHECK(session.cache().config().compact());
}

TEST_CASE("a share that takes the place of a number divides as from the start") {
    const auto budgets = [](const Session &session) {
        const Cache &cache = session.cache();
        std::vector<size_t> found;
        for (size_t layer = 0; layer < cache.shape().n_layers; ++layer) {
            for (size_t head = 0; head < cache.shape().n_kv_heads; ++head) {
                found.push_back(cache.budget(layer, head));
            }
        }
        return found;
    };
    SessionOptions options = with("a2sf", 60);
    options.eviction.budget = Amount::of_share(0.8);
    Session first(tiny().model, options);
    first.feed(some_ids(60));
    const std::vector<size_t> expected = budgets(first);
    CHECK(*std::max_element(expected.begin(), expected.end()) <= 61);
    Session changed(tiny().model, with("a2sf", 60));
    changed.feed(some_ids(60));
    changed.set_eviction(options.eviction);
    CHECK(budgets(changed) == expected);
}

TEST_CASE("a conversation's budget is a number of tokens") {
    SessionOptions options = with("a2sf", 60);
    Conversation turns = converse(options);
    CHECK_THROWS_WITH_AS(turns.set_budget(Amount::of_share(0.25)), doctest::Contains("found 25%"),
                         OptionError);
    turns.ask("hi", at_most(2));
    CHECK(turns.session().cache().config().budget == 60);
    options.eviction.budget = Amount::of_share(0.25);
    CHECK_THROWS_WITH_AS(converse(options), doctest::Contains("found 25%"), OptionError);
}

TEST_CASE("a saved conversation goes on as if it had not been") {
    const std::string path = (std::filesystem::temp_directory_path() /
                              ("a2sf_chat_" + std::to_string(getpid()) + ".session"))
                                 .string();
    Conversation turns = converse(with("a2sf", 60));
    turns.ask("a question", at_most(9));
    turns.ask("another one", at_most(9));
    turns.save(path);
    const Generation expected = turns.ask("and?", at_most(9));
    Conversation loaded = converse(with("full", 0), "another opening");
    loaded.load(path);
    std::filesystem::remove(path);
    CHECK(loaded.ask("and?", at_most(9)).ids == expected.ids);
    CHECK(loaded.session().cache().positions(1, 1) == turns.session().cache().positions(1, 1));
    loaded.clear();
    loaded.ask("hi", at_most(1));
    CHECK(!loaded.session().cache().config().evicts());
}

TEST_CASE("a conversation saved before its first message keeps its options") {
    const std::string path = (std::filesystem::temp_directory_path() /
                              ("a2sf_chat_" + std::to_string(getpid()) + ".session"))
                                 .string();
    converse(with("h2o", 50)).save(path);
    Conversation loaded = converse(with("a2sf", 60));
    loaded.load(path);
    for (int i = 0; i < 8; ++i) loaded.ask("a question", at_most(9));
    CHECK(loaded.session().options().eviction.policy == "h2o");
    CHECK(loaded.session().cache().live(0, 1) == 50);
    loaded.set_budget(Amount::of_tokens(45));
    loaded.clear();
    for (int i = 0; i < 8; ++i) loaded.ask("a question", at_most(9));
    CHECK(loaded.session().options().eviction.policy == "a2sf");
    CHECK(mean_live(loaded.session().cache()) == 60);
    std::filesystem::remove(path);
}

TEST_CASE("a conversation that has filled the context can be saved") {
    const std::string path = (std::filesystem::temp_directory_path() /
                              ("a2sf_chat_" + std::to_string(getpid()) + ".session"))
                                 .string();
    Conversation turns = converse(with("full", 0));
    const Generation last = turns.ask("hi", at_most(1000));
    CHECK(last.finish_reason == FinishReason::Length);
    CHECK(turns.session().is_full());
    turns.save(path);
    Conversation loaded = converse(with("full", 0));
    loaded.load(path);
    std::filesystem::remove(path);
    CHECK(loaded.session().n_tokens() == turns.session().n_tokens());
}

TEST_CASE("what does not fit is refused and changes nothing") {
    CHECK_THROWS_WITH_AS(converse(with("a2sf", 40), std::string(60, 'x')),
                         doctest::Contains("pinned"), OptionError);
    Conversation turns = converse(with("full", 0));
    turns.ask("hi", at_most(4));
    const size_t before = turns.session().n_tokens();
    CHECK_THROWS_AS(turns.ask(std::string(300, 'x'), at_most(4)), OptionError);
    CHECK(turns.session().n_tokens() == before);
    CHECK(turns.ask("hi", at_most(4)).ids.size() == 4);
    Conversation small = converse(with("a2sf", 40));
    small.ask("hi", at_most(4));
    CHECK_THROWS_AS(small.set_system(std::string(60, 'x')), OptionError);
    CHECK(small.n_turns() == 1);
    CHECK(small.ask("hi", at_most(4)).ids.size() == 4);
}
