// Attention: tiles of queries over one KV head's live slots, and the score update.
//
// Scores are sums over queries; to give the same sum for any number of threads, each KV head's
// tiles are cut into a fixed number of parts, a part adds up its tiles in order, and the parts are
// added in order afterwards.
#include <algorithm>

#include "backend/cpu/cpu_backend.h"

namespace a2sf {

namespace {

constexpr size_t kQueryRows = 16;  // query rows that share one pass over K and V
constexpr size_t kMaxParts = 16;
constexpr size_t kTiledKvBytes = size_t{4} << 20;  // of K and V as tiles, if more than one head

size_t ceil_div(size_t a, size_t b) {
    return (a + b - 1) / b;
}

}  // namespace

// How one call is cut. Depends on shapes only.
struct CpuBackend::AttentionPlan {
    size_t group;         // query heads per KV head
    size_t tile_queries;  // queries per tile
    size_t n_tiles;       // per KV head
    size_t n_parts;       // per KV head
    size_t first_head;    // the KV heads of this pass
    size_t n_heads;
    size_t live;        // padded, the longest head's
    size_t n_scratch;   // floats per tile
    size_t per_worker;  // n_scratch, and where p is kept n_rows() * live + padded(n_rows())
    float *scratch;     // [n_threads, per_worker]
    float *partial;     // [n_lanes, n_heads, n_parts, live]; null for a single part

