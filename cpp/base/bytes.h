// Writing state as bytes and reading it back without trusting them. Numbers are little-endian, as
// the hosts are on which this builds.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/error.h"

namespace a2sf {

static_assert(std::endian::native == std::endian::little);

// Where bytes go. Throws what the destination throws.
class ByteWriter {
  public:
    virtual ~ByteWriter() = default;
    virtual void write(std::span<const std::byte> bytes) = 0;

    template <typename T>
    void put(const T &value) {
        static_assert(std::is_trivially_copyable_v<T>);
        write(std::as_bytes(std::span<const T, 1>(&value, 1)));
    }
    template <typename T>
    void put_all(std::span<T> values) {
        write(std::as_bytes(values));
    }
    void put_text(std::string_view text) {
        put<uint64_t>(text.size());
        write(std::as_bytes(std::span(text.data(), text.size())));
    }
};

// Keeps the bytes in memory.
class MemoryWriter final : public ByteWriter {
  public:
    void write(std::span<const std::byte> bytes) override {
        if (bytes.empty()) return;
        const size_t before = bytes_.size();
        bytes_.resize(before + bytes.size());
        std::memcpy(bytes_.data() + before, bytes.data(), bytes.size());
    }
    std::span<const std::byte> bytes() const { return bytes_; }

  private:
    std::vector<std::byte> bytes_;
};

// A position in bytes that it cannot leave. Borrows bytes and name.
class ByteReader {
  public:
    ByteReader(std::span<const std::byte> bytes, const std::string &name)
        : bytes_(bytes), name_(name) {}

    size_t remaining() const { return bytes_.size() - position_; }

    template <typename... Parts>
    [[noreturn]] void fail(const Parts &...parts) const {
        throw SavedSessionError(name_ + ": " + str(parts...));
    }

    std::span<const std::byte> take(uint64_t n_bytes, const char *field) {
        if (n_bytes > remaining()) {
            fail(field, ": ", n_bytes, " bytes expected at offset ", position_, ", found ",
                 remaining(), " (truncated or damaged file)");
        }
        const auto taken = bytes_.subspan(position_, static_cast<size_t>(n_bytes));
        position_ += taken.size();
        return taken;
    }
    template <typename T>
    T get(const char *field) {
        static_assert(std::is_trivially_copyable_v<T>);
        T value;
        std::memcpy(&value, take(sizeof(T), field).data(), sizeof(T));
        return value;
    }
    // Fills `to`.
    template <typename T>
    void get_all(std::span<T> to, const char *field) {
        const auto bytes = take(to.size_bytes(), field);
        if (!bytes.empty()) std::memcpy(to.data(), bytes.data(), bytes.size());
    }
    std::string get_text(const char *field) {
        const uint64_t n = get<uint64_t>(field);
        const auto bytes = take(n, field);
        return {reinterpret_cast<const char *>(bytes.data()), bytes.size()};
    }

  private:
    std::span<const std::byte> bytes_;
    const std::string &name_;
    size_t position_ = 0;
};

}  // namespace a2sf
