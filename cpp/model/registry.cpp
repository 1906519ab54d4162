#include "model/registry.h"

#include "base/error.h"

namespace a2sf {

// Each is defined in arch/<name>.cpp.
const Architecture &llama_architecture();
const Architecture &qwen2_architecture();
const Architecture &qwen3_architecture();
const Architecture &gemma3_architecture();
const Architecture &phi3_architecture();

namespace {

std::span<const Architecture *const> all() {
    static const Architecture *const list[] = {
        &llama_architecture(),  &qwen2_architecture(), &qwen3_architecture(),
        &gemma3_architecture(), &phi3_architecture(),
    };
    return list;
}

}  // namespace

std::vector<std::string> architectures() {
    std::vector<std::string> names;
    for (const Architecture *architecture : all()) names.emplace_back(architecture->name);
    return names;
}

const Architecture &find_architecture(std::string_view name) {
    for (const Architecture *architecture : all()) {
        if (name == architecture->name) return *architecture;
    }
    throw UnsupportedError(str(keys::kArchitecture, ": one of ", join(architectures()),
                               " expected, found \"", name, "\""));
}

}  // namespace a2sf
