// A GGUF v2/v3 file, mapped read-only, its header completely validated before anything is used:
// every read bounds-checked, sizes checked for overflow, offsets aligned and inside the file,
// tensors not overlapping the header, names unique. It knows nothing of architectures.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/value.h"
#include "quant/registry.h"

namespace a2sf {

// A tensor's entry in the index. shape is in GGUF order: shape[0] is the contiguous dimension
// (columns), shape[1] the rows. data covers exactly the tensor's bytes in the mapping.
struct TensorInfo {
    std::string name;
    std::vector<size_t> shape;
    const WeightType *type = nullptr;
    uint64_t offset = 0;  // from the start of the file
    std::span<const std::byte> data;

    size_t n_elements() const;
    std::string shape_text() const;  // "(576, 1536)"
};

class GgufFile {
  public:
    // Maps and parses a file. Throws GgufError (damaged), UnsupportedError (big-endian, split,
    // unknown version or weight type, by name) or Error (cannot be read).
    static GgufFile open(const std::string &path);

    // Parses bytes that stay alive as long as the result; `name` is used in messages.
    static GgufFile parse(std::span<const std::byte> bytes, std::string name);

    GgufFile(GgufFile &&) noexcept;
    GgufFile &operator=(GgufFile &&) noexcept;
    ~GgufFile();

    const std::string &name() const;
    uint32_t version() const;
    size_t n_bytes() const;
    std::span<const std::byte> head() const;  // metadata and tensor entries as they are written

    // Metadata in key order, and typed access. get_* throw GgufError when the key is missing or has
    // another type ("llama.block_count: integer expected, found string"); find_* return nothing
    // when it is missing and throw when the type is wrong. Integers of any width and sign are
    // accepted where the value fits; integers are accepted where a float is expected.
    const std::map<std::string, GgufValue, std::less<>> &metadata() const;
    const GgufValue *find(std::string_view key) const;
    std::optional<uint64_t> find_uint(std::string_view key) const;
    std::optional<double> find_float(std::string_view key) const;
    std::optional<bool> find_bool(std::string_view key) const;
    std::optional<std::string> find_string(std::string_view key) const;
    const GgufValue::Strings *find_strings(std::string_view key) const;
    const GgufValue::Floats *find_floats(std::string_view key) const;
    const GgufValue::Ints *find_ints(std::string_view key) const;
    const GgufValue::Bools *find_bools(std::string_view key) const;
    uint64_t get_uint(std::string_view key) const;
    double get_float(std::string_view key) const;
    std::string get_string(std::string_view key) const;

    // Tensors in file order; find_tensor returns nullptr when there is none of that name.
    const std::vector<TensorInfo> &tensors() const;
    const TensorInfo *find_tensor(std::string_view name) const;

  private:
    struct State;
    explicit GgufFile(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace a2sf
