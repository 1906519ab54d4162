// Weight products: quantise the activations once, then one loop over all products' rows.
#include <array>
#include <vector>

#include "backend/cpu/cpu_backend.h"

namespace a2sf {

namespace {

// Bytes of weights in one matvec task: large against the cost of taking a task, small against the
// work that remains for the last thread.
constexpr size_t kTaskBytes = 32768;

// Rows per task: by shape alone, so that results do not depend on the number of threads. A batch
// takes whole panels, but leaves a small matrix in at least kLeastTasks of them.
size_t rows_per_task(const Kernels &kernels, const Weight &w, size_t m) {
    constexpr size_t kLeastTasks = 12;
    if (m > 1) {
        size_t rows = kernels.panel_rows;
        while (rows > kPanelRows && w.rows < rows * kLeastTasks) rows /= 2;
        return rows;
    }
    const size_t row_bytes = w.type->row_bytes(w.cols);
    const size_t rows = kTaskBytes / (row_bytes == 0 ? 1 : row_bytes);
    return rows < 4 ? 4 : rows > 256 ? 256 : rows / 4 * 4;
}

size_t n_tasks_of(const Kernels &kernels, const Weight &w, size_t m) {
    const size_t run = rows_per_task(kernels, w, m);
    return (w.rows + run - 1) / run;
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

QuantizedX cut(Cutter &&cutter, size_t m, size_t cols, size_t *used) {
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

QuantizedX CpuBackend::quantize(Matrix<const float> x) {
    size_t n_bytes = 0;
    cut(Cutter(nullptr), x.rows, x.cols, &n_bytes);
    const QuantizedX xq = cut(Cutter(reserve(quantized_, n_bytes)), x.rows, x.cols, &n_bytes);
    split(x.rows, x.cols, [&](size_t begin, size_t end, size_t) {
        for (size_t t = begin; t < end; ++t) {
            kernels_.quantize_row(x.row(t), x.cols, xq, t, x.rows == 1);
        }
    });
    return xq;
}

TileX CpuBackend::to_tiles(Matrix<const float> x, bool split_low) {
    TileX xt;
    const size_t rows = (x.rows + 15) / 16 * 16;
    xt.cols = (x.cols + 31) / 32 * 32;
    xt.high = reserve(tiles_, rows * xt.cols * 2);
    xt.low = split_low ? xt.high + rows * xt.cols : nullptr;
    split(rows, x.cols, [&](size_t begin, size_t end, size_t) {
        for (size_t t = begin; t < end; ++t) {
            kernels_.split_row(t < x.rows ? x.row(t) : nullptr, x.cols, xt, t);
        }
    });
    return xt;
}

void CpuBackend::matmul(Matrix<const float> x, std::span<const Product> products) {
    const size_t m = x.rows;
    size_t n_tasks = 0;
    bool integers = false, tiles = false, split_tiles = false;
    for (const Product &product : products) {
        const BatchX form = kernels_.batch_x[product.w->type->index];
        n_tasks += n_tasks_of(kernels_, *product.w, m);
        integers |= m == 1 ? product.w->type->group != 0 : form == kBatchIntegers;
        tiles |= m > 1 && (form == kBatchBfloat || form == kBatchBfloats);
        split_tiles |= m > 1 && form == kBatchBfloats;
    }
    if (m == 0 || n_tasks == 0) return;
    const QuantizedX xq = integers ? quantize(x) : QuantizedX{};
    const TileX xt = tiles ? to_tiles(x, split_tiles) : TileX{};
    std::byte *panels = reserve(panels_, n_threads() * kernels_.panel_bytes);
    const auto &table = m == 1 ? kernels_.matvec : kernels_.matmul;
    pool_.run(n_tasks, [&](size_t index, size_t worker) {
        const Product *product = products.data();
        for (; index >= n_tasks_of(kernels_, *product->w, m); ++product) {
            index -= n_tasks_of(kernels_, *product->w, m);
        }
        const Weight &w = *product->w;
        const size_t run = rows_per_task(kernels_, w, m), begin = index * run;
        MatmulTask task;
        task.w = static_cast<const uint8_t *>(w.data);
        task.row_bytes = w.type->row_bytes(w.cols);
        task.cols = w.cols;
        task.row_begin = begin;
        task.row_end = begin + run < w.rows ? begin + run : w.rows;
        task.m = m;
        task.x = x.data;
        task.x_stride = x.stride;
        task.xq = xq;
        task.xt = xt;
        task.y = product->y.data;
        task.y_stride = product->y.stride;
        task.bias = product->bias;
        task.accumulate = product->accumulate;
        task.scratch = panels + worker * kernels_.panel_bytes;
        table[w.type->index](task);
    });
}

}  // namespace a2sf
