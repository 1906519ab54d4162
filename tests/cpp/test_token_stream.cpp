// StreamDecoder: what it gives is well-formed UTF-8 after every token, and in the end all of it.
#include <random>

#include <doctest/doctest.h>

#include "base/error.h"
#include "token/unicode.h"
#include "token_fixture.h"

using namespace a2sf;
using namespace a2sf_test;

namespace {

using Ids = std::vector<int32_t>;

bool is_well_formed(std::string_view text) {
    for (size_t pos = 0; pos < text.size();) {
        const Utf8Step step = utf8_step(text, pos);
        if (step.state != Utf8Step::State::Valid) return false;
        pos += step.n_bytes;
    }
    return true;
}

// Ill-formed pieces as U+FFFD.
std::string repaired(std::string_view text) {
    std::string out;
    for (size_t pos = 0; pos < text.size();) {
        const Utf8Step step = utf8_step(text, pos);
        append_utf8(out, step.code_point);
        pos += step.n_bytes;
    }
    return out;
}

std::string stream(const Tokenizer &tokenizer, const Ids &ids, bool show_special = false) {
    StreamDecoder decoder(tokenizer, show_special);
    std::string out;
    for (const int32_t id : ids) {
        const std::string piece = decoder.push(id);
        CHECK(is_well_formed(piece));
        out += piece;
    }
    return out + decoder.finish();
}

}  // namespace

TEST_CASE("a character split over tokens comes when it is complete") {
    const Tokenizer tokenizer = bpe_spec().load();
    StreamDecoder decoder(tokenizer);
    CHECK(decoder.push(0xF0) == "");
    CHECK(decoder.push(0x9F) == "");
    CHECK(decoder.push(0xA6) == "");
    CHECK(decoder.push(0x99) == "\U0001F999");
    CHECK(decoder.push('a') == "a");
    CHECK(decoder.push(0xC3) == "");
    CHECK(decoder.push('b') == "\uFFFDb");
    CHECK(decoder.push(0xE2) == "");
    CHECK(decoder.push(0x82) == "");
    CHECK(decoder.finish() == "\uFFFD");
    CHECK(decoder.finish() == "");
    CHECK_THROWS_AS(decoder.push(-1), OptionError);
}

TEST_CASE("ill-formed bytes become U+FFFD at once, one for each maximal piece") {
    const Tokenizer tokenizer = bpe_spec().load();
    StreamDecoder decoder(tokenizer);
    CHECK(decoder.push(0xFF) == "\uFFFD");
    CHECK(decoder.push(0x80) == "\uFFFD");
    CHECK(stream(tokenizer, {0xC0, 0x80}) == "\uFFFD\uFFFD");              // overlong
    CHECK(stream(tokenizer, {0xED, 0xA0, 0x80}) == "\uFFFD\uFFFD\uFFFD");  // a surrogate
    CHECK(stream(tokenizer, {0xF4, 0x90, 0x80, 0x80}) == "\uFFFD\uFFFD\uFFFD\uFFFD");
    CHECK(stream(tokenizer, {0xF0, 0x9F, 0x98, 'x'}) == "\uFFFDx");
    CHECK(stream(tokenizer, {0xEF, 0xBB, 0xBF, 0x00}) == std::string("\uFEFF\0", 4));
}

TEST_CASE("any ids give well-formed text, the same as decode") {
    std::mt19937 random(4);
    for (const Tokenizer &tokenizer : {bpe_spec().load(), spm_spec().load()}) {
        const auto n_vocab = static_cast<uint32_t>(tokenizer.n_vocab());
        for (int i = 0; i < 2000; ++i) {
            Ids ids(random() % 12);
            for (int32_t &id : ids) id = static_cast<int32_t>(random() % n_vocab);
            const bool show_special = i % 2;
            CHECK(stream(tokenizer, ids, show_special) ==
                  repaired(tokenizer.decode(ids, show_special)));
        }
    }
}

TEST_CASE("the leading space of a text goes, that of a continuation stays") {
    const Tokenizer tokenizer = spm_spec().load();
    const int32_t world = *tokenizer.find("\u2581world");
    CHECK(stream(tokenizer, {1, world, world}) == "world world");
    CHECK(stream(tokenizer, {1, world}, true) == "<s>world");
    StreamDecoder answer(tokenizer, false, true);
    CHECK(answer.push(world) == " world");
}
