// One metadata value of a GGUF file. Purpose: what the header said, in its own type; conversions
// that could lose something are errors. Owner: the GgufFile it was read from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace a2sf {

// Arrays hold one element type. Integers are widened to 64 bits, floats to double.
// Strings are views into the mapped file: valid as long as the file is open.
struct GgufValue {
    using Ints = std::vector<int64_t>;
    using Floats = std::vector<double>;
    using Bools = std::vector<bool>;
    using Strings = std::vector<std::string_view>;
    std::variant<int64_t, uint64_t, double, bool, std::string_view, Ints, Floats, Bools, Strings>
        data;

    // "u32", "string", "array of f32": the type as stored, for messages and `a2sf inspect`.
    std::string type_name;

    // A short rendering for people; long arrays are cut after max_items.
    std::string to_string(size_t max_items = 8) const;
};

// Text from a file made safe to show: control characters and invalid UTF-8 become \xNN, and what
// exceeds max_bytes is cut and marked "...".
std::string printable(std::string_view text, size_t max_bytes);

// Whether printable() would leave text of any length as it is.
bool is_printable(std::string_view text);

}  // namespace a2sf
