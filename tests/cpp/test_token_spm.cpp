// SentencePiece-BPE on a small vocabulary: scores, spaces, byte fallback, special tokens.
#include <ctime>

#include <doctest/doctest.h>

#include "token_fixture.h"

using namespace a2sf;
using namespace a2sf_test;

namespace {

using Ids = std::vector<int32_t>;
constexpr int32_t kBos = 1, kEos = 2, kFirstByte = 3;

int32_t id_of(const Tokenizer &tokenizer, const char *text) {
    return tokenizer.find(text).value_or(-1);
}

}  // namespace

TEST_CASE("a text starts with a space that decoding drops") {
    const Tokenizer tokenizer = spm_spec().load();
    const int32_t hello = id_of(tokenizer, "\u2581hello"), world = id_of(tokenizer, "\u2581world");
    CHECK(tokenizer.encode("hello world") == Ids{kBos, hello, world});
    CHECK(tokenizer.decode(Ids{kBos, hello, world}) == "hello world");
    CHECK(tokenizer.decode(Ids{hello, hello}, true) == "hello hello");
    CHECK(tokenizer.decode(tokenizer.encode(" hello  ")) == " hello  ");
    CHECK(tokenizer.token_bytes(hello) == " hello");
    CHECK(tokenizer.encode("") == Ids{kBos});
    CHECK(tokenizer.decode(Ids{}).empty());
}

TEST_CASE("add_space_prefix false: as written") {
    VocabularySpec spec = spm_spec();
    spec.flags = {{"add_space_prefix", false}};
    const Tokenizer tokenizer = spec.load();
    CHECK(tokenizer.encode("aa", {true, false}) == Ids{id_of(tokenizer, "aa")});
    const int32_t world = id_of(tokenizer, "\u2581world");
    CHECK(tokenizer.decode(Ids{world}) == " world");
    for (const char *text : {" world", "world", "  ", "", " \xFF"}) {
        CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
    }
}

TEST_CASE("the best score merges first") {
    // "el" outranks "he", so that "hel" is h+el although "he" is not a token here.
    const Tokenizer tokenizer = spm_spec().load();
    const Ids ids = tokenizer.encode("xhel", {true, false});
    CHECK(ids == Ids{id_of(tokenizer, "\u2581"), kFirstByte + 'x', id_of(tokenizer, "h"),
                     id_of(tokenizer, "el")});
    CHECK(tokenizer.encode("aaaaaa", {true, false}) ==
          Ids{id_of(tokenizer, "\u2581"), id_of(tokenizer, "aaaa"), id_of(tokenizer, "aa")});
}

TEST_CASE("characters that are no token fall back to bytes, or to the unknown token") {
    const Tokenizer tokenizer = spm_spec().load();
    const int32_t space = id_of(tokenizer, "\u2581");
    CHECK(tokenizer.encode("\u00fc", {true, false}) ==
          Ids{space, kFirstByte + 0xC3, kFirstByte + 0xBC});
    CHECK(tokenizer.encode("\xC3", {true, false}) == Ids{space, kFirstByte + 0xC3});
    CHECK(tokenizer.encode("\u00e9", {true, false}) == Ids{space, id_of(tokenizer, "\u00e9")});
    CHECK(tokenizer.warnings().empty());

    VocabularySpec spec = spm_spec();
    for (int byte = 0; byte < 256; ++byte) {
        spec.tokens[static_cast<size_t>(kFirstByte + byte)] += "?";
    }
    const Tokenizer without = spec.load();
    CHECK(without.encode("\u00fch", {true, false}) ==
          Ids{space, without.unknown(), id_of(without, "h")});
    CHECK(without.warnings().size() == 1);
}

TEST_CASE("text that spells a control or byte token stays text") {
    VocabularySpec spec = spm_spec();
    for (const char *text : {"<0", "<0x", "<0x0", "<0x0A", "0", "x", "A"}) spec.add(text);
    const Tokenizer tokenizer = spec.load();
    const EncodeOptions plain{false, false};
    for (const char *text : {"<s>", "<0x0A>", "</s>", "<unk>"}) {
        CAPTURE(std::string(text));
        CHECK(tokenizer.decode(tokenizer.encode(text, plain)) == text);
    }
}

TEST_CASE("special tokens cut the text; what follows starts with a space again") {
    const Tokenizer tokenizer = spm_spec().load();
    const int32_t hello = id_of(tokenizer, "\u2581hello"), tool = id_of(tokenizer, "<tool>");
    CHECK(tokenizer.encode("<s>hello</s>hello", {true, false}) == Ids{kBos, hello, kEos, hello});
    CHECK(tokenizer.encode("hello<tool>hello", {false, false}) == Ids{hello, tool, hello});
    CHECK(tokenizer.decode(Ids{kBos, hello, kEos, hello}) == "hello hello");
    CHECK(tokenizer.decode(Ids{kBos, hello, kEos, hello}, true) == "<s>hello</s> hello");
}

TEST_CASE("a UserDefined token that merging reaches decodes to what was encoded") {
    VocabularySpec spec = spm_spec();
    spec.add("\u2581\u2581\u2581", TokenType::UserDefined);
    const Tokenizer tokenizer = spec.load();
    CHECK(tokenizer.encode("  ", {false, false}) == Ids{id_of(tokenizer, "\u2581\u2581\u2581")});
    CHECK(tokenizer.decode(tokenizer.encode("a    b")) == "a    b");
}

TEST_CASE("a megabyte without a break") {
    const Tokenizer tokenizer = spm_spec().load();
    const size_t n = size_t{1} << 20;
    const std::clock_t start = std::clock();
    for (const char c : {'a', ' ', '<', '\xFF'}) {
        const std::string text(n, c);
        CHECK((tokenizer.decode(tokenizer.encode(text)) == text));
    }
    CHECK(double(std::clock() - start) / CLOCKS_PER_SEC < 60);  // quadratic work would take hours
}

TEST_CASE("ids that the metadata leaves out are SentencePiece's") {
    const Tokenizer tokenizer = spm_spec().load();
    CHECK(tokenizer.bos() == kBos);
    CHECK(tokenizer.eos() == kEos);
    CHECK(tokenizer.unknown() == 0);
    CHECK(tokenizer.adds_bos());
    CHECK_FALSE(tokenizer.adds_eos());
    CHECK(tokenizer.is_end(kEos));
    CHECK(tokenizer.model() == "llama");

    VocabularySpec spec = spm_spec();
    spec.types.assign(spec.types.size(), static_cast<int32_t>(TokenType::Normal));
    CHECK(spec.load().bos() == -1);  // token 1 is an ordinary word
    spec = spm_spec();
    spec.ids = {{"bos", 0xFFFFFFFF}, {"eos", 5}};
    CHECK(spec.load().bos() == -1);
    CHECK(spec.load().eos() == 5);
    spec.flags = {{"add_bos_token", false}};
    CHECK_FALSE(spec.load().adds_bos());
}
