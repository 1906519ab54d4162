// StreamDecoder: bytes in, whole characters out. See tokenizer.h.
#include "token/tokenizer.h"
#include "token/unicode.h"

namespace a2sf {
namespace {

// Moves the characters that are complete from `bytes` to the result; what may still become one
// stays, unless `flush`.
std::string take_characters(std::string &bytes, bool flush) {
    std::string out;
    size_t pos = 0;
    while (pos < bytes.size()) {
        const Utf8Step step = utf8_step(bytes, pos);
        if (step.state == Utf8Step::State::Truncated && !flush) break;
        append_utf8(out, step.code_point);
        pos += step.n_bytes;
    }
    bytes.erase(0, pos);
    return out;
}

}  // namespace

StreamDecoder::StreamDecoder(const Tokenizer &tokenizer, bool show_special, bool continues_text)
    : tokenizer_(&tokenizer), show_special_(show_special), first_(!continues_text) {}

std::string StreamDecoder::push(int32_t id) {
    std::string bytes = tokenizer_->token_bytes(id, show_special_);
    if (first_ && !bytes.empty()) {
        // decode() of one id drops the leading space where the model has one.
        bytes = tokenizer_->decode({&id, 1}, show_special_);
        const TokenType type = tokenizer_->token_type(id);
        first_ = type == TokenType::Control || type == TokenType::Unknown;
    }
    pending_ += bytes;
    return take_characters(pending_, false);
}

std::string StreamDecoder::finish() {
    return take_characters(pending_, true);
}

}  // namespace a2sf
