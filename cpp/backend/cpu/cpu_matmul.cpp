// Weight products: prepare the activations once, then one loop over all products' rows.
#include <algorithm>
#include <array>
#include <vector>

#include "backend/cpu/cpu_backend.h"

namespace a2sf {

namespace {

// Bytes of weights in one task of a single token: long against the cost of taking a task, short
// against the work that remains for the last thread.
constexpr size_t kTaskBytes = 65536;

// Most products of one input: Q, K and V, with room.
constexpr size_t kMostProducts = 8;

// Rows of gate and of up that a task of gated_ffn takes: with 512 tokens their results, 256 KiB,
// stay in L2. A multiple of a tile's 32 columns.
constexpr size_t kFfnRows = 64;

// How one weight matrix is cut into tasks: by its shape alone, so that results do not depend on the
// number of threads.
struct Cut {
    size_t n_tasks;
    size_t run;      // rows of a task; of each quarter where there are quarters
    size_t quarter;  // rows in a quarter of the matrix, or 0
};

// A batch takes whole panels, fewer rows where a small matrix would make few tasks.
Cut cut_batch(const Kernels &kernels, const Weight &w) {
    constexpr size_t kLeastTasks = 2;
    const size_t most = kernels.panel_rows;
    const size_t run = w.rows < most * kLeastTasks ? std::min(kPanelRows, most) : most;
    return {(w.rows + run - 1) / run, run, 0};
}

// A single token, or a few that are independent, reads four quarters of the matrix side by side:
// four streams keep more of the memory busy than one (two cores: 24 against 18 GB/s). Neighbouring
// tasks continue them. What four does not divide is one more task.
Cut cut_single(const Weight &w) {
    const size_t row_bytes = std::max<size_t>(w.type->row_bytes(w.cols), 1);
    const size_t quarter = w.rows / 4;
    if (quarter == 0) return {1, w.rows, 0};
    const size_t most = std::max<size_t>(kTaskBytes / (4 * row_bytes), 1);
    const size_t n_tasks = (quarter + most - 1) / most;
    // As long as each other, and of rows that kernels may take together.
    size_t run = (quarter + n_tasks - 1) / n_tasks;
    if (run > 4) run = (run + 3) / 4 * 4;
    return {(quarter + run - 1) / run + (w.rows % 4 != 0), run, quarter};
}

Cut cut(const Kernels &kernels, const Weight &w, bool batch) {
    return batch ? cut_batch(kernels, w) : cut_single(w);
}

// Whether an input's rows are multiplied as a batch; else each as a token of its own.
bool is_batch(const Input &input) {
    return input.x.rows > 1 && !input.independent;
}

void choose_rows(const Cut &cut, const Weight &w, size_t index, MatmulTask &task) {
    const size_t end = cut.quarter == 0 ? w.rows : cut.quarter;
    task.row_begin = index * cut.run;
    task.row_end = std::min(task.row_begin + cut.run, end);
    task.between = cut.quarter;
    if (cut.quarter == 0 || task.row_begin < end) return;
    task.row_begin = 4 * cut.quarter;
    task.row_end = w.rows;
    task.between = 0;
}

// Cuts memory into arrays, each 64-byte aligned; with no memory it only counts.
class Cutter {
  public:
    explicit Cutter(std::byte *memory) : memory_(memory) {}
    template <typename T>
    T *take(size_t n) {
        T *array = memory_ == nullptr ? nullptr : reinterpret_cast<T *>(memory_ + used_);
        used_ += (n * sizeof(T) + 63) / 64 * 64;
        return array;
    }
    size_t used() const { return used_; }

  private:
    std::byte *memory_;
    size_t used_ = 0;
};

QuantizedX take_x(Cutter &&cutter, size_t m, size_t cols, bool lanes, size_t *used) {
    QuantizedX xq;
    xq.cols = (cols + kColsPad - 1) / kColsPad * kColsPad;
    xq.q = cutter.take<int8_t>(m * xq.cols);
    xq.scale = cutter.take<float>(m * xq.cols / 32);
    xq.sum16 = cutter.take<float>(m * xq.cols / 16);
    xq.sum32 = cutter.take<float>(m * xq.cols / 32);
    xq.start16 = cutter.take<int32_t>(m * xq.cols / 16);
    xq.start32 = cutter.take<int32_t>(m * xq.cols / 32);
    xq.lane_start = cutter.take<int32_t>(lanes ? m * xq.cols / 4 : 0);
    *used = cutter.used();
    return xq;
}

}  // namespace

// What the products of m tokens read.
struct CpuBackend::Forms {
    bool floats = false, integers = false, tiles = false;

