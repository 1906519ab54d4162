// What commands show of an emulated GPU: rows of `a2sf bench`, and its limits.
#include <doctest/doctest.h>

#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <map>
#include <regex>
#include <string>

#include "cli/commands.h"
#include "cuda_fixture.h"
#include "tiny_model.h"

using namespace a2sf;
using namespace a2sf::testing;
using namespace a2sf_test;

namespace {

// A model's file, for as long as the object lives. Many layers: few tokens take much memory.
struct ModelFile {
    const std::string path = (std::filesystem::temp_directory_path() /
                              ("a2sf_cli_" + std::to_string(getpid()) + ".gguf"))
                                 .string();
    explicit ModelFile(uint32_t n_layers = 2) {
        TinyModel model;
        model.n_layers = n_layers;
        const std::vector<std::byte> bytes = tiny_bytes(model);
        std::ofstream(path, std::ios::binary)
            .write(reinterpret_cast<const char *>(bytes.data()),
                   static_cast<std::streamsize>(bytes.size()));
    }
    ~ModelFile() { std::remove(path.c_str()); }
};

// What the body writes to standard output.
std::string printed(const std::function<void()> &body) {
    std::FILE *file = std::tmpfile();
    REQUIRE(file != nullptr);
    std::fflush(stdout);
    const int before = dup(STDOUT_FILENO);
    dup2(fileno(file), STDOUT_FILENO);
    try {
        body();
    } catch (...) {
        dup2(before, STDOUT_FILENO);
        close(before);
        std::fclose(file);
        throw;
    }
    dup2(before, STDOUT_FILENO);
    close(before);
    std::rewind(file);
    std::string text;
    for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file)) text += static_cast<char>(c);
    std::fclose(file);
    return text;
}

// The numbers of each object in a flat array of them.
std::vector<std::map<std::string, double>> rows_of(const std::string &json) {
    std::vector<std::map<std::string, double>> rows;
    static const std::regex object("[{][^}]*[}]"), field("\"(\\w+)\": *(-?[0-9][-+.0-9e]*)");
    for (std::sregex_iterator at(json.begin(), json.end(), object), end; at != end; ++at) {
        const std::string text = at->str();
        rows.emplace_back();
        for (std::sregex_iterator one(text.begin(), text.end(), field); one != end; ++one) {
            rows.back()[(*one)[1]] = std::stod((*one)[2]);
        }
    }
    return rows;
}

}  // namespace

TEST_CASE("cuda bench: rows have the device's memory and the bandwidth of its copies") {
    const Restored restored;
    cuda_emulator::machine.n_memory = size_t{64} << 20;
    const ModelFile file;
    const char *const arguments[] = {"-m",       file.path.c_str(),
                                     "--device", "cuda",
                                     "-p",       "16",
                                     "-n",       "3",
                                     "-r",       "1",
                                     "-o",       "json",
                                     "-q",       "-t",
                                     "1"};
    const cuda_emulator::Counts before = cuda_emulator::counts;
    const std::string json = printed([&] { cli::command_bench(arguments); });
    CAPTURE(json);
    // As greedy generation: steps are graphs, and of their logits none are copied.
    CHECK(cuda_emulator::counts.n_plays > before.n_plays);
    CHECK(cuda_emulator::counts.n_bytes_to_host - before.n_bytes_to_host <
          4 * kTinyVocab * sizeof(float));
    CHECK(json.find("\"device\": \"cuda\"") != std::string::npos);
    const auto rows = rows_of(json);
    REQUIRE(rows.size() == 2);
    for (auto row : rows) {
        // Weights, K and V; without the memory that measuring the machine takes.
        CHECK(row["device_bytes"] > row["weight_bytes_per_token"] + row["kv_bytes_full"]);
        CHECK(row["device_bytes"] < double{8 << 20});
        CHECK(row["copy_gb_s"] > 0);
        CHECK(row["copy_gb_s"] == row["read_gb_s"]);
    }
    // A token moves the weights and on average half of what is there after the last.
    auto decode = rows[1];
    const double moved = decode["weight_bytes_per_token"] + decode["kv_bytes_full"] / 2;
    CHECK(decode["fraction_of_peak"] ==
          doctest::Approx(decode["tokens_per_s"] * moved / (decode["copy_gb_s"] * 1e9)));
}

TEST_CASE("cuda bench: limits are those of the device's memory") {
    const Restored restored;
    const ModelFile file(64);
    const char *const arguments[] = {
        "--limits", "-m",  file.path.c_str(), "--device", "cuda", "-t",  "1", "--batch", "8",
        "--memory", "16M", "--policy",        "tova",     "-o",   "json"};
    const std::string json = printed([&] { cli::command_bench(arguments); });
    CAPTURE(json);
    std::smatch found;
    REQUIRE(std::regex_search(json, found, std::regex("\"process_bytes\": *([0-9]+)")));
    // Weights and activations, and not the process's address space.
    CHECK(std::stoul(found[1]) > size_t{5} << 20);
    CHECK(std::stoul(found[1]) < size_t{15} << 20);
    const auto rows = rows_of(json.substr(json.find('[')));
    REQUIRE(!rows.empty());
    for (auto row : rows) CHECK(row["budget"] > 8);
}

TEST_CASE("cuda run: a machine without a driver is told so") {
    const Restored restored;
    const ModelFile file;
    cuda_emulator::machine.driver_version = 0;
    const char *const arguments[] = {
        "-m", file.path.c_str(), "--device", "cuda", "-p", "a", "-n", "1", "-q"};
    const std::string message = message_of([&] { cli::command_run(arguments); });
    CHECK(message == "device 'cuda': a usable one expected (cpu), found: no NVIDIA driver");
    const char *const any[] = {"-m", file.path.c_str(), "--device", "auto", "-p", "a", "-n", "1",
                               "-q", "--json"};
    CHECK(printed([&] { cli::command_run(any); }).find("\"device\": \"cuda\"") ==
          std::string::npos);
}
