// Python values to the library's and back. Python's numbers are checked here, completely, because
// nanobind would report a negative count as an unknown overload instead of as an OptionError.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "evict/options.h"

namespace a2sf::python {

namespace nb = nanobind;

// Token ids from Python: int32, one dimension, contiguous; never converted silently.
using IdsArg = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
inline std::span<const int32_t> as_span(const IdsArg &ids) {
    return {ids.data(), ids.size()};
}

// Arrays that go to Python own their memory.
template <typename T>
using Array1 = nb::ndarray<nb::numpy, T, nb::ndim<1>>;
template <typename T>
using Array2 = nb::ndarray<nb::numpy, T, nb::ndim<2>>;

template <typename T>
Array1<T> to_array(std::span<const T> values) {
    T *data = new T[values.size()];
    std::copy(values.begin(), values.end(), data);
    nb::capsule owner(data, [](void *p) noexcept { delete[] static_cast<T *>(p); });
    return Array1<T>(data, {values.size()}, owner);
}

// str from bytes that should be UTF-8; what is not becomes U+FFFD.
nb::str to_str(std::string_view text);

// An integer from `least` up. TypeError for anything that is not an integer (bool and float
// included), OptionError when it is out of range.
size_t to_count(nb::handle value, const char *what, size_t least = 0,
                size_t most = static_cast<size_t>(INT64_MAX));

// A number; TypeError for anything else. NaN and infinities pass: the options' validate() judges.
double to_number(nb::handle value, const char *what);

// An integer in [0, 2^64).
uint64_t to_seed(nb::handle value);

// None, a count, a share as a float from 0 to 1, or text: "1024", "20%".
std::optional<Amount> to_amount(nb::handle value, const char *what);

std::string to_text(nb::handle value, const char *what);

// Positions: None for none, n for the first n, a range of step 1, a pair (first, end), or a
// sequence of such. Ordered as ordered_ranges() does.
std::vector<PositionRange> to_ranges(nb::handle value, const char *what);

}  // namespace a2sf::python
