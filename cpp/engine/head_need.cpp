#include "engine/head_need.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <utility>

#include "base/buffer.h"
#include "model/decoder.h"
#include "token/tokenizer.h"

namespace a2sf {

namespace {

constexpr size_t kMostTokens = 256;    // of a text; each is read twice
constexpr size_t kRandomTokens = 128;  // where no text can be read
constexpr size_t kNearSinks = 4;
constexpr size_t kNearWindow = 64;
constexpr size_t kEvery = 4;      // tokens of the second half that are looked at
constexpr size_t kBatch = 128;    // small activations; divides the numbers of tokens
constexpr uint64_t kSeed = 2407;  // of the random tokens, so that every run finds the same need

// What each is read for: names and numbers in prose, a list and a program; what belongs to what in
// sentences that are all alike; the same in columns. Numbers repeat their digits, so that copying
// one takes knowing how far one is.
constexpr const char *kTexts[] = {
    // prose
    R"(The ferry to Harrow Island leaves at 7:40 every morning, and Ines Calder had missed it twice that week. On the third day she came early, with a thermos of coffee and the grey notebook in which she wrote down everything that the lighthouse keeper told her. "The lamp has a number," he had said, "and the number is 58213. Do not forget it, because the archive will ask you for it." She had not forgotten. She wrote the number 58213 on the first page, under her own name and the name of the keeper, Tomas Wren.

Inventory of the north room, March 1912:
- brass lamp, number 58213, by Falk and Sons, 14 kg
- rope, tarred, 60 metres
- barometer, cracked glass, reads 1013
- ledger of ships, 1887 to 1911, water damage on pages 40 to 52

def tons(ships):
    total = 0
    for name, weight in ships:
        total += weight
    return total

Most ships that passed the island carried timber or salted fish. In winter the wind came from the north-east, the sea froze along the shore, and nothing passed at all. The keeper's family then lived on what the cellar held: potatoes, dried apples, and a barrel of herring.

)",
    // register
    R"(Keys of the village: the inn has key 11114, the pharmacy has key 55556, the boat shed has key 74774, the stable has key 00690, the north gate has key 11193, the granary has key 51115, the forge has key 18488, the old well has key 97447, the water mill has key 33322, the school has key 41444, the brewery has key 66861, the bell tower has key 69996, the chapel has key 55155, the customs house has key 53353, the ferry house has key 55333, the archive has key 99993, the bakery has key 33010, the south gate has key 05550, the dairy has key 31313, the stone bridge has key 96661.
)",
    // table
    R"(name, room, telephone, badge
Ada Kern, 43, 0066 6660, 60666
Bo Lind, 78, 0441 9141, 49941
Ines Calder, 88, 0555 6656, 55555
Tomas Wren, 73, 0069 0966, 96669
Olga Pust, 50, 0117 1111, 71117
Henk Maas, 46, 0899 8899, 89999
Rita Solo, 18, 0979 9997, 77477
Carl Orban, 37, 0338 3888, 33384
Mina Falk, 72, 0119 5551, 95159
Joost Vries, 17, 0226 2266, 66622
Petra Nagy, 83, 0131 3119, 11191
Emil Sand, 96, 0703 0737, 77033
)",
};

// The first n of ids, and the same again; nothing where there are fewer than a batch.
std::vector<int32_t> twice(std::vector<int32_t> ids, size_t n) {
    const size_t once = std::min(ids.size(), n) / kBatch * kBatch;
    ids.resize(2 * once);
    std::copy_n(ids.begin(), once, ids.begin() + static_cast<std::ptrdiff_t>(once));
    return ids;
}

// Drawn (by xorshift64) from the whole vocabulary.
std::vector<int32_t> random_tokens(size_t n_vocab) {
    std::vector<int32_t> ids(kRandomTokens);
    uint64_t state = kSeed;
    for (int32_t &id : ids) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        id = static_cast<int32_t>(state % n_vocab);
    }
    return ids;
}

std::vector<std::vector<int32_t>> texts(const Model &model) {
    if (model.file().find("tokenizer.ggml.model") == nullptr) {
        return {random_tokens(model.config().n_vocab)};
    }
    const Tokenizer tokenizer(model.file());
    std::vector<std::vector<int32_t>> result;
    for (const char *text : kTexts) result.push_back(tokenizer.encode(text));
    return result;
}

