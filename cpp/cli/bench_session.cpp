#include "cli/bench_session.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <span>

#include "base/error.h"
#include "base/process_memory.h"
#include "cli/terminal.h"
#include "engine/work.h"
#include "evict/registry.h"

namespace a2sf::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kWarmUpTokens = 4;  // of a tg test
constexpr size_t kWarmUpChunks = 2;  // of a pp test
constexpr size_t kSlack = 8;         // a repetition may start up to depth / kSlack too deep
constexpr std::chrono::seconds kPeaksHold(1);  // how long a measurement of the peaks is good for

// Lets the peak start anew (proc(5), clear_refs). Where that is not allowed it stays that of the
// whole run, with the memory that measuring the machine took.
void reset_peak_rss() {
    std::ofstream("/proc/self/clear_refs") << "5";
}

// The splitmix64 generator's i-th number (https://prng.di.unimi.it/splitmix64.c).
uint64_t random_bits(uint64_t seed, uint64_t i) {
    uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

// Ids that occur in texts. All ids where the tokenizer knows no such ones.
std::vector<int32_t> ordinary_ids(const Engine &engine) {
    const size_t n_vocab = engine.model->config().n_vocab;
    std::vector<int32_t> ids;
    for (size_t i = 0; i < std::min(n_vocab, engine.tokenizer->n_vocab()); ++i) {
        const auto id = static_cast<int32_t>(i);
        const TokenType type = engine.tokenizer->token_type(id);
        if (type == TokenType::Normal || type == TokenType::Byte) ids.push_back(id);
    }
    for (size_t i = 0; ids.empty() && i < n_vocab; ++i) ids.push_back(static_cast<int32_t>(i));
    return ids;
}

std::string at_depth(const std::string &name, size_t depth) {
    return str(name, " at depth ", grouped(depth));
}

}  // namespace

