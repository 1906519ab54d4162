#include "base/process_memory.h"

#include <sys/resource.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

namespace a2sf {

namespace {

// The number behind `key` in a file of lines "key: number kB", or of one number alone (key "").
// `otherwise` where there is none: no such file, or "max".
size_t field_of(const std::string &path, const std::string &key, size_t otherwise) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        unsigned long long number = 0;
        if (line.starts_with(key) &&
            std::sscanf(line.c_str() + key.size(), " %llu", &number) == 1) {
            const bool kib = line.ends_with(" kB");
            return static_cast<size_t>(number) << (kib ? 10 : 0);
        }
    }
    return otherwise;
}

// The lowest limit of a control group and those above it. A group's path is seen from the root of
// its name space, so what does not exist is passed over.
size_t group_limit(const std::string &mount, std::string path, const char *name) {
    size_t lowest = SIZE_MAX;
    while (true) {
        if (path == "/") path.clear();
        lowest = std::min(lowest, field_of(mount + path + "/" + name, "", SIZE_MAX));
        if (path.empty()) return lowest;
        path.erase(path.rfind('/'));
    }
}

// Lines "0::/path" (version 2) and "4:memory:/path" (version 1).
size_t group_limits() {
    size_t lowest = SIZE_MAX;
    std::ifstream file("/proc/self/cgroup");
    for (std::string line; std::getline(file, line);) {
        const size_t path = line.find(":/");
        if (path == std::string::npos) continue;
        if (line.starts_with("0::")) {
            lowest = std::min(lowest,
                              group_limit("/sys/fs/cgroup", line.substr(path + 1), "memory.max"));
        } else if (line.find(":memory:") != std::string::npos) {
            lowest = std::min(lowest, group_limit("/sys/fs/cgroup/memory", line.substr(path + 1),
                                                  "memory.limit_in_bytes"));
        }
    }
    return lowest;
}

}  // namespace

size_t MemoryLimits::lowest() const {
    return std::min({address_space, group, machine});
}

MemoryLimits memory_limits() {
    rlimit limit = {};
    const bool limited = getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
    return {limited ? static_cast<size_t>(limit.rlim_cur) : SIZE_MAX, group_limits(),
            field_of("/proc/meminfo", "MemTotal:", SIZE_MAX)};
}

ProcessMemory process_memory() {
    return {field_of("/proc/self/status", "VmSize:", 0),
            field_of("/proc/self/status", "RssAnon:", 0),
            field_of("/proc/meminfo", "SwapTotal:", 0)};
}

size_t peak_resident() {
    return field_of("/proc/self/status", "VmHWM:", 0);
}

size_t available_memory() {
    return field_of("/proc/meminfo", "MemAvailable:", 0);
}

}  // namespace a2sf
