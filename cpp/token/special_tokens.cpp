// Building and running the automaton. See special_tokens.h.
// Source: Aho and Corasick, "Efficient string matching", 1975.
#include "token/special_tokens.h"

#include <algorithm>

#include "base/error.h"

namespace a2sf {

SpecialTokens::SpecialTokens(const Vocabulary &vocabulary)
    : vocabulary_(vocabulary), nodes_(1), root_children_(256, -1) {
    for (size_t i = 0; i < vocabulary.size(); ++i) {
        const auto id = static_cast<int32_t>(i);
        if (vocabulary.is_hidden(id) || vocabulary.type(id) == TokenType::UserDefined) add(id);
    }
    link();
}

int32_t SpecialTokens::child(int32_t node, uint8_t byte) const {
    if (node == 0) return root_children_[byte];
    int32_t found = nodes_[static_cast<size_t>(node)].first_child;
    while (found >= 0 && nodes_[static_cast<size_t>(found)].byte != byte) {
        found = nodes_[static_cast<size_t>(found)].next_sibling;
    }
    return found;
}

int32_t SpecialTokens::next(int32_t node, uint8_t byte) const {
    for (;;) {
        const int32_t to = child(node, byte);
        if (to >= 0) return to;
        if (node == 0) return 0;
        node = nodes_[static_cast<size_t>(node)].fail;
    }
}

void SpecialTokens::add(int32_t id) {
    const std::string_view text = vocabulary_.text(id);
    if (text.empty()) return;
    if (nodes_.size() + text.size() > INT32_MAX) {
        throw GgufError("tokenizer.ggml.tokens: special tokens under 2 GiB expected, found more");
    }
    int32_t node = 0;
    for (auto at = text.rbegin(); at != text.rend(); ++at) {
        const auto byte = static_cast<uint8_t>(*at);
        int32_t to = child(node, byte);
        if (to < 0) {
            to = static_cast<int32_t>(nodes_.size());
            Node made;
            made.byte = byte;
            Node &parent = nodes_[static_cast<size_t>(node)];
            made.next_sibling = parent.first_child;
            parent.first_child = to;
            if (node == 0) root_children_[byte] = to;
            nodes_.push_back(made);
        }
        node = to;
    }
    Node &end = nodes_[static_cast<size_t>(node)];
    end.longest = id;
    if (vocabulary_.type(id) == TokenType::UserDefined) end.longest_user_defined = id;
}

void SpecialTokens::link() {
    std::vector<int32_t> queue = {0};  // breadth first: a node's fail link is shorter, so linked
    for (size_t at = 0; at < queue.size(); ++at) {
        const int32_t parent = queue[at];
        int32_t node = nodes_[static_cast<size_t>(parent)].first_child;
        for (; node >= 0; node = nodes_[static_cast<size_t>(node)].next_sibling) {
            Node &here = nodes_[static_cast<size_t>(node)];
            if (parent != 0) here.fail = next(nodes_[static_cast<size_t>(parent)].fail, here.byte);
            const Node &shorter = nodes_[static_cast<size_t>(here.fail)];
            if (here.longest < 0) here.longest = shorter.longest;
            if (here.longest_user_defined < 0) {
                here.longest_user_defined = shorter.longest_user_defined;
            }
            queue.push_back(node);
        }
    }
}

std::vector<SpecialTokens::Match> SpecialTokens::find(std::string_view text,
                                                      bool parse_special) const {
    std::vector<Match> starts;  // one for each position where a token starts, last position first
    if (nodes_.size() == 1) return starts;
    int32_t node = 0;
    for (size_t pos = text.size(); pos-- > 0;) {
        node = next(node, static_cast<uint8_t>(text[pos]));
        const Node &here = nodes_[static_cast<size_t>(node)];
        const int32_t id = parse_special ? here.longest : here.longest_user_defined;
        if (id < 0) continue;
        starts.push_back({static_cast<uint32_t>(pos),
                          static_cast<uint32_t>(pos + vocabulary_.text(id).size()), id});
    }
    std::reverse(starts.begin(), starts.end());
    size_t n_kept = 0;
    uint32_t free_from = 0;
    for (const Match &match : starts) {
        if (match.begin < free_from) continue;
        starts[n_kept++] = match;
        free_from = match.end;
    }
    starts.resize(n_kept);
    return starts;
}

}  // namespace a2sf
