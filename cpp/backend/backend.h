// The operations that a device implements. The decoder is written in these and in nothing else.
//
// Pointers in views are device pointers; only copy_to_host, copy_to_device and put cross over.
// Places and similarities of slots lie in memory that host and device share. What has an element
// per token or per head of a call is the host's, and read before the call returns: ids, positions
// of queries, query weights, new slots, first, live.
// Operations of one backend run in order. Arguments are trusted: the model and the session
// validated them. A backend belongs to one session (its threads and scratch do not serve two at
// once).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/buffer.h"
#include "evict/policy.h"
#include "quant/registry.h"

namespace a2sf {

// Memory on a device, or a view of memory that somebody else owns.
class DeviceMemory {
  public:
    virtual ~DeviceMemory() = default;
    void *data() const { return data_; }
    size_t n_bytes() const { return n_bytes_; }

  protected:
    void *data_ = nullptr;
    size_t n_bytes_ = 0;
};

// A weight matrix in its GGUF blocks: rows x cols, each row a whole number of blocks.
// One-dimensional weights (norms, biases) are F32 with rows == 1.
struct Weight {
    const WeightType *type = nullptr;
    size_t rows = 0;
    size_t cols = 0;
    const void *data = nullptr;
};

enum class Activation { Silu, GeluTanh };

// What a product multiplies: x [m, cols] itself, or what becomes of each row on the way.
//   norm:  x / sqrt(mean(x^2) + eps) * norm            norm [cols]
//   up:    act(x) * up                                 up like x
// At most one of the two. independent: each row is a token of another text, and gets bit for bit
// what it would get if it came alone and independent.
struct Input {
    Matrix<const float> x;
    const float *norm = nullptr;
    float eps = 0.0f;
    Matrix<const float> up = {};
    Activation act = Activation::Silu;
    bool independent = false;

    Input(Matrix<const float> the_x) : x(the_x) {}
    Input(Matrix<float> the_x) : x(the_x) {}
    static Input normed(Matrix<const float> x, const float *norm, float eps) {
        Input input(x);
        input.norm = norm;
        input.eps = eps;
        return input;
    }
    static Input gated(Matrix<const float> gate, Matrix<const float> up, Activation act) {
        Input input(gate);
        input.up = up;
        input.act = act;
        return input;
    }
};

// y = x * w^T (+ bias) (+ y). x [m, w.cols], y [m, w.rows], bias [w.rows] or null.
struct Product {
    const Weight *w = nullptr;
    const float *bias = nullptr;
    Matrix<float> y;
    bool accumulate = false;
};

// The hidden layer of an FFN: act(x * gate^T) * (x * up^T).
struct GatedFfn {
    const Weight *gate = nullptr;
    const Weight *up = nullptr;
    Activation act = Activation::Silu;
};

// Which elements of a head rotate together: (2i, 2i+1), or (i, i + n_rot/2).
enum class RopeStyle { Interleaved, Halves };

enum class KvType { F32, F16, Q8_0 };
constexpr KvType kKvTypes[] = {KvType::F32, KvType::F16, KvType::Q8_0};
constexpr size_t kQ8Block = 32;  // elements; Q8_0 rows are whole blocks

// Whether rows of head_dim elements can be stored so.
constexpr bool can_store(KvType type, size_t head_dim) {
    return type != KvType::Q8_0 || head_dim % kQ8Block == 0;
}

// Bytes of one K or V row. Q8_0 stores blocks of 32: half scale, 32 signed bytes.
size_t kv_row_bytes(KvType type, size_t head_dim);
const char *name_of(KvType type);

// What a device that hands out slots itself (Backend::keeps_slots) knows of a layer's heads between
// the steps of a text that grows by one token at a time. Device memory; [n_kv_heads] but for `pos`
// and `scores`, which are as KvSlots::at says.
struct KeptSlots {
    const size_t *first = nullptr;      // KvSlots::at
    const uint32_t *budget = nullptr;   // of live slots
    const int32_t *n_recent = nullptr;  // newest tokens that stay
    uint32_t *slot = nullptr;           // of the next token
    uint32_t *live = nullptr;           // slots [0, live) are in use once it is stored
    int32_t *next_pos = nullptr;        // its position
    int32_t *pos = nullptr;
    size_t n_lanes = 0;
    float *scores[kMaxScoreLanes] = {};
    const float *query_weight = nullptr;  // [n_lanes], of the next token
    bool by_age = false;                  // the oldest leaves, not the lowest score
    int32_t first_pos = 0;                // tokens before it stay
    size_t most_live = 0;                 // in any head, whatever the step
    // What ranks tokens where that takes more than a look at each of them alone; else null.
    const EvictionConfig *config = nullptr;
    bool operator==(const KeptSlots &) const = default;
};

// Tokens that come together into slots whose holder is known on the device alone: kv_write stores
// their positions, and scores of 0. Device memory, as KvSlots::at says.
struct EnteringTokens {
    int32_t *pos = nullptr;
    size_t n_lanes = 0;
    float *scores[kMaxScoreLanes] = {};
    int32_t first_pos = 0;  // of the first of them
};

// One layer's slots. k and v: rows of kv_row_bytes(type, head_dim), those of head h from row at(h)
// on; so are positions, scores and places. [n_kv_heads, capacity] where heads have the same room.
struct KvSlots {
    KvType type = KvType::F32;
    size_t n_kv_heads = 0;
    size_t head_dim = 0;
    size_t capacity = 0;
    void *k = nullptr;
    void *v = nullptr;
    const size_t *first = nullptr;    // [n_kv_heads] where they have not
    const KeptSlots *kept = nullptr;  // where the device hands them out
    const EnteringTokens *entering = nullptr;

