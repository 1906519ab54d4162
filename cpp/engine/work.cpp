#include "engine/work.h"

#include <algorithm>
#include <string_view>
#include <vector>

namespace a2sf {
namespace {

void add(WeightWork &work, const Weight &w) {
    if (w.data == nullptr) return;
    work.n_bytes += w.rows * w.type->row_bytes(w.cols);
    const bool whole = std::string_view(w.type->name) == "F32";
    (w.type->group > 0 ? work.n_quantized : whole ? work.n_float : work.n_half) += w.rows * w.cols;
}

}  // namespace

WeightWork layers_work(const Model &model) {
    WeightWork work;
    for (const LayerWeights &layer : model.layers()) {
        for (const Weight *w :
             {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
            add(work, *w);
        }
    }
    return work;
}

WeightWork output_work(const Model &model) {
    WeightWork work;
    add(work, model.output());
    return work;
}

size_t weight_bytes_per_token(const Model &model) {
    return layers_work(model).n_bytes + output_work(model).n_bytes;
}

std::string main_weight_type(const Model &model) {
    std::vector<size_t> n_bytes(weight_types().size());
    for (const TensorInfo &tensor : model.file().tensors()) {
        n_bytes[tensor.type->index] += tensor.data.size();
    }
    const auto most = std::max_element(n_bytes.begin(), n_bytes.end());
    return weight_types()[static_cast<size_t>(most - n_bytes.begin())].name;
}

size_t live_kv_bytes(const Cache &cache) {
    const CacheShape &shape = cache.shape();
    size_t n_live = 0;
    for (size_t layer = 0; layer < shape.n_layers; ++layer) {
        for (size_t head = 0; head < shape.n_kv_heads; ++head) n_live += cache.live(layer, head);
    }
    return 2 * n_live * kv_row_bytes(shape.type, shape.head_dim);
}

double decode_fraction(const Model &model, double kv_bytes_per_token, double tokens_per_s,
                       const MachinePeaks &peaks) {
    const double n_bytes = static_cast<double>(weight_bytes_per_token(model)) + kv_bytes_per_token;
    return tokens_per_s * n_bytes / (peaks.read_gb_s * 1e9);
}

double prompt_fraction(const Model &model, size_t n_tokens, double tokens_per_s,
                       const MachinePeaks &peaks) {
    const WeightWork layers = layers_work(model), output = output_work(model);
    const auto per_token = [&](size_t in_layers, size_t in_output) {
        return static_cast<double>(in_layers) +
               static_cast<double>(in_output) / static_cast<double>(n_tokens);
    };
    const bool tiles = peaks.bfloat16_gflops > 0;
    const double least_s = 2e-9 * per_token(layers.n_quantized, output.n_quantized) /
                               (tiles ? peaks.bfloat16_gflops : peaks.int8_gops) +
                           2e-9 * per_token(layers.n_half, output.n_half) /
                               (tiles ? peaks.bfloat16_gflops : peaks.float_gflops) +
                           2e-9 * per_token(layers.n_float, output.n_float) / peaks.float_gflops;
    return tokens_per_s * least_s;
}

}  // namespace a2sf
