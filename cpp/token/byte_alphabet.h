// The alphabet of byte-level BPE: one printable character for each of the 256 bytes, so that any
// bytes can be written as text. Source: GPT-2's encoder; the Latin-1 characters that are printable
// stand for themselves, the other 68 bytes for U+0100 onwards in byte order.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace a2sf {

// The UTF-8 of the character that stands for a byte.
std::string_view byte_character(uint8_t byte);

// Appends the bytes that a text in the alphabet stands for. Characters outside the alphabet, and
// ill-formed bytes, stand for themselves.
void append_alphabet_bytes(std::string &out, std::string_view text);

}  // namespace a2sf
