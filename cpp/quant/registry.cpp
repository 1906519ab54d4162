// The table of weight types, built from THE list in quant/formats.h, and the names of all type
// numbers that GGUF has assigned, supported here or not.
#include "quant/registry.h"

#include <iterator>

#include "base/error.h"
#include "quant/formats.h"

namespace a2sf {
namespace {

template <typename F>
void decode_row(const void *blocks, float *out, size_t n) {
    const uint8_t *block = static_cast<const uint8_t *>(blocks);
    for (size_t i = 0; i < n; i += F::kBlock, block += F::kBlockBytes) {
        decode_block<F>(block, out + i);
    }
}

// What format.h asks of every format, checked where the table is made.
template <typename F>
constexpr WeightType describe(size_t index) {
    static_assert(F::kBlock > 0 && F::kBlockBytes > 0);
    static_assert(F::kGroup == 0 || F::kGroup == 16 || F::kGroup == 32);
    if constexpr (F::kGroup == 0) {
        static_assert(F::kBlockBytes % F::kBlock == 0 && !F::kHasOffset);
    } else {
        static_assert(F::kBlock % F::kGroup == 0);
    }
    return {F::kName,  F::kGgmlId,    F::kBlock, F::kBlockBytes,
            F::kGroup, F::kHasOffset, index,     decode_row<F>};
}

enum Index : size_t {
#define A2SF_INDEX(F) kIndex##F,
    A2SF_WEIGHT_FORMATS(A2SF_INDEX)
#undef A2SF_INDEX
};

constexpr WeightType kTypes[] = {
#define A2SF_DESCRIBE(F) describe<F>(kIndex##F),
    A2SF_WEIGHT_FORMATS(A2SF_DESCRIBE)
#undef A2SF_DESCRIBE
};

// The ggml_type numbers as GGUF files use them. Gaps are types that were withdrawn.
constexpr const char *kGgmlNames[] = {
    "F32",   "F16",        "Q4_0",       "Q4_1",       "Q4_2",     "Q4_3",     "Q5_0",
    "Q5_1",  "Q8_0",       "Q8_1",       "Q2_K",       "Q3_K",     "Q4_K",     "Q5_K",
    "Q6_K",  "Q8_K",       "IQ2_XXS",    "IQ2_XS",     "IQ3_XXS",  "IQ1_S",    "IQ4_NL",
    "IQ3_S", "IQ2_S",      "IQ4_XS",     "I8",         "I16",      "I32",      "I64",
    "F64",   "IQ1_M",      "BF16",       "Q4_0_4_4",   "Q4_0_4_8", "Q4_0_8_8", "TQ1_0",
    "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4",    "NVFP4",    "Q1_0",
};

}  // namespace

std::span<const WeightType> weight_types() {
    return kTypes;
}

const WeightType *find_weight_type(uint32_t ggml_id) {
    for (const WeightType &type : kTypes) {
        if (type.ggml_id == ggml_id) return &type;
    }
    return nullptr;
}

std::string ggml_type_name(uint32_t ggml_id) {
    if (ggml_id < std::size(kGgmlNames)) return kGgmlNames[ggml_id];
    return str("type ", ggml_id);
}

}  // namespace a2sf
