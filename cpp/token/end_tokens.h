// Which tokens end a generation.
#pragma once

#include <cstdint>
#include <vector>

#include "token/vocabulary.h"

namespace a2sf {

// [n_vocab]: the ids that the metadata names (eos, eot, eom) and the tokens that are known by their
// text to end a turn or a document.
std::vector<bool> find_end_tokens(const GgufFile &file, const Vocabulary &vocabulary, int32_t eos);

}  // namespace a2sf
