// THE list of devices. To add one: write backend/<device>/, list it in registry.cpp.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"

namespace a2sf {

struct BackendOptions {
    size_t n_threads = 0;  // 0 = default_threads()
};

// Memory of a device that has its own, in bytes; all 0 of one that uses the host's.
struct OwnMemory {
    size_t n_total = 0;
    size_t n_free = 0;       // now, for any process
    size_t n_taken = 0;      // by all models and sessions of this process
    size_t n_peak = 0;       // the most of it since begin_peak
    size_t n_by_thread = 0;  // taken by this thread, less what it freed; modulo 2^64
};

struct BackendEntry {
    const char *device;  // "cpu"
    // Empty when the device can be used here, else why not.
    std::string (*unavailable)();
    std::unique_ptr<Backend> (*create)(const BackendOptions &options);
    // What operations would run on: "avx512".
    const char *(*isa)();
    // Of one that can be used.
    OwnMemory (*memory)();
    void (*begin_peak)();
};

std::span<const BackendEntry> backend_entries();

// Devices usable here, best last; always holds "cpu".
std::vector<std::string> devices();

// "cpu", "cuda" or "auto" (the best usable). Throws OptionError for an unknown name (lists the
// known), DeviceError for a known one that cannot be used here (says why).
const BackendEntry &find_backend(std::string_view device);

}  // namespace a2sf