    size_t at(size_t head) const { return first == nullptr ? head * capacity : first[head]; }
};

// One accumulated score per slot, updated by attention:
//   scores[h][s] <- decay * scores[h][s] + sum_i query_weight[i] * sum_g p_g[i, s]
// over the m queries i of the chunk and the G query heads g that share KV head h. A decay of 0
// overwrites whatever was there. scores as KvSlots::at says; query_weight [m].
struct ScoreLane {
    float *scores = nullptr;
    float decay = 1.0f;
    const float *query_weight = nullptr;
};

// Keys that are stored before RoPE and turned as they are read, each by the angles of its place.
// The live tokens of a head have places in a row, oldest first, up to that of the newest query.
struct KeyTurns {
    RopeStyle style = RopeStyle::Interleaved;
    Matrix<const float> angles;      // [> last_place, n_rot], by place
    const int32_t *place = nullptr;  // as KvSlots::at says; null: keys are turned
    int32_t last_place = 0;          // of the last query
};

// Attention of m queries over a layer's live slots. A query at position p sees the slots with
// pos <= p and, if window > 0, pos > p - window. Slots are in no particular order. A query always
// sees at least its own slot. Head g of n_heads reads KV head g / (n_heads / n_kv_heads).
struct AttentionArgs {
    Matrix<const float> q;               // [m, n_heads * head_dim], rotated
    Matrix<float> out;                   // [m, n_heads * head_dim]
    const int32_t *query_pos = nullptr;  // [m], ascending
    KvSlots slots;
    const int32_t *pos = nullptr;    // as KvSlots::at says
    const uint32_t *live = nullptr;  // [n_kv_heads]: slots [0, live) are in use
    // With slots.kept, query_pos, live and the lanes' query_weight are not looked at.
    KeyTurns turns;
    size_t n_heads = 0;
    int32_t window = 0;
    float scale = 1.0f;
    std::span<const ScoreLane> lanes;
};

// Queries and keys of new tokens that are to be turned by rope().
struct NewTurns {
    RopeStyle style = RopeStyle::Interleaved;
    Matrix<const float> angles;  // [m, n_rot]
    Matrix<float> q;             // [m, n_heads * head_dim]
    Matrix<float> k;             // [m, n_kv_heads * head_dim]
};

// What a machine can do at most with the threads and the instruction set of one backend, measured.
struct MachinePeaks {
    double read_gb_s = 0;     // 1e9 bytes/s usually read, from far more memory than any cache holds
    double int8_gops = 0;     // 1e9 operations/s of byte dot products, two per multiply-add
    double float_gflops = 0;  // the same of float multiply-adds
    // The same of bfloat16 tiles, 0 without. Where there are some, batches of all types but F32
    // run on them.
    double bfloat16_gflops = 0;
    // 1e9 bytes/s of a copy within the device's own memory, those read and those written; 0 of a
    // device that has none. read_gb_s is the same where there is one.
    double copy_gb_s = 0;
};

// The token that logits make likeliest, the first of equals.
struct Likeliest {
    int32_t id = 0;
    float logprob = 0;      // natural log of its probability
    bool is_finite = true;  // else there is none: a logit is not a number, or the highest infinite
};

// For each KV head, which of the live slots with first_pos <= pos <= last_pos[head] has the lowest
// score, the oldest of equals. At least one slot is in that range.
struct LowestArgs {
    KvSlots slots;
    const float *scores = nullptr;   // as KvSlots::at says
    const int32_t *pos = nullptr;    // the same
    const uint32_t *live = nullptr;  // [n_kv_heads]
    int32_t first_pos = 0;
    const int32_t *last_pos = nullptr;  // [n_kv_heads]
};

// The tokens that leave the heads of a layer, many at once. live [n_kv_heads], before they do;
// budget and n_recent likewise.
struct VictimsArgs {
    KvSlots slots;
    const EvictionConfig *config = nullptr;
    bool guarded = false;  // config->guard counts
    int32_t *pos = nullptr;
    size_t n_lanes = 0;
    float *scores[kMaxScoreLanes] = {};  // as KvSlots::at says
    const uint32_t *live = nullptr;
    const uint32_t *budget = nullptr;
    const int32_t *n_recent = nullptr;
    int32_t newest = 0;  // position of the newest token
};

// Where the live tokens of heads stand one after the other (KeyTurns::place). live [n_kv_heads],
// not looked at with slots.kept.
struct PlacesArgs {
    KvSlots slots;
    const int32_t *pos = nullptr;  // as KvSlots::at says
    const uint32_t *live = nullptr;
    int32_t last_place = 0;    // of the newest
    int32_t *place = nullptr;  // as KvSlots::at says
};

class Backend {
  public:
    virtual ~Backend() = default;

