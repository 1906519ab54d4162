// Well-formed GGUF files: what was written is what is read, with typed access and its errors.
#include <doctest/doctest.h>

#include <unistd.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>

#include "base/error.h"
#include "gguf/file.h"
#include "gguf_writer.h"

using namespace a2sf;
using namespace a2sf_test;

namespace {

GgufWriter with_every_type() {
    GgufWriter writer;
    writer.add("u8", uint8_t{200}).add("i8", int8_t{-100});
    writer.add("u16", uint16_t{60000}).add("i16", int16_t{-30000});
    writer.add("u32", uint32_t{4000000000}).add("i32", int32_t{-2000000000});
    writer.add("u64", std::numeric_limits<uint64_t>::max());
    writer.add("i64", std::numeric_limits<int64_t>::min());
    writer.add("f32", 0.5f).add("f64", 1e300).add("yes", true).add("no", false);
    writer.add("text", "caf\xc3\xa9").add("empty", "");
    writer.add_array<int32_t>("ints", {1, -2, 3}).add_array<uint8_t>("bytes", {255});
    writer.add_array<float>("floats", {0.5f, -1.5f}).add_array<bool>("bools", {true, false, true});
    writer.add_array<std::string>("strings", {"a", "", "bc"}).add_array<uint32_t>("none", {});
    return writer;
}

std::string error_of(const std::function<void()> &call) {
    try {
        call();
    } catch (const GgufError &error) {
        return error.what();
    }
    return "nothing thrown";
}

// A file on disk that is removed at the end of the test.
struct TemporaryFile {
    std::string path;
    explicit TemporaryFile(const std::vector<std::byte> &bytes) {
        static int n_files = 0;
        const std::string name = str("a2sf_test_", getpid(), "_", n_files++, ".gguf");
        path = (std::filesystem::temp_directory_path() / name).string();
        std::ofstream file(path, std::ios::binary);
        file.write(reinterpret_cast<const char *>(bytes.data()),
                   static_cast<std::streamsize>(bytes.size()));
    }
    ~TemporaryFile() { std::filesystem::remove(path); }
};

}  // namespace

TEST_CASE("metadata of every type reads back") {
    const std::vector<std::byte> bytes = with_every_type().bytes();
    write_seed("good_metadata", bytes);
    const GgufFile file = GgufFile::parse(bytes, "x.gguf");
    CHECK(file.name() == "x.gguf");
    CHECK(file.version() == 3);
    CHECK(file.n_bytes() == bytes.size());
    CHECK(file.metadata().size() == 20);
    CHECK(file.get_uint("u8") == 200);
    CHECK(file.get_uint("u16") == 60000);
    CHECK(file.get_uint("u32") == 4000000000);
    CHECK(file.get_uint("u64") == std::numeric_limits<uint64_t>::max());
    CHECK(file.get_float("i8") == -100);
    CHECK(file.get_float("i16") == -30000);
    CHECK(file.get_float("i32") == -2000000000);
    CHECK(std::get<int64_t>(file.find("i64")->data) == std::numeric_limits<int64_t>::min());
    CHECK(file.get_float("f32") == 0.5);
    CHECK(file.get_float("f64") == 1e300);
    CHECK(file.find_bool("yes") == true);
    CHECK(file.find_bool("no") == false);
    CHECK(file.get_string("text") == "caf\xc3\xa9");
    CHECK(file.get_string("empty").empty());
    CHECK(*file.find_ints("ints") == GgufValue::Ints{1, -2, 3});
    CHECK(*file.find_ints("bytes") == GgufValue::Ints{255});
    CHECK(file.find_ints("none")->empty());
    CHECK(*file.find_floats("floats") == GgufValue::Floats{0.5, -1.5});
    CHECK(*file.find_bools("bools") == GgufValue::Bools{true, false, true});
    CHECK(*file.find_strings("strings") == GgufValue::Strings{"a", "", "bc"});
}

