// A position in a GGUF header that cannot leave it: every read is checked against the bytes that
// remain, and a fault names the file, the entry and the field. It knows nothing of their meaning.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "gguf/value.h"

namespace a2sf {

static_assert(std::endian::native == std::endian::little,
              "GGUF is read on little-endian hosts only");

// Borrows the bytes and the file's name. Strings that it returns are views into the bytes.
class GgufCursor {
  public:
    GgufCursor(std::span<const std::byte> bytes, const std::string &file)
        : bytes_(bytes), file_(file) {}

    size_t position() const { return position_; }
    size_t remaining() const { return bytes_.size() - position_; }

    // Names the entry being read, for messages: "tensor 3", then "tensor 3 (blk.0.attn_q.weight)".
    // Kept as parts, so that nothing is built unless something fails. An index of kNone is omitted.
    static constexpr uint64_t kNone = ~uint64_t{0};
    void enter(const char *item, uint64_t index = kNone) {
        item_ = item;
        index_ = index;
        entry_name_ = {};
    }
    void set_entry_name(std::string_view name) { entry_name_ = name; }

    // "model.gguf: tensor 3 (blk.0.attn_q.weight)"
    std::string where() const {
        std::string text = str(file_, ": ", item_);
        if (index_ != kNone) text += str(" ", index_);
        if (!entry_name_.empty()) text += str(" (", printable(entry_name_, 64), ")");
        return text;
    }

    template <typename... Parts>
    [[noreturn]] void fail(const Parts &...parts) const {
        throw GgufError(where() + ": " + str(parts...));
    }

    // Refuses unless n_bytes more are there.
    void need(uint64_t n_bytes, const char *field) const {
        if (n_bytes > remaining()) fail_short(n_bytes, field);
    }

    // A trivially copyable T, little-endian, unaligned.
    template <typename T>
    T read(const char *field) {
        need(sizeof(T), field);
        T value;
        std::memcpy(&value, bytes_.data() + position_, sizeof value);
        position_ += sizeof value;
        return value;
    }

    // n_bytes of raw bytes.
    const std::byte *take(uint64_t n_bytes, const char *field) {
        need(n_bytes, field);
        const std::byte *start = bytes_.data() + position_;
        position_ += static_cast<size_t>(n_bytes);
        return start;
    }

    // A string: u64 length, then that many bytes.
    std::string_view read_string(const char *field) {
        const uint64_t length = read<uint64_t>(field);
        return {reinterpret_cast<const char *>(take(length, field)), static_cast<size_t>(length)};
    }

    // A u64 count of items that take at least min_item_bytes each: refused when the rest of the
    // file could not hold them, so that a damaged count never reserves memory.
    uint64_t read_count(const char *field, uint64_t min_item_bytes) {
        const uint64_t count = read<uint64_t>(field);
        check_count(count, field, min_item_bytes);
        return count;
    }
    void check_count(uint64_t count, const char *field, uint64_t min_item_bytes) const {
        const uint64_t most = remaining() / min_item_bytes;
        if (count > most) {
            fail(field, ": at most ", most, " expected (the file ends after ", remaining(),
                 " more bytes), found ", count);
        }
    }

  private:
    [[noreturn]] void fail_short(uint64_t n_bytes, const char *field) const {
        fail(field, ": ", n_bytes, " bytes expected at offset ", position_, ", found ", remaining(),
             " (truncated or damaged file)");
    }

    std::span<const std::byte> bytes_;
    const std::string &file_;
    size_t position_ = 0;
    const char *item_ = "header";
    uint64_t index_ = kNone;
    std::string_view entry_name_;
};

}  // namespace a2sf
