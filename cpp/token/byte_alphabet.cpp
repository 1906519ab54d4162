// The byte alphabet's two directions. See byte_alphabet.h.
#include "token/byte_alphabet.h"

#include <array>

#include "token/unicode.h"

namespace a2sf {
namespace {

constexpr uint32_t kFirstExtra = 0x100;
constexpr uint32_t kExtras = 68;

bool stands_for_itself(uint32_t byte) {
    return (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
}

struct Alphabet {
    std::array<std::string, 256> characters;
    std::array<uint8_t, kExtras> extra_bytes{};  // the byte of kFirstExtra + i

    Alphabet() {
        uint32_t n_extras = 0;
        for (uint32_t byte = 0; byte < 256; ++byte) {
            uint32_t code_point = byte;
            if (!stands_for_itself(byte)) {
                extra_bytes[n_extras] = static_cast<uint8_t>(byte);
                code_point = kFirstExtra + n_extras++;
            }
            append_utf8(characters[byte], code_point);
        }
    }
};

const Alphabet &alphabet() {
    static const Alphabet instance;
    return instance;
}

}  // namespace

std::string_view byte_character(uint8_t byte) {
    return alphabet().characters[byte];
}

void append_alphabet_bytes(std::string &out, std::string_view text) {
    for (size_t pos = 0; pos < text.size();) {
        const Utf8Step step = utf8_step(text, pos);
        const uint32_t c = step.code_point;
        if (step.state == Utf8Step::State::Valid && c < 256 && stands_for_itself(c)) {
            out += static_cast<char>(c);
        } else if (c >= kFirstExtra && c < kFirstExtra + kExtras) {
            out += static_cast<char>(alphabet().extra_bytes[c - kFirstExtra]);
        } else {
            out += text.substr(pos, step.n_bytes);
        }
        pos += step.n_bytes;
    }
}

}  // namespace a2sf
