// Byte-level BPE on small vocabularies: merging, special tokens, BOS and EOS, round trips.
#include <random>

#include <doctest/doctest.h>

#include "base/error.h"
#include "token_fixture.h"

using namespace a2sf;
using namespace a2sf_test;

namespace {

using Ids = std::vector<int32_t>;

Ids ids_of(const Tokenizer &tokenizer, const std::vector<std::string> &texts) {
    Ids ids;
    for (const std::string &text : texts) ids.push_back(tokenizer.find(text).value_or(-1));
    return ids;
}

}  // namespace

TEST_CASE("merges apply by rank, leftmost first, inside words") {
    const Tokenizer tokenizer = bpe_spec().load();
    CHECK(tokenizer.encode("hello world") == ids_of(tokenizer, {"hello", in_alphabet(" world")}));
    CHECK(tokenizer.encode("hell or") == ids_of(tokenizer, {"hell", in_alphabet(" "), "or"}));
    CHECK(tokenizer.encode("aaaaaaaaaaa") == ids_of(tokenizer, {"aaaaaaaa", "aa", "a"}));
    CHECK(tokenizer.encode("lll") == ids_of(tokenizer, {"ll", "l"}));
    CHECK(tokenizer.encode("").empty());
    CHECK(tokenizer.model() == "gpt2");
    CHECK(tokenizer.pre_tokenizer() == "gpt-2");
    CHECK(tokenizer.warnings().empty());
}

TEST_CASE("special tokens: Control with parse_special, UserDefined always") {
    const Tokenizer tokenizer = bpe_spec().load();
    const int32_t begin = *tokenizer.find("<|begin|>"), tool = *tokenizer.find("<tool>");
    const int32_t hello = *tokenizer.find("hello"), unknown = *tokenizer.find("<unk>");
    CHECK(tokenizer.encode("<|begin|>hello<tool>") == Ids{begin, hello, tool});
    CHECK(tokenizer.encode("<unk>hello") == Ids{unknown, hello});
    const Ids plain = tokenizer.encode("<|begin|>hello<tool>", {false, {}});
    CHECK(plain.size() == 9 + 1 + 1);
    CHECK(plain.back() == tool);
    CHECK(tokenizer.decode(plain) == "<|begin|>hello<tool>");
    CHECK(tokenizer.decode(Ids{begin, hello, tool}) == "hello<tool>");
    CHECK(tokenizer.decode(Ids{begin, hello, tool}, true) == "<|begin|>hello<tool>");
    CHECK(tokenizer.token_bytes(begin).empty());
    CHECK(tokenizer.token_bytes(begin, true) == "<|begin|>");
    CHECK(tokenizer.token_type(tool) == TokenType::UserDefined);
}

TEST_CASE("of special tokens that start at one place the longest counts") {
    VocabularySpec spec = bpe_spec();
    const int32_t shorter = spec.add("<a", TokenType::Control);
    const int32_t longer = spec.add("<a><b>", TokenType::Control);
    const int32_t inner = spec.add("a><", TokenType::UserDefined);
    spec.add("", TokenType::Control);
    const Tokenizer tokenizer = spec.load();
    CHECK(tokenizer.encode("<a><b>") == Ids{longer});
    CHECK(tokenizer.encode("<a><b") == Ids{shorter, '>', '<', 'b'});
    CHECK(tokenizer.encode("<a><b", {false, {}}) == Ids{'<', inner, 'b'});
}

TEST_CASE("merges never make a control token out of text") {
    VocabularySpec spec = bpe_spec("llama-bpe");  // ignore_merges: the whole word is looked up too
    spec.add("hew", TokenType::Control);
    spec.merges.push_back("he w");
    const Tokenizer tokenizer = spec.load();
    CHECK(tokenizer.encode("hew", {false, false}) == ids_of(tokenizer, {"he", "w"}));
}

TEST_CASE("ignore_merges takes a word that is a token") {
    for (const bool ignores : {false, true}) {
        VocabularySpec spec = bpe_spec(ignores ? "llama-bpe" : "qwen2");
        spec.flags = {{"add_bos_token", false}};
        const int32_t whole = spec.add("xyz");
        const Tokenizer tokenizer = spec.load();
        CHECK(tokenizer.encode("xyz") == (ignores ? Ids{whole} : Ids{'x', 'y', 'z'}));
    }
}