// Attends a second time, over a cache that keeps what is near, and adds up what that changes.
class NeedObserver final : public AttentionObserver {
  public:
    NeedObserver(const Model &model, Backend &backend, size_t n_tokens)
        : model_(model),
          backend_(backend),
          near_(backend, {model.config().n_layers, model.config().n_kv_heads,
                          model.config().head_dim, KvType::F16}),
          n_tokens_(n_tokens),
          need_(model.config().n_layers * model.config().n_kv_heads) {
        const Config &config = model.config();
        EvictionOptions options;
        options.policy = "streaming";
        options.sinks = kNearSinks;
        options.budget = Amount::of_tokens(kNearSinks + kNearWindow);
        options.prefill = PromptMode::Token;
        near_.configure(resolve(options, n_tokens));
        near_.reserve(kNearSinks + kNearWindow + 1);
        const auto floats = [&](size_t rows, size_t cols) {
            return backend.allocate(rows * cols * sizeof(float), "activations");
        };
        constexpr size_t n_rows = kBatch / kEvery;
        near_out_ = floats(kBatch, config.q_dim());
        rows_ = floats(n_rows, config.q_dim());
        mixed_ = floats(n_rows, config.dim);
        whole_ = Buffer<float>(n_rows * config.q_dim(), "activations");
        part_ = Buffer<float>(n_rows * config.q_dim(), "activations");
        mixed_host_ = Buffer<float>(n_rows * config.dim, "activations");
    }

    void attended(size_t layer, const Chunk &chunk, Matrix<const float> q, Matrix<const float> k,
                  Matrix<const float> v, Matrix<const float> out, Matrix<const float> x) override {
        const Config &config = model_.config();
        const Matrix<float> near(static_cast<float *>(near_out_->data()), out.rows, out.cols);
        attend(backend_, config, layer, chunk, q, k, v, near_, {{}, {}, chunk.pos.data()}, near);
        if (static_cast<size_t>(chunk.pos[0]) < n_tokens_ / 2) return;

        const size_t n_rows = out.rows / kEvery, width = out.cols / config.n_kv_heads;
        fetch(out, n_rows, whole_.data());
        const std::vector<double> length = lengths(layer, n_rows, x);
        fetch(near, n_rows, part_.data());
        for (size_t i = 0; i < n_rows * out.cols; ++i) whole_[i] -= part_[i];
        for (size_t head = 0; head < config.n_kv_heads; ++head) {
            // The other heads' part is left out.
            std::fill_n(part_.data(), n_rows * out.cols, 0.0f);
            for (size_t i = 0; i < n_rows; ++i) {
                const size_t first = i * out.cols + head * width;
                std::copy_n(whole_.data() + first, width, part_.data() + first);
            }
            const std::vector<double> change = projected(layer, n_rows, part_.data());
            double total = 0;
            for (size_t i = 0; i < n_rows; ++i) {
                if (length[i] > 0) total += change[i] / length[i];
            }
            need_[layer * config.n_kv_heads + head] += static_cast<float>(total);
        }
    }

    // Summed over the tokens that were looked at.
    const std::vector<float> &need() const { return need_; }

  private:
    // Rows 0, kEvery, ... of x, one behind the other on the host.
    void fetch(Matrix<const float> x, size_t n_rows, float *to) {
        for (size_t i = 0; i < n_rows; ++i) {
            backend_.copy_to_host(to + i * x.cols, x.row(i * kEvery), x.cols * sizeof(float));
        }
    }

    std::vector<double> mixed_lengths(size_t n_rows) {
        const size_t n_bytes = n_rows * model_.config().dim * sizeof(float);
        backend_.copy_to_host(mixed_host_.data(), mixed_->data(), n_bytes);
        return squared_lengths(n_rows);
    }

    // Of mixed_host_'s rows.
    std::vector<double> squared_lengths(size_t n_rows) const {
        const size_t dim = model_.config().dim;
        std::vector<double> length(n_rows);
        for (size_t i = 0; i < n_rows; ++i) {
            const float *row = mixed_host_.data() + i * dim;
            length[i] = std::inner_product(row, row + dim, row, 0.0);
        }
        return length;
    }

