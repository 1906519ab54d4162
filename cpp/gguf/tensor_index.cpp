// The tensor entries of a GGUF file: names, shapes, types, and the bytes that they claim.
#include "gguf/tensor_index.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>

#include "base/error.h"

namespace a2sf {
namespace {

constexpr uint32_t kMaxDims = 4;
constexpr size_t kMaxNameBytes = 64;  // the GGUF specification's limit

const WeightType &read_type(GgufCursor &cursor) {
    const uint32_t ggml_id = cursor.read<uint32_t>("weight type");
    if (const WeightType *type = find_weight_type(ggml_id)) return *type;
    std::vector<const char *> names;
    for (const WeightType &type : weight_types()) names.push_back(type.name);
    throw UnsupportedError(str(cursor.where(), ": weight type: one of ", join(names),
                               " expected, found ", ggml_type_name(ggml_id)));
}

std::vector<size_t> read_shape(GgufCursor &cursor) {
    const uint32_t n_dims = cursor.read<uint32_t>("dimensions");
    if (n_dims < 1 || n_dims > kMaxDims) {
        cursor.fail("dimensions: 1 to ", kMaxDims, " expected, found ", n_dims);
    }
    std::vector<size_t> shape(n_dims);
    for (size_t &size : shape) {
        const uint64_t stored = cursor.read<uint64_t>("shape");
        if (stored == 0 || stored > std::numeric_limits<size_t>::max()) {
            cursor.fail("shape: sizes from 1 to ", std::numeric_limits<size_t>::max(),
                        " expected, found ", stored);
        }
        size = static_cast<size_t>(stored);
    }
    return shape;
}

TensorInfo read_entry(GgufCursor &cursor) {
    const std::string_view name = cursor.read_string("name");
    if (name.empty() || name.size() > kMaxNameBytes || !is_printable(name)) {
        cursor.fail("name: 1 to ", kMaxNameBytes, " bytes of printable text expected, found ",
                    name.size(), " bytes \"", printable(name, kMaxNameBytes), "\"");
    }
    cursor.set_entry_name(name);
    TensorInfo tensor;
    tensor.name = name;
    tensor.shape = read_shape(cursor);
    tensor.type = &read_type(cursor);
    tensor.offset = cursor.read<uint64_t>("offset");
    if (tensor.shape[0] % tensor.type->block != 0) {
        cursor.fail("shape: rows of a multiple of ", tensor.type->block, " elements expected for ",
                    tensor.type->name, ", found ", tensor.shape_text());
    }
    return tensor;
}

// Bytes of the tensor's data, or nothing when they exceed 64 bits.
std::optional<uint64_t> data_bytes(const TensorInfo &tensor) {
    uint64_t n_bytes = tensor.shape[0] / tensor.type->block;
    if (__builtin_mul_overflow(n_bytes, tensor.type->block_bytes, &n_bytes)) return std::nullopt;
    for (size_t i = 1; i < tensor.shape.size(); ++i) {
        if (__builtin_mul_overflow(n_bytes, tensor.shape[i], &n_bytes)) return std::nullopt;
    }
    return n_bytes;
}

[[noreturn]] void fail(const std::string &file, const TensorInfo &tensor, const std::string &text) {
    throw GgufError(str(file, ": tensor ", tensor.name, ": ", text));
}

void check_overlap(const std::vector<TensorInfo> &tensors, const std::string &file) {
    std::vector<uint32_t> order(tensors.size());
    std::iota(order.begin(), order.end(), 0u);
    std::sort(order.begin(), order.end(),
              [&](uint32_t a, uint32_t b) { return tensors[a].offset < tensors[b].offset; });
    for (size_t i = 1; i < order.size(); ++i) {
        const TensorInfo &before = tensors[order[i - 1]], &after = tensors[order[i]];
        const uint64_t end = before.offset + before.data.size();
        if (after.offset < end) {
            fail(file, after,
                 str("data: bytes of its own expected, found that ", before.name,
                     " overlaps them (it ends at ", end, ", this one starts at ", after.offset,
                     ")"));
        }
    }
}

}  // namespace

std::vector<TensorInfo> read_tensor_entries(GgufCursor &cursor, uint64_t n_tensors) {
    cursor.enter("header");
    cursor.check_count(n_tensors, "tensor count", kMinTensorEntryBytes);
    if (n_tensors > std::numeric_limits<uint32_t>::max()) {
        cursor.fail("tensor count: below 2^32 expected, found ", n_tensors);
    }
    std::vector<TensorInfo> tensors;
    tensors.reserve(static_cast<size_t>(n_tensors));
    for (uint64_t i = 0; i < n_tensors; ++i) {
        cursor.enter("tensor", i);
        tensors.push_back(read_entry(cursor));
    }
    return tensors;
}

void place_tensors(std::vector<TensorInfo> &tensors, std::span<const std::byte> file_bytes,
                   uint64_t data_start, uint64_t alignment, const std::string &file) {
    const uint64_t file_size = file_bytes.size();
    for (TensorInfo &tensor : tensors) {
        if (tensor.offset % alignment != 0) {
            fail(file, tensor,
                 str("offset: a multiple of ", alignment, " expected, found ", tensor.offset));
        }
        const std::optional<uint64_t> n_bytes = data_bytes(tensor);
        const uint64_t available = file_size > data_start ? file_size - data_start : 0;
        if (!n_bytes || *n_bytes > available || tensor.offset > available - *n_bytes) {
            fail(file, tensor,
                 str("data: ", tensor.shape_text(), " ", tensor.type->name, " at offset ",
                     tensor.offset, " inside the ", available,
                     " bytes of tensor data expected, found that it ends ",
                     "outside (truncated or damaged file)"));
        }
        tensor.offset += data_start;
        tensor.data =
            file_bytes.subspan(static_cast<size_t>(tensor.offset), static_cast<size_t>(*n_bytes));
    }
    check_overlap(tensors, file);
}

std::vector<uint32_t> sort_by_name(const std::vector<TensorInfo> &tensors,
                                   const std::string &file) {
    std::vector<uint32_t> order(tensors.size());
    std::iota(order.begin(), order.end(), 0u);
    std::sort(order.begin(), order.end(),
              [&](uint32_t a, uint32_t b) { return tensors[a].name < tensors[b].name; });
    const auto twin = std::adjacent_find(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
        return tensors[a].name == tensors[b].name;
    });
    if (twin != order.end())
        fail(file, tensors[*twin], "name: unique name expected, found it twice");
    return order;
}

}  // namespace a2sf
