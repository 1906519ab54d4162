// The merge loop that both tokenizers share: of all neighbouring pairs that may merge, the one of
// lowest rank goes first, the leftmost of equals. A heap keeps it at n log n for a text of any
// length.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace a2sf {

// A stretch of the text that is one token so far; symbols form a list through prev and next.
struct Symbol {
    uint32_t begin;    // bytes of the text
    uint32_t n_bytes;  // 0 once merged into its left neighbour
    int32_t id;        // what the rank function made it, -1: nothing known
    int32_t prev, next;
};

// What a pair merges into; id < 0: the pair does not merge.
struct Merge {
    uint32_t rank = 0;
    int32_t id = -1;
};

// Symbols of one word and the pairs that wait. Reused between words. Owner: one encode call.
class Merger {
  public:
    void clear() {
        symbols_.clear();
        heap_.clear();
    }

    void add_symbol(uint32_t begin, uint32_t n_bytes, int32_t id) {
        const auto index = static_cast<int32_t>(symbols_.size());
        if (index > 0) symbols_.back().next = index;
        symbols_.push_back({begin, n_bytes, id, index - 1, -1});
    }

    // Merges until nothing merges. rank(left symbol, right symbol) -> Merge.
    template <typename Rank>
    void run(const Rank &rank) {
        for (size_t i = 0; i + 1 < symbols_.size(); ++i) {
            find_pair(static_cast<int32_t>(i), rank);
        }
        std::make_heap(heap_.begin(), heap_.end(), later);
        while (!heap_.empty()) {
            std::pop_heap(heap_.begin(), heap_.end(), later);
            const Pair pair = heap_.back();
            heap_.pop_back();
            const auto left_index = static_cast<int32_t>(pair.rank_and_left & 0xFFFFFFFF);
            Symbol &left = at(left_index);
            // Symbols only grow, to the right: the same total means that neither has changed.
            if (left.n_bytes == 0 || left.next < 0) continue;
            Symbol &right = at(left.next);
            if (left.n_bytes + right.n_bytes != pair.n_bytes) continue;
            left.n_bytes = pair.n_bytes;
            left.id = pair.id;
            left.next = right.next;
            right.n_bytes = 0;
            if (left.next >= 0) at(left.next).prev = left_index;
            for (const int32_t index : {left.prev, left_index}) {
                if (find_pair(index, rank)) std::push_heap(heap_.begin(), heap_.end(), later);
            }
        }
    }

    // Calls visit(symbol) for what is left, in text order.
    template <typename Visit>
    void for_each(const Visit &visit) const {
        for (const Symbol &symbol : symbols_) {
            if (symbol.n_bytes > 0) visit(symbol);
        }
    }

  private:
    struct Pair {
        uint64_t rank_and_left;  // rank << 32 | left symbol: the order of merging
        uint32_t n_bytes;        // of both symbols when the pair was found
        int32_t id;
    };

    static bool later(const Pair &a, const Pair &b) { return a.rank_and_left > b.rank_and_left; }

    Symbol &at(int32_t index) { return symbols_[static_cast<size_t>(index)]; }

    // Appends the pair that symbol `left` opens to the heap's array, if it merges.
    template <typename Rank>
    bool find_pair(int32_t left, const Rank &rank) {
        if (left < 0 || at(left).next < 0) return false;
        const Symbol &first = at(left);
        const Symbol &second = at(first.next);
        const Merge merge = rank(first, second);
        if (merge.id < 0) return false;
        const uint64_t key = static_cast<uint64_t>(merge.rank) << 32 | static_cast<uint32_t>(left);
        heap_.push_back({key, first.n_bytes + second.n_bytes, merge.id});
        return true;
    }

    std::vector<Symbol> symbols_;
    std::vector<Pair> heap_;
};

}  // namespace a2sf