    // Squared lengths of what the output projection makes of rows [n_rows, q_dim] on the host.
    std::vector<double> projected(size_t layer, size_t n_rows, const float *rows) {
        const Weight &o = model_.layers()[layer].o;
        const Matrix<float> input(static_cast<float *>(rows_->data()), n_rows, o.cols);
        const Matrix<float> output(static_cast<float *>(mixed_->data()), n_rows, o.rows);
        backend_.copy_to_device(input.data, rows, n_rows * o.cols * sizeof(float));
        const Product product[] = {{&o, nullptr, output}};
        backend_.matmul(Input(input), product);
        return mixed_lengths(n_rows);
    }

    // Squared lengths of the stream x; where the projection is normed before it is added, of what
    // would be as long beside it as the stream is beside that. whole_ holds what is attended.
    std::vector<double> lengths(size_t layer, size_t n_rows, Matrix<const float> x) {
        const Config &config = model_.config();
        const float *post_norm = model_.layers()[layer].attn_post_norm;
        std::vector<double> before, after;
        if (post_norm != nullptr) {
            before = projected(layer, n_rows, whole_.data());
            const Matrix<float> mixed(static_cast<float *>(mixed_->data()), n_rows, config.dim);
            backend_.rms_norm(mixed, config.dim, post_norm, config.norm_eps, mixed, false);
            after = mixed_lengths(n_rows);
        }
        fetch(x, n_rows, mixed_host_.data());
        std::vector<double> length = squared_lengths(n_rows);
        for (size_t i = 0; i < after.size(); ++i) {
            length[i] *= after[i] > 0 ? before[i] / after[i] : 0.0;
        }
        return length;
    }

    const Model &model_;
    Backend &backend_;
    Cache near_;
    size_t n_tokens_;
    std::vector<float> need_;
    std::unique_ptr<DeviceMemory> near_out_;  // [kBatch, q_dim]
    std::unique_ptr<DeviceMemory> rows_;      // [kBatch / kEvery, q_dim]
    std::unique_ptr<DeviceMemory> mixed_;     // [kBatch / kEvery, dim]
    Buffer<float> whole_, part_;              // [kBatch / kEvery, q_dim], on the host
    Buffer<float> mixed_host_;                // [kBatch / kEvery, dim]
};

// By reading ids, of which the second half is like the first.
std::vector<float> need_in(const Model &model, Backend &backend, std::span<const int32_t> ids) {
    const Config &config = model.config();
    Decoder decoder(model, backend, kBatch);
    Cache cache(backend, {config.n_layers, config.n_kv_heads, config.head_dim, KvType::F16});
    cache.configure(resolve({}, ids.size()));
    cache.reserve(ids.size());
    NeedObserver observer(model, backend, ids.size());
    decoder.observe(&observer);
    Cache *const only = &cache;
    std::vector<int32_t> pos(kBatch);
    for (size_t first = 0; first < ids.size(); first += kBatch) {
        std::iota(pos.begin(), pos.end(), static_cast<int32_t>(first));
        decoder.forward({ids.subspan(first, kBatch), pos, true, kBatch}, {&only, 1}, {});
    }
    return observer.need();
}

}  // namespace

std::vector<float> head_need(const Model &model, Backend &backend) {
    const Config &config = model.config();
    const size_t n_heads = config.n_layers * config.n_kv_heads;
    std::vector<float> most(n_heads, 0.0f);
    for (const std::vector<int32_t> &tokens : texts(model)) {
        const std::vector<int32_t> ids = twice(tokens, std::min(kMostTokens, config.n_ctx / 2));
        if (ids.empty()) continue;
        std::vector<float> need = need_in(model, backend, ids);
        for (float &one : need) one = std::sqrt(one);
        const float mean =
            std::accumulate(need.begin(), need.end(), 0.0f) / static_cast<float>(n_heads);
        for (size_t i = 0; i < n_heads && mean > 0; ++i) {
            most[i] = std::max(most[i], need[i] / mean);
        }
    }
    return most;
}

}  // namespace a2sf