    static BatchX of(const Kernels &kernels, const Weight &w, bool batch) {
        if (batch) return kernels.batch_x[w.type->index];
        return w.type->group == 0 ? kBatchFloats : kBatchIntegers;
    }
    void add(BatchX form) {
        floats |= form == kBatchFloats;
        integers |= form == kBatchIntegers;
        tiles |= form == kBatchBfloat;
    }
};

// The forms of one input.
struct CpuBackend::Prepared {
    Matrix<const float> x;
    bool batch = true, independent = false;
    QuantizedX xq = {};
    TileX xt = {};
};

// Row t of what is multiplied: x's own, or made in `to` [cols].
const float *CpuBackend::prepare_row(const Input &input, size_t t, float *to) {
    const float *x = input.x.row(t);
    if (input.norm != nullptr) {
        kernels_.rms_norm(x, input.norm, input.x.cols, input.eps, to, false);
        return to;
    }
    if (input.up.data != nullptr) {
        const auto gated =
            input.act == Activation::Silu ? kernels_.silu_gated : kernels_.gelu_gated;
        gated(x, input.up.row(t), input.x.cols, to);
        return to;
    }
    return x;
}

CpuBackend::Prepared CpuBackend::prepare(const Input &input, const Forms &forms) {
    const size_t m = input.x.rows, cols = input.x.cols;
    const bool made = input.norm != nullptr || input.up.data != nullptr;
    const bool kept = made && forms.floats;  // whole, not only on the way to another form
    float *rows = made ? reserve(rows_, (kept ? m : n_threads()) * cols) : nullptr;
    Prepared prepared;
    prepared.batch = is_batch(input);
    prepared.independent = input.independent;
    const bool lanes = !prepared.batch;
    prepared.x = kept ? Matrix<const float>(rows, m, cols) : input.x;
    if (forms.integers) {
        size_t n_bytes = 0;
        take_x(Cutter(nullptr), m, cols, lanes, &n_bytes);
        prepared.xq = take_x(Cutter(reserve(quantized_, n_bytes)), m, cols, lanes, &n_bytes);
    }
    if (forms.tiles) prepared.xt = tiles_for(tiles_, m, cols);
    if (!kept && !forms.integers && !forms.tiles) return prepared;
    const size_t whole = forms.tiles ? (m + 15) / 16 * 16 : m;
    split(whole, cols * 2, [&](size_t begin, size_t end, size_t worker) {
        for (size_t t = begin; t < end; ++t) {
            if (t >= m) {
                kernels_.tile_row(nullptr, cols, prepared.xt, t);
                continue;
            }
            float *to = made ? rows + (kept ? t : worker) * cols : nullptr;
            const float *x = prepare_row(input, t, to);
            if (forms.integers) kernels_.quantize_row(x, cols, prepared.xq, t, lanes);
            if (forms.tiles) kernels_.tile_row(x, cols, prepared.xt, t);
        }
    });
    return prepared;
}

// Room for m rows of cols as tiles.
TileX CpuBackend::tiles_for(Buffer<uint16_t> &memory, size_t m, size_t cols) {
    TileX tiles;
    tiles.cols = (cols + 31) / 32 * 32;
    tiles.x = reserve(memory, (m + 15) / 16 * 16 * tiles.cols);
    return tiles;
}

void CpuBackend::matmul(const Input &input, std::span<const Product> products) {
    Forms forms;
    for (const Product &product : products) {
        forms.add(Forms::of(kernels_, *product.w, is_batch(input)));
    }
    if (input.x.rows == 0 || products.empty()) return;
    multiply(prepare(input, forms), input.x.rows, products);
}

void CpuBackend::multiply(const Prepared &prepared, size_t m, std::span<const Product> products) {
    std::array<Cut, kMostProducts> cuts;
    size_t n_tasks = 0;
    for (size_t i = 0; i < products.size(); ++i) {
        cuts.at(i) = cut(kernels_, *products[i].w, prepared.batch);
        n_tasks += cuts[i].n_tasks;
    }
    std::byte *panels = reserve(panels_, n_threads() * kernels_.panel_bytes);
    const auto &table = prepared.batch         ? kernels_.matmul
                        : prepared.independent ? kernels_.few
                                               : kernels_.matvec;
    pool_.run(n_tasks, [&](size_t index, size_t worker) {
        const Product *product = products.data();
        const Cut *own = cuts.data();
        for (; index >= own->n_tasks; ++own, ++product) index -= own->n_tasks;
        const Weight &w = *product->w;
        MatmulTask task = {};
        choose_rows(*own, w, index, task);
        task.w = static_cast<const uint8_t *>(w.data);
        task.row_bytes = w.type->row_bytes(w.cols);
        task.cols = w.cols;
        task.m = m;
        task.x = prepared.x.data;
        task.x_stride = prepared.x.stride;
        task.xq = prepared.xq;
        task.xt = prepared.xt;
        task.y = product->y.data;
        task.y_stride = product->y.stride;
        task.bias = product->bias;
        task.accumulate = product->accumulate;
        task.scratch = panels + worker * kernels_.panel_bytes;
        table[w.type->index](task);
    });
}

// Where all three matrices read one plane of tiles, gate and up meet in the cache: what they make
// goes straight into the tiles that down reads. Else two products, one after the other.
void CpuBackend::gated_ffn(const Input &input, const GatedFfn &ffn, const Product &down) {
    const size_t m = input.x.rows, hidden = ffn.gate->rows;
    const bool batch = is_batch(input);
    bool fits = batch;
    for (const Weight *w : {ffn.gate, ffn.up, down.w}) {
        fits &= Forms::of(kernels_, *w, batch) == kBatchBfloat;
    }
    if (!fits) {
        const Matrix<float> gate(reserve(hidden_, 2 * m * hidden), m, hidden);
        const Matrix<float> up(gate.data + m * hidden, m, hidden);
        const Product products[] = {{ffn.gate, nullptr, gate}, {ffn.up, nullptr, up}};
        matmul(input, products);
        Input gated = Input::gated(gate, up, ffn.act);
        gated.independent = input.independent;
        matmul(gated, {&down, 1});
        return;
    }
    const Prepared prepared = prepare(input, {.tiles = true});
    Prepared made;
    made.xt = tiles_for(hidden_tiles_, m, hidden);
    std::byte *panels = reserve(panels_, n_threads() * kernels_.panel_bytes);
    float *scratch = reserve(hidden_, n_threads() * 2 * m * kFfnRows);
    pool_.run((hidden + kFfnRows - 1) / kFfnRows, [&](size_t index, size_t worker) {
        const size_t first = index * kFfnRows, n = std::min(kFfnRows, hidden - first);
        MatmulTask task = {};
        task.cols = input.x.cols;
        task.row_end = n;
        task.m = m;
        task.xt = prepared.xt;
        task.y_stride = 2 * kFfnRows;
        task.scratch = panels + worker * kernels_.panel_bytes;
        float *gate = scratch + worker * 2 * m * kFfnRows;
        for (const Weight *w : {ffn.gate, ffn.up}) {
            task.row_bytes = w->type->row_bytes(w->cols);
            task.w = static_cast<const uint8_t *>(w->data) + first * task.row_bytes;
            task.y = w == ffn.gate ? gate : gate + kFfnRows;
            kernels_.matmul[w->type->index](task);
        }
        const auto act = ffn.act == Activation::Silu ? kernels_.silu_gated : kernels_.gelu_gated;
        TileX to = made.xt;  // from column `first` on
        to.x += first / 32 * 16 * 32;
        for (size_t t = 0; t < (m + 15) / 16 * 16; ++t) {
            float *row = t < m ? gate + t * task.y_stride : nullptr;
            if (row != nullptr) act(row, row + kFfnRows, n, row);
            kernels_.tile_row(row, n, to, t);
        }
    });
    multiply(made, m, {&down, 1});
}

}  // namespace a2sf
