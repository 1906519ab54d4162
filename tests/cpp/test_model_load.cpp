// Loading: every tensor and number that does not fit is refused by name, with expected and found.
#include <doctest/doctest.h>

#include <cmath>
#include <string>

#include "base/error.h"
#include "model/registry.h"
#include "tiny_model.h"

using namespace a2sf;
using namespace a2sf_test;

namespace {

std::string refusal(const TinyModel &tiny) {
    try {
        load_tiny(tiny);
    } catch (const Error &error) {
        return error.what();
    }
    return "accepted";
}

TinyModel reshaped(const std::string &which, std::vector<uint64_t> to) {
    TinyModel tiny;
    tiny.change = [=](const std::string &name, std::vector<uint64_t> &shape,
                      std::vector<float> &values) {
        if (name != which) return;
        shape = to;
        size_t n = 1;
        for (uint64_t size : to) n *= size;
        values.resize(n);
    };
    return tiny;
}

}  // namespace

TEST_CASE("a model's numbers are those of its file") {
    const Engine engine = load_tiny();
    const Config &config = engine.model->config();
    CHECK(config.architecture == "llama");
    CHECK(config.n_layers == 2);
    CHECK(config.n_vocab == kTinyVocab);
    CHECK(config.head_dim == 16);
    CHECK(config.group() == 2);
    CHECK(config.attention_scale == doctest::Approx(0.25));
    CHECK(config.rope.frequency.size() == 8);
    CHECK(config.rope.frequency[1] == doctest::Approx(std::pow(10000.0, -0.125)));
    CHECK(engine.model->output().data == engine.model->embedding().data);
    CHECK(engine.model->weight_type_name() == "F32");
    CHECK(engine.model->bytes_per_token() == engine.model->n_weight_bytes());
}

TEST_CASE("tensors of the wrong shape, or missing, are refused by name") {
    CHECK(refusal(reshaped("blk.1.attn_q.weight", {64, 32})) ==
          "blk.1.attn_q.weight: shape (64, 64) expected, found (64, 32)");
    CHECK(refusal(reshaped("blk.0.ffn_norm.weight", {32})) ==
          "blk.0.ffn_norm.weight: shape (64) expected, found (32)");
    CHECK(refusal(reshaped("token_embd.weight", {32, 258})).find("token_embd.weight: shape") == 0);
    CHECK(refusal(reshaped("blk.1.ffn_down.weight", {})).find("blk.1.ffn_down.weight: a tensor") ==
          0);
    CHECK(refusal(reshaped("output_norm.weight", {64, 1})) == "accepted");
}

TEST_CASE("numbers that contradict each other are refused") {
    CHECK(refusal({.n_heads = 3}).find("head_count_kv") != std::string::npos);
    CHECK(refusal({.n_layers = 0}).find("llama.block_count") == 0);
    TinyModel endless;
    endless.claimed_layers = 1u << 25;
    CHECK(refusal(endless).find("llama.block_count: at most one layer per tensor") == 0);
    CHECK(refusal({.n_ctx = 0}).find("llama.context_length") == 0);
}

TEST_CASE("an unknown architecture lists the known ones") {
    const std::string message = refusal({.architecture = "mamba"});
    for (const std::string &name : architectures()) {
        CHECK(message.find(name) != std::string::npos);
    }
    CHECK(message.find("found \"mamba\"") != std::string::npos);
}

TEST_CASE("architectures are unique and found") {
    for (const std::string &name : architectures()) {
        CHECK(find_architecture(name).name == name);
    }
}
