// Reads and validates the tensor entries of a GGUF file. Internal to gguf/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "gguf/cursor.h"
#include "gguf/file.h"

namespace a2sf {

// The least bytes that a tensor entry takes: name length, name, number of dimensions, one
// dimension, type, offset.
inline constexpr uint64_t kMinTensorEntryBytes = 8 + 1 + 4 + 8 + 4 + 8;

// n_tensors entries from the cursor, their offsets still relative to the data section. Throws
// GgufError, or UnsupportedError for a weight type that this build does not have.
std::vector<TensorInfo> read_tensor_entries(GgufCursor &cursor, uint64_t n_tensors);

// Makes offsets absolute and sets the data spans. data_start is where the data section begins (it
// may lie past the end of a file without tensors). Throws GgufError when an offset is not a
// multiple of alignment, data exceeds the file, or two tensors share bytes.
void place_tensors(std::vector<TensorInfo> &tensors, std::span<const std::byte> file_bytes,
                   uint64_t data_start, uint64_t alignment, const std::string &file);

// Indices of tensors sorted by name. Throws GgufError when two have the same.
std::vector<uint32_t> sort_by_name(const std::vector<TensorInfo> &tensors, const std::string &file);

}  // namespace a2sf
