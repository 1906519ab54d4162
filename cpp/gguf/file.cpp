// GgufFile: the order in which a file is validated, and typed access to what it says.
#include "gguf/file.h"

#include <algorithm>

#include "base/error.h"
#include "gguf/cursor.h"
#include "gguf/mapping.h"
#include "gguf/metadata.h"
#include "gguf/tensor_index.h"

namespace a2sf {

struct GgufFile::State {
    std::string name;
    FileMapping mapping;  // empty when the caller owns the bytes
    std::span<const std::byte> bytes;
    uint32_t version = 0;
    size_t n_head = 0;  // bytes of metadata and tensor entries
    GgufMetadata metadata;
    std::vector<TensorInfo> tensors;
    std::vector<uint32_t> by_name;  // indices into tensors, sorted by name
};

namespace {

constexpr uint32_t kMinVersion = 2, kMaxVersion = 3;
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMaxAlignment = uint64_t{1} << 31;

// The least bytes that a metadata pair takes: key length, key, type, value.
constexpr uint64_t kMinPairBytes = 8 + 1 + 4 + 1;

uint32_t read_version(GgufCursor &cursor, const std::string &file) {
    const size_t n_magic = std::min<size_t>(4, cursor.remaining());
    const std::string_view magic(reinterpret_cast<const char *>(cursor.take(n_magic, "magic")),
                                 n_magic);
    if (magic != "GGUF") {
        cursor.fail("magic: \"GGUF\" expected, found ",
                    magic.empty() ? "an empty file" : '"' + printable(magic, 4) + '"');
    }
    const uint32_t version = cursor.read<uint32_t>("version");
    if (version >= kMinVersion && version <= kMaxVersion) return version;
    const uint32_t swapped = __builtin_bswap32(version);
    if (swapped > 0 && swapped <= 0xffff) {
        throw UnsupportedError(str(
            file, ": byte order: little-endian expected, found big-endian GGUF version ", swapped));
    }
    throw UnsupportedError(str(file, ": GGUF version: ", kMinVersion, " to ", kMaxVersion,
                               " expected, found ", version));
}

// A value whose type is none that `expected` names.
[[noreturn]] void fail_type(std::string_view key, const char *expected, const GgufValue &value) {
    throw GgufError(str(key, ": ", expected, " expected, found ", value.type_name));
}

[[noreturn]] void fail_missing(std::string_view key, const char *expected) {
    throw GgufError(str(key, ": ", expected, " expected, found no such key in the metadata"));
}

// The array of type Items under key, or nullptr when there is none.
template <typename Items>
const Items *find_array(const GgufFile &file, std::string_view key, const char *expected) {
    const GgufValue *value = file.find(key);
    if (value == nullptr) return nullptr;
    const Items *items = std::get_if<Items>(&value->data);
    if (items == nullptr) fail_type(key, expected, *value);
    return items;
}

void check_not_split(const GgufFile &file) {
    const uint64_t n_splits = file.find_uint("split.count").value_or(1);
    if (n_splits <= 1) return;
    throw UnsupportedError(str(file.name(), ": split.count: 1 expected, found ", n_splits,
                               " (join the parts first, e.g. with llama-gguf-split --merge)"));
}

uint64_t read_alignment(const GgufFile &file) {
    const uint64_t alignment = file.find_uint("general.alignment").value_or(kDefaultAlignment);
    const bool is_power_of_two = alignment != 0 && (alignment & (alignment - 1)) == 0;
    if (!is_power_of_two || alignment > kMaxAlignment) {
        throw GgufError(str(file.name(), ": general.alignment: a power of two up to ",
                            kMaxAlignment, " expected, found ", alignment));
    }
    return alignment;
}

uint64_t align_up(uint64_t value, uint64_t alignment) {
    return (value + alignment - 1) / alignment * alignment;
}

}  // namespace

size_t TensorInfo::n_elements() const {
    size_t n = 1;
    for (const size_t size : shape) n *= size;
    return n;
}

std::string TensorInfo::shape_text() const {
    return "(" + join(shape) + ")";
}

GgufFile::GgufFile(std::unique_ptr<State> state) : state_(std::move(state)) {}
GgufFile::GgufFile(GgufFile &&) noexcept = default;
GgufFile &GgufFile::operator=(GgufFile &&) noexcept = default;
GgufFile::~GgufFile() = default;

GgufFile GgufFile::open(const std::string &path) {
    FileMapping mapping(path);
    GgufFile file = parse(mapping.bytes(), path);
    file.state_->mapping = std::move(mapping);
    return file;
}

// In file order: magic, version, counts, metadata, tensor entries, and the data that they claim.
GgufFile GgufFile::parse(std::span<const std::byte> bytes, std::string name) {
    GgufFile file(std::make_unique<State>());
    State &state = *file.state_;
    state.name = std::move(name);
    state.bytes = bytes;
    GgufCursor cursor(bytes, state.name);
    state.version = read_version(cursor, state.name);
    const uint64_t n_tensors = cursor.read_count("tensor count", kMinTensorEntryBytes);
    const uint64_t n_keys = cursor.read_count("metadata count", kMinPairBytes);
    state.metadata = read_metadata(cursor, n_keys);
    check_not_split(file);
    const uint64_t alignment = read_alignment(file);
    state.tensors = read_tensor_entries(cursor, n_tensors);
    state.n_head = cursor.position();
    state.by_name = sort_by_name(state.tensors, state.name);
    place_tensors(state.tensors, bytes, align_up(cursor.position(), alignment), alignment,
                  state.name);
    return file;
}

const std::string &GgufFile::name() const {
    return state_->name;
}
uint32_t GgufFile::version() const {
    return state_->version;
}
size_t GgufFile::n_bytes() const {
    return state_->bytes.size();
}
std::span<const std::byte> GgufFile::head() const {
    return state_->bytes.first(state_->n_head);
}
const GgufMetadata &GgufFile::metadata() const {
    return state_->metadata;
}
const std::vector<TensorInfo> &GgufFile::tensors() const {
    return state_->tensors;
}

const TensorInfo *GgufFile::find_tensor(std::string_view tensor_name) const {
    const std::vector<TensorInfo> &tensors = state_->tensors;
    const auto found = std::lower_bound(
        state_->by_name.begin(), state_->by_name.end(), tensor_name,
        [&](uint32_t index, std::string_view wanted) { return tensors[index].name < wanted; });
    if (found == state_->by_name.end() || tensors[*found].name != tensor_name) return nullptr;
    return &tensors[*found];
}

const GgufValue *GgufFile::find(std::string_view key) const {
    const auto found = state_->metadata.find(key);
    return found == state_->metadata.end() ? nullptr : &found->second;
}

std::optional<uint64_t> GgufFile::find_uint(std::string_view key) const {
    const GgufValue *value = find(key);
    if (value == nullptr) return std::nullopt;
    if (const auto *number = std::get_if<uint64_t>(&value->data)) return *number;
    const auto *number = std::get_if<int64_t>(&value->data);
    if (number == nullptr) fail_type(key, "integer", *value);
    if (*number < 0) throw GgufError(str(key, ": integer of 0 or more expected, found ", *number));
    return static_cast<uint64_t>(*number);
}

std::optional<double> GgufFile::find_float(std::string_view key) const {
    const GgufValue *value = find(key);
    if (value == nullptr) return std::nullopt;
    if (const auto *number = std::get_if<double>(&value->data)) return *number;
    if (const auto *number = std::get_if<uint64_t>(&value->data))
        return static_cast<double>(*number);
    if (const auto *number = std::get_if<int64_t>(&value->data))
        return static_cast<double>(*number);
    fail_type(key, "number", *value);
}

std::optional<bool> GgufFile::find_bool(std::string_view key) const {
    const GgufValue *value = find(key);
    if (value == nullptr) return std::nullopt;
    if (const bool *flag = std::get_if<bool>(&value->data)) return *flag;
    fail_type(key, "bool", *value);
}

std::optional<std::string> GgufFile::find_string(std::string_view key) const {
    const GgufValue *value = find(key);
    if (value == nullptr) return std::nullopt;
    if (const auto *text = std::get_if<std::string_view>(&value->data)) return std::string(*text);
    fail_type(key, "string", *value);
}

const GgufValue::Strings *GgufFile::find_strings(std::string_view key) const {
    return find_array<GgufValue::Strings>(*this, key, "array of strings");
}
const GgufValue::Floats *GgufFile::find_floats(std::string_view key) const {
    return find_array<GgufValue::Floats>(*this, key, "array of floats");
}
const GgufValue::Ints *GgufFile::find_ints(std::string_view key) const {
    return find_array<GgufValue::Ints>(*this, key, "array of integers");
}
const GgufValue::Bools *GgufFile::find_bools(std::string_view key) const {
    return find_array<GgufValue::Bools>(*this, key, "array of bools");
}

uint64_t GgufFile::get_uint(std::string_view key) const {
    const std::optional<uint64_t> value = find_uint(key);
    if (!value) fail_missing(key, "integer");
    return *value;
}

double GgufFile::get_float(std::string_view key) const {
    const std::optional<double> value = find_float(key);
    if (!value) fail_missing(key, "number");
    return *value;
}

std::string GgufFile::get_string(std::string_view key) const {
    std::optional<std::string> value = find_string(key);
    if (!value) fail_missing(key, "string");
    return *std::move(value);
}

}  // namespace a2sf
