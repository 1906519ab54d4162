// What the command line and Python both need to get going: a model, its tokenizer, a device.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "engine/generate.h"
#include "engine/session.h"
#include "model/model.h"
#include "token/tokenizer.h"

namespace a2sf {

// Owner: the command line or the Python Engine. Const, shared by sessions.
struct Engine {
    std::shared_ptr<const Model> model;
    std::shared_ptr<const Tokenizer> tokenizer;

    static Engine load(const std::string &path, std::string_view device = "auto");
};

// Default for a path that the user left out: $A2SF_MODEL, else the bundled model next to the
// program or the package. Throws Error naming the places that were searched.
std::string bundled_model_path();

KvType parse_kv_type(std::string_view text);  // OptionError lists the known ones
const char *version();

}  // namespace a2sf
