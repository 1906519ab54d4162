// Every way in which a GGUF file can be wrong, one row each: what is wrong, and the message.
// The rows are also the fuzzer's seeds; tests/fuzz/README.md says how to write them out.
#include <doctest/doctest.h>

#include "base/error.h"
#include "gguf/file.h"
#include "gguf_writer.h"

using namespace a2sf;
using namespace a2sf_test;

namespace {

constexpr uint32_t kF32 = 0, kQ4_0 = 2, kQ8_0 = 8, kQ2_K = 10;

enum class Kind { Damaged, Unsupported };

struct Case {
    std::string name;
    std::vector<std::byte> bytes;
    std::string message;
    Kind kind = Kind::Damaged;
};

GgufWriter small() {
    GgufWriter writer;
    writer.add("general.architecture", "llama");
    writer.add_tensor("a.weight", {32, 2}, kF32, 256);
    return writer;
}

std::vector<std::byte> cut(const GgufWriter &writer, size_t n_missing) {
    std::vector<std::byte> bytes = writer.bytes();
    bytes.resize(bytes.size() - n_missing);
    return bytes;
}

// A metadata pair "k" of a given type, followed by raw values.
Bytes pair(uint32_t type) {
    return Bytes().put_string("k").put<uint32_t>(type);
}
Bytes array(uint32_t type, uint64_t count) {
    return pair(kArrayType).put<uint32_t>(type).put<uint64_t>(count);
}
std::vector<std::byte> with_pair(const Bytes &bytes) {
    return GgufWriter().add_pair(bytes).bytes();
}

std::vector<std::byte> with_key(const std::string &key) {
    return GgufWriter().add(key, uint32_t{1}).bytes();
}

template <typename T>
std::vector<std::byte> with_alignment(T alignment) {
    return small().add("general.alignment", alignment).bytes();
}

std::vector<std::byte> with_tensor(const std::string &name, const std::vector<uint64_t> &shape,
                                   uint32_t type, size_t n_bytes) {
    return GgufWriter().add_tensor(name, shape, type, n_bytes).bytes();
}

// A file with 256 bytes of data and an entry that claims others.
std::vector<std::byte> with_entry(const std::vector<uint64_t> &shape, uint32_t type,
                                  uint64_t offset) {
    return GgufWriter()
        .add_entry("b", shape, type, offset)
        .add_tensor("a", {64}, kF32, 256)
        .bytes();
}

void add_header_cases(std::vector<Case> &cases) {
    cases.push_back({"empty", {}, "header: magic: \"GGUF\" expected, found an empty file"});
    GgufWriter writer = small();
    writer.magic = "GGML";
    cases.push_back({"magic", writer.bytes(), "magic: \"GGUF\" expected, found \"GGML\""});
    cases.push_back({"magic_cut", Bytes().put_raw("GG", 2).get(), "expected, found \"GG\""});
    cases.push_back(
        {"magic_binary", Bytes().put<uint32_t>(0xff0a41).get(), "found \"A\\x0a\\xff\\x00\""});
    cases.push_back({"version_cut", Bytes().put_raw("GGUF\3", 5).get(),
                     "version: 4 bytes expected at offset 4, found 1 (truncated or damaged file)"});
    for (const uint32_t version : {0u, 1u, 4u}) {
        writer = small();
        writer.version = version;
        cases.push_back({str("version_", version), writer.bytes(),
                         str("GGUF version: 2 to 3 expected, found ", version), Kind::Unsupported});
    }
    writer = small();
    writer.version = 0x03000000;
    cases.push_back({"big_endian", writer.bytes(),
                     "little-endian expected, found big-endian GGUF version 3", Kind::Unsupported});
    writer = small();
    writer.extra_tensors = INT64_MAX;
    cases.push_back({"tensor_count", writer.bytes(), "header: tensor count: at most 11 expected"});
    writer = small();
    writer.extra_pairs = -2;
    cases.push_back({"metadata_count", writer.bytes(), "found 18446744073709551615"});
    writer = GgufWriter();
    writer.add("k", uint32_t{1}).add("l", "long enough for three pairs").extra_pairs = 1;
    cases.push_back(
        {"metadata_count_one_more", writer.bytes(), "metadata 2: key: 8 bytes expected"});
    writer = GgufWriter();
    writer.add_entry("a", {1, 1}, kF32, 0).extra_tensors = 1;
    cases.push_back({"tensor_count_one_more", writer.bytes(), "tensor count: at most 1 expected"});
}

void add_metadata_cases(std::vector<Case> &cases) {
    const char *key_rule = "metadata 0: key: 1 to 65535 bytes of printable text expected, found ";
    cases.push_back({"key_empty", with_key(""), str(key_rule, "0 bytes")});
    cases.push_back(
        {"key_long", with_key(std::string(65536, 'k')), str(key_rule, "65536 bytes \"kkk")});
    cases.push_back({"key_newline", with_key("a\nb"), str(key_rule, "3 bytes \"a\\x0ab\"")});
    cases.push_back({"key_not_utf8", with_key("a\xc3("), str(key_rule, "3 bytes \"a\\xc3(\"")});
    cases.push_back({"key_twice", GgufWriter().add("k", true).add("k", false).bytes(),
                     "metadata 1 (k): key: unique name expected, found it twice"});
    cases.push_back({"value_type", with_pair(pair(13).put<uint64_t>(0)),
                     "metadata 0 (k): value type: 0 to 12 expected, found 13"});
    cases.push_back({"value_cut", with_pair(pair(10).put<uint32_t>(0)),
                     "metadata 0 (k): value: 8 bytes expected at offset 37, found 4"});
    cases.push_back({"string_length", with_pair(pair(8).put<uint64_t>(UINT64_MAX)),
                     "value: 18446744073709551615 bytes expected at offset 45, found 0"});
    cases.push_back({"string_cut", with_pair(pair(8).put<uint64_t>(4).put_raw("abc", 3)),
                     "value: 4 bytes expected at offset 45, found 3"});
    cases.push_back({"bool", with_pair(pair(7).put<uint8_t>(2)), "bool: 0 or 1 expected, found 2"});
    cases.push_back(
        {"array_type", with_pair(array(77, 0)), "array element type: 0 to 12 expected, found 77"});
    cases.push_back(
        {"array_nested", with_pair(array(kArrayType, 1).put<uint32_t>(4).put<uint64_t>(0)),
         "metadata 0 (k): array of values expected, found array of arrays", Kind::Unsupported});
    cases.push_back(
        {"array_length", with_pair(array(10, uint64_t{1} << 61).put<uint64_t>(1)),
         "array length: at most 1 expected (the file ends after 8 more bytes), found 2305843"});
    cases.push_back(
        {"array_cut", with_pair(array(4, 2).put<uint32_t>(1)), "array length: at most 1"});
    cases.push_back({"array_string_cut", with_pair(array(8, 1).put<uint64_t>(5).put_raw("abcd", 4)),
                     "array element: 5 bytes expected"});
    cases.push_back({"array_string_length",
                     with_pair(array(8, 2).put<uint64_t>(UINT64_MAX - 7).put<uint64_t>(0)),
                     "array element: 18446744073709551608 bytes expected"});
    cases.push_back({"array_bool", with_pair(array(7, 2).put<uint8_t>(1).put<uint8_t>(7)),
                     "bool: 0 or 1 expected, found 7"});
    cases.push_back({"array_u64", with_pair(array(10, 1).put<uint64_t>(uint64_t{1} << 63)),
                     "array element 0: below 2^63 expected, found 9223372036854775808"});
    const char *alignment_rule =
        "general.alignment: a power of two up to 2147483648 expected, found ";
    for (const uint32_t alignment : {0u, 33u}) {
        cases.push_back({str("alignment_", alignment), with_alignment(alignment),
                         str(alignment_rule, alignment)});
    }
    cases.push_back({"alignment_large", with_alignment(uint64_t{1} << 63), alignment_rule});
    cases.push_back({"alignment_negative", with_alignment(int32_t{-32}),
                     "general.alignment: integer of 0 or more expected, found -32"});
    cases.push_back({"alignment_string", with_alignment(std::string("32")),
                     "general.alignment: integer expected, found string"});
    cases.push_back({"split", small().add("split.count", uint16_t{3}).bytes(),
                     "split.count: 1 expected, found 3 (join the parts first", Kind::Unsupported});
}

void add_entry_cases(std::vector<Case> &cases) {
    const char *name_rule = "tensor 0: name: 1 to 64 bytes of printable text expected, found ";
    cases.push_back({"name_empty", with_tensor("", {8}, kF32, 32), str(name_rule, "0 bytes")});
    cases.push_back({"name_long", with_tensor(std::string(65, 'n'), {8}, kF32, 32),
                     str(name_rule, "65 bytes")});
    cases.push_back({"name_control", with_tensor("a\x7f", {8}, kF32, 32),
                     str(name_rule, "2 bytes \"a\\x7f\"")});
    cases.push_back(
        {"name_twice",
         GgufWriter().add_tensor("a", {8}, kF32, 32).add_tensor("a", {8}, kF32, 32).bytes(),
         "tensor a: name: unique name expected, found it twice"});
    cases.push_back({"dims_0", with_tensor("a", {}, kF32, 32),
                     "tensor 0 (a): dimensions: 1 to 4 expected, found 0"});
    cases.push_back({"dims_5", with_tensor("a", {8, 1, 1, 1, 1}, kF32, 32),
                     "dimensions: 1 to 4 expected, found 5"});
    cases.push_back({"shape_zero", with_tensor("a", {8, 0}, kF32, 32), "shape: sizes from 1 to"});
    cases.push_back({"shape_block", with_tensor("a", {48, 2}, kQ8_0, 102),
                     "shape: rows of a multiple of 32 elements expected for Q8_0, found (48, 2)"});
    cases.push_back(
        {"shape_super_block", with_tensor("a", {128, 2}, kQ2_K, 84), "a multiple of 256"});
    cases.push_back({"type_unsupported", with_tensor("a", {256}, 16, 66),
                     "MXFP4 expected, found IQ2_XXS", Kind::Unsupported});
    cases.push_back({"type_unknown", with_tensor("a", {256}, 4000, 66),
                     "tensor 0 (a): weight type: one of F32, F16, BF16", Kind::Unsupported});
    GgufWriter writer;
    writer.add_entry("a.weight", {32}, kF32, 0);
    cases.push_back({"entry_cut", cut(writer, 1), "tensor 0 (a.weight): offset: 8 bytes expected"});
}

void add_data_cases(std::vector<Case> &cases) {
    cases.push_back({"offset_unaligned", with_entry({8}, kF32, 16),
                     "tensor b: offset: a multiple of 32 expected, found 16"});
    cases.push_back(
        {"offset_outside", with_entry({8}, kF32, 256),
         "tensor b: data: (8) F32 at offset 256 inside the 256 bytes of tensor data expected"});
    cases.push_back(
        {"offset_wraps", with_entry({8}, kF32, UINT64_MAX - 31), "tensor b: data: (8) F32"});
    cases.push_back({"data_large", with_entry({65}, kF32, 0), "tensor b: data: (65) F32"});
    cases.push_back(
        {"data_overflow", with_entry({uint64_t{1} << 62, 1, 4}, kF32, 0), "tensor b: data: "});
    cases.push_back({"data_overflow_blocks", with_entry({uint64_t{1} << 63, 32}, kQ4_0, 0),
                     "tensor b: data: "});
    cases.push_back(
        {"data_overflow_bytes", with_entry({uint64_t{1} << 63}, kF32, 0), "tensor b: data: "});
    cases.push_back({"data_cut", cut(small(), 1),
                     "tensor a.weight: data: (32, 2) F32 at offset 0 inside the 255"});
    cases.push_back({"data_missing", cut(small(), 256), "inside the 0 bytes"});
    cases.push_back({"data_overlap", with_entry({16}, kF32, 32),
                     "tensor b: data: bytes of its own expected, found "
                     "that a overlaps them"});
    cases.push_back({"data_same", with_entry({64}, kF32, 0), "overlaps them"});
}

std::vector<Case> all_cases() {
    std::vector<Case> cases;
    add_header_cases(cases);
    add_metadata_cases(cases);
    add_entry_cases(cases);
    add_data_cases(cases);
    return cases;
}

// What parsing throws: the error's kind, and its message.
std::pair<std::string, std::string> outcome(const std::vector<std::byte> &bytes) {
    try {
        GgufFile::parse(bytes, "x.gguf");
    } catch (const GgufError &error) {
        return {"GgufError", error.what()};
    } catch (const UnsupportedError &error) {
        return {"UnsupportedError", error.what()};
    }
    return {"nothing", ""};
}

}  // namespace

