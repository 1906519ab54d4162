// The table of devices, and what is common to all of them.
#include "backend/registry.h"

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/isa.h"
#include "backend/cuda/cuda_entry.h"
#include "base/error.h"

namespace a2sf {
namespace {

constexpr BackendEntry kEntries[] = {
    {"cpu", [] { return std::string(); },
     [](const BackendOptions &options) -> std::unique_ptr<Backend> {
         return std::make_unique<CpuBackend>(default_kernels(), options.n_threads);
     },
     [] { return default_kernels().name; }, [] { return OwnMemory{}; }, [] {}},
    {"cuda", [] { return cuda_unavailable(); },
     [](const BackendOptions &options) { return create_cuda(options); }, [] { return cuda_isa(); },
     [] { return cuda_memory(); }, [] { begin_cuda_peak(); }},
};

}  // namespace

std::span<const BackendEntry> backend_entries() {
    return kEntries;
}

std::vector<std::string> devices() {
    std::vector<std::string> names;
    for (const BackendEntry &entry : kEntries) {
        if (entry.unavailable().empty()) names.push_back(entry.device);
    }
    return names;
}

const BackendEntry &find_backend(std::string_view device) {
    const std::string wanted(device == "auto" ? devices().back() : device);
    std::vector<std::string> known = {"auto"};
    for (const BackendEntry &entry : kEntries) {
        known.push_back(entry.device);
        if (wanted != entry.device) continue;
        const std::string reason = entry.unavailable();
        if (reason.empty()) return entry;
        throw DeviceError(str("device '", wanted, "': a usable one expected (", join(devices()),
                              "), found: ", reason));
    }
    throw OptionError(str("device: one of ", join(known), " expected, found '", device, "'"));
}

size_t kv_row_bytes(KvType type, size_t head_dim) {
    switch (type) {
        case KvType::F32:
            return head_dim * sizeof(float);
        case KvType::F16:
            return head_dim * sizeof(uint16_t);
        case KvType::Q8_0:
            break;
    }
    return head_dim / kKvBlock * kKvBlockBytes;
}

const char *name_of(KvType type) {
    switch (type) {
        case KvType::F32:
            return "f32";
        case KvType::F16:
            return "f16";
        case KvType::Q8_0:
            break;
    }
    return "q8_0";
}

}  // namespace a2sf