    virtual const char *device() const = 0;  // "cpu"
    virtual const char *isa() const = 0;     // "avx512", "sm_90"
    virtual size_t n_threads() const = 0;

    // Zeroed memory. Throws DeviceError saying how much was wanted for what.
    virtual std::unique_ptr<DeviceMemory> allocate(size_t n_bytes, const char *what) = 0;
    // The same, of memory that the host may read and write while no operation uses it: see wait().
    virtual std::unique_ptr<DeviceMemory> allocate_shared(size_t n_bytes, const char *what) {
        return allocate(n_bytes, what);
    }
    // Makes bytes readable by operations; may keep pointing to them, so they must stay alive.
    virtual std::unique_ptr<DeviceMemory> upload(std::span<const std::byte> bytes) = 0;
    virtual void copy_to_host(void *host, const void *device, size_t n_bytes) = 0;
    virtual void copy_to_device(void *device, const void *host, size_t n_bytes) = 0;
    // The same, without waiting for anything: what is the host's may change at once, and operations
    // asked for later find the copy.
    virtual void put(void *device, const void *host, size_t n_bytes) {
        copy_to_device(device, host, n_bytes);
    }

    // What operations have taken for themselves so far and keep for the next ones.
    virtual size_t scratch_bytes() const = 0;

    // Returns when all operations asked for so far are done. Those of a device with memory of its
    // own may run behind the host's back; what they read or write of shared memory is the host's
    // again after this, or after copy_to_host or lowest.
    virtual void wait() {}

    // What is asked for from here on, until something waits, is a step that is likely to come again
    // with the same arguments: it may be put off until then, and done at one go. Memory that it
    // uses must live until something has waited, or the step is dropped: then it is not done. One
    // that was put off and has failed when it was time fails what follows until it is dropped.
    virtual void begin_pass() {}
    virtual void drop_pass() {}

    // out[i] = scale * table[ids[i]]. out [n_ids, table.cols].
    virtual void embed(const Weight &table, std::span<const int32_t> ids, float scale,
                       Matrix<float> out) = 0;

    // All products of one input; it is prepared (normed or gated, quantised) once for all of them.
    virtual void matmul(const Input &input, std::span<const Product> products) = 0;

    // The product `down` of the hidden layer that `ffn` makes of the input.
    virtual void gated_ffn(const Input &input, const GatedFfn &ffn, const Product &down) = 0;

    // Normalises every run of `width` elements in each row of x (width divides x.cols):
    // y = x / sqrt(mean(x^2) + eps) * weight (+ y). weight [width]. y may be x.
    virtual void rms_norm(Matrix<const float> x, size_t width, const float *weight, float eps,
                          Matrix<float> y, bool accumulate) = 0;