TEST_CASE("typed access refuses what is missing or of another type") {
    const std::vector<std::byte> bytes = with_every_type().bytes();
    const GgufFile file = GgufFile::parse(bytes, "x.gguf");
    CHECK(file.find("other") == nullptr);
    CHECK(!file.find_uint("other"));
    CHECK(!file.find_float("other"));
    CHECK(!file.find_bool("other"));
    CHECK(!file.find_string("other"));
    CHECK(file.find_strings("other") == nullptr);
    CHECK(error_of([&] { file.get_uint("other"); }) ==
          "other: integer expected, found no such key in the metadata");
    CHECK(error_of([&] { file.get_float("other"); }) ==
          "other: number expected, found no such key in the metadata");
    CHECK(error_of([&] { file.get_string("other"); }) ==
          "other: string expected, found no such key in the metadata");
    CHECK(error_of([&] { file.find_uint("text"); }) == "text: integer expected, found string");
    CHECK(error_of([&] { file.find_uint("f32"); }) == "f32: integer expected, found f32");
    CHECK(error_of([&] { file.find_uint("i8"); }) ==
          "i8: integer of 0 or more expected, found -100");
    CHECK(error_of([&] { file.find_float("yes"); }) == "yes: number expected, found bool");
    CHECK(error_of([&] { file.find_bool("u8"); }) == "u8: bool expected, found u8");
    CHECK(error_of([&] { file.find_string("ints"); }) ==
          "ints: string expected, found array of i32");
    CHECK(error_of([&] { file.find_strings("ints"); }) ==
          "ints: array of strings expected, found array of i32");
    CHECK(error_of([&] { file.find_ints("strings"); }) ==
          "strings: array of integers expected, found array of string");
    CHECK(error_of([&] { file.find_floats("ints"); }) ==
          "ints: array of floats expected, found array of i32");
    CHECK(error_of([&] { file.find_bools("yes"); }) == "yes: array of bools expected, found bool");
}

TEST_CASE("values are shown to people safely and briefly") {
    const std::vector<std::byte> bytes = with_every_type().bytes();
    const GgufFile file = GgufFile::parse(bytes, "x.gguf");
    CHECK(file.find("i8")->to_string() == "-100");
    CHECK(file.find("u64")->to_string() == "18446744073709551615");
    CHECK(file.find("f32")->to_string() == "0.5");
    CHECK(file.find("yes")->to_string() == "true");
    CHECK(file.find("text")->to_string() == "\"caf\xc3\xa9\"");
    CHECK(file.find("ints")->to_string() == "[1, -2, 3]");
    CHECK(file.find("ints")->to_string(2) == "[1, -2, ... 3 in all]");
    CHECK(file.find("bools")->to_string() == "[true, false, true]");
    CHECK(file.find("strings")->to_string() == "[\"a\", \"\", \"bc\"]");
    CHECK(file.find("none")->to_string() == "[]");
    CHECK(printable("a\x01\xff\xe2\x82", 99) == "a\\x01\\xff\\xe2\\x82");
    CHECK(printable("\xed\xa0\x80\xc0\x80\xf4\x90\x80\x80", 99) ==
          "\\xed\\xa0\\x80\\xc0\\x80\\xf4\\x90\\x80\\x80");
    CHECK(printable("\xe2\x82\xac\xf0\x9f\x99\x82", 99) == "\xe2\x82\xac\xf0\x9f\x99\x82");
    CHECK(printable("abc\xe2\x82\xac", 5) == "abc...");
    CHECK(printable("abc\xe2\x82\xac", 6) == "abc\xe2\x82\xac");
}

TEST_CASE("tensors point at their own bytes") {
    std::vector<std::byte> data(64, std::byte{7});
    GgufWriter writer;
    writer.add_tensor("first", {4, 2}, 0, 32).add_tensor("second", {8, 1, 2, 1}, 0, data);
    const std::vector<std::byte> bytes = writer.bytes();
    const GgufFile file = GgufFile::parse(bytes, "x.gguf");
    write_seed("good_tensors", bytes);
    REQUIRE(file.tensors().size() == 2);
    const TensorInfo *second = file.find_tensor("second");
    REQUIRE(second != nullptr);
    CHECK(second == &file.tensors()[1]);
    CHECK(second->shape == std::vector<size_t>{8, 1, 2, 1});
    CHECK(second->shape_text() == "(8, 1, 2, 1)");
    CHECK(second->n_elements() == 16);
    CHECK(second->type->name == std::string("F32"));
    CHECK(second->data.size() == 64);
    CHECK(second->data.data() == bytes.data() + second->offset);
    CHECK(second->offset % 32 == 0);
    CHECK(second->data[63] == std::byte{7});
    CHECK(file.find_tensor("first")->data[0] == std::byte{0});
    CHECK(file.find_tensor("") == nullptr);
    CHECK(file.find_tensor("fir") == nullptr);
    CHECK(file.find_tensor("zzz") == nullptr);
}

