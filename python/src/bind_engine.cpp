// A loaded model: what it is, its tokenizer, its sessions.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "bindings.h"
#include "convert.h"
#include "engine/saved_session.h"
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

// The session, and the ids and the note that were saved with it.
std::tuple<PySession, Array1<int32_t>, nb::str> load_saved(const Engine &engine,
                                                           const std::string &path,
                                                           std::optional<size_t> n_threads,
                                                           const EvictionOptions *eviction) {
    SavedSession saved;
    {
        const nb::gil_scoped_release release;
        saved = load_session(engine.model, path, n_threads.value_or(0), eviction);
    }
    return {PySession{std::make_shared<SharedSession>(engine, std::move(saved.session))},
            to_array<int32_t>(saved.ids), to_str(saved.note)};
}

}  // namespace

void bind_engine(nb::module_ &m) {
    using nb::arg;
    nb::class_<PyWorkspace>(m, "Workspace", "Threads and activations that sessions share.");
    nb::class_<Engine>(m, "Engine", "Native part of a2sf.Engine.")
        .def_static("load", &load, arg("path"), arg("device"))
        .def(
            "session",
            [](const Engine &engine, const SessionOptions &options, const PyWorkspace *shared) {
                const PyWorkspace own = shared != nullptr ? *shared : PyWorkspace{};
                auto session = std::make_unique<Session>(engine.model, options, own.work);
                return PySession{
                    std::make_shared<SharedSession>(engine, std::move(session), own.busy)};
            },
            arg("options"), arg("workspace").none() = nb::none())
        .def(
            "workspace",
            [](const Engine &engine, const SessionOptions &options, size_t most) {
                return PyWorkspace{make_workspace(*engine.model, options, most)};
            },
            arg("options"), arg("most"))
        .def("load_session", &load_saved, arg("path"), arg("n_threads").none(),
             arg("eviction").none())
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
