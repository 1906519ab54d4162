// What this instruction set can do at most: multiply-adds of bytes and of floats held in registers,
// and reading memory. Not part of any model: `a2sf bench` sets speeds against these. Included by
// kernels.inl, after one simd_<isa>.h.

namespace a2sf {
namespace {

// Independent sums, as rows x columns of a product's tile: enough to hide a latency of 4 cycles on
// 4 ports, and few enough for the registers (AVX2 has 16, AVX-512 and NEON 32).
constexpr size_t kPeakRows = 2;
constexpr size_t kPeakColumns = kW == 8 ? 5 : 8;
constexpr size_t kPeakSums = kPeakRows * kPeakColumns;
constexpr size_t kPeakSteps = 4;  // unrolled, or GCC 12 copies every sum at the end of a round

// Tells the compiler that a value in memory may have changed, or is used: a product of constants
// would be computed once, and one that nobody reads not at all.
#define A2SF_CHANGES(variable) asm volatile("" : "+m"(variable))
#define A2SF_USES(variable) asm volatile("" : : "m"(variable))

// Both return the operations done, two per multiply-add. n_rounds at most kPeakMostRounds, so that
// no sum of bytes overflows.
double peak_int8(size_t n_rounds) {
    int8_t ones[4 * kW];
    for (size_t i = 0; i < 4 * kW; ++i) ones[i] = 1;
    W8 w[kPeakRows];
    X8 x[kPeakColumns];
    I sums[kPeakSums];
    for (size_t i = 0; i < kPeakRows; ++i) w[i] = load_weights(ones);
    A2SF_UNROLL for (size_t i = 0; i < kPeakColumns; ++i) {
        A2SF_CHANGES(ones);
        x[i] = load_x(ones);
    }
    A2SF_UNROLL for (size_t i = 0; i < kPeakSums; ++i) sums[i] = set1_i(0);
    for (size_t round = 0; round < n_rounds; ++round) {
        A2SF_UNROLL for (size_t step = 0; step < kPeakSteps; ++step) {
            A2SF_CHANGES(w);
            A2SF_UNROLL for (size_t i = 0; i < kPeakSums; ++i) {
                sums[i] = dot4(sums[i], w[i / kPeakColumns], x[i % kPeakColumns]);
            }
        }
    }
    F total = set1(0.0f);
    A2SF_UNROLL for (size_t i = 0; i < kPeakSums; ++i) total = add(total, to_float(sums[i]));
    A2SF_USES(total);
    return 2.0 * (double)(4 * kW * kPeakSums * kPeakSteps) * (double)n_rounds;
}

double peak_float(size_t n_rounds) {
    float ones[kW];
    for (size_t i = 0; i < kW; ++i) ones[i] = 1.0f;
    F w[kPeakRows], x[kPeakColumns], sums[kPeakSums];
    for (size_t i = 0; i < kPeakRows; ++i) w[i] = load(ones);
    A2SF_UNROLL for (size_t i = 0; i < kPeakColumns; ++i) {
        A2SF_CHANGES(ones);
        x[i] = load(ones);
    }
    A2SF_UNROLL for (size_t i = 0; i < kPeakSums; ++i) sums[i] = set1(0.0f);
    for (size_t round = 0; round < n_rounds; ++round) {
        A2SF_UNROLL for (size_t step = 0; step < kPeakSteps; ++step) {
            A2SF_CHANGES(w);
            A2SF_UNROLL for (size_t i = 0; i < kPeakSums; ++i) {
                sums[i] = fma(w[i / kPeakColumns], x[i % kPeakColumns], sums[i]);
            }
        }
    }
    F total = set1(0.0f);
    A2SF_UNROLL for (size_t i = 0; i < kPeakSums; ++i) total = add(total, sums[i]);
    A2SF_USES(total);
    return 2.0 * (double)(kW * kPeakSums * kPeakSteps) * (double)n_rounds;
}

// Loads n floats (a multiple of kPeakReadFloats) and adds them up, the cheapest thing that needs
// every one of them. From eight places at once: a prefetcher that follows one stream leaves a third
// of the bandwidth unused (a Xeon with 2 cores: 21 GB/s from one place, 25 from two, 30 from
// eight).
void read_floats(const float *p, size_t n) {
    constexpr size_t kStreams = 8;
    static_assert(kPeakReadFloats % (kStreams * kW) == 0);
    const size_t part = n / kStreams;
    F sums[kStreams];
    A2SF_UNROLL for (size_t j = 0; j < kStreams; ++j) sums[j] = set1(0.0f);
    for (size_t i = 0; i < part; i += kW) {
        A2SF_UNROLL for (size_t j = 0; j < kStreams; ++j) {
            sums[j] = add(sums[j], load(p + j * part + i));
        }
    }
    F total = set1(0.0f);
    A2SF_UNROLL for (size_t j = 0; j < kStreams; ++j) total = add(total, sums[j]);
    A2SF_USES(total);
}

#undef A2SF_CHANGES
#undef A2SF_USES

}  // namespace
}  // namespace a2sf
