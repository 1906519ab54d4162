// Python values to the library's and back: the checks and the messages. See convert.h.
#include "convert.h"

#include <nanobind/stl/string.h>

#include "base/error.h"

namespace a2sf::python {

namespace {

[[noreturn]] void wrong_type(nb::handle value, const char *what, const char *expected) {
    const std::string found = nb::cast<std::string>(nb::str(value.type().attr("__name__")));
    throw nb::type_error(str(what, ": ", expected, " expected, found ", found).c_str());
}

// The value as a Python int, or nothing if it is not an integer. NumPy integers have __index__ too.
nb::object to_index(nb::handle value) {
    if (PyBool_Check(value.ptr()) || !PyIndex_Check(value.ptr())) return {};
    return nb::steal(PyNumber_Index(value.ptr()));
}

std::string quoted(nb::handle value) {
    return nb::cast<std::string>(nb::repr(value));
}

constexpr const char *kRanges = "positions as n, range, (first, end) or a sequence of such";

bool is_whole(nb::handle value) {
    return !PyBool_Check(value.ptr()) && PyIndex_Check(value.ptr());
}

bool is_pair(nb::handle value) {
    return (nb::isinstance<nb::tuple>(value) || nb::isinstance<nb::list>(value)) &&
           nb::len(value) == 2 && is_whole(value[0]) && is_whole(value[1]);
}

PositionRange to_range(nb::handle value, const char *what) {
    if (is_whole(value)) return {0, to_count(value, what)};
    if (is_pair(value)) return {to_count(value[0], what), to_count(value[1], what)};
    if (!PyRange_Check(value.ptr())) wrong_type(value, what, kRanges);
    if (to_count(value.attr("step"), what) != 1) {
        throw OptionError(str(what, ": a range of step 1 expected, found ", quoted(value)));
    }
    return {to_count(value.attr("start"), what), to_count(value.attr("stop"), what)};
}

}  // namespace

nb::str to_str(std::string_view text) {
    PyObject *decoded =
        PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace");
    if (!decoded) throw nb::python_error();
    return nb::steal<nb::str>(decoded);
}

size_t to_count(nb::handle value, const char *what, size_t least, size_t most) {
    const nb::object index = to_index(value);
    if (!index) {
        if (PyErr_Occurred()) throw nb::python_error();
        wrong_type(value, what, "a whole number");
    }
    int overflow = 0;
    const long long number = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
    if (overflow != 0 || number < 0 || static_cast<size_t>(number) < least ||
        static_cast<size_t>(number) > most) {
        if (overflow <= 0 && most == static_cast<size_t>(INT64_MAX)) {
            throw OptionError(str(what, ": at least ", least, " expected, found ", quoted(index)));
        }
        throw OptionError(str(what, ": ", least, " to ", most, " expected, found ", quoted(index)));
    }
    return static_cast<size_t>(number);
}

double to_number(nb::handle value, const char *what) {
    const bool is_number =
        PyFloat_Check(value.ptr()) || PyIndex_Check(value.ptr()) || nb::hasattr(value, "__float__");
    if (PyBool_Check(value.ptr()) || !is_number) wrong_type(value, what, "a number");
    const double number = PyFloat_AsDouble(value.ptr());
    if (number == -1.0 && PyErr_Occurred()) throw nb::python_error();
    return number;
}

uint64_t to_seed(nb::handle value) {
    const nb::object index = to_index(value);
    if (!index) {
        if (PyErr_Occurred()) throw nb::python_error();
        wrong_type(value, "seed", "a whole number");
    }
    const unsigned long long seed = PyLong_AsUnsignedLongLong(index.ptr());
    if (seed == static_cast<unsigned long long>(-1) && PyErr_Occurred()) {
        PyErr_Clear();
        throw OptionError(str("seed: 0 to 2^64 - 1 expected, found ", quoted(index)));
    }
    return seed;
}

std::optional<Amount> to_amount(nb::handle value, const char *what) {
    if (value.is_none()) return std::nullopt;
    if (nb::isinstance<nb::str>(value)) return Amount::parse(to_text(value, what), what);
    if (!PyBool_Check(value.ptr()) && !PyIndex_Check(value.ptr()) &&
        nb::hasattr(value, "__float__")) {
        return Amount::of_share(to_number(value, what));
    }
    if (PyBool_Check(value.ptr()) || !PyIndex_Check(value.ptr())) {
        wrong_type(value, what, "a number of tokens, a share or a text such as \"20%\"");
    }
    return Amount::of_tokens(to_count(value, what));
}

std::vector<PositionRange> to_ranges(nb::handle value, const char *what) {
    std::vector<PositionRange> ranges;
    const bool one = is_whole(value) || is_pair(value) || PyRange_Check(value.ptr());
    if (value.is_none()) return ranges;
    if (one) {
        ranges.push_back(to_range(value, what));
    } else if (nb::isinstance<nb::tuple>(value) || nb::isinstance<nb::list>(value)) {
        for (nb::handle item : value) ranges.push_back(to_range(item, what));
    } else {
        wrong_type(value, what, kRanges);
    }
    return ordered_ranges(std::move(ranges));
}

std::string to_text(nb::handle value, const char *what) {
    if (!nb::isinstance<nb::str>(value)) wrong_type(value, what, "str");
    Py_ssize_t size = 0;
    const char *text = PyUnicode_AsUTF8AndSize(value.ptr(), &size);
    if (!text) {
        PyErr_Clear();
        throw OptionError(str(what, ": Unicode text expected, found a lone surrogate"));
    }
    return std::string(text, static_cast<size_t>(size));
}

}  // namespace a2sf::python
