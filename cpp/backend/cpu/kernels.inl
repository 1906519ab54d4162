// The kernels as one table. Compiled once per instruction set: isa_<name>.cpp includes its
// simd_<name>.h, then this, and returns kTable (amx starts from avx512's). All linkage is internal,
// so that the linker cannot take one instruction set's function for another's.

#include "backend/cpu/float.inl"
//
#include "backend/cpu/attention.inl"
//
#include "backend/cpu/attention_one.inl"
#include "backend/cpu/matvec.inl"
//
#include "backend/cpu/matmul.inl"
#include "backend/cpu/peaks.inl"

namespace a2sf {
namespace {

constexpr Kernels make_table(const char *name) {
    Kernels table = {};
    table.name = name;
    table.rms_norm = rms_norm;
    table.silu_gated = silu_gated;
    table.gelu_gated = gelu_gated;
    table.exp = exp_row;
    table.rope_interleaved = rope_interleaved;
    table.rope_halves = rope_halves;
    table.quantize_row = quantize_row;
    size_t n = 0;
#define A2SF_PRODUCTS(F_)         \
    table.matvec[n] = matvec<F_>; \
    table.few[n] = few<F_>;       \
    table.matmul[n] = matmul<F_>; \
    table.batch_x[n++] = F_::kGroup == 0 ? kBatchFloats : kBatchIntegers;
    A2SF_WEIGHT_FORMATS(A2SF_PRODUCTS)
#undef A2SF_PRODUCTS
    table.panel_bytes = kPanelBytes;
    table.panel_rows = kPanelRows;
    table.kv_store = kv_store;
    table.kv_load = kv_load;
    table.load_turned = load_turned;
    table.attention = attention;
    table.add_scores = add_scores;
    table.attend_one = attend_one;
    table.lowest_pos = lowest_pos;
    table.add_one_scores = add_one_scores;
    table.dot = dot_rows;
    table.add_scaled = add_scaled;
    table.peak_int8 = peak_int8;
    table.peak_float = peak_float;
    table.read_floats = read_floats;
    return table;
}

}  // namespace
}  // namespace a2sf
