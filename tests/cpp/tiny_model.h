// A two-layer model of random weights with a byte-level tokenizer, written as a GGUF file, and
// small changes to it: what the tests of loading, sessions and generation run on.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "gguf_writer.h"

namespace a2sf_test {

constexpr size_t kTinyVocab = 258;  // 256 bytes, <bos>, <end>
constexpr int32_t kTinyBos = 256;
constexpr int32_t kTinyEnd = 257;

struct TinyModel {
    std::string architecture = "llama";
    uint32_t n_layers = 2;
    uint32_t claimed_layers = 0;  // in the metadata, if not 0
    uint32_t n_heads = 4;
    uint32_t n_kv_heads = 2;
    uint32_t dim = 64;
    uint32_t hidden_dim = 96;
    uint32_t n_ctx = 256;
    float rope_base = 0;  // in the metadata, if not 0
    // Called for every tensor before it is written; may change it, or drop it by clearing the
    // shape.
    std::function<void(const std::string &name, std::vector<uint64_t> &shape, std::vector<float> &)>
        change;

    uint32_t head_dim() const { return dim / n_heads; }
};

// The byte-level BPE alphabet: printable bytes stand for themselves, the others for U+0100 up.
inline std::string byte_token(int byte) {
    const auto printable = [](int b) {
        return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
    };
    int code = byte;
    if (!printable(byte)) {
        code = 256;
        for (int b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
    }
    if (code < 128) return std::string(1, static_cast<char>(code));
    return {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 63))};
}

inline void add_tokenizer(GgufWriter &writer) {
    std::vector<std::string> tokens;
    std::vector<int32_t> types;
    for (int byte = 0; byte < 256; ++byte) {
        tokens.push_back(byte_token(byte));
        types.push_back(1);
    }
    tokens.push_back("<bos>");
    tokens.push_back("<end>");
    types.insert(types.end(), {3, 3});
    writer.add("tokenizer.ggml.model", "gpt2").add("tokenizer.ggml.pre", "gpt-2");
    writer.add_array("tokenizer.ggml.tokens", tokens).add_array("tokenizer.ggml.token_type", types);
    writer.add_array("tokenizer.ggml.merges", std::vector<std::string>{"t h", "th e"});
    writer.add<uint32_t>("tokenizer.ggml.bos_token_id", kTinyBos);
    writer.add<uint32_t>("tokenizer.ggml.eos_token_id", kTinyEnd);
    writer.add("tokenizer.ggml.add_bos_token", false);
}

inline std::vector<std::byte> tiny_bytes(const TinyModel &tiny) {
    GgufWriter writer;
    const std::string prefix = tiny.architecture + ".";
    writer.add("general.architecture", tiny.architecture).add("general.name", "tiny");
    writer.add<uint32_t>(prefix + "block_count",
                         tiny.claimed_layers > 0 ? tiny.claimed_layers : tiny.n_layers);
    writer.add<uint32_t>(prefix + "context_length", tiny.n_ctx);
    if (tiny.rope_base != 0) writer.add<float>(prefix + "rope.freq_base", tiny.rope_base);
    writer.add<uint32_t>(prefix + "embedding_length", tiny.dim);
    writer.add<uint32_t>(prefix + "feed_forward_length", tiny.hidden_dim);
    writer.add<uint32_t>(prefix + "attention.head_count", tiny.n_heads);
    writer.add<uint32_t>(prefix + "attention.head_count_kv", tiny.n_kv_heads);
    writer.add<float>(prefix + "attention.layer_norm_rms_epsilon", 1e-5f);
    add_tokenizer(writer);
    std::mt19937 random(11);
    std::normal_distribution<float> normal(0.0f, 0.25f);
    const auto tensor = [&](const std::string &name, std::vector<uint64_t> shape) {
        size_t n = 1;
        for (uint64_t size : shape) n *= size;
        std::vector<float> values(n);
        for (float &value : values) value = shape.size() == 1 ? 1.0f : normal(random);
        if (tiny.change) tiny.change(name, shape, values);
        if (!shape.empty()) writer.add_tensor(name, shape, 0, std::as_bytes(std::span(values)));
    };
    const uint64_t kv_dim = tiny.n_kv_heads * tiny.head_dim();
    tensor("token_embd.weight", {tiny.dim, kTinyVocab});
    tensor("output_norm.weight", {tiny.dim});
    for (uint32_t layer = 0; layer < tiny.n_layers; ++layer) {
        const std::string at = "blk." + std::to_string(layer) + ".";
        tensor(at + "attn_norm.weight", {tiny.dim});
        tensor(at + "attn_q.weight", {tiny.dim, tiny.dim});
        tensor(at + "attn_k.weight", {tiny.dim, kv_dim});
        tensor(at + "attn_v.weight", {tiny.dim, kv_dim});
        tensor(at + "attn_output.weight", {tiny.dim, tiny.dim});
        tensor(at + "ffn_norm.weight", {tiny.dim});
        tensor(at + "ffn_gate.weight", {tiny.dim, tiny.hidden_dim});
        tensor(at + "ffn_up.weight", {tiny.dim, tiny.hidden_dim});
        tensor(at + "ffn_down.weight", {tiny.hidden_dim, tiny.dim});
    }
    return writer.bytes();
}

// Writes the model to a file of its own and loads it.
inline a2sf::Engine load_tiny(const TinyModel &tiny = {}, const char *device = "cpu") {
    static int n_files = 0;
    const std::string path =
        (std::filesystem::temp_directory_path() /
         ("a2sf_tiny_" + std::to_string(getpid()) + "_" + std::to_string(n_files++) + ".gguf"))
            .string();
    const std::vector<std::byte> bytes = tiny_bytes(tiny);
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char *>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    struct Remove {
        std::string path;
        ~Remove() { std::remove(path.c_str()); }
    } remove{path};
    return a2sf::Engine::load(path, device);
}

// The plain one, loaded once.
inline const a2sf::Engine &tiny() {
    static const a2sf::Engine engine = load_tiny();
    return engine;
}

// Tokens of a head, in the mean over all heads.
inline double mean_live(const a2sf::Cache &cache) {
    const auto &shape = cache.shape();
    size_t total = 0;
    for (size_t i = 0; i < shape.n_layers * shape.n_kv_heads; ++i) {
        total += cache.live(i / shape.n_kv_heads, i % shape.n_kv_heads);
    }
    return static_cast<double>(total) / static_cast<double>(shape.n_layers * shape.n_kv_heads);
}

// Seeded ids of text tokens.
inline std::vector<int32_t> some_ids(size_t n, unsigned seed = 1) {
    std::mt19937 random(seed);
    std::vector<int32_t> ids(n);
    for (int32_t &id : ids) id = static_cast<int32_t>(random() % 256);
    return ids;
}

}  // namespace a2sf_test
