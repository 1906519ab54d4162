// What products have in common: several of one input, weights of one type, are one launch.
#pragma once

#include "backend/cuda/groups.cuh"

#include "backend/cuda/cuda_kernels.h"

namespace a2sf {

// One of them: which of the launch's blocks of rows are its, and what they write.
struct ProductPart {
    const uint8_t *w;
    size_t rows;
    const float *bias;
    float *y;
    size_t y_stride;
    unsigned first_block;
    bool operator==(const ProductPart &) const = default;
};

struct ProductArgs {
    ProductPart parts[kCudaMostProducts];
    int n_parts;
    size_t row_bytes, cols, padded;
    size_t m;
    const float *x;  // rows x_stride apart
    size_t x_stride;
    CudaForms forms;
    bool accumulate;
    bool vectors;  // rows of weights begin at multiples of 16 bytes
    bool operator==(const ProductArgs &) const = default;
};

// Whether all rows of weights begin at multiples of 16 bytes.
inline bool have_vectors(std::span<const Product> products) {
    const Weight &w = *products.front().w;
    bool all = w.type->row_bytes(w.cols) % 16 == 0;
    for (const Product &product : products) all = all && is_vector(product.w->data);
    return all;
}

// Without parts.
inline ProductArgs product_args(const CudaProducts &job) {
    const Weight &w = *job.products.front().w;
    ProductArgs args = {};
    args.row_bytes = w.type->row_bytes(w.cols);
    args.cols = w.cols;
    args.padded = padded_cols(w.cols);
    args.m = job.x.rows;
    args.x = job.x.data;
    args.x_stride = job.x.stride;
    args.forms = job.forms;
    args.accumulate = job.products.front().accumulate;
    args.vectors = have_vectors(job.products);
    return args;
}

// Rows [first, first + n) of a product, whose weights lie at w.
inline void add_part(ProductArgs &args, const Product &product, const void *w, size_t first,
                     size_t n, unsigned first_block) {
    args.parts[args.n_parts++] = {static_cast<const uint8_t *>(w),
                                  n,
                                  product.bias == nullptr ? nullptr : product.bias + first,
                                  product.y.data + first,
                                  product.y.stride,
                                  first_block};
}

// All of them, rows_each rows to a block; how many blocks.
inline unsigned add_parts(ProductArgs &args, std::span<const Product> products, size_t rows_each) {
    unsigned n = 0;
    for (const Product &product : products) {
        add_part(args, product, product.w->data, 0, product.w->rows, n);
        n += n_blocks(product.w->rows, rows_each);
    }
    return n;
}

A2SF_INLINE ProductPart part_of(const ProductArgs &args, unsigned block) {
    ProductPart part = args.parts[0];
#pragma unroll
    for (int i = 1; i < (int)kCudaMostProducts; ++i) {
        if (i < args.n_parts && block >= args.parts[i].first_block) part = args.parts[i];
    }
    // Said so, its loads are those of global memory: the choice hides where pointers come from.
    A2SF_ASSUME_GLOBAL(part.w);
    A2SF_ASSUME_GLOBAL(part.bias);
    A2SF_ASSUME_GLOBAL(part.y);
    return part;
}

// y = sum (+ bias) (+ y).
A2SF_INLINE void put(const ProductArgs &args, const ProductPart &part, size_t row, size_t token,
                     float sum) {
    if (row >= part.rows || token >= args.m) return;
    if (part.bias != nullptr) sum += part.bias[row];
    float *y = part.y + token * part.y_stride + row;
    *y = args.accumulate ? *y + sum : sum;
}

}  // namespace a2sf
