// THE list of instruction sets. To add one: write simd_<name>.h and isa_<name>.cpp, add its flags
// to isa.cmake and a line here.
#include "backend/cpu/isa.h"

#include <cstdlib>

#include "base/error.h"

#if defined(A2SF_SCALAR_ONLY)
#elif defined(__aarch64__)
#include <sys/auxv.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace a2sf {

const Kernels &kernels_scalar();
const Kernels &kernels_avx2();
const Kernels &kernels_avx512();
const Kernels &kernels_amx();
const Kernels &kernels_neon();

namespace {

struct IsaEntry {
    const char *name;
    bool (*usable)();
    const Kernels &(*kernels)();
};

#if defined(A2SF_SCALAR_ONLY)
#elif defined(__x86_64__)
// By hand, because clang before 15 does not know the name.
bool has_f16c() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}
bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}
// The system gives a process the tile registers when it asks for them, once.
bool granted_tiles() {
    constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM of asm/prctl.h
    constexpr long kTileData = 18;               // the state component
    static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
    return granted;
}
bool has_amx() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;  // leaf 7.0, edx
    constexpr unsigned kAvx512Bf16 = 1u << 5;                     // leaf 7.1, eax
    if (!has_avx512() || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
    if ((d & kAmxBf16) == 0 || (d & kAmxTile) == 0) return false;
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d) == 0 || (a & kAvx512Bf16) == 0) return false;
    return granted_tiles();
}
#elif defined(__aarch64__)
bool has_dot_product() {
    constexpr unsigned long kAsimdDp = 1ul << 20;  // HWCAP_ASIMDDP of asm/hwcap.h
    return (getauxval(AT_HWCAP) & kAsimdDp) != 0;
}
#endif

// Best last.
constexpr IsaEntry kIsas[] = {
    {"scalar", [] { return true; }, kernels_scalar},
#if defined(A2SF_SCALAR_ONLY)
#elif defined(__x86_64__)
    {"avx2", has_avx2, kernels_avx2},
    {"avx512", has_avx512, kernels_avx512},
    {"amx", has_amx, kernels_amx},
#elif defined(__aarch64__)
    {"neon", has_dot_product, kernels_neon},
#endif
};

}  // namespace

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (const IsaEntry &isa : kIsas) {
        if (isa.usable()) names.push_back(isa.name);
    }
    return names;
}

const Kernels &kernels_for(std::string_view name) {
    for (const IsaEntry &isa : kIsas) {
        if (name == isa.name && isa.usable()) return isa.kernels();
    }
    throw OptionError(str("A2SF_ISA: one of ", join(isas()), " expected, found '", name, "'"));
}

const Kernels &default_kernels() {
    const char *wanted = std::getenv("A2SF_ISA");
    return kernels_for(wanted != nullptr ? std::string(wanted) : isas().back());
}

}  // namespace a2sf
