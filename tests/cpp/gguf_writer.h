// Builds GGUF files in memory for tests: well-formed ones by default, damaged ones on request; and
// writes them out as the fuzzer's seeds.
// It shares no code with cpp/gguf, so that the two check each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace a2sf_test {

// Little-endian values one after another.
class Bytes {
  public:
    template <typename T>
        requires std::is_arithmetic_v<T>
    Bytes &put(T value) {
        return put_raw(&value, sizeof value);
    }
    Bytes &put_string(std::string_view text) {
        put<uint64_t>(text.size());
        return put_raw(text.data(), text.size());
    }
    Bytes &put_raw(const void *data, size_t size) {
        const auto *start = static_cast<const std::byte *>(data);
        bytes_.insert(bytes_.end(), start, start + size);
        return *this;
    }
    Bytes &put(const Bytes &other) { return put_raw(other.bytes_.data(), other.bytes_.size()); }
    Bytes &pad_to(size_t alignment) {
        bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment);
        return *this;
    }

    size_t size() const { return bytes_.size(); }
    const std::vector<std::byte> &get() const { return bytes_; }

  private:
    std::vector<std::byte> bytes_;
};

// GGUF's number for a C++ type.
template <typename T>
constexpr uint32_t value_type() {
    if constexpr (std::is_same_v<T, uint8_t>) return 0;
    if constexpr (std::is_same_v<T, int8_t>) return 1;
    if constexpr (std::is_same_v<T, uint16_t>) return 2;
    if constexpr (std::is_same_v<T, int16_t>) return 3;
    if constexpr (std::is_same_v<T, uint32_t>) return 4;
    if constexpr (std::is_same_v<T, int32_t>) return 5;
    if constexpr (std::is_same_v<T, float>) return 6;
    if constexpr (std::is_same_v<T, bool>) return 7;
    if constexpr (std::is_same_v<T, std::string>) return 8;
    if constexpr (std::is_same_v<T, uint64_t>) return 10;
    if constexpr (std::is_same_v<T, int64_t>) return 11;
    if constexpr (std::is_same_v<T, double>) return 12;
}
constexpr uint32_t kArrayType = 9;

// A file under construction. Public fields are what a test may falsify before calling bytes().
class GgufWriter {
  public:
    std::string magic = "GGUF";
    uint32_t version = 3;
    size_t alignment = 32;      // of the data as written; add "general.alignment" to declare it
    int64_t extra_tensors = 0;  // added to the tensor count in the header
    int64_t extra_pairs = 0;    // added to the metadata count

    template <typename T>
    GgufWriter &add(std::string_view key, const T &value) {
        Bytes pair;
        pair.put_string(key).put<uint32_t>(value_type<T>());
        put_value(pair, value);
        return add_pair(pair);
    }
    GgufWriter &add(std::string_view key, const char *value) {
        return add(key, std::string(value));
    }

    template <typename T>
    GgufWriter &add_array(std::string_view key, const std::vector<T> &items) {
        Bytes pair;
        pair.put_string(key).put<uint32_t>(kArrayType).put<uint32_t>(value_type<T>());
        pair.put<uint64_t>(items.size());
        for (const T &item : items) put_value(pair, item);
        return add_pair(pair);
    }

    // A metadata pair as bytes, for the malformed.
    GgufWriter &add_pair(const Bytes &pair) {
        pairs_.put(pair);
        ++n_pairs_;
        return *this;
    }

    // A tensor and its data; the offset is the next aligned one.
    GgufWriter &add_tensor(std::string_view name, const std::vector<uint64_t> &shape, uint32_t type,
                           std::span<const std::byte> data) {
        add_entry(name, shape, type, data_.size());
        data_.put_raw(data.data(), data.size());
        data_.pad_to(alignment);
        return *this;
    }
    GgufWriter &add_tensor(std::string_view name, const std::vector<uint64_t> &shape, uint32_t type,
                           size_t n_bytes) {
        return add_tensor(name, shape, type, std::vector<std::byte>(n_bytes));
    }

    // A tensor entry alone, with any offset.
    GgufWriter &add_entry(std::string_view name, const std::vector<uint64_t> &shape, uint32_t type,
                          uint64_t offset) {
        entries_.put_string(name).put<uint32_t>(static_cast<uint32_t>(shape.size()));
        for (const uint64_t size : shape) entries_.put<uint64_t>(size);
        entries_.put<uint32_t>(type).put<uint64_t>(offset);
        ++n_tensors_;
        return *this;
    }

    std::vector<std::byte> bytes() const {
        Bytes file;
        file.put_raw(magic.data(), magic.size()).put<uint32_t>(version);
        file.put<uint64_t>(n_tensors_ + static_cast<uint64_t>(extra_tensors));
        file.put<uint64_t>(n_pairs_ + static_cast<uint64_t>(extra_pairs));
        file.put(pairs_).put(entries_);
        if (data_.size() > 0) file.pad_to(alignment).put(data_);
        return file.get();
    }

  private:
    template <typename T>
    static void put_value(Bytes &bytes, const T &value) {
        if constexpr (std::is_same_v<T, std::string>) {
            bytes.put_string(value);
        } else if constexpr (std::is_same_v<T, bool>) {
            bytes.put<uint8_t>(value ? 1 : 0);
        } else {
            bytes.put<T>(value);
        }
    }

    Bytes pairs_, entries_, data_;
    uint64_t n_pairs_ = 0;
    uint64_t n_tensors_ = 0;
};

// Writes a small file as a seed for fuzz_gguf when A2SF_WRITE_CORPUS names a folder.
inline void write_seed(const std::string &name, const std::vector<std::byte> &bytes) {
    const char *folder = std::getenv("A2SF_WRITE_CORPUS");
    if (folder == nullptr || bytes.size() > 4000) return;
    std::ofstream file(std::filesystem::path(folder) / name, std::ios::binary);
    file.write(reinterpret_cast<const char *>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
}

}  // namespace a2sf_test
