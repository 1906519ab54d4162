// Reads the metadata section of a GGUF file. Internal to gguf/.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "gguf/cursor.h"
#include "gguf/value.h"

namespace a2sf {

using GgufMetadata = std::map<std::string, GgufValue, std::less<>>;

// n_keys key/value pairs from the cursor. Throws GgufError or UnsupportedError.
GgufMetadata read_metadata(GgufCursor &cursor, uint64_t n_keys);

}  // namespace a2sf
