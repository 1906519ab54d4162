// The lists: policies, weight types, architectures, devices. Read from the registries, so that a
// new entry there shows up here without an edit.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "backend/registry.h"
#include "bindings.h"
#include "convert.h"
#include "evict/registry.h"
#include "model/registry.h"
#include "quant/registry.h"

namespace a2sf::python {

namespace {

std::vector<std::string> policy_names() {
    std::vector<std::string> names;
    for (const Policy *policy : policies()) names.emplace_back(policy->name);
    return names;
}

std::vector<std::string> weight_type_names() {
    std::vector<std::string> names;
    for (const WeightType &type : weight_types()) names.emplace_back(type.name);
    return names;
}

const WeightType &weight_type(const std::string &name) {
    for (const WeightType &type : weight_types()) {
        if (name == type.name) return type;
    }
    throw OptionError(
        str("weight type: one of ", join(weight_type_names()), " expected, found \"", name, "\""));
}

Array1<float> decode_weights(const std::string &type_name, const nb::bytes &blocks) {
    const WeightType &type = weight_type(type_name);
    if (blocks.size() % type.block_bytes != 0) {
        throw OptionError(str(type.name, ": a multiple of ", type.block_bytes,
                              " bytes expected, found ", blocks.size()));
    }
    std::vector<float> out(blocks.size() / type.block_bytes * type.block);
    type.decode(blocks.c_str(), out.data(), out.size());
    return to_array<float>(out);
}

}  // namespace

void bind_registry(nb::module_ &m) {
    m.attr("DEFAULT_BUDGET") = kDefaultBudget;
    m.def("policies", &policy_names, "Names of the eviction policies, in the order of --help.");
    m.def(
        "policy_evicts", [](const std::string &policy) { return find_policy(policy).evicts(); },
        nb::arg("policy"), "Whether a policy ever evicts. OptionError for an unknown one.");
    m.def(
        "policy_preset",
        [](const std::string &policy) {
            const Preset &preset = find_policy(policy).preset;
            nb::dict all;
            all["forgetting_factor"] = preset.forgetting_factor;
            all["memory_share"] = preset.memory_share;
            if (preset.chunk_forgetting_factor > 0) {
                all["chunk_forgetting_factor"] = preset.chunk_forgetting_factor;
            }
            all["fast_forgetting_factor"] = preset.fast_forgetting_factor;
            all["sinks"] = preset.n_sinks;
            all["recent_tokens"] = preset.recent_tokens;
            all["recent_share"] = preset.recent_share;
            all["window"] = preset.window;
            all["pooling"] = preset.pooling;
            all["prefill"] = name_of(preset.prefill);
            all["guard"] = preset.guard;
            all["allocation"] = name_of(preset.division);
            return all;
        },
        nb::arg("policy"),
        nb::sig("def policy_preset(policy: str) -> dict[str, float | int | str]"),
        "What a policy's options are where none are given. OptionError for an unknown one.");
    m.def("weight_types", &weight_type_names, "Names of the GGUF weight types that can be read.");
    m.def("architectures", &architectures, "Names of the model architectures that can be run.");
    m.def("devices", &devices, "Devices usable here, best last.");
    m.def(
        "isa", [] { return std::string(find_backend("cpu").isa()); },
        "Instruction set that the CPU kernels use.");
    m.def("decode_weights", &decode_weights, nb::arg("type"), nb::arg("blocks"),
          "Scalar decode of raw GGUF blocks: float32 [n]. OptionError for a wrong length.");
}

}  // namespace a2sf::python
