// Reading and checking the vocabulary arrays. See vocabulary.h.
#include "token/vocabulary.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>

#include "base/error.h"
#include "gguf/file.h"

namespace a2sf {
namespace {

uint32_t hash_of(std::string_view text) {
    return static_cast<uint32_t>(std::hash<std::string_view>()(text));
}

}  // namespace

Vocabulary::Vocabulary(const GgufFile &file) {
    const GgufValue::Strings *texts = file.find_strings("tokenizer.ggml.tokens");
    if (!texts || texts->empty()) {
        throw GgufError("tokenizer.ggml.tokens: an array of strings expected, found none");
    }
    if (texts->size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
        throw GgufError(
            str("tokenizer.ggml.tokens: fewer than 2^31 entries expected, found ", texts->size()));
    }
    size_t n_bytes = 0;
    for (const std::string_view text : *texts) n_bytes += text.size();
    block_.reserve(n_bytes);
    ends_.reserve(texts->size() + 1);
    ends_.push_back(0);
    for (const std::string_view text : *texts) {
        block_ += text;
        ends_.push_back(block_.size());
        max_text_bytes_ = std::max(max_text_bytes_, text.size());
    }
    types_.assign(texts->size(), TokenType::Normal);
    read_types(file);
    index_texts();
}

void Vocabulary::index_texts() {
    slots_.resize(std::bit_ceil(size() * 2 + 1));
    for (size_t i = 0; i < size(); ++i) {
        const auto id = static_cast<int32_t>(i);
        // An empty text would match everywhere; such a token can only be decoded.
        if (text(id).empty()) continue;
        Slot &slot = slots_[slot_of(text(id))];
        slot = {hash_of(text(id)), id};
    }
}

size_t Vocabulary::slot_of(std::string_view wanted) const {
    const uint32_t hash = hash_of(wanted);
    size_t at = hash & (slots_.size() - 1);
    while (slots_[at].id >= 0 && (slots_[at].hash != hash || text(slots_[at].id) != wanted)) {
        at = (at + 1) & (slots_.size() - 1);
    }
    return at;
}

void Vocabulary::read_types(const GgufFile &file) {
    const GgufValue::Ints *types = file.find_ints("tokenizer.ggml.token_type");
    if (!types) return;
    if (types->size() != size()) {
        throw GgufError(str("tokenizer.ggml.token_type: ", size(),
                            " entries expected (one per token), found ", types->size()));
    }
    for (size_t i = 0; i < size(); ++i) {
        const int64_t type = (*types)[i];
        // 0 is what old converters wrote for "not said".
        if (type < 0 || type > 6) {
            throw GgufError(
                str("tokenizer.ggml.token_type[", i, "]: 0 to 6 expected, found ", type));
        }
        if (type != 0) types_[i] = static_cast<TokenType>(type);
    }
}

int32_t Vocabulary::find_ordinary(std::string_view text) const {
    const int32_t id = find(text);
    if (id < 0 || is_hidden(id)) return -1;
    return type(id) == TokenType::Byte && byte_of_text(text) >= 0 ? -1 : id;
}

int32_t Vocabulary::special_id(const GgufFile &file, std::string_view name,
                               int32_t fallback) const {
    const std::string key = str("tokenizer.ggml.", name, "_token_id");
    const std::optional<uint64_t> id = file.find_uint(key);
    if (!id) {
        const bool usable = fallback >= 0 && static_cast<size_t>(fallback) < size();
        return usable && is_hidden(fallback) ? fallback : -1;
    }
    // Converters write "none" as -1 in a u32.
    if (*id == std::numeric_limits<uint32_t>::max()) return -1;
    if (*id >= size()) {
        throw GgufError(str(key, ": less than ", size(), " expected, found ", *id));
    }
    return static_cast<int32_t>(*id);
}

int byte_of_text(std::string_view text) {
    if (text.size() != 6 || text.substr(0, 3) != "<0x" || text[5] != '>') return -1;
    int value = 0;
    for (const char c : text.substr(3, 2)) {
        int digit = -1;
        if (c >= '0' && c <= '9') digit = c - '0';
        if (c >= 'A' && c <= 'F') digit = c - 'A' + 10;
        if (c >= 'a' && c <= 'f') digit = c - 'a' + 10;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

}  // namespace a2sf
