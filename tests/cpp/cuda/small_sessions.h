// Sessions of a model that is small enough to be made a thousand times.
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "tiny_model.h"

namespace a2sf_test {

using namespace a2sf;

// A small model's file, there until the program ends.
inline const std::string &model_path() {
    static const struct File {
        std::string path = (std::filesystem::temp_directory_path() /
                            ("a2sf_lifetime_" + std::to_string(getpid()) + ".gguf"))
                               .string();
        File() {
            TinyModel model;
            model.n_layers = 1;
            model.dim = 32;
            model.n_heads = 2;
            model.n_kv_heads = 1;
            model.hidden_dim = 32;
            const std::vector<std::byte> bytes = tiny_bytes(model);
            std::ofstream(path, std::ios::binary)
                .write(reinterpret_cast<const char *>(bytes.data()),
                       static_cast<std::streamsize>(bytes.size()));
        }
        ~File() { std::remove(path.c_str()); }
    } file;
    return file.path;
}

inline SessionOptions evicting(const char *policy = "a2sf") {
    SessionOptions options{.kv_type = KvType::F16, .n_threads = 1, .batch = 8};
    options.eviction.policy = policy;
    options.eviction.budget = Amount::of_tokens(16);
    return options;
}

inline std::shared_ptr<const Model> load() {
    return Model::load(model_path(), find_backend("cuda"));
}

// Greedy tokens after a prompt, more than the budget.
inline std::vector<int32_t> answer(Session &session, unsigned seed, size_t n_tokens) {
    std::span<const float> logits = session.feed(some_ids(30, seed));
    std::vector<int32_t> ids;
    while (ids.size() < n_tokens) {
        const auto most = std::max_element(logits.begin(), logits.end()) - logits.begin();
        ids.push_back(static_cast<int32_t>(most));
        logits = session.feed({&ids.back(), 1});
    }
    return ids;
}

}  // namespace a2sf_test
