// JsonWriter.
#include "cli/json.h"

#include <charconv>
#include <cmath>

namespace a2sf::cli {
namespace {

// Bytes of the valid UTF-8 character that text starts with, 0 if there is none (Unicode 15,
// table 3-7: no overlong forms, no surrogates, nothing above U+10FFFF).
size_t character_bytes(std::string_view text) {
    const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned first = byte(0);
    if (first < 0x80) return 1;
    if (first < 0xc2 || first > 0xf4) return 0;
    const size_t length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (text.size() < length) return 0;
    const unsigned least = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    const unsigned most = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (byte(1) < least || byte(1) > most) return 0;
    for (size_t i = 2; i < length; ++i) {
        if ((byte(i) & 0xc0) != 0x80) return 0;
    }
    return length;
}

template <typename T>
std::string shortest(T number) {
    if (!std::isfinite(number)) return "null";
    char digits[32];
    return std::string(digits, std::to_chars(digits, digits + sizeof(digits), number).ptr);
}

}  // namespace

void JsonWriter::separate() {
    if (!first_) text_ += ", ";
    first_ = false;
}

JsonWriter &JsonWriter::open(char bracket) {
    separate();
    text_ += bracket;
    first_ = true;
    return *this;
}

JsonWriter &JsonWriter::close(char bracket) {
    text_ += bracket;
    first_ = false;
    return *this;
}

JsonWriter &JsonWriter::raw(std::string_view token) {
    separate();
    text_ += token;
    return *this;
}

void JsonWriter::quote(std::string_view text) {
    static constexpr char kHex[] = "0123456789abcdef";
    text_ += '"';
    while (!text.empty()) {
        const size_t length = character_bytes(text);
        const unsigned char c = static_cast<unsigned char>(text[0]);
        if (length == 0) {
            text_ += "\xef\xbf\xbd";
        } else if (c == '"' || c == '\\') {
            text_ += {'\\', text[0]};
        } else if (c == '\n') {
            text_ += "\\n";
        } else if (c == '\t') {
            text_ += "\\t";
        } else if (c < 0x20 || c == 0x7f) {
            text_ += {'\\', 'u', '0', '0', kHex[c >> 4], kHex[c & 15]};
        } else {
            text_ += text.substr(0, length);
        }
        text.remove_prefix(length == 0 ? 1 : length);
    }
    text_ += '"';
}

JsonWriter &JsonWriter::key(std::string_view name) {
    separate();
    quote(name);
    text_ += ": ";
    first_ = true;  // its value follows without a comma
    return *this;
}

JsonWriter &JsonWriter::value(std::string_view text) {
    separate();
    quote(text);
    return *this;
}

JsonWriter &JsonWriter::value(double number) {
    return raw(shortest(number));
}
JsonWriter &JsonWriter::value(float number) {
    return raw(shortest(number));
}

}  // namespace a2sf::cli
