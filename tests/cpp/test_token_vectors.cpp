// llama.cpp's own test vectors, and properties of real vocabularies. Needs the shared folder
// (A2SF_SHARED, or shared/ beside the repository); without it each case says so and passes.
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <sstream>

#include <doctest/doctest.h>

#include "gguf/file.h"
#include "token/tokenizer.h"

using namespace a2sf;
namespace fs = std::filesystem;

namespace {

fs::path shared_folder() {
    if (const char *path = std::getenv("A2SF_SHARED")) return path;
    return fs::path(A2SF_SOURCE_DIR) / ".." / "shared";
}

std::string read_text(const fs::path &path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<fs::path> vocabularies() {
    std::vector<fs::path> paths;
    const fs::path folder = shared_folder() / "vocab";
    if (fs::is_directory(folder)) {
        for (const auto &entry : fs::directory_iterator(folder)) {
            if (entry.path().extension() == ".gguf") paths.push_back(entry.path());
        }
    }
    if (paths.empty()) MESSAGE("skipped: no vocabularies in ", folder.string());
    return paths;
}

Tokenizer load(const fs::path &path) {
    return Tokenizer(GgufFile::open(path.string()));
}

struct Vector {
    std::string text;
    std::vector<int32_t> ids;
};

// NAME.gguf.inp: texts separated by a marker line. NAME.gguf.out: a line of ids for each.
std::vector<Vector> read_vectors(const fs::path &vocabulary) {
    const std::string marker = "\n__ggml_vocab_test__\n";
    const std::string texts = read_text(vocabulary.string() + ".inp");
    std::istringstream lines(read_text(vocabulary.string() + ".out"));
    std::vector<Vector> vectors;
    size_t begin = 0;
    for (std::string line; std::getline(lines, line);) {
        const size_t end = texts.find(marker, begin);
        if (end == std::string::npos) break;
        Vector vector{texts.substr(begin, end - begin), {}};
        std::istringstream numbers(line);
        for (int32_t id; numbers >> id;) vector.ids.push_back(id);
        vectors.push_back(std::move(vector));
        begin = end + marker.size();
    }
    return vectors;
}

std::string random_bytes(std::mt19937 &random, size_t n) {
    std::string bytes(n, '\0');
    for (char &c : bytes) c = static_cast<char>(random());
    return bytes;
}

// Not a comparison in a CHECK, which would print both texts.
bool gives_back(const Tokenizer &tokenizer, const std::string &text) {
    return tokenizer.decode(tokenizer.encode(text, {false, {}})) == text;
}

}  // namespace

TEST_CASE("llama.cpp's test vectors are reproduced") {
    for (const fs::path &path : vocabularies()) {
        CAPTURE(path.filename().string());
        const Tokenizer tokenizer = load(path);
        CHECK(tokenizer.warnings().empty());
        const std::vector<Vector> vectors = read_vectors(path);
        CHECK(vectors.size() >= 40);
        for (const Vector &vector : vectors) {
            CAPTURE(vector.text);
            CHECK(tokenizer.encode(vector.text, {false, false}) == vector.ids);
            CHECK(tokenizer.decode(vector.ids) == vector.text);
        }
    }
}

TEST_CASE("real vocabularies give back what was encoded, byte for byte") {
    std::mt19937 random(1);
    for (const fs::path &path : vocabularies()) {
        CAPTURE(path.filename().string());
        const Tokenizer tokenizer = load(path);
        const std::string prose = read_text(shared_folder() / "data" / "wikitext2-test.txt");
        const std::string text = prose.substr(0, 200000);
        CHECK(gives_back(tokenizer, text));
        for (size_t n = 0; n < 300; n += 7) {
            const std::string bytes = random_bytes(random, n);
            CHECK(gives_back(tokenizer, bytes));
        }
    }
}

TEST_CASE("a megabyte without a break is encoded in seconds") {
    const size_t n = size_t{1} << 20;
    std::mt19937 random(2);
    std::string letters(n, 'a');
    for (char &c : letters) c = static_cast<char>('a' + random() % 26);
    const std::string texts[] = {std::string(n, ' '), letters, random_bytes(random, n)};
    for (const fs::path &path : vocabularies()) {
        CAPTURE(path.filename().string());
        const Tokenizer tokenizer = load(path);
        const std::clock_t start = std::clock();
        for (const std::string &text : texts) {
            CAPTURE(text.substr(0, 8));
            CHECK(gives_back(tokenizer, text));
        }
        const double cpu_time_s = double(std::clock() - start) / CLOCKS_PER_SEC;
        // 2 s as built for release. Quadratic work would take hours; sanitizers get some room.
        CHECK(cpu_time_s < 120);
    }
}
