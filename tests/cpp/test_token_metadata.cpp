// Metadata that is wrong, odd or hostile: refused with a message that names it, or taken safely.
#include <cmath>
#include <ctime>
#include <limits>

#include <doctest/doctest.h>

#include "base/error.h"
#include "token_fixture.h"

using namespace a2sf;
using namespace a2sf_test;

namespace {

// The message of the error that loading gives, empty when there is none.
template <typename Expected>
std::string refusal(const VocabularySpec &spec) {
    try {
        spec.load();
    } catch (const Expected &error) {
        return error.what();
    }
    return {};
}

}  // namespace

TEST_CASE("arrays that contradict each other are refused") {
    VocabularySpec spec = bpe_spec();
    const std::string n = std::to_string(spec.tokens.size());
    spec.types.pop_back();
    CHECK(refusal<GgufError>(spec) == "tokenizer.ggml.token_type: " + n +
                                          " entries expected (one per token), found " +
                                          std::to_string(spec.types.size()));
    spec = spm_spec();
    spec.scores.push_back(0);
    CHECK(refusal<GgufError>(spec).find("tokenizer.ggml.scores: ") == 0);
    spec = spm_spec();
    spec.scores.clear();
    CHECK(refusal<GgufError>(spec).find("tokenizer.ggml.scores: ") == 0);
    spec = spm_spec();
    spec.scores[7] = std::numeric_limits<float>::quiet_NaN();
    CHECK(refusal<GgufError>(spec) == "tokenizer.ggml.scores[7]: a number expected, found NaN");
    spec = bpe_spec();
    spec.types[3] = 7;
    CHECK(refusal<GgufError>(spec) == "tokenizer.ggml.token_type[3]: 0 to 6 expected, found 7");
    spec = bpe_spec();
    spec.tokens.clear();
    CHECK(refusal<GgufError>(spec).find("tokenizer.ggml.tokens: ") == 0);
}

TEST_CASE("malformed merges are refused") {
    VocabularySpec spec = bpe_spec();
    spec.merges.clear();
    CHECK(refusal<GgufError>(spec).find("tokenizer.ggml.merges: ") == 0);
    for (const char *line : {"", " ", "ab", "ab ", " a", "\xFF"}) {
        CAPTURE(std::string(line));
        spec = bpe_spec();
        spec.merges[2] = line;
        CHECK(refusal<GgufError>(spec).find("tokenizer.ggml.merges[2]: ") == 0);
    }
}

TEST_CASE("special ids outside the vocabulary are refused") {
    for (const char *name : {"bos", "eos", "unknown", "eot", "eom"}) {
        VocabularySpec spec = bpe_spec();
        spec.ids = {{name, static_cast<uint32_t>(spec.tokens.size())}};
        CHECK(refusal<GgufError>(spec).find(std::string("tokenizer.ggml.") + name) == 0);
    }
}

TEST_CASE("an unknown tokenizer model is refused with the list of the known") {
    VocabularySpec spec = bpe_spec();
    spec.model = "t5";
    CHECK(refusal<UnsupportedError>(spec) ==
          "tokenizer.ggml.model: one of llama, gpt2 expected, found \"t5\"");
    spec.model.reset();
    CHECK(!refusal<GgufError>(spec).empty());
    CHECK(tokenizer_models() == std::vector<std::string>{"llama", "gpt2"});
}

TEST_CASE("an unknown pre-tokenizer gives a warning that names it, then default") {
    const Tokenizer tokenizer = bpe_spec("klingon").load();
    REQUIRE(tokenizer.warnings().size() == 1);
    CHECK(tokenizer.warnings()[0].find("\"klingon\"") != std::string::npos);
    CHECK(tokenizer.pre_tokenizer() == "default");
    CHECK(tokenizer.encode("hello!!") == bpe_spec("default").load().encode("hello!!"));
    VocabularySpec spec = bpe_spec();
    spec.pre.reset();
    CHECK(spec.load().warnings().size() == 1);
}

TEST_CASE("odd but harmless metadata") {
    VocabularySpec spec = bpe_spec();
    spec.merges.insert(spec.merges.end(), {"no such", "\u0120 \u4e2d", "h e", "a a", "\xFF \xFE"});
    spec.add("");
    spec.add("hello");  // a duplicate: the last counts
    spec.add("\xC3");   // not UTF-8
    spec.add("<0xZZ>", TokenType::Byte);
    spec.types[5] = 0;
    const Tokenizer tokenizer = spec.load();
    CHECK(tokenizer.encode("hello") == std::vector<int32_t>{*tokenizer.find("hello")});
    CHECK(*tokenizer.find("hello") > 256 + 18);
    CHECK(tokenizer.decode(tokenizer.encode("hello \xC3 aaa")) == "hello \xC3 aaa");
    CHECK(tokenizer.token_text(*tokenizer.find("<0xZZ>")) == "<0xZZ>");
    CHECK(tokenizer.token_bytes(*tokenizer.find("<0xZZ>")) == "<0xZZ>");
}

TEST_CASE("a moved tokenizer works, and the template is kept") {
    VocabularySpec spec = bpe_spec();
    spec.chat_template = "{{ messages }}";
    Tokenizer first = spec.load();
    const Tokenizer second = std::move(first);
    CHECK(second.chat_template() == "{{ messages }}");
    CHECK(second.decode(second.encode("hello world")) == "hello world");
    CHECK(bpe_spec().load().chat_template().empty());
}

TEST_CASE("special tokens made to be slow are not") {
    VocabularySpec spec = bpe_spec();
    std::string run;
    for (int i = 0; i < 500; ++i) {
        run += 'a';
        spec.add(run + 'b', i % 2 ? TokenType::Control : TokenType::UserDefined);
        spec.add('b' + run, TokenType::Control);
    }
    const Tokenizer tokenizer = spec.load();
    std::string text(size_t{1} << 20, 'a');
    for (size_t i = 999; i < text.size(); i += 1000) text[i] = 'b';
    const std::clock_t start = std::clock();
    const std::vector<int32_t> ids = tokenizer.encode(text);
    CHECK(double(std::clock() - start) / CLOCKS_PER_SEC < 60);
    CHECK((tokenizer.decode(ids, true) == text));
}
