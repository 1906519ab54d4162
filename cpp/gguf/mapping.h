// A file mapped read-only into memory. Purpose: weights are used where the page cache holds them,
// so loading costs neither time nor memory, and processes share them.
// Out of scope: a file that another process truncates while it is mapped (reads then fault, as for
// every mmap reader). Replace a model by renaming a new file over it.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <utility>

namespace a2sf {

// Owns the mapping; the bytes keep their address when it is moved.
class FileMapping {
  public:
    FileMapping() = default;

    // Throws Error with the system's reason when the path cannot be read or is no regular file.
    explicit FileMapping(const std::string &path);
    ~FileMapping();
    FileMapping(FileMapping &&other) noexcept { std::swap(bytes_, other.bytes_); }
    FileMapping &operator=(FileMapping &&other) noexcept {
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    FileMapping(const FileMapping &) = delete;
    FileMapping &operator=(const FileMapping &) = delete;

    std::span<const std::byte> bytes() const { return bytes_; }

  private:
    std::span<const std::byte> bytes_;
};

}  // namespace a2sf
