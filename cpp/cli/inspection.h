// What `a2sf inspect` finds out about a GGUF file, before it is shown in either form.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "cli/json.h"
#include "gguf/file.h"
#include "quant/registry.h"
#include "token/tokenizer.h"

namespace a2sf::cli {

// Tensors of one weight type.
struct TypeShare {
    const WeightType *type;
    size_t n_tensors = 0;
    size_t n_params = 0;
    size_t n_bytes = 0;
};

// K and V of one token in all layers, and of caches that hold more.
struct KvSize {
    KvType type;
    size_t bytes_per_token;
    size_t bytes_budget;
    size_t bytes_context;  // 0 when the context is not known
};

// Whatever could be read; a part that could not says why.
struct Inspection {
    GgufFile file;
    size_t budget = 0;
    std::string unsupported;   // why this build cannot run the file; empty: it can
    std::string architecture;  // general.architecture, empty when the file names none
    std::string name;
    // "n_layers" -> 30, in the order to show; without those that are not known.
    std::vector<std::pair<std::string, uint64_t>> numbers;
    std::optional<Tokenizer> tokenizer;
    std::string no_tokenizer;  // why there is none
    std::vector<int32_t> end_ids;
    std::vector<TypeShare> types;
    size_t n_params = 0;
    size_t n_weight_bytes = 0;
    std::vector<KvSize> kv;  // empty when the numbers do not suffice

    const uint64_t *number(std::string_view which) const;
};

// Throws only when the file as such cannot be opened or parsed.
Inspection inspect(const std::string &path, size_t budget);

// The two forms. show_all: arrays in full; show_tensors: the list of tensors.
std::string inspection_text(const Inspection &seen, bool show_all, bool show_tensors);
std::string inspection_json(const Inspection &seen, bool show_all, bool show_tensors);

}  // namespace a2sf::cli
