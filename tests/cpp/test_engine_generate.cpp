// The generation loop: lengths, ends, stop strings across tokens, going on after it.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "engine/generate.h"
#include "tiny_model.h"

using namespace a2sf;
using namespace a2sf_test;

namespace {

// A model whose every answer is the same token: its embedding row dwarfs the others.
Engine always(int32_t id) {
    TinyModel tiny;
    tiny.change = [id](const std::string &name, std::vector<uint64_t> &,
                       std::vector<float> &values) {
        // Blocks add nothing; the stream is the embedding, the output likes `id` after anything.
        if (name.find("attn_output") != std::string::npos ||
            name.find("ffn_down") != std::string::npos) {
            values.assign(values.size(), 0.0f);
        }
        if (name != "token_embd.weight") return;
        for (size_t row = 0; row < kTinyVocab; ++row) {
            for (size_t i = 0; i < 64; ++i) {
                const bool chosen = row == static_cast<size_t>(id);
                values[row * 64 + i] = chosen ? 2.0f : 1.0f + 0.001f * static_cast<float>(row % 7);
            }
        }
    };
    return load_tiny(tiny);
}

struct Run {
    Generation result;
    std::string streamed;
};

Run run(const Engine &engine, const GenerateOptions &options, SessionOptions session_options = {}) {
    session_options.n_threads = 1;
    Session session(engine.model, session_options);
    Generator generator(session, *engine.tokenizer, options);
    generator.start(engine.tokenizer->encode("ask"));
    Run run;
    GeneratedToken token;
    while (generator.next(token)) run.streamed += token.text;
    run.streamed += generator.rest();
    run.result = generator.result();
    return run;
}

}  // namespace

TEST_CASE("generation stops at its length, and streams what it returns") {
    const Run a = run(always('a'), {.max_tokens = 5});
    CHECK(a.result.text == "aaaaa");
    CHECK(a.streamed == a.result.text);
    CHECK(a.result.ids == std::vector<int32_t>(5, 'a'));
    CHECK(a.result.logprobs.size() == 5);
    CHECK(a.result.finish_reason == FinishReason::Length);
    CHECK(a.result.stats.n_prompt == 3);
    CHECK(a.result.stats.n_generated == 5);
    CHECK(run(always('a'), {.max_tokens = 0}).result.ids.empty());
}

TEST_CASE("an end token ends it and is not part of the result") {
    const Engine engine = always(kTinyEnd);
    const Run ended = run(engine, {.max_tokens = 5});
    CHECK(ended.result.ids.empty());
    CHECK(ended.result.finish_reason == FinishReason::End);
    const Run ignored = run(engine, {.max_tokens = 5, .ignore_end = true});
    CHECK(ignored.result.ids.size() == 5);
}

TEST_CASE("a stop string across tokens cuts the text before it") {
    const Run stopped = run(always('a'), {.max_tokens = 50, .stop = {"aaaa"}});
    CHECK(stopped.result.text == "");
    CHECK(stopped.result.finish_reason == FinishReason::Stop);
    CHECK(stopped.result.ids.size() == 4);
    CHECK(stopped.streamed == "");
    // What only looked like its beginning is given in the end.
    const Run held = run(always('a'), {.max_tokens = 3, .stop = {"aaaab"}});
    CHECK(held.result.text == "aaa");
    CHECK(held.streamed == "aaa");
    CHECK_THROWS_AS(run(always('a'), {.stop = {""}}), OptionError);
}

TEST_CASE("half a character is never given") {
    const Run broken = run(always(0xc3), {.max_tokens = 3});
    CHECK(broken.result.text == "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
    CHECK(broken.streamed == broken.result.text);
}

TEST_CASE("a full context ends the generation, a budget lets it go on") {
    const Engine engine = always('a');
    const Run full = run(engine, {.max_tokens = 400});
    CHECK(full.result.finish_reason == FinishReason::Length);
    CHECK(full.result.ids.size() == 256 - 3 + 1);
    SessionOptions bounded;
    bounded.eviction = {.policy = "a2sf", .budget = Amount::of_tokens(32)};
    const Run endless = run(engine, {.max_tokens = 400}, bounded);
    CHECK(endless.result.ids.size() == 400);
    CHECK(endless.result.stats.n_live == 32);
    CHECK(endless.result.stats.kv_bytes < full.result.stats.kv_bytes);
    CHECK(endless.result.stats.n_evicted == 2 * 2 * (3 + 399 - 32));
}

TEST_CASE("the same seed gives the same text") {
    const Engine engine = load_tiny();
    GenerateOptions options{.max_tokens = 30, .ignore_end = true};
    options.sampling.temperature = 1.0f;
    options.sampling.seed = 4;
    const Run a = run(engine, options);
    CHECK(run(engine, options).result.ids == a.result.ids);
    options.sampling.seed = 5;
    CHECK(run(engine, options).result.ids != a.result.ids);
}

TEST_CASE("a session goes on after a generation that was settled") {
    const Engine engine = load_tiny();
    Session session(engine.model, {.n_threads = 1});
    Generator generator(session, *engine.tokenizer, {.max_tokens = 4, .ignore_end = true});
    const auto prompt = some_ids(10);
    generator.start(prompt);
    GeneratedToken token;
    while (generator.next(token)) {
    }
    CHECK(session.n_tokens() == 13);
    generator.settle();
    CHECK(session.n_tokens() == 14);
    std::vector<int32_t> all = prompt;
    const auto &ids = generator.result().ids;
    all.insert(all.end(), ids.begin(), ids.end());
    Session fresh(engine.model, {.n_threads = 1});
    const auto expected = fresh.feed(all);
    for (size_t i = 0; i < kTinyVocab; ++i) {
        CHECK(session.logits()[i] == doctest::Approx(expected[i]).epsilon(1e-3));
    }
}

TEST_CASE("nothing to start from is refused") {
    const Engine engine = load_tiny();
    Session session(engine.model, {});
    Generator generator(session, *engine.tokenizer, {});
    CHECK_THROWS_AS(generator.start({}), OptionError);
}

TEST_CASE("a full context gives no token twice") {
    Session session(tiny().model, {.n_threads = 1});
    GenerateOptions options;
    options.max_tokens = 50;
    options.ignore_end = true;
    Generator generator(session, *tiny().tokenizer, options);
    generator.start(some_ids(250));
    GeneratedToken token;
    while (generator.next(token)) continue;
    CHECK(generator.result().ids.size() == 7);  // the last of them cannot be read
    generator.settle();
    CHECK(session.n_tokens() == 256);
    Generator again(session, *tiny().tokenizer, options);
    CHECK_THROWS_WITH_AS(again.start({}), doctest::Contains("context of 256 full"), OptionError);
    // What was read and fills the context still has a token that follows it.
    session.reset();
    session.feed(some_ids(256));
    Generator last(session, *tiny().tokenizer, options);
    last.start({});
    CHECK(last.next(token));
    CHECK(!last.next(token));
}
