// Weight products: prepare the activations once, then one loop over all products' rows.
#include <algorithm>
#include <vector>

#include "backend/cpu/cpu_backend.h"

namespace a2sf {

namespace {

// Bytes of weights in one task of a single token: long against the cost of taking a task, short
// against the work that remains for the last thread.
constexpr size_t kTaskBytes = 65536;

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

// A single token reads four quarters of the matrix side by side: four streams keep more of the
// memory busy than one (two cores: 24 against 18 GB/s). Neighbouring tasks continue them. What four
// does not divide is one more task.
Cut cut_single(const Weight &w) {
    const size_t row_bytes = std::max<size_t>(w.type->row_bytes(w.cols), 1);
    const size_t quarter = w.rows / 4;
    const size_t run = std::max<size_t>(kTaskBytes / (4 * row_bytes), 1);
    return {(quarter + run - 1) / run + (w.rows % 4 != 0), run, quarter};
}

Cut cut(const Kernels &kernels, const Weight &w, size_t m) {
    return m == 1 ? cut_single(w) : cut_batch(kernels, w);
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

QuantizedX take_x(Cutter &&cutter, size_t m, size_t cols, size_t *used) {
    QuantizedX xq;
    xq.cols = (cols + kColsPad - 1) / kColsPad * kColsPad;
    xq.q = cutter.take<int8_t>(m * xq.cols);
    xq.scale = cutter.take<float>(m * xq.cols / 32);
    xq.sum16 = cutter.take<float>(m * xq.cols / 16);
    xq.sum32 = cutter.take<float>(m * xq.cols / 32);
    xq.start16 = cutter.take<int32_t>(m * xq.cols / 16);
    xq.start32 = cutter.take<int32_t>(m * xq.cols / 32);
    xq.lane_start = cutter.take<int32_t>(xq.cols / 4);
    *used = cutter.used();
    return xq;
}

}  // namespace

// The forms of one input that its products read.
struct CpuBackend::Prepared {
    Matrix<const float> x;
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

CpuBackend::Prepared CpuBackend::prepare(const Input &input, bool floats, bool integers, bool tiles,
                                         bool split_low) {
    const size_t m = input.x.rows, cols = input.x.cols;
    const bool made = input.norm != nullptr || input.up.data != nullptr;
    const bool kept = made && floats;  // whole, not only row by row on the way to another form
    float *rows = made ? reserve(rows_, (kept ? m : n_threads()) * cols) : nullptr;
    Prepared prepared;
    prepared.x = kept ? Matrix<const float>(rows, m, cols) : input.x;
    if (integers) {
        size_t n_bytes = 0;
        take_x(Cutter(nullptr), m, cols, &n_bytes);
        prepared.xq = take_x(Cutter(reserve(quantized_, n_bytes)), m, cols, &n_bytes);
    }
    const size_t whole = tiles ? (m + 15) / 16 * 16 : m;
    if (tiles) {
        prepared.xt.cols = (cols + 31) / 32 * 32;
        const size_t plane = whole * prepared.xt.cols;
        prepared.xt.high = reserve(tiles_, plane * 2);
        prepared.xt.low = split_low ? prepared.xt.high + plane : nullptr;
    }
    if (!kept && !integers && !tiles) return prepared;
    split(whole, cols * 2, [&](size_t begin, size_t end, size_t worker) {
        for (size_t t = begin; t < end; ++t) {
            if (t >= m) {
                kernels_.split_row(nullptr, cols, prepared.xt, t);
                continue;
            }
            const float *x = prepare_row(input, t, rows + (kept ? t : worker) * cols);
            if (integers) kernels_.quantize_row(x, cols, prepared.xq, t, m == 1);
            if (tiles) kernels_.split_row(x, cols, prepared.xt, t);
        }
    });
    return prepared;
}

void CpuBackend::matmul(const Input &input, std::span<const Product> products) {
    const size_t m = input.x.rows;
    size_t n_tasks = 0;
    bool floats = false, integers = false, tiles = false, split_low = false;
    for (const Product &product : products) {
        const bool plain = product.w->type->group == 0;
        const BatchX form = m > 1   ? kernels_.batch_x[product.w->type->index]
                            : plain ? kBatchFloats
                                    : kBatchIntegers;
        n_tasks += cut(kernels_, *product.w, m).n_tasks;
        floats |= form == kBatchFloats;
        integers |= form == kBatchIntegers;
        tiles |= form == kBatchBfloat || form == kBatchBfloats;
        split_low |= form == kBatchBfloats;
    }
    if (m == 0 || n_tasks == 0) return;
    const Prepared prepared = prepare(input, floats, integers, tiles, split_low);
    std::byte *panels = reserve(panels_, n_threads() * kernels_.panel_bytes);
    const auto &table = m == 1 ? kernels_.matvec : kernels_.matmul;
    pool_.run(n_tasks, [&](size_t index, size_t worker) {
        const Product *product = products.data();
        Cut own = cut(kernels_, *product->w, m);
        while (index >= own.n_tasks) {
            index -= own.n_tasks;
            own = cut(kernels_, *(++product)->w, m);
        }
        const Weight &w = *product->w;
        MatmulTask task;
        choose_rows(own, w, index, task);
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

}  // namespace a2sf
