// UTF-8 decoding, encoding and category look-up. See unicode.h.
#include "token/unicode.h"

#include <algorithm>
#include <array>

namespace a2sf {
namespace {

Category search_category(uint32_t code_point) {
    const uint32_t *end = kCategoryRuns + kCategoryRunCount;
    const uint32_t *run = std::upper_bound(kCategoryRuns, end, code_point << 4 | 0xF);
    return static_cast<Category>(run[-1] & 0xF);  // the first run starts at 0: there is always one
}

// What the first byte of a character says: its length and the range of its second byte.
// Source: the Unicode standard, table 3-7 (well-formed UTF-8 byte sequences).
struct Lead {
    uint32_t n_bytes;  // 0: cannot start a character
    uint8_t second_low, second_high;
    uint32_t bits;  // the code point's bits in the first byte
};

Lead lead_of(uint8_t byte) {
    if (byte < 0x80) return {1, 0, 0, byte};
    if (byte < 0xC2) return {0, 0, 0, 0};
    if (byte < 0xE0) return {2, 0x80, 0xBF, byte & 0x1Fu};
    if (byte < 0xF0) {
        const uint8_t low = byte == 0xE0 ? 0xA0 : 0x80;
        const uint8_t high = byte == 0xED ? 0x9F : 0xBF;
        return {3, low, high, byte & 0x0Fu};
    }
    if (byte < 0xF5) {
        const uint8_t low = byte == 0xF0 ? 0x90 : 0x80;
        const uint8_t high = byte == 0xF4 ? 0x8F : 0xBF;
        return {4, low, high, byte & 0x07u};
    }
    return {0, 0, 0, 0};
}

}  // namespace

Category category_of(uint32_t code_point) {
    static const std::array<Category, 128> ascii = [] {
        std::array<Category, 128> table{};
        for (uint32_t i = 0; i < table.size(); ++i) table[i] = search_category(i);
        return table;
    }();
    if (code_point < ascii.size()) return ascii[code_point];
    return code_point < 0x110000 ? search_category(code_point) : Category::Other;
}

Utf8Step utf8_step(std::string_view text, size_t pos) {
    using State = Utf8Step::State;
    const Lead lead = lead_of(static_cast<uint8_t>(text[pos]));
    if (lead.n_bytes == 0) return {State::Invalid, 1, kReplacementCharacter};
    uint32_t code_point = lead.bits;
    for (uint32_t i = 1; i < lead.n_bytes; ++i) {
        if (pos + i >= text.size()) return {State::Truncated, i, kReplacementCharacter};
        const auto byte = static_cast<uint8_t>(text[pos + i]);
        const uint8_t low = i == 1 ? lead.second_low : 0x80;
        const uint8_t high = i == 1 ? lead.second_high : 0xBF;
        if (byte < low || byte > high) return {State::Invalid, i, kReplacementCharacter};
        code_point = code_point << 6 | (byte & 0x3Fu);
    }
    return {State::Valid, lead.n_bytes, code_point};
}

void append_utf8(std::string &out, uint32_t code_point) {
    const auto put = [&out](uint32_t byte) { out += static_cast<char>(byte); };
    if (code_point < 0x80) {
        put(code_point);
        return;
    }
    if (code_point < 0x800) {
        put(0xC0 | code_point >> 6);
    } else {
        if (code_point < 0x10000) {
            put(0xE0 | code_point >> 12);
        } else {
            put(0xF0 | code_point >> 18);
            put(0x80 | (code_point >> 12 & 0x3F));
        }
        put(0x80 | (code_point >> 6 & 0x3F));
    }
    put(0x80 | (code_point & 0x3F));
}

CodePoints::CodePoints(std::string_view text) {
    values.reserve(text.size());
    categories.reserve(text.size());
    offsets.reserve(text.size() + 1);
    for (size_t pos = 0; pos < text.size();) {
        const Utf8Step step = utf8_step(text, pos);
        values.push_back(step.code_point);
        categories.push_back(category_of(step.code_point));
        offsets.push_back(static_cast<uint32_t>(pos));
        pos += step.n_bytes;
    }
    offsets.push_back(static_cast<uint32_t>(text.size()));
}

}  // namespace a2sf