double median_of(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    const size_t half = values.size() / 2;
    return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

MachinePeaks median_of(const std::vector<MachinePeaks> &peaks) {
    MachinePeaks result;
    for (const auto peak :
         {&MachinePeaks::read_gb_s, &MachinePeaks::int8_gops, &MachinePeaks::float_gflops,
          &MachinePeaks::bfloat16_gflops, &MachinePeaks::copy_gb_s}) {
        std::vector<double> values;
        for (const MachinePeaks &one : peaks) values.push_back(one.*peak);
        result.*peak = median_of(std::move(values));
    }
    return result;
}

BenchSession::BenchSession(const Engine &engine, Backend &machine, uint64_t seed,
                           size_t n_repetitions, bool quiet)
    : engine_(engine),
      machine_(machine),
      seed_(seed),
      n_repetitions_(n_repetitions),
      quiet_(quiet),
      ordinary_(ordinary_ids(engine)) {}

Measurement BenchSession::measure(const SessionOptions &options, const BenchTest &test,
                                  size_t depth) {
    // Each depth has a session of its own, or a row would be measured where the one before ended.
    const bool near = session_ && depth == depth_ && depth > 0;
    if (!near || !can_continue(depth, test.n_tokens)) session_.reset();
    depth_ = depth;
    begin_memory_peaks();
    if (!session_) session_ = std::make_unique<Session>(engine_.model, options);
    warm_up(test, depth);
    Measurement result;
    std::vector<MachinePeaks> peaks;
    // Whether they had to be measured. That takes memory of its own, which is not the model's.
    const auto measure_peaks = [&] {
        const bool anew = Clock::now() - peaks_at_ > kPeaksHold;
        if (anew) {
            keep_memory_peaks(result);
            peaks_ = machine_.measure_peaks();
            peaks_at_ = Clock::now();
            begin_memory_peaks();
        }
        peaks.push_back(peaks_);
        if (interrupted()) throw Interrupted();
        return anew;
    };
    for (size_t i = 0; i < n_repetitions_; ++i) {
        const std::string what = at_depth(test.name(), depth);
        if (measure_peaks()) {
            // Threads slept meanwhile, and caches hold other things.
            if (depth == 0) session_->reset();
            if (session_->n_tokens() < most_tokens()) feed({false, 1}, "Warming up");
        }
        start_at(depth, test.n_tokens, what);
        const size_t kv_before = live_kv_bytes(session_->cache());
        result.tokens_per_s.push_back(static_cast<double>(test.n_tokens) / feed(test, what));
        // Linear between the two in a cache that grows, the same in one that is full.
        const size_t kv_after = live_kv_bytes(session_->cache());
        result.kv_bytes_per_token +=
            static_cast<double>(kv_before + kv_after) / 2 / static_cast<double>(n_repetitions_);
    }
    measure_peaks();
    keep_memory_peaks(result);
    result.peaks = median_of(peaks);
    result.kv_bytes = session_->cache().n_bytes();
    result.kv_bytes_full = session_->cache().n_bytes_full(depth + test.n_tokens);
    return result;
}

void BenchSession::begin_memory_peaks() const {
    reset_peak_rss();
    engine_.model->device().begin_peak();
}

void BenchSession::keep_memory_peaks(Measurement &result) const {
    result.peak_rss_bytes = std::max(result.peak_rss_bytes, peak_resident());
    const OwnMemory device = engine_.model->device().memory();
    if (device.n_total == 0) return;
    result.device_bytes = std::max(result.device_bytes.value_or(0), device.n_peak);
}

// Reading a long text again for every repetition would take most of the time. The session goes on
// from where it is if that is near the depth, or if it makes no difference there: a cache that has
// reached its budget stays as large as it is.
bool BenchSession::can_continue(size_t depth, size_t n_tokens) const {
    const size_t at = session_->n_tokens();
    if (at < depth) return false;
    const EvictionConfig &config = session_->cache().config();
    if (!config.evicts() && at + n_tokens > session_->model().config().n_ctx) return false;
    return (config.evicts() && depth >= config.budget) || at - depth <= depth / kSlack;
}

// Weights, activations, cache and threads are touched as the test will touch them: at the depth
// already, if the session is there from another test.
void BenchSession::warm_up(const BenchTest &test, size_t depth) {
    const size_t n_chunks = kWarmUpChunks * session_->options().batch;
    const size_t n = std::min(test.n_tokens, test.is_prompt ? n_chunks : kWarmUpTokens);
    if (session_->n_tokens() + n > most_tokens()) session_->reset();
    const size_t deepest = depth + depth / kSlack + test.n_tokens + (depth > 0 ? n : 0);
    session_->reserve(deepest - std::min(deepest, session_->n_tokens()));
    feed({test.is_prompt, n}, "Warming up");
}

// That the session can read: all there is room for in the context without eviction.
size_t BenchSession::most_tokens() const {
    const bool evicts = find_policy(session_->options().eviction.policy).evicts();
    return evicts ? SIZE_MAX : session_->model().config().n_ctx;
}

// Brings the session to the depth, or leaves it where it is if that is near enough.
void BenchSession::start_at(size_t depth, size_t n_tokens, const std::string &what) {
    if (depth > 0 && can_continue(depth, n_tokens)) return;
    session_->reset();
    session_->reserve(depth + depth / kSlack + n_tokens);
    if (depth > 0) feed({true, depth}, "Reading up to " + what);
}

// Reads the next tokens of the text as the test does; returns the seconds it took.
double BenchSession::feed(const BenchTest &test, const std::string &what) {
    const size_t n_tokens = test.n_tokens;
    ids_.resize(n_tokens);
    for (size_t i = 0; i < n_tokens; ++i) {
        ids_[i] = ordinary_[random_bits(seed_, session_->n_tokens() + i) % ordinary_.size()];
    }
    ProgressBar bar(what, !quiet_);
    const auto progress = [&](size_t n_done, size_t) {
        bar.update(n_done, n_tokens);
        return !interrupted();
    };
    const std::span<const int32_t> ids = ids_;
    const Clock::time_point start = Clock::now();
    if (test.is_prompt) {
        session_->feed(ids, progress);
    } else {
        for (size_t i = 0; i < n_tokens && progress(i, n_tokens); ++i) read_token(ids[i]);
    }
    const double time_s = std::chrono::duration<double>(Clock::now() - start).count();
    if (interrupted()) throw Interrupted();
    return time_s;
}

// As greedy generation does where the device finds the likeliest token itself.
void BenchSession::read_token(int32_t id) {
    if (session_->backend().keeps_logits()) {
        session_->feed_chunk({&id, 1}, 0);
        session_->likeliest();
    } else {
        session_->feed({&id, 1});
    }
}

}  // namespace a2sf::cli
