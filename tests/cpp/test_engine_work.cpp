// What a token costs at least, and the share of a machine's peaks that a speed takes.
#include <doctest/doctest.h>

#include <vector>

#include "engine/session.h"
#include "engine/work.h"
#include "tiny_model.h"

using namespace a2sf;
using namespace a2sf_test;

namespace {

// Weights in the matrices of the tiny model's layers, all F32.
size_t layer_weights(const TinyModel &tiny) {
    const size_t kv_dim = tiny.n_kv_heads * tiny.head_dim();
    const size_t attention = 2 * tiny.dim * tiny.dim + 2 * tiny.dim * kv_dim;
    return tiny.n_layers * (attention + 3 * tiny.dim * tiny.hidden_dim);
}

}  // namespace

TEST_CASE("work: matrices count once, and so does an output that is the embedding") {
    for (const bool tied : {false, true}) {
        TinyModel tiny;
        tiny.change = [tied](const std::string &name, std::vector<uint64_t> &shape,
                             std::vector<float> &) {
            if (tied && name == "output.weight") shape.clear();
        };
        const Engine engine = load_tiny(tiny);
        const Model &model = *engine.model;
        const size_t in_layers = layer_weights(tiny), in_output = kTinyVocab * tiny.dim;
        CHECK(layers_work(model).n_float == in_layers);
        CHECK(layers_work(model).n_half == 0);
        CHECK(layers_work(model).n_quantized == 0);
        CHECK(output_work(model).n_float == in_output);
        CHECK(weight_bytes_per_token(model) == 4 * (in_layers + in_output));
        CHECK(main_weight_type(model) == "F32");
    }
}

TEST_CASE("work: a speed at the peak is a share of 1") {
    const TinyModel tiny;
    const Engine engine = load_tiny(tiny);
    const Model &model = *engine.model;
    const MachinePeaks peaks = {2.0, 5.0, 3.0, 0.0};
    const double n_bytes = static_cast<double>(weight_bytes_per_token(model)) + 1000.0;
    CHECK(decode_fraction(model, 1000.0, 2e9 / n_bytes, peaks) == doctest::Approx(1.0));
    const double n_weights = static_cast<double>(layer_weights(tiny)) + kTinyVocab * tiny.dim / 7.0;
    CHECK(prompt_fraction(model, 7, 3e9 / (2 * n_weights), peaks) == doctest::Approx(1.0));
}

TEST_CASE("work: K and V of live slots, as many as the budget allows") {
    const TinyModel tiny;
    const Engine engine = load_tiny(tiny);
    SessionOptions options;
    options.eviction.policy = "streaming";
    options.eviction.budget = Amount::of_tokens(16);
    Session session(engine.model, options);
    CHECK(live_kv_bytes(session.cache()) == 0);
    const size_t slot_bytes = 2 * tiny.n_layers * tiny.n_kv_heads * tiny.head_dim() * 2;
    session.feed(std::vector<int32_t>(10, 1));
    CHECK(live_kv_bytes(session.cache()) == 10 * slot_bytes);
    session.feed(std::vector<int32_t>(30, 2));
    CHECK(live_kv_bytes(session.cache()) == 16 * slot_bytes);
}
