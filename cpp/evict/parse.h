// Numbers in the text of an option.
#pragma once

#include <charconv>
#include <string_view>
#include <system_error>

#include "base/error.h"

namespace a2sf {

// The whole text as a number. Throws OptionError: "what: expected expected, found ...".
template <typename T>
T parse_number(std::string_view text, std::string_view what, const char *expected) {
    T value{};
    const char *end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    if (error != std::errc{} || stop != end) {
        throw OptionError(str(what, ": ", expected, " expected, found \"", text, "\""));
    }
    return value;
}

}  // namespace a2sf
