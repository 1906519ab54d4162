// Attention of one query: the live slots of every KV head are cut into runs, so that a few heads
// keep many threads busy; whoever finishes a head's last run joins them and updates its scores.
// Runs are cut by the number of live slots alone and joined in order, so results do not depend on
// the threads. The join is the usual one of softmax over parts: with m = max of the parts' maxima,
// a part counts exp(its max - m) times.
#include <cmath>

#include "backend/cpu/cpu_backend.h"

namespace a2sf {

namespace {

constexpr size_t kRunSlots = 256;

}  // namespace

// Heads that a vector cannot hold whole, and layers with a window, take the general way.
bool CpuBackend::is_one_query(const AttentionArgs &args) {
    return args.q.rows == 1 && args.window == 0 && args.slots.head_dim % kMaxLanes == 0;
}

// How one call is cut, its memory from `memory` on; null only counts.
CpuBackend::OnePlan CpuBackend::plan_one(const AttentionArgs &args, float *memory) {
    const KvSlots &slots = args.slots;
    size_t longest = 0;
    for (size_t h = 0; h < slots.n_kv_heads; ++h) {
        longest = longest < args.live[h] ? args.live[h] : longest;
    }
    OnePlan plan = {};
    plan.group = args.n_heads / slots.n_kv_heads;
    plan.rows = (plan.group + kOneRows - 1) / kOneRows * kOneRows;
    plan.n_runs = (longest + kRunSlots - 1) / kRunSlots;
    plan.p_slots = padded(longest < kRunSlots ? longest : kRunSlots);
    const size_t n_runs = slots.n_kv_heads * plan.n_runs;
    const size_t n_p = plan.rows * plan.p_slots, n_out = plan.group * slots.head_dim;
    const size_t n_turned = args.turns.place != nullptr ? plan.p_slots * slots.head_dim : 0;
    plan.n_tasks = n_runs;
    plan.n_floats = padded(n_runs * (n_p + n_out + 2 * plan.rows + n_turned));
    if (memory == nullptr) return plan;
    plan.p = memory;
    plan.out = plan.p + n_runs * n_p;
    plan.top = plan.out + n_runs * n_out;
    plan.total = plan.top + n_runs * plan.rows;
    plan.turned = n_turned > 0 ? plan.total + n_runs * plan.rows : nullptr;
    return plan;
}

// Of one or of several texts, one query each.
void CpuBackend::attention_of_one(std::span<const AttentionArgs> all) {
    size_t n_floats = 0, n_heads = 0, n_tasks = 0;
    for (const AttentionArgs &args : all) {
        const OnePlan plan = plan_one(args, nullptr);
        n_floats += plan.n_floats;
        n_tasks += plan.n_tasks;
        n_heads += args.slots.n_kv_heads;
    }
    float *memory = reserve(attention_, n_floats);
    if (finished_.size() < n_heads) finished_ = std::vector<std::atomic<size_t>>(n_heads);
    for (size_t h = 0; h < n_heads; ++h) finished_[h].store(0, std::memory_order_relaxed);
    one_plans_.resize(all.size());
    n_heads = 0;
    for (size_t i = 0; i < all.size(); ++i) {
        one_plans_[i] = plan_one(all[i], memory);
        one_plans_[i].finished = finished_.data() + n_heads;
        memory += one_plans_[i].n_floats;
        n_heads += all[i].slots.n_kv_heads;
    }
    pool_.run(n_tasks, [&](size_t task, size_t) {
        size_t text = 0;
        for (; task >= one_plans_[text].n_tasks; ++text) task -= one_plans_[text].n_tasks;
        const AttentionArgs &args = all[text];
        const OnePlan &plan = one_plans_[text];
        const size_t head = task / plan.n_runs, index = task % plan.n_runs;
        if (index * kRunSlots < args.live[head]) attend_run(args, plan, head, index);
        if (plan.finished[head].fetch_add(1, std::memory_order_acq_rel) + 1 == plan.n_runs) {
            join_runs(args, plan, head);
        }
    });
}

void CpuBackend::attend_run(const AttentionArgs &args, const OnePlan &plan, size_t head,
                            size_t index) {
    const KvSlots &slots = args.slots;
    const size_t row_bytes = kv_row_bytes(slots.type, slots.head_dim);
    const size_t first = index * kRunSlots, left = args.live[head] - first;
    const size_t at = (slots.at(head) + first) * row_bytes, run = plan.run(head, index);
    OneQuery one;
    one.q = args.q.row(0) + head * plan.group * slots.head_dim;
    one.group = plan.group;
    one.head_dim = slots.head_dim;
    one.scale = args.scale;
    one.kv_format = static_cast<int>(slots.type);
    one.k = static_cast<const uint8_t *>(slots.k) + at;
    one.v = static_cast<const uint8_t *>(slots.v) + at;
    one.row_bytes = row_bytes;
    one.n = left < kRunSlots ? left : kRunSlots;
    one.turned_k = nullptr;
    if (plan.turned != nullptr) {
        float *keys = plan.turned + run * plan.p_slots * slots.head_dim;
        TurnedKeys turned = turned_keys(args, head);
        turned.place += first;
        kernels_.load_turned(one.kv_format, one.k, row_bytes, 0, one.n, turned, slots.head_dim,
                             keys);
        one.turned_k = keys;
    }
    one.p_slots = plan.p_slots;
    one.p = plan.p + run * plan.rows * plan.p_slots;
    one.out = plan.out + run * plan.group * slots.head_dim;
    one.top = plan.top + run * plan.rows;
    one.total = plan.total + run * plan.rows;
    kernels_.attend_one(one);
}

void CpuBackend::join_runs(const AttentionArgs &args, const OnePlan &plan, size_t head) {
    const size_t live = args.live[head], n = args.slots.head_dim;
    const size_t n_runs = (live + kRunSlots - 1) / kRunSlots;
    float *out = args.out.row(0) + head * plan.group * n;
    for (size_t r = 0; r < plan.group; ++r) {
        float *top = plan.top + plan.run(head, 0) * plan.rows + r;
        float *total = plan.total + plan.run(head, 0) * plan.rows + r;
        float highest = top[0];
        for (size_t i = 1; i < n_runs; ++i) highest = std::fmax(highest, top[i * plan.rows]);
        float sum = 0.0f;
        for (size_t i = 0; i < n_runs; ++i) {
            top[i * plan.rows] = std::exp(top[i * plan.rows] - highest);
            sum += top[i * plan.rows] * total[i * plan.rows];
        }
        // From here on top holds what a run's p and out are multiplied by.
        for (size_t i = 0; i < n_runs; ++i) {
            float &factor = top[i * plan.rows];
            factor /= sum;
            const float *part = plan.out + plan.run(head, i) * plan.group * n + r * n;
            for (size_t d = 0; d < n; ++d) {
                out[r * n + d] = i == 0 ? factor * part[d] : out[r * n + d] + factor * part[d];
            }
        }
    }
    for (const ScoreLane &lane : args.lanes) {
        float *scores = lane.scores + args.slots.at(head);
        for (size_t i = 0; i < n_runs; ++i) {
            const size_t run = plan.run(head, i), first = i * kRunSlots;
            const size_t slots = live - first < kRunSlots ? live - first : kRunSlots;
            for (size_t r = 0; r < plan.group; r += kOneRows) {
                float factor[kOneRows] = {};
                for (size_t j = 0; j < kOneRows && r + j < plan.group; ++j) {
                    factor[j] = plan.top[run * plan.rows + r + j] * lane.query_weight[0];
                }
                const float *p = plan.p + (run * plan.rows + r) * plan.p_slots;
                kernels_.add_one_scores(p, factor, slots, r == 0 ? lane.decay : 1.0f,
                                        scores + first);
            }
        }
    }
}

}  // namespace a2sf
