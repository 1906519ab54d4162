// Weight types at run time: the formats of quant/formats.h as a table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace a2sf {

// One weight format as data. Static, never destroyed; compare by address.
struct WeightType {
    const char *name;
    uint32_t ggml_id;
    size_t block;        // elements per block
    size_t block_bytes;  // bytes per block
    size_t group;        // elements per scale; 0 for plain floats
    bool has_offset;
    size_t index;  // position in weight_types(): kernel tables are indexed by it

    // Scalar decode of n elements (a multiple of `block`) into out. The definition of the format.
    void (*decode)(const void *blocks, float *out, size_t n);

    // Bytes of a row of n elements; n must be a multiple of `block`.
    size_t row_bytes(size_t n) const { return n / block * block_bytes; }
};

std::span<const WeightType> weight_types();

// The type with this GGUF number, or nullptr.
const WeightType *find_weight_type(uint32_t ggml_id);

// GGUF's name for a type number that this build may not support ("IQ2_XXS"), or "type 99".
std::string ggml_type_name(uint32_t ggml_id);

}  // namespace a2sf
