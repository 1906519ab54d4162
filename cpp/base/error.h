// The library's error types and the one helper that builds their messages.
// Every message reads "where: what was expected, what was found". Nothing here prints or aborts.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace a2sf {

// Base of everything the library throws on purpose; Python sees it as a2sf.Error.
class Error : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// A GGUF file that is damaged or contradicts itself (Python: also a ValueError).
class GgufError : public Error {
  public:
    using Error::Error;
};

// A saved session that is damaged, or was saved with another model or other options (Python: also a
// ValueError).
class SavedSessionError : public Error {
  public:
    using Error::Error;
};

// An option, argument or combination of them that makes no sense (Python: also a ValueError).
class OptionError : public Error {
  public:
    using Error::Error;
};

// A valid file or request that needs something this build does not have; lists what it has.
class UnsupportedError : public Error {
  public:
    using Error::Error;
};

// A device that is missing, or that ran out of memory.
class DeviceError : public Error {
  public:
    using Error::Error;
};

// Work that the caller asked to stop (Ctrl-C); carries no fault.
class Interrupted : public Error {
  public:
    Interrupted() : Error("interrupted") {}
};

// Concatenates its arguments as an ostream would print them.
template <typename... Parts>
std::string str(const Parts &...parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
}

// "a, b, c" for messages that list what is known.
template <typename Range>
std::string join(const Range &range, const char *separator = ", ") {
    std::ostringstream out;
    const char *between = "";
    for (const auto &item : range) {
        out << between << item;
        between = separator;
    }
    return out.str();
}

}  // namespace a2sf