TEST_CASE("BOS and EOS: metadata, then the pre-tokenizer's default, then the caller") {
    VocabularySpec spec = bpe_spec();
    CHECK_FALSE(spec.load().adds_bos());
    CHECK(bpe_spec("llama-bpe").load().adds_bos());
    spec.flags = {{"add_bos_token", true}, {"add_eos_token", true}};
    const Tokenizer tokenizer = spec.load();
    const int32_t bos = tokenizer.bos(), eos = tokenizer.eos();
    CHECK(tokenizer.adds_bos());
    CHECK(tokenizer.adds_eos());
    CHECK(tokenizer.encode("a") == Ids{bos, 'a', eos});
    CHECK(tokenizer.encode("a", {true, false}) == Ids{'a'});
    CHECK(bpe_spec().load().encode("a", {true, true}) == Ids{bos, 'a'});
    spec.ids.clear();
    const Tokenizer without = spec.load();
    CHECK(without.bos() == -1);
    CHECK_FALSE(without.adds_bos());
    CHECK(without.encode("a") == Ids{'a'});
    CHECK_THROWS_AS(without.encode("a", {true, true}), OptionError);
}

TEST_CASE("ends: eos, eot, eom and the texts that are known to end") {
    VocabularySpec spec = bpe_spec();
    const int32_t eot = spec.add("xx", TokenType::Control);
    const int32_t eom = spec.add("yy", TokenType::Control);
    const int32_t im_end = spec.add("<|im_end|>", TokenType::Control);
    const int32_t ordinary = spec.add("<end_of_turn>");
    spec.ids.emplace_back("eot", eot);
    spec.ids.emplace_back("eom", eom);
    const Tokenizer tokenizer = spec.load();
    for (const int32_t id : {tokenizer.eos(), eot, eom, im_end}) CHECK(tokenizer.is_end(id));
    for (const int32_t id : {ordinary, tokenizer.bos(), -1, 100000}) CHECK(!tokenizer.is_end(id));
}

TEST_CASE("any bytes come back for every pre-tokenizer") {
    std::mt19937 random(3);
    for (const std::string &pre : pre_tokenizers()) {
        CAPTURE(pre);
        const Tokenizer tokenizer = bpe_spec(pre).load();
        CHECK(tokenizer.warnings().empty());
        for (size_t n = 0; n < 80; ++n) {
            std::string text(n, '\0');
            const uint32_t mask = n % 2 ? 0x7F : 0xFF;
            for (char &c : text) c = static_cast<char>(random() & mask);
            CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
        }
    }
}

TEST_CASE("a byte without a token gives the unknown token, or nothing") {
    VocabularySpec spec = bpe_spec();
    spec.tokens['q'] = "somethingelse";
    const Tokenizer tokenizer = spec.load();
    CHECK(tokenizer.encode("aqa") == Ids{'a', tokenizer.unknown(), 'a'});
    CHECK(tokenizer.warnings().empty());
    spec.ids.clear();
    CHECK(spec.load().encode("aqa") == Ids{'a', 'a'});
    // One byte more or less is no news; a vocabulary without an alphabet is.
    for (char c = 'A'; c <= 'z'; ++c) spec.tokens[static_cast<size_t>(c)] = str("missing", int{c});
    CHECK(spec.load().warnings().size() == 1);
}

TEST_CASE("merges through texts that are no tokens end in bytes") {
    VocabularySpec spec = bpe_spec();
    spec.merges.insert(spec.merges.end(), {"x y", "xy z"});
    const int32_t xyz = spec.add("xyz");
    const Tokenizer tokenizer = spec.load();
    CHECK(tokenizer.encode("xyz") == Ids{xyz});
    CHECK(tokenizer.encode("xya") == Ids{'x', 'y', 'a'});
}

TEST_CASE("ids outside the vocabulary are refused") {
    const Tokenizer tokenizer = bpe_spec().load();
    const auto n_vocab = static_cast<int32_t>(tokenizer.n_vocab());
    for (const int32_t id : {-1, n_vocab, INT32_MAX, INT32_MIN}) {
        CHECK_THROWS_AS(tokenizer.decode(Ids{'a', id}), OptionError);
        CHECK_THROWS_AS(tokenizer.token_bytes(id), OptionError);
        CHECK_THROWS_AS(tokenizer.token_text(id), OptionError);
        CHECK_THROWS_AS(tokenizer.token_type(id), OptionError);
    }
    CHECK_FALSE(tokenizer.find("no such token").has_value());
    CHECK_FALSE(tokenizer.find("").has_value());
}
