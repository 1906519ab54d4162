// libFuzzer target for the tokenizer. The first byte of the input picks a vocabulary, the rest is
// text: it must encode, byte-level vocabularies must give it back, and streaming must agree with
// decoding. The last choice damages a vocabulary's metadata as the input says before it is loaded.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "../cpp/token_fixture.h"
#include "base/error.h"
#include "token/tokenizer.h"
#include "token/unicode.h"

namespace {

using namespace a2sf;
using a2sf_test::VocabularySpec;

// What must hold; the fuzzer reports the trap.
void require(bool holds) {
    if (!holds) __builtin_trap();
}

// Every pre-tokenizer over the same small vocabulary, then SentencePiece without and with the
// space prefix.
const std::vector<Tokenizer> &tokenizers() {
    static const std::vector<Tokenizer> all = [] {
        std::vector<Tokenizer> made;
        for (const std::string &pre : pre_tokenizers()) {
            made.push_back(a2sf_test::bpe_spec(pre).load());
        }
        VocabularySpec spm = a2sf_test::spm_spec();
        made.push_back(spm.load());
        spm.flags = {{"add_space_prefix", false}};
        made.push_back(spm.load());
        return made;
    }();
    return all;
}

std::string repaired(std::string_view text) {
    std::string out;
    for (size_t pos = 0; pos < text.size();) {
        const Utf8Step step = utf8_step(text, pos);
        append_utf8(out, step.code_point);
        pos += step.n_bytes;
    }
    return out;
}

void check_stream(const Tokenizer &tokenizer, const std::vector<int32_t> &ids) {
    StreamDecoder decoder(tokenizer, true);
    std::string streamed;
    for (const int32_t id : ids) {
        const std::string piece = decoder.push(id);
        require(repaired(piece) == piece);
        streamed += piece;
    }
    streamed += decoder.finish();
    require(streamed == repaired(tokenizer.decode(ids, true)));
}

void check_text(const Tokenizer &tokenizer, std::string_view text, bool gives_back) {
    for (const bool parse_special : {false, true}) {
        const std::vector<int32_t> ids = tokenizer.encode(text, {parse_special, false});
        for (const int32_t id : ids) require(tokenizer.token_type(id) >= TokenType::Normal);
        check_stream(tokenizer, ids);
        if (gives_back) require(tokenizer.decode(ids, true) == text);
    }
}

// Bytes of the input, taken one by one; zeros after the end.
class Input {
  public:
    explicit Input(std::string_view bytes) : bytes_(bytes) {}
    bool empty() const { return bytes_.empty(); }
    uint8_t byte() { return bytes_.empty() ? 0 : static_cast<uint8_t>(take(1)[0]); }
    std::string take(size_t n) {
        const std::string taken(bytes_.substr(0, n));
        bytes_.remove_prefix(taken.size());
        return taken;
    }
    std::string short_text() { return take(byte() % 8); }
    size_t index(size_t n) {
        const size_t wide = byte() * size_t{256};
        return (wide + byte()) % n;
    }

  private:
    std::string_view bytes_;
};

VocabularySpec damaged(Input &input) {
    VocabularySpec spec = input.byte() % 2 ? a2sf_test::spm_spec() : a2sf_test::bpe_spec();
    for (int n_changes = input.byte() % 16; n_changes > 0; --n_changes) {
        const size_t at = input.index(spec.tokens.size());
        switch (input.byte() % 9) {
            case 0:
                spec.tokens[at] = input.short_text();
                break;
            case 1:
                spec.add(input.short_text(), TokenType(input.byte() % 8));
                break;
            case 2:
                spec.types[at % spec.types.size()] = input.byte() % 8;
                break;
            case 3:
                spec.scores[at % spec.scores.size()] = float(input.byte()) - 100;
                break;
            case 4:
                spec.merges.push_back(input.short_text() + " " + input.short_text());
                break;
            case 5:
                spec.merges.push_back(input.short_text());
                break;
            case 6:
                spec.ids.emplace_back("eom", input.byte());
                break;
            case 7:
                spec.flags.emplace_back("add_space_prefix", input.byte() % 2);
                break;
            case 8:
                if (at % 4 == 0 && spec.types.size() > 1) spec.types.pop_back();
                if (at % 4 == 1 && spec.scores.size() > 1) spec.scores.pop_back();
                break;
        }
    }
    return spec;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    const std::string_view text(reinterpret_cast<const char *>(data) + 1, size - 1);
    const size_t n_tokenizers = tokenizers().size();
    const size_t choice = std::min<size_t>(data[0], n_tokenizers);
    if (choice < n_tokenizers) {
        const Tokenizer &tokenizer = tokenizers()[choice];
        const bool is_bpe = tokenizer.model() == "gpt2";
        const bool is_plain_spm = choice == n_tokenizers - 1;
        // U+2581 in the text cannot be told from a space.
        const bool has_mark = text.find("\u2581") != std::string_view::npos;
        check_text(tokenizer, text, is_bpe || (is_plain_spm && !has_mark));
        return 0;
    }
    try {
        Input input(text);
        const Tokenizer tokenizer = damaged(input).load();
        check_text(tokenizer, input.take(text.size()), false);
    } catch (const Error &) {
    }
    return 0;
}
