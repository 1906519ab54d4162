#include "model/config.h"

#include <cmath>
#include <numbers>

#include "base/error.h"
#include "model/arch/architecture.h"

namespace a2sf {

namespace {

// Larger than any model, small enough that products of two fit in 64 bits.
constexpr uint64_t kMostElements = uint64_t{1} << 28;

// Typed access to "<architecture>.<key>" with range checks.
class Keys {
  public:
    Keys(const GgufFile &file, const Architecture &arch)
        : file_(file), prefix_(str(arch.name, ".")) {}

    std::string full(const char *key) const { return prefix_ + key; }

    size_t count(const char *key) const { return checked(key, file_.get_uint(full(key))); }
    size_t count_or(const char *key, size_t fallback) const {
        const auto value = file_.find_uint(full(key));
        return value ? checked(key, *value) : fallback;
    }
    double number_or(const char *key, double fallback) const {
        const double value = file_.find_float(full(key)).value_or(fallback);
        if (!std::isfinite(value)) {
            throw GgufError(str(full(key), ": a finite number expected, found ", value));
        }
        return value;
    }
    double positive_or(const char *key, double fallback) const {
        const double value = number_or(key, fallback);
        if (!(value > 0))
            throw GgufError(str(full(key), ": a positive number expected, found ", value));
        return value;
    }
    std::string text_or(const char *key, const char *fallback) const {
        return file_.find_string(full(key)).value_or(fallback);
    }

  private:
    size_t checked(const char *key, uint64_t value) const {
        if (value == 0 || value > kMostElements) {
            throw GgufError(
                str(full(key), ": a count from 1 to ", kMostElements, " expected, found ", value));
        }
        return static_cast<size_t>(value);
    }

    const GgufFile &file_;
    std::string prefix_;
};

// Frequencies base^(-2i/n_rot), the plain RoPE (arXiv 2104.09864).
std::vector<double> plain_frequencies(size_t n_rot, double base) {
    std::vector<double> frequency(n_rot / 2);
    for (size_t i = 0; i < frequency.size(); ++i) {
        frequency[i] = std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(n_rot));
    }
    return frequency;
}

// YaRN (arXiv 2309.00071, section 3.2): frequencies that turn fewer than beta_slow times within the
// original context are divided by the factor, those that turn more than beta_fast times are kept,
// with a linear ramp between. Vectors are scaled by 1 + 0.1 ln(factor) (its section 3.4).
double apply_yarn(const Keys &keys, size_t n_rot, double base, double factor, size_t n_original,
                  std::vector<double> &frequency) {
    const auto dimension_of = [&](double turns) {
        const double wavelength =
            static_cast<double>(n_original) / (turns * 2.0 * std::numbers::pi);
        return static_cast<double>(n_rot) * std::log(wavelength) / (2.0 * std::log(base));
    };
    const double low =
        std::fmax(0.0, std::floor(dimension_of(keys.positive_or(keys::kYarnFast, 32))));
    const double high = std::fmin(static_cast<double>(n_rot) - 1.0,
                                  std::ceil(dimension_of(keys.positive_or(keys::kYarnSlow, 1))));
    for (size_t i = 0; i < frequency.size(); ++i) {
        const double ramp = (static_cast<double>(i) - low) / std::fmax(0.001, high - low);
        const double kept = 1.0 - std::fmin(1.0, std::fmax(0.0, ramp));
        frequency[i] = frequency[i] / factor * (1.0 - kept) + frequency[i] * kept;
    }
    return 1.0 + 0.1 * std::log(factor);
}

// Divides each frequency by the factor that a tensor holds for it, if the file has that tensor.
void apply_factors(const GgufFile &file, const char *name, std::vector<double> &frequency) {
    const TensorInfo *tensor = file.find_tensor(name);
    if (tensor == nullptr) return;
    if (tensor->n_elements() != frequency.size() || tensor->type->group != 0) {
        throw GgufError(str(name, ": shape (", frequency.size(), ") and floats expected, found ",
                            tensor->shape_text(), " ", tensor->type->name));
    }
    std::vector<float> factor(frequency.size());
    tensor->type->decode(tensor->data.data(), factor.data(), factor.size());
    for (size_t i = 0; i < frequency.size(); ++i) {
        if (!(factor[i] > 0)) {
            throw GgufError(str(name, ": positive factors expected, found ", factor[i]));
        }
        frequency[i] /= factor[i];
    }
}

Rope read_rope(const GgufFile &file, const Keys &keys, const Architecture &arch, size_t n_rot,
               size_t n_ctx) {
    const double base = keys.positive_or(keys::kRopeBase, arch.default_rope_base);
    std::vector<double> frequency = plain_frequencies(n_rot, base);
    double magnitude = 1.0;
    const size_t n_original = keys.count_or(keys::kRopeContext, n_ctx);
    const double factor =
        keys.positive_or(keys::kRopeFactor, keys.positive_or(keys::kRopeLinear, 1.0));
    const std::string scaling = keys.text_or(keys::kRopeScaling, "linear");
    apply_factors(file, tensors::kRopeFreqs, frequency);
    apply_factors(file, n_ctx > n_original ? tensors::kRopeLong : tensors::kRopeShort, frequency);
    if (scaling == "linear") {
        for (double &f : frequency) f /= factor;
    } else if (scaling == "yarn") {
        magnitude = apply_yarn(keys, n_rot, base, factor, n_original, frequency);
    } else if (scaling != "none" && scaling != "longrope") {
        throw UnsupportedError(str(keys.full(keys::kRopeScaling),
                                   ": one of none, linear, yarn, longrope expected, found \"",
                                   scaling, "\""));
    }
    magnitude *= keys.positive_or(keys::kRopeMagnitude, 1.0);
    return {arch.rope_style, {frequency.begin(), frequency.end()}, static_cast<float>(magnitude)};
}

void read_windows(const Keys &keys, const Architecture &arch, size_t n_rot, Config &config) {
    config.window.assign(config.n_layers, 0);
    if (arch.window_period == 0) return;
    const size_t size = keys.count_or(keys::kWindow, 0);
    if (size == 0) return;
    const size_t period = static_cast<size_t>(arch.window_period);
    for (size_t layer = 0; layer < config.n_layers; ++layer) {
        if (period == 1 || layer % period != period - 1) {
            config.window[layer] = static_cast<int32_t>(size);
        }
    }
    if (period == 1) return;
    const std::vector<double> local =
        plain_frequencies(n_rot, keys.positive_or(keys::kRopeLocalBase, arch.local_rope_base));
    config.local_rope = {arch.rope_style, {local.begin(), local.end()}, 1.0f};
}

void check_heads(const Keys &keys, const Config &config, size_t n_rot) {
    if (config.n_heads % config.n_kv_heads != 0) {
        throw GgufError(str(keys.full(keys::kKvHeads), ": a divisor of ", config.n_heads,
                            " heads expected, found ", config.n_kv_heads));
    }
    if (n_rot % 2 != 0 || n_rot > config.head_dim) {
        throw GgufError(str(keys.full(keys::kRopeDim), ": an even number up to ", config.head_dim,
                            " expected, found ", n_rot));
    }
}

}  // namespace

