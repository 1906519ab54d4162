// A loaded model: what it is, its tokenizer, its sessions.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <string>

#include "bindings.h"
#include "convert.h"
#include "py_tokenizer.h"

namespace a2sf::python {

namespace {

Engine load(const std::string &path, const std::string &device) {
    const nb::gil_scoped_release release;
    return Engine::load(path, device);
}

const Config &config(const Engine &engine) {
    return engine.model->config();
}

}  // namespace

void bind_engine(nb::module_ &m) {
    using nb::arg;
    nb::class_<Engine>(m, "Engine", "Native part of a2sf.Engine.")
        .def_static("load", &load, arg("path"), arg("device"))
        .def(
            "session",
            [](const Engine &engine, const SessionOptions &options) {
                return PySession{std::make_shared<SharedSession>(engine, options)};
            },
            arg("options"))
        .def_prop_ro("tokenizer", [](const Engine &e) { return PyTokenizer{e.tokenizer}; })
        .def_prop_ro("architecture", [](const Engine &e) { return to_str(config(e).architecture); })
        .def_prop_ro("name", [](const Engine &e) { return to_str(config(e).name); })
        .def_prop_ro("weight_type", [](const Engine &e) { return e.model->weight_type_name(); })
        .def_prop_ro("device",
                     [](const Engine &e) { return std::string(e.model->device().device); })
        .def_prop_ro("n_params", [](const Engine &e) { return e.model->n_params(); })
        .def_prop_ro("weight_bytes", [](const Engine &e) { return e.model->n_weight_bytes(); })
        .def_prop_ro("weight_bytes_per_token",
                     [](const Engine &e) { return e.model->bytes_per_token(); })
        .def_prop_ro("n_layers", [](const Engine &e) { return config(e).n_layers; })
        .def_prop_ro("n_heads", [](const Engine &e) { return config(e).n_heads; })
        .def_prop_ro("n_kv_heads", [](const Engine &e) { return config(e).n_kv_heads; })
        .def_prop_ro("head_dim", [](const Engine &e) { return config(e).head_dim; })
        .def_prop_ro("dim", [](const Engine &e) { return config(e).dim; })
        .def_prop_ro("hidden_dim", [](const Engine &e) { return config(e).hidden_dim; })
        .def_prop_ro("n_vocab", [](const Engine &e) { return config(e).n_vocab; })
        .def_prop_ro("n_ctx", [](const Engine &e) { return config(e).n_ctx; });
}

}  // namespace a2sf::python
