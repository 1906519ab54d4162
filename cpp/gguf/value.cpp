// Rendering of metadata values and of text from files for people.
#include "gguf/value.h"

#include "base/error.h"

namespace a2sf {
namespace {

constexpr size_t kMaxShownBytes = 256;

// The length of the valid UTF-8 character that text starts with, 0 if there is none. Overlong
// forms, surrogates and values above U+10FFFF are invalid (Unicode 15, table 3-7).
size_t character_length(std::string_view text) {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
    const uint8_t first = byte(0);
    if (first < 0x80) return 1;
    const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
    uint8_t low = 0x80, high = 0xbf;  // bounds of the second byte
    if (first == 0xe0) low = 0xa0;
    if (first == 0xed) high = 0x9f;
    if (first == 0xf0) low = 0x90;
    if (first == 0xf4) high = 0x8f;
    if (byte(1) < low || byte(1) > high) return 0;
    for (size_t i = 2; i < length; ++i) {
        if ((byte(i) & 0xc0) != 0x80) return 0;
    }
    return length;
}

bool is_control(uint8_t c) {
    return c < 0x20 || c == 0x7f;
}

std::string show(bool value) {
    return value ? "true" : "false";
}
std::string show(double value) {
    return str(value);
}
std::string show(int64_t value) {
    return std::to_string(value);
}
std::string show(uint64_t value) {
    return std::to_string(value);
}
std::string show(std::string_view value) {
    return '"' + printable(value, kMaxShownBytes) + '"';
}

template <typename T>
std::string show(const std::vector<T> &items, size_t max_items) {
    std::string text = "[";
    for (size_t i = 0; i < items.size() && i < max_items; ++i) {
        if (i > 0) text += ", ";
        text += show(static_cast<T>(items[i]));
    }
    if (items.size() > max_items) text += str(", ... ", items.size(), " in all");
    return text + "]";
}

struct Shower {
    size_t max_items;
    template <typename T>
    std::string operator()(const T &value) const {
        if constexpr (requires { value.begin(); } && !std::is_same_v<T, std::string_view>) {
            return show(value, max_items);
        } else {
            return show(value);
        }
    }
};

}  // namespace

std::string GgufValue::to_string(size_t max_items) const {
    return std::visit(Shower{max_items}, data);
}

std::string printable(std::string_view text, size_t max_bytes) {
    static constexpr char kHex[] = "0123456789abcdef";
    std::string shown;
    size_t i = 0;
    while (i < text.size()) {
        const size_t length = character_length(text.substr(i));
        const uint8_t c = static_cast<uint8_t>(text[i]);
        if (i + (length > 0 ? length : 1) > max_bytes) return shown + "...";
        if (length > 1 || (length == 1 && !is_control(c))) {
            shown.append(text, i, length);
            i += length;
        } else {
            shown += {'\\', 'x', kHex[c >> 4], kHex[c & 15]};
            ++i;
        }
    }
    return shown;
}

bool is_printable(std::string_view text) {
    while (!text.empty()) {
        const size_t length = character_length(text);
        if (length == 0 || is_control(static_cast<uint8_t>(text[0]))) return false;
        text.remove_prefix(length);
    }
    return true;
}

}  // namespace a2sf
