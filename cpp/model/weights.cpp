// Finds, checks and uploads the tensors of a model. Nothing is used before every shape is right.
#include <algorithm>

#include "base/error.h"
#include "model/model.h"
#include "model/registry.h"

namespace a2sf {

// Fills a Model while it is being loaded.
class WeightLoader {
  public:
    WeightLoader(Model &model, Backend &backend, const Architecture &arch)
        : model_(model), backend_(backend), arch_(arch) {}

    void load() {
        const TensorInfo &embedding = need(tensors::kEmbedding);
        Config &config = model_.config_;
        config.n_vocab = embedding.shape.size() == 2 ? embedding.shape[1] : 0;
        model_.embedding_ = matrix(tensors::kEmbedding, config.n_vocab, config.dim);
        model_.output_norm_ = vector(tensors::kOutputNorm, config.dim);
        model_.output_ = model_.file_.find_tensor(tensors::kOutput) == nullptr
                             ? model_.embedding_
                             : matrix(tensors::kOutput, config.n_vocab, config.dim);
        model_.layers_.resize(config.n_layers);
        for (size_t layer = 0; layer < config.n_layers; ++layer) load_layer(layer);
    }

  private:
    void load_layer(size_t layer) {
        const Config &config = model_.config_;
        const std::string at = str("blk.", layer, ".");
        LayerWeights &w = model_.layers_[layer];
        w.attn_norm = vector(at + tensors::kAttnNorm, config.dim);
        w.ffn_norm = vector(at + tensors::kFfnNorm, config.dim);
        if (arch_.qk_norm) {
            w.q_norm = vector(at + tensors::kQNorm, config.head_dim);
            w.k_norm = vector(at + tensors::kKNorm, config.head_dim);
        }
        if (arch_.post_norms) {
            w.attn_post_norm = vector(at + tensors::kAttnPostNorm, config.dim);
            w.ffn_post_norm = vector(at + tensors::kFfnPostNorm, config.dim);
        }
        arch_.fused ? load_fused(at, w) : load_separate(at, w);
        w.o = matrix(at + tensors::kO + ".weight", config.dim, config.q_dim());
        w.o_bias = bias(at + tensors::kO, config.dim);
        w.down = matrix(at + tensors::kDown + ".weight", config.dim, config.hidden_dim);
    }

    void load_separate(const std::string &at, LayerWeights &w) {
        const Config &config = model_.config_;
        w.q = matrix(at + tensors::kQ + ".weight", config.q_dim(), config.dim);
        w.k = matrix(at + tensors::kK + ".weight", config.kv_dim(), config.dim);
        w.v = matrix(at + tensors::kV + ".weight", config.kv_dim(), config.dim);
        w.q_bias = bias(at + tensors::kQ, config.q_dim());
        w.k_bias = bias(at + tensors::kK, config.kv_dim());
        w.v_bias = bias(at + tensors::kV, config.kv_dim());
        w.gate = matrix(at + tensors::kGate + ".weight", config.hidden_dim, config.dim);
        w.up = matrix(at + tensors::kUp + ".weight", config.hidden_dim, config.dim);
    }

    void load_fused(const std::string &at, LayerWeights &w) {
        const Config &config = model_.config_;
        const size_t n_q = config.q_dim();
        const size_t n_kv = config.kv_dim();
        const Weight qkv = matrix(at + tensors::kQkv + ".weight", n_q + 2 * n_kv, config.dim);
        w.q = rows(qkv, 0, n_q);
        w.k = rows(qkv, n_q, n_kv);
        w.v = rows(qkv, n_q + n_kv, n_kv);
        if (const float *joint = bias(at + tensors::kQkv, n_q + 2 * n_kv)) {
            w.q_bias = joint;
            w.k_bias = joint + n_q;
            w.v_bias = joint + n_q + n_kv;
        }
        const Weight gate_up =
            matrix(at + tensors::kUp + ".weight", 2 * config.hidden_dim, config.dim);
        w.gate = rows(gate_up, 0, config.hidden_dim);
        w.up = rows(gate_up, config.hidden_dim, config.hidden_dim);
    }

