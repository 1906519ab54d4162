// What tokens cost at least: weight bytes to read, multiply-adds to do, K and V to read. Bounds to
// set a measured speed against; nothing here runs a model.
//
// Counted are the weight matrices. Left out, because they are small beside these: one embedding
// row, norms, biases, activations, eviction scores; and, in a prompt, attention, which has no
// weights.
#pragma once

#include <cstddef>
#include <string>

#include "backend/backend.h"
#include "kv/cache.h"
#include "model/model.h"

namespace a2sf {

// Of some weight matrices, each multiplied once. A tied output counts as the matrix that it is.
struct WeightWork {
    size_t n_bytes = 0;
    size_t n_quantized = 0;  // weights of types with scales: byte products
    size_t n_half = 0;       // weights of F16 and BF16
    size_t n_float = 0;      // weights of F32
};

WeightWork layers_work(const Model &model);
WeightWork output_work(const Model &model);  // the logits of one token

// Weight bytes that decoding one token reads: the layers' and the output's.
size_t weight_bytes_per_token(const Model &model);

// The type that holds most of the file's tensor bytes: "Q4_0".
std::string main_weight_type(const Model &model);

// K and V of all live slots: what one more token has to read.
size_t live_kv_bytes(const Cache &cache);

// Share of the read bandwidth that a decoding speed takes.
//   tokens_per_s * (weight bytes + K and V bytes per token) / read_gb_s
double decode_fraction(const Model &model, double kv_bytes_per_token, double tokens_per_s,
                       const MachinePeaks &peaks);

// Share of the arithmetic peak that a prompt speed takes.
//   tokens_per_s * 2 * (weights multiplied per token) / int8_gops, or float_gflops for float types
// Where there are bfloat16 tiles, all types but F32 are set against bfloat16_gflops.
// A prompt of n_tokens multiplies the layers n_tokens times but the output once, for its last
// token. Types of both kinds: the times that each needs at its own peak are added.
double prompt_fraction(const Model &model, size_t n_tokens, double tokens_per_s,
                       const MachinePeaks &peaks);

}  // namespace a2sf