Config read_config(const GgufFile &file, const Architecture &arch) {
    const Keys keys(file, arch);
    if (const auto n_experts = file.find_uint(keys.full(keys::kExperts));
        n_experts.value_or(0) > 0) {
        throw UnsupportedError(str(keys.full(keys::kExperts), ": a dense model expected, found ",
                                   *n_experts, " experts"));
    }
    Config config;
    config.architecture = arch.name;
    config.name = file.find_string(keys::kName).value_or("");
    config.n_layers = keys.count(keys::kLayers);
    if (config.n_layers > file.tensors().size()) {
        throw GgufError(str(keys.full(keys::kLayers), ": at most one layer per tensor (",
                            file.tensors().size(), ") expected, found ", config.n_layers));
    }
    config.n_ctx = keys.count(keys::kContext);
    config.dim = keys.count(keys::kDim);
    config.hidden_dim = keys.count(keys::kHiddenDim);
    config.n_heads = keys.count(keys::kHeads);
    config.n_kv_heads = keys.count_or(keys::kKvHeads, config.n_heads);
    config.head_dim =
        keys.count_or(keys::kKeyDim, std::max<size_t>(config.dim / config.n_heads, 1));
    if (const size_t value_dim = keys.count_or(keys::kValueDim, config.head_dim);
        value_dim != config.head_dim) {
        throw UnsupportedError(str(keys.full(keys::kValueDim), ": the key length ", config.head_dim,
                                   " expected, found ", value_dim));
    }
    const size_t n_rot = keys.count_or(keys::kRopeDim, config.head_dim);
    check_heads(keys, config, n_rot);
    config.norm_eps = static_cast<float>(keys.positive_or(keys::kNormEps, 1e-5));
    const size_t scaled_dim =
        config.n_layers == arch.dim_scaled_layers ? config.dim / config.n_heads : config.head_dim;
    config.attention_scale = static_cast<float>(
        keys.positive_or(keys::kAttentionScale, 1.0 / std::sqrt(static_cast<double>(scaled_dim))));
    config.logit_scale = static_cast<float>(keys.positive_or(keys::kLogitScale, 1.0));
    if (arch.scaled_embedding) config.embedding_scale = std::sqrt(static_cast<float>(config.dim));
    config.activation = arch.activation;
    config.rope = read_rope(file, keys, arch, n_rot, config.n_ctx);
    read_windows(keys, arch, n_rot, config);
    return config;
}

}  // namespace a2sf