    // angles[i] = cos(pos[i] * frequency[j]) * magnitude for j < n_rot/2, then the sines likewise.
    // frequency [n_rot/2], host memory; angles [n_pos, n_rot].
    virtual void rope_angles(std::span<const int32_t> pos, std::span<const float> frequency,
                             float magnitude, Matrix<float> angles) = 0;

    // Rotates the first n_rot = angles.cols elements of every head_dim-wide head of every row of x.
    virtual void rope(RopeStyle style, size_t head_dim, Matrix<const float> angles,
                      Matrix<float> x) = 0;

    // Whether the device can hand out slots and choose who leaves, so that decoding need not wait
    // for it: KvSlots::kept may then be given, and memory of the host is none of the device's.
    virtual bool keeps_slots() const { return false; }
    // Whether the holes of many tokens are closed when those leave, so that the host knows where
    // the next ones go, or not before the next ones come.
    virtual bool closes_holes_at_once() const { return keeps_slots(); }

    // Stores rows i of k and v [m, n_kv_heads * head_dim] into slot[h * m + i] of head h. With
    // slots.kept m is 1, the slot is the kept one, and the token gets its position and a score of 0
    // there.
    virtual void kv_write(const KvSlots &slots, Matrix<const float> k, Matrix<const float> v,
                          const uint32_t *slot) = 0;

    // rope() of q and k, and kv_write() of k as it is then.
    virtual void turn_and_write(const NewTurns &turns, const KvSlots &slots, Matrix<const float> v,
                                const uint32_t *slot) {
        rope(turns.style, slots.head_dim, turns.angles, turns.q);
        rope(turns.style, slots.head_dim, turns.angles, turns.k);
        kv_write(slots, turns.k, v, slot);
    }

    // Copies K and V of slot `from` over slot `to` within one head.
    virtual void kv_move(const KvSlots &slots, size_t head, uint32_t from, uint32_t to) = 0;

    // Of one text, or of several that go through a layer together.
    virtual void attention(std::span<const AttentionArgs> all) = 0;
    void attention(const AttentionArgs &args) { attention(std::span(&args, 1)); }

    // victim[h]: the position that leaves head h, or kNoVictim where a score is not a number and
    // only the general way can tell. victim [n_kv_heads], host memory.
    static constexpr int32_t kNoVictim = -1;
    virtual void lowest(const LowestArgs &args, int32_t *victim) = 0;

    // After the attention of a token in kept slots: a head that holds more than its budget loses
    // the token that select_victims would choose (evict/select.h), not-a-number first, and the next
    // token will take its slot; in other heads it takes one more.
    virtual void free_slots(const KvSlots &) {}

    // Where the device keeps slots: heads that hold more than their budgets lose the tokens that
    // select_victims would choose, for any ranking but the policy's own; the highest slots then
    // move into the holes, the highest into the lowest, so that slots [0, budget) are in use.
    virtual void evict(const VictimsArgs &) {}

    // Where the device keeps slots: what KeyTurns::place has to say.
    virtual void find_places(const PlacesArgs &) {}

    // Where slots are kept and the next token's is a hole below others, n_holes[h] of 0 or 1: slot
    // live[h] moves there. [n_kv_heads], host memory.
    virtual void close_kept(const VictimsArgs &, const uint32_t *) {}

    // similarity[h][s] = cosine of key s and the mean of head h's live keys (arXiv 2504.15364);
    // 0 where either has no length. live [n_kv_heads]; similarity as KvSlots::at says.
    virtual void key_similarity(const KvSlots &slots, const uint32_t *live, float *similarity) = 0;

    // Whether logits may stay on the device until somebody asks for more than likeliest() tells.
    virtual bool keeps_logits() const { return false; }

    // Of scale * logits, logits [1, n_vocab].
    virtual Likeliest likeliest(Matrix<const float>, float) { return {}; }

    // Takes about a second and up to 1 GiB of memory for the time being.
    virtual MachinePeaks measure_peaks() = 0;

    // Calls body(i) for every i < n on the host, on the backend's threads where it has some. A
    // result must not depend on the thread; the body must not throw.
    template <typename Body>
    void each(size_t n, const Body &body) {
        run_each(
            n, [](const void *context, size_t i) { (*static_cast<const Body *>(context))(i); },
            &body);
    }

  protected:
    using Erased = void (*)(const void *context, size_t i);
    virtual void run_each(size_t n, Erased call, const void *context) = 0;
};

}  // namespace a2sf