TEST_CASE("every malformed GGUF file is refused with its message") {
    for (const Case &row : all_cases()) {
        CAPTURE(row.name);
        write_seed(row.name, row.bytes);
        const auto [kind, message] = outcome(row.bytes);
        CHECK_MESSAGE(kind == (row.kind == Kind::Damaged ? "GgufError" : "UnsupportedError"),
                      message);
        CHECK_MESSAGE(message.find(row.message) != std::string::npos, message);
        CHECK(message.find("expected") != std::string::npos);
        CHECK(message.find("found") != std::string::npos);
    }
}

TEST_CASE("arrays too long to be a vocabulary are refused") {
    const uint64_t count = (uint64_t{1} << 24) + 1;
    const std::vector<std::byte> items(count);
    const auto [kind, message] =
        outcome(with_pair(array(0, count).put_raw(items.data(), items.size())));
    CHECK(kind == "GgufError");
    CHECK_MESSAGE(message.find("array length: at most 16777216 expected, found 16777217") !=
                      std::string::npos,
                  message);
}

TEST_CASE("paths that are no files are refused with the system's reason") {
    CHECK_THROWS_WITH_AS(GgufFile::open("/no/such.gguf"),
                         "/no/such.gguf: cannot open: No such file or directory", Error);
    CHECK_THROWS_WITH_AS(GgufFile::open("/"), "/: a regular file expected, found a directory",
                         Error);
    CHECK_THROWS_WITH_AS(GgufFile::open("/dev/null"),
                         "/dev/null: a regular file expected, found something else", Error);
}
