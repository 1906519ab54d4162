// Invariants of every weight type in the registry. That the values are GGUF's is checked against
// the gguf package by tests/python/test_weight_types.py.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "quant/formats.h"
#include "quant/registry.h"

using namespace a2sf;

namespace {

constexpr size_t kBlocks = 500;

std::vector<uint8_t> random_bytes(size_t size, uint32_t seed) {
    std::mt19937 random(seed);
    std::vector<uint8_t> bytes(size);
    for (uint8_t &byte : bytes) byte = static_cast<uint8_t>(random());
    return bytes;
}

bool same(float a, float b) {
    return a == b || (std::isnan(a) && std::isnan(b));
}

// Unpacked blocks are small integers, scales and offsets that give what decode gives. The outputs
// have guards, so that a format that writes past its block is caught without a sanitizer.
template <typename F>
void check_unpack(const WeightType &type) {
    if constexpr (F::kGroup > 0) {
        constexpr int kGroups = F::kBlock / F::kGroup;
        constexpr int8_t kGuard = -128;  // no format produces it
        constexpr float kFloatGuard = 12345.0f;
        const std::vector<uint8_t> blocks = random_bytes(kBlocks * F::kBlockBytes, F::kGgmlId);
        std::vector<float> decoded(kBlocks * F::kBlock);
        type.decode(blocks.data(), decoded.data(), decoded.size());
        size_t n_wrong = 0, n_large = 0, n_guards = 0;
        for (size_t b = 0; b < kBlocks; ++b) {
            int8_t q[F::kBlock + 1];
            float scale[kGroups + 1], offset[kGroups + 1] = {};
            q[F::kBlock] = kGuard;
            scale[kGroups] = offset[kGroups] = kFloatGuard;
            F::unpack(blocks.data() + b * F::kBlockBytes, q, scale, offset);
            for (int i = 0; i < F::kBlock; ++i) {
                const int g = i / F::kGroup;
                n_wrong += !same(decoded[b * F::kBlock + i], scale[g] * q[i] + offset[g]);
                n_large += q[i] < -127;
            }
            for (int g = 0; g < kGroups; ++g) n_wrong += !F::kHasOffset && offset[g] != 0.0f;
            n_guards += q[F::kBlock] == kGuard && scale[kGroups] == kFloatGuard &&
                        offset[kGroups] == kFloatGuard;
        }
        CHECK(n_wrong == 0);
        CHECK(n_large == 0);
        CHECK(n_guards == kBlocks);
    }
}

// Bytes of a block: all zero, but for those given.
std::vector<float> decode_block_of(const char *name, std::vector<uint8_t> bytes) {
    for (const WeightType &type : weight_types()) {
        if (std::string(type.name) != name) continue;
        bytes.resize(type.block_bytes);
        std::vector<float> out(type.block);
        type.decode(bytes.data(), out.data(), out.size());
        return out;
    }
    FAIL("no weight type " << name);
    return {};
}

}  // namespace

TEST_CASE("the registry is consistent and found by number") {
    std::set<std::string> names;
    std::set<uint32_t> ids;
    size_t index = 0;
    for (const WeightType &type : weight_types()) {
        CAPTURE(type.name);
        CHECK(type.index == index++);
        CHECK(find_weight_type(type.ggml_id) == &type);
        CHECK(ggml_type_name(type.ggml_id) == type.name);
        CHECK(names.insert(type.name).second);
        CHECK(ids.insert(type.ggml_id).second);
        CHECK((type.group == 0 || type.block % type.group == 0));
        CHECK(type.row_bytes(3 * type.block) == 3 * type.block_bytes);
        CHECK(type.block_bytes <= 4 * type.block);
    }
    CHECK(names.size() == weight_types().size());
}

TEST_CASE("types that this build lacks have their GGUF names") {
    CHECK(find_weight_type(16) == nullptr);
    CHECK(find_weight_type(4000) == nullptr);
    CHECK(ggml_type_name(16) == "IQ2_XXS");
    CHECK(ggml_type_name(26) == "I32");
    CHECK(ggml_type_name(28) == "F64");
    CHECK(ggml_type_name(35) == "TQ2_0");
    CHECK(ggml_type_name(4000) == "type 4000");
}

TEST_CASE("unpack and decode agree on random bytes") {
    size_t index = 0;
#define A2SF_CHECK(F)                             \
    {                                             \
        CAPTURE(F::kName);                        \
        check_unpack<F>(weight_types()[index++]); \
    }
    A2SF_WEIGHT_FORMATS(A2SF_CHECK)
#undef A2SF_CHECK
}

TEST_CASE("a row decodes as its blocks do, from any address") {
    for (const WeightType &type : weight_types()) {
        CAPTURE(type.name);
        const size_t n = 5 * type.block;
        const std::vector<uint8_t> bytes = random_bytes(5 * type.block_bytes, 99);
        std::vector<float> row(n), piece(n);
        type.decode(bytes.data(), row.data(), n);
        std::vector<uint8_t> shifted(bytes.size() + 1);
        std::memcpy(shifted.data() + 1, bytes.data(), bytes.size());
        for (size_t b = 0; b < 5; ++b) {
            type.decode(shifted.data() + 1 + b * type.block_bytes, piece.data() + b * type.block,
                        type.block);
        }
        CHECK(std::memcmp(row.data(), piece.data(), n * sizeof(float)) == 0);
        float untouched = 7.0f;
        type.decode(bytes.data(), &untouched, 0);
        CHECK(untouched == 7.0f);
    }
}

TEST_CASE("corners of single formats") {
    // Half 1.0 is 0x3c00, little-endian.
    CHECK(decode_block_of("Q8_0", {0x00, 0x3c, 0x80})[0] == -127.0f);  // -128 is read as -127
    CHECK(decode_block_of("Q8_0", {0x00, 0x3c, 0x7f, 0x81})[1] == -127.0f);
    CHECK(decode_block_of("Q4_0", {0x00, 0x3c, 0xf0})[0] == -8.0f);
    CHECK(decode_block_of("Q4_0", {0x00, 0x3c, 0xf0})[16] == 7.0f);
    CHECK(decode_block_of("Q4_1", {0x00, 0x3c, 0x00, 0x3c, 0xf0})[16] == 16.0f);
    CHECK(decode_block_of("Q5_0", {0x00, 0x3c, 0x01, 0, 0, 0x80})[0] == 0.0f);
    CHECK(decode_block_of("Q5_0", {0x00, 0x3c, 0x01, 0, 0, 0x80})[1] == -16.0f);
    CHECK(decode_block_of("Q5_0", {0x00, 0x3c, 0x01, 0, 0, 0x80})[31] == 0.0f);
    CHECK(decode_block_of("IQ4_NL", {0x00, 0x3c, 0xf0})[16] == 113.0f);
    // MXFP4: exponents around and below the smallest normal float, and the largest.
    CHECK(decode_block_of("MXFP4", {128, 0x17})[0] == 12.0f);
    CHECK(decode_block_of("MXFP4", {128, 0x17})[16] == 1.0f);
    for (const int e : {0, 1, 2, 3, 127, 255}) {
        CAPTURE(e);
        CHECK(decode_block_of("MXFP4", {static_cast<uint8_t>(e), 0x01})[0] ==
              std::ldexp(1.0f, e - 128));
    }
    CHECK(decode_block_of("BF16", {0x80, 0xbf})[0] == -1.0f);
}