    const TensorInfo &need(const std::string &name) const {
        const TensorInfo *tensor = model_.file_.find_tensor(name);
        if (tensor == nullptr) {
            throw GgufError(
                str(name, ": a tensor of architecture ", arch_.name, " expected, found none"));
        }
        return *tensor;
    }

    Weight matrix(const std::string &name, size_t n_rows, size_t n_cols) {
        const TensorInfo &tensor = need(name);
        if (tensor.shape.size() != 2 || tensor.shape[0] != n_cols || tensor.shape[1] != n_rows) {
            throw GgufError(str(name, ": shape (", n_cols, ", ", n_rows, ") expected, found ",
                                tensor.shape_text()));
        }
        auto memory = backend_.upload(tensor.data);
        const Weight weight{tensor.type, n_rows, n_cols, memory->data()};
        model_.memory_.push_back(std::move(memory));
        return weight;
    }

    static Weight rows(const Weight &w, size_t first, size_t n_rows) {
        const size_t offset = first * w.type->row_bytes(w.cols);
        return {w.type, n_rows, w.cols, static_cast<const std::byte *>(w.data) + offset};
    }

    // Norms and biases, decoded to floats whatever their type.
    const float *vector(const std::string &name, size_t n) {
        const TensorInfo &tensor = need(name);
        if (tensor.n_elements() != n || tensor.shape[0] != n) {
            throw GgufError(str(name, ": shape (", n, ") expected, found ", tensor.shape_text()));
        }
        std::vector<float> values(n);
        tensor.type->decode(tensor.data.data(), values.data(), n);
        auto memory = backend_.allocate(n * sizeof(float), "norm or bias");
        backend_.copy_to_device(memory->data(), values.data(), n * sizeof(float));
        const float *data = static_cast<const float *>(memory->data());
        model_.memory_.push_back(std::move(memory));
        return data;
    }

    const float *bias(const std::string &name, size_t n) {
        const std::string full = name + ".bias";
        return model_.file_.find_tensor(full) == nullptr ? nullptr : vector(full, n);
    }

    Model &model_;
    Backend &backend_;
    const Architecture &arch_;
};

std::shared_ptr<const Model> Model::load(const std::string &path, const BackendEntry &device) {
    std::shared_ptr<Model> model(new Model(GgufFile::open(path)));
    const Architecture &arch = find_architecture(model->file_.get_string(keys::kArchitecture));
    model->device_ = &device;
    model->config_ = read_config(model->file_, arch);
    const auto backend = device.create({.n_threads = 1});
    try {
        WeightLoader(*model, *backend, arch).load();
    } catch (const DeviceError &error) {
        if (device.memory().n_total == 0) throw;
        throw DeviceError(str(path, ": ", model->n_weight_bytes(), " bytes of weights wanted on ",
                              device.device, ": ", error.what(),
                              "; smaller weight types, or device cpu, take less of it"));
    }
    return model;
}

const std::vector<float> &Model::head_need(
    const std::function<std::vector<float>()> &measure) const {
    const std::lock_guard lock(need_mutex_);
    if (need_.empty()) need_ = measure();
    return need_;
}

size_t Model::n_params() const {
    size_t total = 0;
    for (const TensorInfo &tensor : file_.tensors()) total += tensor.n_elements();
    return total;
}

size_t Model::n_weight_bytes() const {
    size_t total = 0;
    for (const TensorInfo &tensor : file_.tensors()) total += tensor.data.size();
    return total;
}

size_t Model::bytes_per_token() const {
    const size_t embedding_bytes = embedding_.rows * embedding_.type->row_bytes(embedding_.cols);
    const bool tied = output_.data == embedding_.data;
    return tied ? n_weight_bytes()
                : n_weight_bytes() - embedding_bytes + embedding_.type->row_bytes(embedding_.cols);
}

std::string Model::weight_type_name() const {
    std::vector<size_t> n_elements(weight_types().size());
    for (const TensorInfo &tensor : file_.tensors()) {
        n_elements[tensor.type->index] += tensor.n_elements();
    }
    const auto most = std::max_element(n_elements.begin(), n_elements.end());
    return weight_types()[static_cast<size_t>(most - n_elements.begin())].name;
}

}  // namespace a2sf
