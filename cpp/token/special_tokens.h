// Finds special tokens written out in a text, before anything else looks at the text.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "token/vocabulary.h"

namespace a2sf {

// Searches for all special tokens at once: an Aho-Corasick automaton over the reversed texts, so
// that reading a text backwards gives, at each position, the longest special token that starts
// there. Time is linear in the text whatever the tokens are. Owner: Tokenizer::State.
class SpecialTokens {
  public:
    explicit SpecialTokens(const Vocabulary &vocabulary);

    struct Match {
        uint32_t begin, end;  // bytes of the text
        int32_t id;
    };

    // The matches in text order, not overlapping: leftmost first, the longest of those that start
    // at one place. UserDefined tokens always count; Control and Unknown ones with parse_special.
    // llama.cpp takes the longest token anywhere first; only where two special tokens overlap in
    // part does that differ.
    std::vector<Match> find(std::string_view text, bool parse_special) const;

  private:
    // Nodes are prefixes of reversed token texts; 0 is the empty one. A node's children are a list.
    struct Node {
        int32_t first_child = -1, next_sibling = -1;
        int32_t fail = 0;                   // the longest proper suffix that is a node
        int32_t longest = -1;               // id of the longest token that ends here
        int32_t longest_user_defined = -1;  // the same among UserDefined tokens
        uint8_t byte = 0;                   // the edge from the parent
    };

    int32_t child(int32_t node, uint8_t byte) const;
    int32_t next(int32_t node, uint8_t byte) const;
    void add(int32_t id);
    void link();

    const Vocabulary &vocabulary_;
    std::vector<Node> nodes_;
    std::vector<int32_t> root_children_;  // [256], -1: none
};

}  // namespace a2sf
