// Gathers what `a2sf inspect` shows. Every part is tried on its own, so that a file which this
// build cannot run is still described as far as it can be read.
#include "cli/inspection.h"

#include <algorithm>
#include <map>

#include "backend/registry.h"
#include "base/error.h"
#include "model/config.h"
#include "model/model.h"
#include "model/registry.h"

namespace a2sf::cli {
namespace {

std::string find_text(const GgufFile &file, const char *key) {
    try {
        return file.find_string(key).value_or("");
    } catch (const Error &) {
        return {};  // not a string: the list of metadata shows it
    }
}

// The architecture's own reading, with its defaults and checks.
void numbers_from_config(const GgufFile &file, Inspection &seen) {
    const Config config = read_config(file, find_architecture(seen.architecture));
    seen.numbers = {{"n_layers", config.n_layers},
                    {"n_heads", config.n_heads},
                    {"n_kv_heads", config.n_kv_heads},
                    {"head_dim", config.head_dim},
                    {"dim", config.dim},
                    {"hidden_dim", config.hidden_dim},
                    {"n_ctx", config.n_ctx}};
    const int32_t window = *std::max_element(config.window.begin(), config.window.end());
    if (window > 0) seen.numbers.emplace_back("window", static_cast<uint64_t>(window));
}

// Another architecture's, as far as it uses the customary keys.
void numbers_from_keys(const GgufFile &file, Inspection &seen) {
    static constexpr std::pair<const char *, const char *> kKnown[] = {
        {"n_layers", keys::kLayers},
        {"n_heads", keys::kHeads},
        {"n_kv_heads", keys::kKvHeads},
        {"head_dim", keys::kKeyDim},
        {"dim", keys::kDim},
        {"hidden_dim", keys::kHiddenDim},
        {"n_ctx", keys::kContext},
        {"n_experts", keys::kExperts},
    };
    seen.numbers.clear();
    for (const auto &[name, key] : kKnown) {
        try {
            const auto value = file.find_uint(str(seen.architecture, ".", key));
            if (value) seen.numbers.emplace_back(name, *value);
        } catch (const Error &) {
            // A list (one number per layer), say: the list of metadata shows it.
        }
    }
}

void read_architecture(const std::string &path, Inspection &seen) {
    seen.architecture = find_text(seen.file, keys::kArchitecture);
    seen.name = find_text(seen.file, keys::kName);
    try {
        numbers_from_config(seen.file, seen);
    } catch (const Error &) {
        numbers_from_keys(seen.file, seen);
    }
    if (seen.file.tensors().empty()) {
        seen.unsupported = "a vocabulary without weights";
        return;
    }
    try {
        // Checks every shape as a run would; on the CPU the weights stay where they are.
        const auto model = Model::load(path, find_backend("cpu"));
        seen.numbers.emplace_back("n_vocab", model->config().n_vocab);
    } catch (const Error &error) {
        seen.unsupported = error.what();
    }
}

void read_tokenizer(Inspection &seen) {
    try {
        seen.tokenizer.emplace(seen.file);
    } catch (const Error &error) {
        seen.no_tokenizer = error.what();
        return;
    }
    const auto n_vocab = static_cast<int32_t>(seen.tokenizer->n_vocab());
    for (int32_t id = 0; id < n_vocab; ++id) {
        if (seen.tokenizer->is_end(id)) seen.end_ids.push_back(id);
    }
}

void count_weights(Inspection &seen) {
    for (const TensorInfo &tensor : seen.file.tensors()) {
        auto share = std::find_if(seen.types.begin(), seen.types.end(),
                                  [&](const TypeShare &t) { return t.type == tensor.type; });
        if (share == seen.types.end()) share = seen.types.insert(share, {tensor.type});
        share->n_tensors += 1;
        share->n_params += tensor.n_elements();
        share->n_bytes += tensor.data.size();
        seen.n_params += tensor.n_elements();
        seen.n_weight_bytes += tensor.data.size();
    }
    std::sort(seen.types.begin(), seen.types.end(),
              [](const TypeShare &a, const TypeShare &b) { return a.n_bytes > b.n_bytes; });
}

// a * b, or nothing on overflow: the numbers come from a file that nobody may have checked.
std::optional<size_t> product(std::initializer_list<uint64_t> factors) {
    size_t result = 1;
    for (const uint64_t factor : factors) {
        if (__builtin_mul_overflow(result, factor, &result)) return std::nullopt;
    }
    return result;
}

void measure_kv(Inspection &seen) {
    const uint64_t *n_layers = seen.number("n_layers");
    const uint64_t *n_heads = seen.number("n_heads");
    const uint64_t *n_kv_heads = seen.number("n_kv_heads");
    const uint64_t *head_dim = seen.number("head_dim");
    const uint64_t *dim = seen.number("dim");
    const uint64_t *n_ctx = seen.number("n_ctx");
    if (n_kv_heads == nullptr) n_kv_heads = n_heads;
    if (n_layers == nullptr || n_kv_heads == nullptr) return;
    uint64_t width = 0;
    if (head_dim != nullptr) width = *head_dim;
    if (width == 0 && n_heads != nullptr && *n_heads > 0 && dim != nullptr) width = *dim / *n_heads;
    if (width == 0 || !product({width, 4})) return;
    for (const KvType type : kKvTypes) {
        if (!can_store(type, width)) continue;
        const auto token = product({2, *n_layers, *n_kv_heads, kv_row_bytes(type, width)});
        if (!token) continue;
        const auto budget = product({*token, seen.budget});
        const auto context = product({*token, n_ctx != nullptr ? *n_ctx : 0});
        if (budget && context) seen.kv.push_back({type, *token, *budget, *context});
    }
}

}  // namespace

const uint64_t *Inspection::number(std::string_view which) const {
    for (const auto &[known, value] : numbers) {
        if (known == which) return &value;
    }
    return nullptr;
}

Inspection inspect(const std::string &path, size_t budget) {
    Inspection seen{.file = GgufFile::open(path), .budget = budget};
    read_architecture(path, seen);
    read_tokenizer(seen);
    count_weights(seen);
    measure_kv(seen);
    return seen;
}

}  // namespace a2sf::cli
