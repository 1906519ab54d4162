// Options of an eviction as a text file, for --eviction-file and Eviction.load(): what a2sf-eval
// calibrate writes, and people can read and change.
//
//     # a2sf eviction 1
//     policy a2sf
//     forgetting_factor 0.99
//     recent 25%
//     allocation 1.25 0.4 ...
//
// A line is a name and its value, names as in Python, values as on the command line; what is not
// there is the policy's own. Lines that begin with # after the first say something to people.
#pragma once

#include <string>
#include <string_view>

#include "evict/options.h"

namespace a2sf {

// Throws OptionError naming the line; validates.
EvictionOptions parse_eviction_file(std::string_view text);

// note: lines for people, without "# ".
std::string eviction_file(const EvictionOptions &options, std::string_view note = {});

}  // namespace a2sf
