// The Python object of a tokenizer: its own, or a model's.
#pragma once

#include <memory>

#include "token/tokenizer.h"

namespace a2sf::python {

struct PyTokenizer {
    std::shared_ptr<const Tokenizer> tokenizer;
};

}  // namespace a2sf::python
