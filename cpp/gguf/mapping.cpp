// FileMapping for POSIX systems.
#include "gguf/mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>

#include "base/error.h"

namespace a2sf {
namespace {

// Closes a descriptor at the end of the scope: a mapping does not need it.
struct Descriptor {
    int number;
    ~Descriptor() {
        if (number >= 0) close(number);
    }
};

[[noreturn]] void fail(const std::string &path, const char *action) {
    throw Error(str(path, ": cannot ", action, ": ", std::generic_category().message(errno)));
}

}  // namespace

// No madvise: the kernel's default read-ahead suits both the header (parsed once, in order) and
// weights (streamed row by row); MADV_SEQUENTIAL would drop pages that the next token needs, and
// MADV_WILLNEED would read gigabytes of a model that may only be inspected.
FileMapping::FileMapping(const std::string &path) {
    // O_NONBLOCK: opening a named pipe must not wait for a writer. It has no effect on files.
    const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    if (file.number < 0) fail(path, "open");
    struct stat status;
    if (fstat(file.number, &status) != 0) fail(path, "stat");
    if (!S_ISREG(status.st_mode)) {
        const char *found = S_ISDIR(status.st_mode) ? "a directory" : "something else";
        throw Error(str(path, ": a regular file expected, found ", found));
    }
    const uint64_t n_bytes = static_cast<uint64_t>(status.st_size);
    if (n_bytes > SIZE_MAX) {
        throw Error(
            str(path, ": a file that fits the address space expected, found ", n_bytes, " bytes"));
    }
    if (n_bytes == 0) return;  // mmap refuses length 0; the parser reports the empty file
    void *start = mmap(nullptr, n_bytes, PROT_READ, MAP_SHARED, file.number, 0);
    if (start == MAP_FAILED) fail(path, "map");
    bytes_ = {static_cast<const std::byte *>(start), static_cast<size_t>(n_bytes)};
}

FileMapping::~FileMapping() {
    if (!bytes_.empty()) munmap(const_cast<std::byte *>(bytes_.data()), bytes_.size());
}

}  // namespace a2sf
