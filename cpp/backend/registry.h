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

struct BackendEntry {
    const char *device;  // "cpu"
    // Empty when the device can be used here, else why not.
    std::string (*unavailable)();
    std::unique_ptr<Backend> (*create)(const BackendOptions &options);
    // What operations would run on: "avx512".
    const char *(*isa)();
};

std::span<const BackendEntry> backend_entries();

// Devices usable here, best last; always holds "cpu".
std::vector<std::string> devices();

// "cpu", "cuda" or "auto" (the best usable). Throws OptionError for an unknown name (lists the
// known), DeviceError for a known one that cannot be used here (says why).
const BackendEntry &find_backend(std::string_view device);

}  // namespace a2sf
