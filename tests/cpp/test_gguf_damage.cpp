// Random damage: a truncated or altered GGUF file parses or throws one of a2sf's errors, nothing
// else. Run with sanitizers to mean anything. Uses a file that it builds, and every *.gguf in the
// folder that A2SF_TEST_MODELS names, if it does.
#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

#include "base/error.h"
#include "gguf/file.h"
#include "gguf_writer.h"

using namespace a2sf;
using namespace a2sf_test;

namespace {

constexpr size_t kTruncations = 500;
constexpr size_t kFlips = 2000;

std::vector<std::byte> build_model() {
    GgufWriter writer;
    writer.add("general.architecture", "llama")
        .add("llama.block_count", uint32_t{2})
        .add("flag", true);
    writer.add("llama.rope.freq_base", 10000.0f);
    writer.add_array<std::string>("tokenizer.ggml.tokens", {"<s>", "</s>", "a", "b"});
    writer.add_array<float>("tokenizer.ggml.scores", {0.0f, -1.0f, -2.0f, -3.0f});
    writer.add_array<bool>("flags", {true, false});
    for (const WeightType &type : weight_types()) {
        const uint64_t cols = 2 * type.block;
        writer.add_tensor(std::string("blk.0.") + type.name, {cols, 2}, type.ggml_id,
                          2 * type.row_bytes(cols));
    }
    return writer.bytes();
}

std::vector<std::byte> read_file(const std::filesystem::path &path) {
    std::vector<std::byte> bytes(std::filesystem::file_size(path));
    std::ifstream(path, std::ios::binary)
        .read(reinterpret_cast<char *>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return bytes;
}

// Parses and touches all that the file claims to hold. True if it parsed, false if it was refused;
// anything but a2sf::Error passes through and fails the test.
bool survives(std::span<const std::byte> bytes) {
    try {
        const GgufFile file = GgufFile::parse(bytes, "x.gguf");
        size_t touched = 0;
        for (const auto &[key, value] : file.metadata()) touched += value.to_string().size();
        for (const TensorInfo &tensor : file.tensors()) {
            touched +=
                static_cast<size_t>(tensor.data.front()) + static_cast<size_t>(tensor.data.back());
        }
        return touched != SIZE_MAX;
    } catch (const Error &) {
        return false;
    }
}

void damage(std::vector<std::byte> bytes, uint32_t seed) {
    std::mt19937 random(seed);
    REQUIRE(survives(bytes));
    const size_t data_start = GgufFile::parse(bytes, "x.gguf").tensors().front().offset;
    size_t n_accepted = 0;
    for (size_t i = 0; i < kTruncations; ++i) {
        // Every second cut is in the header, where there is most to misread. The copy has no byte
        // to spare, so that the address sanitizer sees the first one too many.
        const size_t limit = i % 2 == 0 ? data_start : bytes.size();
        const size_t size = random() % limit;
        n_accepted += survives(
            std::vector<std::byte>(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(size)));
    }
    CHECK(n_accepted <= kTruncations / 50);  // only what cuts nothing but the padding at the end
    for (size_t i = 0; i < kFlips; ++i) {
        const size_t at = random() % (i % 8 == 0 ? bytes.size() : data_start);
        const std::byte before = bytes[at];
        bytes[at] ^= static_cast<std::byte>(i % 2 == 0 ? 1u << random() % 8 : 1 + random() % 255);
        n_accepted += survives(bytes);
        bytes[at] = before;
    }
    CHECK(n_accepted > 0);
}

}  // namespace

TEST_CASE("a damaged file parses or is refused") {
    damage(build_model(), 1);
}

TEST_CASE("damaged reference models parse or are refused") {
    const char *folder = std::getenv("A2SF_TEST_MODELS");
    if (folder == nullptr) {
        MESSAGE("skipped: A2SF_TEST_MODELS is not set");
        return;
    }
    uint32_t seed = 2;
    for (const auto &entry : std::filesystem::directory_iterator(folder)) {
        if (entry.path().extension() != ".gguf") continue;
        CAPTURE(entry.path().string());
        damage(read_file(entry.path()), seed++);
    }
}

TEST_CASE("the fuzzer's corpus parses or is refused") {
    const auto corpus =
        std::filesystem::path(__FILE__).parent_path().parent_path() / "fuzz/corpus/gguf";
    REQUIRE(std::filesystem::is_directory(corpus));
    size_t n_files = 0;
    for (const auto &entry : std::filesystem::directory_iterator(corpus)) {
        survives(read_file(entry.path()));
        ++n_files;
    }
    CHECK(n_files > 0);
}