TEST_CASE("every weight type gives the right number of bytes") {
    for (const WeightType &type : weight_types()) {
        CAPTURE(type.name);
        const uint64_t cols = 2 * type.block, rows = 3;
        const std::vector<std::byte> bytes =
            GgufWriter()
                .add_tensor("w", {cols, rows}, type.ggml_id, rows * type.row_bytes(cols))
                .bytes();
        const GgufFile file = GgufFile::parse(bytes, "x.gguf");
        CHECK(file.find_tensor("w")->type == &type);
        CHECK(file.find_tensor("w")->data.size() == 6 * type.block_bytes);
    }
}

TEST_CASE("version 2, other alignments, an unsplit split.count and no tensors are fine") {
    GgufWriter writer;
    writer.version = 2;
    writer.alignment = 64;
    writer.add("general.alignment", uint32_t{64}).add("split.count", uint16_t{1});
    writer.add_tensor("a", {1}, 0, 4).add_tensor("b", {1}, 0, 4);
    const std::vector<std::byte> bytes = writer.bytes();
    const GgufFile file = GgufFile::parse(bytes, "x.gguf");
    CHECK(file.version() == 2);
    write_seed("good_version_2", bytes);
    CHECK(file.find_tensor("b")->offset == file.find_tensor("a")->offset + 64);

    // Smaller than the default: offsets that are multiples of 1 only.
    writer = GgufWriter();
    writer.alignment = 1;
    writer.add("general.alignment", uint32_t{1})
        .add_tensor("a", {1}, 1, 2)
        .add_tensor("b", {1}, 1, 2);
    const std::vector<std::byte> packed = writer.bytes();
    CHECK(GgufFile::parse(packed, "x.gguf").tensors()[1].data.data() ==
          packed.data() + packed.size() - 2);

    const std::vector<std::byte> none = GgufWriter().add("k", uint8_t{1}).bytes();
    CHECK(GgufFile::parse(none, "x.gguf").tensors().empty());
    const std::vector<std::byte> nothing = GgufWriter().bytes();
    CHECK(GgufFile::parse(nothing, "x.gguf").metadata().empty());
}

TEST_CASE("open maps a file; moving it keeps views valid") {
    const TemporaryFile disk(with_every_type().add_tensor("w", {8}, 0, 32).bytes());
    GgufFile first = GgufFile::open(disk.path);
    const GgufValue::Strings *strings = first.find_strings("strings");
    GgufFile second = std::move(first);
    first = GgufFile::open(disk.path);
    CHECK(second.name() == disk.path);
    CHECK(strings == second.find_strings("strings"));
    CHECK((*strings)[2] == "bc");
    CHECK(second.find_tensor("w")->data.data() != first.find_tensor("w")->data.data());
    const TemporaryFile empty({});
    CHECK(error_of([&] { GgufFile::open(empty.path); }).find("found an empty file") !=
          std::string::npos);
}

TEST_CASE("a vocabulary of 300,000 strings parses well within a second") {
    GgufWriter writer;
    std::vector<std::string> tokens;
    for (int i = 0; i < 300000; ++i) tokens.push_back("token " + std::to_string(i));
    writer.add_array("tokenizer.ggml.tokens", tokens)
        .add_array("scores", std::vector<float>(300000, 1.0f));
    const std::vector<std::byte> bytes = writer.bytes();
    const std::clock_t start = std::clock();  // processor time: other programs do not count
    const GgufFile file = GgufFile::parse(bytes, "x.gguf");
    const double time_s = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    CHECK(file.find_strings("tokenizer.ggml.tokens")->back() == "token 299999");
    CHECK(time_s < 1.0);  // about 0.01 s; the limit leaves room for sanitizers
}
