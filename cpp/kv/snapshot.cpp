// The cache as bytes: what of Cache is saved and loaded.
//
// Per cache: n_evicted (u64), then each head's live and n_holes (u32 both), layer by layer; then
// per head the slots of its live tokens and of its holes (u32 each), and of the live ones, in the
// order of slots: positions (i32), each lane's scores (f32), K rows, V rows. Holes hold nothing.
#include <algorithm>
#include <cstring>
#include <vector>

#include "kv/cache.h"

namespace a2sf {

namespace {

// Calls body(i, slot) for the live slots of a head in ascending order, i from 0.
template <typename Body>
void each_live(std::span<const uint32_t> holes, size_t top, const Body &body) {
    std::vector<bool> hole(top, false);
    for (const uint32_t slot : holes) hole[slot] = true;
    size_t i = 0;
    for (size_t slot = 0; slot < top; ++slot) {
        if (!hole[slot]) body(i++, slot);
    }
}

}  // namespace

void Cache::save(ByteWriter &out) const {
    recall_all();
    out.put<uint64_t>(n_evicted_);
    size_t most = 0;
    for (const Head &head : heads_) {
        out.put(head.live);
        out.put(head.n_holes);
        most = std::max<size_t>(most, head.live + head.n_holes);
    }
    std::vector<std::byte> rows(most * kv_row_bytes(shape_.type, shape_.head_dim));
    for (size_t index = 0; index < heads_.size(); ++index) save_head(index, out, rows);
}

void Cache::save_head(size_t index, ByteWriter &out, std::span<std::byte> rows) const {
    const Head &head = heads_[index];
    const size_t top = head.live + head.n_holes, base = first_[index];
    const size_t layer = index / shape_.n_kv_heads, within = index % shape_.n_kv_heads;
    if (top == 0) return;
    const std::span<const uint32_t> holes(holes_.data() + base, head.n_holes);
    out.put_all(std::span<const uint32_t>(order_.data() + base, head.live));
    out.put_all(holes);
    each_live(holes, top, [&](size_t, size_t slot) { out.put(pos_.host()[base + slot]); });
    for (size_t lane = 0; lane < n_lanes(); ++lane) {
        const float *scores = score_row(layer, lane, within);
        each_live(holes, top, [&](size_t, size_t slot) { out.put(scores[slot]); });
    }
    const size_t row = kv_row_bytes(shape_.type, shape_.head_dim);
    for (const DeviceMemory *memory : {k_.get(), v_.get()}) {
        const auto *from = static_cast<const std::byte *>(memory->data()) + base * row;
        backend_.copy_to_host(rows.data(), from, top * row);
        each_live(holes, top,
                  [&](size_t, size_t slot) { out.write(rows.subspan(slot * row, row)); });
    }
}

void Cache::load(ByteReader &in, size_t n_tokens) {
    backend_.wait();
    clear();
    n_evicted_ = static_cast<size_t>(in.get<uint64_t>("evicted"));
    // Prompt mode `full` evicts at the end of a prompt, which an interrupted one has not seen.
    const bool bounded = config_.evicts() && config_.prefill != PromptMode::Full;
    const size_t row = kv_row_bytes(shape_.type, shape_.head_dim);
    const size_t per_live = 2 * row + (2 + n_lanes()) * sizeof(uint32_t);
    size_t top = 0, n_bytes = 0;
    std::vector<Head> heads(heads_.size());
    std::vector<size_t> room(heads_.size());
    for (size_t index = 0; index < heads.size(); ++index) {
        Head &head = heads[index];
        const size_t most_live =
            bounded ? std::min(head_budgets_[index].budget, n_tokens) : n_tokens;
        head.live = in.get<uint32_t>("live slots");
        head.n_holes = in.get<uint32_t>("holes");
        if (head.live > most_live) {
            in.fail("live slots: at most ", most_live, " expected, found ", head.live);
        }
        // What is not in the file reserves no memory.
        n_bytes += head.live * per_live + head.n_holes * sizeof(uint32_t);
        if (n_bytes > in.remaining()) {
            in.fail("slots: at most ", in.remaining(), " bytes of them expected, found ", n_bytes);
        }
        const size_t n_slots = size_t{head.live} + head.n_holes;
        top = std::max(top, n_slots);
        room[index] = std::max(n_slots, first_[index + 1] - first_[index]);
    }
    grow(room);
    std::vector<std::byte> rows(top * row);
    for (size_t index = 0; index < heads.size(); ++index) {
        heads_[index] = heads[index];
        load_head(index, in, n_tokens, rows);
        publish(index / shape_.n_kv_heads, index % shape_.n_kv_heads, 0);
    }
}

void Cache::load_head(size_t index, ByteReader &in, size_t n_tokens, std::span<std::byte> rows) {
    const Head &head = heads_[index];
    const size_t top = head.live + head.n_holes, base = first_[index];
    const size_t layer = index / shape_.n_kv_heads, within = index % shape_.n_kv_heads;
    if (top == 0) return;
    const std::span<uint32_t> holes(holes_.data() + base, head.n_holes);
    in.get_all(std::span(order_.data() + base, head.live), "order of slots");
    in.get_all(holes, "holes");
    check_slots(index, in);
    each_live(holes, top, [&](size_t, size_t slot) {
        pos_.host()[base + slot] = in.get<int32_t>("positions");
    });
    check_positions(index, in, n_tokens);
    for (size_t lane = 0; lane < n_lanes(); ++lane) {
        float *scores = score_row(layer, lane, within);
        each_live(holes, top, [&](size_t, size_t slot) { scores[slot] = in.get<float>("scores"); });
    }
    const size_t row = kv_row_bytes(shape_.type, shape_.head_dim);
    for (const DeviceMemory *memory : {k_.get(), v_.get()}) {
        const auto stored = in.take(head.live * row, "keys and values");
        each_live(holes, top, [&](size_t i, size_t slot) {
            std::memcpy(rows.data() + slot * row, stored.data() + i * row, row);
        });
        auto *to = static_cast<std::byte *>(memory->data()) + base * row;
        backend_.copy_to_device(to, rows.data(), top * row);
    }
}

// Every slot is live or a hole, once.
void Cache::check_slots(size_t index, const ByteReader &in) const {
    const Head &head = heads_[index];
    const size_t top = head.live + head.n_holes, base = first_[index];
    std::vector<bool> used(top, false);
    for (size_t i = 0; i < top; ++i) {
        const uint32_t slot = i < head.live ? order_[base + i] : holes_[base + i - head.live];
        if (slot >= top || used[slot]) {
            in.fail("slots: each of ", top, " once expected, found ", slot);
        }
        used[slot] = true;
    }
}

// They rise with age.
void Cache::check_positions(size_t index, const ByteReader &in, size_t n_tokens) const {
    const Head &head = heads_[index];
    const size_t base = first_[index];
    int64_t before = -1;
    for (size_t i = 0; i < head.live; ++i) {
        const int32_t pos = pos_.host()[base + order_[base + i]];
        if (pos <= before || static_cast<size_t>(pos) >= n_tokens) {
            in.fail("positions: rising ones below ", n_tokens, " expected, found ", pos, " after ",
                    before);
        }
        before = pos;
    }
}

}  // namespace a2sf
