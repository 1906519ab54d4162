// How much memory this process may use, and how much it has. Linux: /proc and control groups.
#pragma once

#include <cstddef>

namespace a2sf {

// The least that a process can be given of each kind; SIZE_MAX where nothing limits it.
struct MemoryLimits {
    size_t address_space;  // setrlimit's: counts all that is mapped, used or not
    size_t group;          // of the control groups that the process is in: counts resident pages
    size_t machine;        // its physical memory

    size_t lowest() const;
};
MemoryLimits memory_limits();

// Of this process, in bytes; 0 where the system does not say.
struct ProcessMemory {
    size_t address_space = 0;  // all that is mapped: program, files, stacks, buffers
    size_t anonymous = 0;      // resident pages that belong to no file
    size_t swap = 0;           // the machine's: where anonymous pages can go
};
ProcessMemory process_memory();

// The most that was resident so far (proc(5), clear_refs, begins anew); 0 where nothing says.
size_t peak_resident();

// What the machine can give without swapping, as Linux estimates it; 0 where nothing says.
size_t available_memory();

}  // namespace a2sf
