// Reference models on an emulated GPU, of every architecture and several weight types: a prompt and
// a few tokens give the logits that float keys and values give on the CPU.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "cuda_fixture.h"
#include "engine/engine.h"
#include "tiny_model.h"

using namespace a2sf;
using namespace a2sf::testing;
using namespace a2sf_test;

namespace {

// Of the last token of a prompt that is one batch, and of four tokens that follow.
std::vector<float> logits_of(const std::string &path, const char *device, KvType type) {
    const Engine engine = Engine::load(path, device);
    Session session(engine.model, SessionOptions{.kv_type = type, .n_threads = 1, .batch = 80});
    const auto first = session.feed(some_ids(80));
    std::vector<float> all(first.begin(), first.end());
    for (const int32_t id : some_ids(4, 2)) {
        const auto next = session.feed({&id, 1});
        all.insert(all.end(), next.begin(), next.end());
    }
    return all;
}

// Mean |difference| as a share of the logits' standard deviation.
double error_of(const std::vector<float> &found, const std::vector<float> &expected) {
    double difference = 0.0, sum = 0.0, squares = 0.0;
    for (size_t i = 0; i < expected.size(); ++i) {
        difference += std::fabs(static_cast<double>(found[i]) - expected[i]);
        sum += expected[i];
        squares += static_cast<double>(expected[i]) * expected[i];
    }
    const double n = static_cast<double>(expected.size());
    return difference / n / std::sqrt(squares / n - sum / n * (sum / n));
}

}  // namespace

TEST_CASE("cuda models: logits of the reference models are the CPU's") {
    const char *folder = std::getenv("A2SF_TEST_MODELS");
    if (folder == nullptr) {
        MESSAGE("skipped: A2SF_TEST_MODELS is not set");
        return;
    }
    size_t n_models = 0;
    for (const char *name :
         {"llama-F32", "llama-F16", "llama3-F16", "qwen2-F16", "qwen3-F16", "gemma3-F16",
          "phi3-F16", "llama-BF16", "llama-Q4_0", "llama-Q8_0", "llama-Q4_K", "llama-Q6_K"}) {
        const std::string path = std::string(folder) + "/" + name + ".gguf";
        if (!std::filesystem::exists(path)) continue;
        const bool quantised = path.find("-Q") != std::string::npos;
        const bool floats = path.find("-F32") != std::string::npos;
        const double error = error_of(logits_of(path, "cuda", floats ? KvType::F32 : KvType::F16),
                                      logits_of(path, "cpu", KvType::F32));
        MESSAGE(std::string(name), ": ", error);
        CAPTURE(path);
        // Halves and bfloat16; where weights are quantised, activations of single tokens are, too.
        CHECK(error < (floats ? 1e-5 : quantised ? 0.02 : 2e-3));
        ++n_models;
    }
    CHECK(n_models > 0);
}
