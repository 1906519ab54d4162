// The metadata section of a GGUF file: keys and typed values. Arrays of 150,000 strings are usual,
// so an element costs one bounds check and one view.
#include "gguf/metadata.h"

#include <iterator>
#include <limits>
#include <type_traits>

namespace a2sf {
namespace {

// The limit that the GGUF specification sets for keys.
constexpr size_t kMaxKeyBytes = 65535;

// Widening an array to 64 bits must not turn a damaged file into gigabytes of memory. The largest
// arrays in use, merge lists and vocabularies, have under a million elements.
constexpr uint64_t kMaxArrayItems = uint64_t{1} << 24;

// Value types as GGUF numbers them.
enum class ValueType : uint32_t {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64
};

struct ValueTypeInfo {
    const char *name;
    uint64_t min_bytes;  // the least that one value takes
};
constexpr ValueTypeInfo kValueTypes[] = {
    {"u8", 1},   {"i8", 1},     {"u16", 2},    {"i16", 2}, {"u32", 4}, {"i32", 4}, {"f32", 4},
    {"bool", 1}, {"string", 8}, {"array", 12}, {"u64", 8}, {"i64", 8}, {"f64", 8},
};

ValueType read_type(GgufCursor &cursor, const char *field) {
    const uint32_t number = cursor.read<uint32_t>(field);
    if (number >= std::size(kValueTypes)) {
        cursor.fail(field, ": 0 to ", std::size(kValueTypes) - 1, " expected, found ", number);
    }
    return static_cast<ValueType>(number);
}

const ValueTypeInfo &info(ValueType type) {
    return kValueTypes[static_cast<uint32_t>(type)];
}

bool to_bool(const GgufCursor &cursor, uint8_t byte) {
    if (byte > 1) cursor.fail("bool: 0 or 1 expected, found ", int{byte});
    return byte == 1;
}

// T widened to the type that GgufValue holds.
template <typename T>
auto widen(T value) {
    if constexpr (std::is_floating_point_v<T>) {
        return static_cast<double>(value);
    } else if constexpr (std::is_signed_v<T>) {
        return static_cast<int64_t>(value);
    } else {
        return static_cast<uint64_t>(value);
    }
}

template <typename T>
void read_scalar(GgufCursor &cursor, GgufValue &value) {
    value.data = widen(cursor.read<T>("value"));
}

// count values of T, already known to be there.
template <typename T>
void read_numbers(GgufCursor &cursor, uint64_t count, GgufValue &value) {
    using Items =
        std::conditional_t<std::is_floating_point_v<T>, GgufValue::Floats, GgufValue::Ints>;
    const std::byte *bytes = cursor.take(count * sizeof(T), "array");
    Items items(static_cast<size_t>(count));
    for (size_t i = 0; i < items.size(); ++i) {
        T item;
        std::memcpy(&item, bytes + i * sizeof(T), sizeof(T));
        if constexpr (std::is_same_v<T, uint64_t>) {
            if (item > uint64_t{std::numeric_limits<int64_t>::max()}) {
                cursor.fail("array element ", i, ": below 2^63 expected, found ", item);
            }
        }
        items[i] = static_cast<typename Items::value_type>(item);
    }
    value.data = std::move(items);
}

void read_bools(GgufCursor &cursor, uint64_t count, GgufValue &value) {
    const std::byte *bytes = cursor.take(count, "array");
    GgufValue::Bools items(static_cast<size_t>(count));
    for (size_t i = 0; i < items.size(); ++i) {
        items[i] = to_bool(cursor, std::to_integer<uint8_t>(bytes[i]));
    }
    value.data = std::move(items);
}

void read_strings(GgufCursor &cursor, uint64_t count, GgufValue &value) {
    GgufValue::Strings items;
    items.reserve(static_cast<size_t>(count));
    for (uint64_t i = 0; i < count; ++i) items.push_back(cursor.read_string("array element"));
    value.data = std::move(items);
}

void read_array(GgufCursor &cursor, GgufValue &value) {
    const ValueType type = read_type(cursor, "array element type");
    value.type_name = str("array of ", info(type).name);
    if (type == ValueType::Array) {
        throw UnsupportedError(cursor.where() +
                               ": array of values expected, found array of arrays");
    }
    const uint64_t count = cursor.read_count("array length", info(type).min_bytes);
    if (count > kMaxArrayItems) {
        cursor.fail("array length: at most ", kMaxArrayItems, " expected, found ", count);
    }
    switch (type) {
        case ValueType::U8:
            return read_numbers<uint8_t>(cursor, count, value);
        case ValueType::I8:
            return read_numbers<int8_t>(cursor, count, value);
        case ValueType::U16:
            return read_numbers<uint16_t>(cursor, count, value);
        case ValueType::I16:
            return read_numbers<int16_t>(cursor, count, value);
        case ValueType::U32:
            return read_numbers<uint32_t>(cursor, count, value);
        case ValueType::I32:
            return read_numbers<int32_t>(cursor, count, value);
        case ValueType::U64:
            return read_numbers<uint64_t>(cursor, count, value);
        case ValueType::I64:
            return read_numbers<int64_t>(cursor, count, value);
        case ValueType::F32:
            return read_numbers<float>(cursor, count, value);
        case ValueType::F64:
            return read_numbers<double>(cursor, count, value);
        case ValueType::Bool:
            return read_bools(cursor, count, value);
        case ValueType::String:
            return read_strings(cursor, count, value);
        case ValueType::Array:
            return;  // refused above
    }
}

GgufValue read_value(GgufCursor &cursor) {
    const ValueType type = read_type(cursor, "value type");
    GgufValue value;
    value.type_name = info(type).name;
    switch (type) {
        case ValueType::U8:
            read_scalar<uint8_t>(cursor, value);
            break;
        case ValueType::I8:
            read_scalar<int8_t>(cursor, value);
            break;
        case ValueType::U16:
            read_scalar<uint16_t>(cursor, value);
            break;
        case ValueType::I16:
            read_scalar<int16_t>(cursor, value);
            break;
        case ValueType::U32:
            read_scalar<uint32_t>(cursor, value);
            break;
        case ValueType::I32:
            read_scalar<int32_t>(cursor, value);
            break;
        case ValueType::U64:
            read_scalar<uint64_t>(cursor, value);
            break;
        case ValueType::I64:
            read_scalar<int64_t>(cursor, value);
            break;
        case ValueType::F32:
            read_scalar<float>(cursor, value);
            break;
        case ValueType::F64:
            read_scalar<double>(cursor, value);
            break;
        case ValueType::Bool:
            value.data = to_bool(cursor, cursor.read<uint8_t>("value"));
            break;
        case ValueType::String:
            value.data = cursor.read_string("value");
            break;
        case ValueType::Array:
            read_array(cursor, value);
            break;
    }
    return value;
}

}  // namespace

GgufMetadata read_metadata(GgufCursor &cursor, uint64_t n_keys) {
    GgufMetadata metadata;
    for (uint64_t i = 0; i < n_keys; ++i) {
        cursor.enter("metadata", i);
        const std::string_view key = cursor.read_string("key");
        if (key.empty() || key.size() > kMaxKeyBytes || !is_printable(key)) {
            cursor.fail("key: 1 to ", kMaxKeyBytes, " bytes of printable text expected, found ",
                        key.size(), " bytes \"", printable(key, 64), "\"");
        }
        cursor.set_entry_name(key);
        const auto [entry, is_new] = metadata.try_emplace(std::string(key));
        if (!is_new) cursor.fail("key: unique name expected, found it twice");
        entry->second = read_value(cursor);
    }
    return metadata;
}

}  // namespace a2sf