    size_t n_rows() const { return tile_queries * group; }
    float *part(size_t lane, size_t head, size_t index) const {
        return partial + ((lane * n_heads + head - first_head) * n_parts + index) * live;
    }
};

TurnedKeys CpuBackend::turned_keys(const AttentionArgs &args, size_t head) {
    if (args.turns.place == nullptr) return {};
    const Matrix<const float> &angles = args.turns.angles;
    return {angles.data, angles.stride, angles.cols, args.turns.style == RopeStyle::Halves,
            args.turns.place + args.slots.at(head)};
}

// What all tiles of one KV head have in common.
AttentionTile CpuBackend::tile_of(const AttentionArgs &args, const AttentionPlan &plan, size_t head,
                                  size_t worker) {
    const KvSlots &slots = args.slots;
    const size_t row_bytes = kv_row_bytes(slots.type, slots.head_dim);
    AttentionTile tile = {};
    tile.q_stride = args.q.stride;
    tile.out_stride = args.out.stride;
    tile.group = plan.group;
    tile.head_dim = slots.head_dim;
    tile.window = args.window;
    tile.scale = args.scale;
    tile.kv_format = static_cast<int>(slots.type);
    tile.k = static_cast<const uint8_t *>(slots.k) + slots.at(head) * row_bytes;
    tile.v = static_cast<const uint8_t *>(slots.v) + slots.at(head) * row_bytes;
    tile.row_bytes = row_bytes;
    tile.pos = args.pos + slots.at(head);
    tile.live = args.live[head];
    tile.turned = turned_keys(args, head);
    tile.scratch = plan.scratch + worker * plan.per_worker;
    return tile;
}

// Queries [i0, i0 + tile_queries) of one KV head, or as many as there are.
void CpuBackend::place_queries(const AttentionArgs &args, const AttentionPlan &plan, size_t head,
                               size_t i0, AttentionTile &tile) {
    const size_t column = head * plan.group * tile.head_dim, left = args.q.rows - i0;
    tile.n_queries = left < plan.tile_queries ? left : plan.tile_queries;
    tile.q = args.q.row(i0) + column;
    tile.out = args.out.row(i0) + column;
    tile.query_pos = args.query_pos + i0;
}

void CpuBackend::attention_part(const AttentionArgs &args, const AttentionPlan &plan, size_t head,
                                size_t part, size_t worker) {
    AttentionTile tile = tile_of(args, plan, head, worker);
    tile.p = tile.scratch + plan.n_scratch;
    float *row_weight = tile.p + plan.n_rows() * plan.live;

    const size_t first = plan.n_tiles * part / plan.n_parts;
    const size_t last = plan.n_tiles * (part + 1) / plan.n_parts;
    for (size_t t = first; t < last; ++t) {
        const size_t i0 = t * plan.tile_queries;
        place_queries(args, plan, head, i0, tile);
        kernels_.attention(tile);
        const size_t n_rows = tile.n_queries * plan.group;
        for (size_t lane = 0; lane < args.lanes.size(); ++lane) {
            const ScoreLane &score = args.lanes[lane];
            for (size_t r = 0; r < n_rows; ++r) {
                row_weight[r] = score.query_weight[i0 + r / plan.group];
            }
            const bool direct = plan.partial == nullptr;
            float *into = direct ? score.scores + args.slots.at(head) : plan.part(lane, head, part);
            const float decay = t > first ? 1.0f : direct ? score.decay : 0.0f;
            kernels_.add_scores(tile.p, n_rows, row_weight, tile.live, decay, into);
        }
    }
}

void CpuBackend::attention(std::span<const AttentionArgs> all) {
    if (all.empty()) return;
    if (std::all_of(all.begin(), all.end(), is_one_query)) return attention_of_one(all);
    for (const AttentionArgs &args : all) attention_of(args);
}

void CpuBackend::attention_of(const AttentionArgs &args) {
    const KvSlots &slots = args.slots;
    const size_t m = args.q.rows, n_kv_heads = slots.n_kv_heads, n_lanes = args.lanes.size();
    if (m == 0) return;
    if (is_one_query(args)) return attention_of_one({&args, 1});
    size_t longest = 0;
    for (size_t h = 0; h < n_kv_heads; ++h)
        longest = longest < args.live[h] ? args.live[h] : longest;

    AttentionPlan plan;
    plan.first_head = 0;
    plan.n_heads = n_kv_heads;
    plan.group = args.n_heads / n_kv_heads;
    plan.tile_queries = plan.group >= kQueryRows ? 1 : kQueryRows / plan.group;
    plan.tile_queries = plan.tile_queries < m ? plan.tile_queries : m;
    plan.n_tiles = ceil_div(m, plan.tile_queries);
    plan.n_parts = plan.n_tiles < kMaxParts ? plan.n_tiles : kMaxParts;
    plan.live = padded(longest);
    if (kernels_.attend_tiles != nullptr && fits_tiles(args, plan.group)) {
        return attention_on_tiles(args, plan);
    }
    plan.n_scratch = attention_scratch(plan.n_rows(), slots.head_dim);
    plan.per_worker = plan.n_scratch + plan.n_rows() * plan.live + padded(plan.n_rows());
    plan.scratch = reserve(attention_, n_threads() * plan.per_worker);
    plan.partial = plan.n_parts == 1
                       ? nullptr
                       : reserve(partial_, n_lanes * n_kv_heads * plan.n_parts * plan.live);
    pool_.run(n_kv_heads * plan.n_parts, [&](size_t task, size_t worker) {
        attention_part(args, plan, task / plan.n_parts, task % plan.n_parts, worker);
    });
    if (plan.partial != nullptr) add_parts(args, plan);
}

// Adds the parts of the plan's heads to their scores, in order.
void CpuBackend::add_parts(const AttentionArgs &args, const AttentionPlan &plan) {
    pool_.run(args.lanes.size() * plan.n_heads, [&](size_t task, size_t) {
        const size_t lane = task / plan.n_heads, head = plan.first_head + task % plan.n_heads;
        const ScoreLane &score = args.lanes[lane];
        float ones[kMaxParts];
        for (float &one : ones) one = 1.0f;
        // The parts are rows `plan.live` apart; add_scores wants them padded(live) apart.
        float *into = score.scores + args.slots.at(head);
        const size_t live = args.live[head];
        if (padded(live) == plan.live) {
            kernels_.add_scores(plan.part(lane, head, 0), plan.n_parts, ones, live, score.decay,
                                into);
            return;
        }
        for (size_t index = 0; index < plan.n_parts; ++index) {
            kernels_.add_scores(plan.part(lane, head, index), 1, ones, live,
                                index == 0 ? score.decay : 1.0f, into);
        }
    });
}

// Whether a call is work for tiles: enough rows, and K and V that are rounded anyway. Exact float32
// storage keeps exact float32 arithmetic.
bool CpuBackend::fits_tiles(const AttentionArgs &args, size_t group) {
    return args.q.rows * group >= kTiledRows / 2 && group <= kTiledRows &&
           args.slots.type != KvType::F32 && args.slots.head_dim % 32 == 0 &&
           args.lanes.size() <= kMaxSums;
}

// As many KV heads at a time as fit the cache with their K and V as tiles.
void CpuBackend::attention_on_tiles(const AttentionArgs &args, AttentionPlan plan) {
    const KvSlots &slots = args.slots;
    const size_t m = args.q.rows, head_dim = slots.head_dim, n_heads = slots.n_kv_heads;
    plan.tile_queries = kTiledRows / plan.group < m ? kTiledRows / plan.group : m;
    plan.n_tiles = ceil_div(m, plan.tile_queries);
    plan.n_parts = plan.n_tiles < kMaxParts ? plan.n_tiles : kMaxParts;
    TileKv kv;
    kv.slots = ceil_div(plan.live, kSlotsPerPack) * kSlotsPerPack;
    kv.head_dim = head_dim;
    const size_t per_head = 2 * kv.slots * head_dim;
    const size_t most = std::max<size_t>(1, kTiledKvBytes / (per_head * sizeof(uint16_t)));
    const size_t at_once = std::min(most, n_heads);
    kv.k = reserve(tiles_, at_once * per_head);
    kv.v = kv.k + kv.slots * head_dim;
    kv.pos = reserve(tiled_pos_, at_once * kv.slots);
    plan.per_worker = plan.n_scratch = padded(tiled_scratch(kv.slots, head_dim));
    plan.scratch = reserve(attention_, n_threads() * plan.per_worker);
    plan.partial = plan.n_parts == 1
                       ? nullptr
                       : reserve(partial_, args.lanes.size() * at_once * plan.n_parts * plan.live);
    const auto kv_of = [&](size_t i) {
        return TileKv{kv.slots, head_dim, kv.k + i * per_head, kv.v + i * per_head,
                      kv.pos + i * kv.slots};
    };
    const size_t n_packs = kv.slots / kSlotsPerPack;
    for (plan.first_head = 0; plan.first_head < n_heads; plan.first_head += at_once) {
        plan.n_heads = std::min(at_once, n_heads - plan.first_head);
        pool_.run(plan.n_heads * n_packs, [&](size_t task, size_t worker) {
            const size_t i = task / n_packs;
            const AttentionTile from = tile_of(args, plan, plan.first_head + i, worker);
            pack(from, task % n_packs * kSlotsPerPack, kv_of(i));
        });
        pool_.run(plan.n_heads * plan.n_parts, [&](size_t task, size_t worker) {
            const size_t i = task / plan.n_parts;
            attend_part_on_tiles(args, plan, kv_of(i), plan.first_head + i, task % plan.n_parts,
                                 worker);
        });
        if (plan.partial != nullptr) add_parts(args, plan);
    }
}

// One pack of slots of a KV head, from slot `first` on, and their positions.
void CpuBackend::pack(const AttentionTile &from, size_t first, const TileKv &to) {
    for (size_t s = first; s < first + kSlotsPerPack; ++s) {
        to.pos[s] = s < from.live ? from.pos[s] : INT32_MAX;
    }
    kernels_.pack_slots(from.kv_format, from.k, from.v, from.row_bytes, from.live, first,
                        from.turned, to, from.scratch);
}

void CpuBackend::attend_part_on_tiles(const AttentionArgs &args, const AttentionPlan &plan,
                                      const TileKv &kv, size_t head, size_t part, size_t worker) {
    TiledAttention job = {};
    AttentionTile &tile = job.tile;
    tile = tile_of(args, plan, head, worker);
    job.kv = kv;
    job.n_sums = args.lanes.size();
    const size_t first = plan.n_tiles * part / plan.n_parts;
    const size_t last = plan.n_tiles * (part + 1) / plan.n_parts;
    for (size_t t = first; t < last; ++t) {
        const size_t i0 = t * plan.tile_queries;
        place_queries(args, plan, head, i0, tile);
        for (size_t lane = 0; lane < job.n_sums; ++lane) {
            const ScoreLane &score = args.lanes[lane];
            const bool direct = plan.partial == nullptr;
            ScoreSum &sum = job.sums[lane];
            sum.into = direct ? score.scores + args.slots.at(head) : plan.part(lane, head, part);
            sum.query_weight = score.query_weight + i0;
            sum.decay = t > first ? 1.0f : direct ? score.decay : 0.0f;
        }
        kernels_.attend_tiles(job);
    }
}

}  // namespace a2sf
