// The generation loop, one token a call, and what came of it.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "bindings.h"
#include "convert.h"
#include "interrupt.h"

namespace a2sf::python {

namespace {

// A generation and the session it keeps alive. It can only go on while nothing else has used the
// session in between.
class PyGenerator {
  public:
    using Item = std::tuple<int32_t, nb::str, float>;  // id, text, logprob

    PyGenerator(const PySession &session, const GenerateOptions &options)
        : shared_(session.shared),
          generator_(shared_->session, *shared_->engine.tokenizer, options) {}

    void start(const IdsArg &ids, nb::handle progress) {
        const Lease lease(*shared_);
        n_uses_ = ++shared_->n_uses;
        run_interruptible(progress,
                          [&](const Progress &ask) { generator_.start(as_span(ids), ask); });
    }

    // Reads a chunk of the prompt; true when all of it has been read.
    bool start_chunk(const IdsArg &ids) {
        const Lease lease(*shared_);
        if (n_uses_ == 0) n_uses_ = ++shared_->n_uses;
        check_undisturbed();
        const nb::gil_scoped_release release;
        return generator_.start_chunk(as_span(ids));
    }

    // next() of each, together; they share a workspace.
    static std::vector<std::optional<Item>> next_each(const std::vector<PyGenerator *> &all) {
        std::vector<std::optional<Item>> items(all.size());
        if (all.empty()) return items;
        const Lease lease(*all[0]->shared_);
        std::vector<Generator *> generators;
        for (PyGenerator *own : all) {
            if (own->shared_->busy != all[0]->shared_->busy) {
                throw OptionError("generators: all of one workspace expected, found another's");
            }
            own->check_undisturbed();
            generators.push_back(&own->generator_);
        }
        const auto more = std::make_unique<bool[]>(all.size());
        std::vector<GeneratedToken> tokens(all.size());
        {
            const nb::gil_scoped_release release;
            Generator::next_each(generators, {more.get(), all.size()}, tokens);
        }
        for (size_t i = 0; i < all.size(); ++i) {
            if (more[i]) items[i] = to_item(tokens[i]);
        }
        return items;
    }

    // (id, text, logprob), or nothing at the end.
    std::optional<Item> next() {
        const Lease lease(*shared_);
        check_undisturbed();
        GeneratedToken token;
        bool more = false;
        {
            const nb::gil_scoped_release release;
            more = generator_.next(token);
        }
        if (!more) return std::nullopt;
        return to_item(token);
    }

    // Lets the session go on after the last token, which is generated but not read: reads it, if
    // the context still has room.
    void settle() {
        const Lease lease(*shared_);
        check_undisturbed();
        const nb::gil_scoped_release release;
        generator_.settle();
    }

    bool holds_text() const { return generator_.holds_text(); }
    nb::str rest() { return to_str(generator_.rest()); }
    const Generation &result() const { return generator_.result(); }

  private:
    static Item to_item(const GeneratedToken &token) {
        return {token.id, to_str(token.text), token.logprob};
    }
    void check_undisturbed() const {
        if (n_uses_ == shared_->n_uses) return;
        throw Error(
            "stream: a session that nothing else uses until the end expected, found one that was "
            "fed or reset since the last token");
    }

    std::shared_ptr<SharedSession> shared_;
    Generator generator_;
    uint64_t n_uses_ = 0;
};

}  // namespace

void bind_generator(nb::module_ &m) {
    using nb::arg;
    nb::class_<Stats>(m, "Stats", "Native part of a2sf.Stats.")
        .def_ro("n_prompt", &Stats::n_prompt)
        .def_ro("n_generated", &Stats::n_generated)
        .def_ro("prompt_s", &Stats::prompt_s)
        .def_ro("decode_s", &Stats::decode_s)
        .def_ro("kv_bytes", &Stats::kv_bytes)
        .def_ro("kv_bytes_full", &Stats::kv_bytes_full)
        .def_ro("n_evicted", &Stats::n_evicted)
        .def_ro("n_live", &Stats::n_live)
        .def_ro("budget", &Stats::budget);
    nb::class_<Generation>(m, "Generation", "Native part of a2sf.Generation.")
        .def_prop_ro("text", [](const Generation &g) { return to_str(g.text); })
        .def_ro("ids", &Generation::ids)
        .def_ro("logprobs", &Generation::logprobs)
        .def_prop_ro("finish_reason",
                     [](const Generation &g) { return std::string(name_of(g.finish_reason)); })
        .def_ro("stats", &Generation::stats);
    nb::class_<PyGenerator>(m, "Generator", "A generation in progress.")
        .def(nb::init<const PySession &, const GenerateOptions &>(), arg("session"), arg("options"))
        .def("start", &PyGenerator::start, arg("ids").noconvert(), arg("progress").none())
        .def("start_chunk", &PyGenerator::start_chunk, arg("ids").noconvert())
        .def_static("next_each", &PyGenerator::next_each, arg("generators"))
        .def("next", &PyGenerator::next)
        .def("settle", &PyGenerator::settle)
        .def_prop_ro("holds_text", &PyGenerator::holds_text)
        .def("rest", &PyGenerator::rest)
        .def_prop_ro("result", [](const PyGenerator &g) { return Generation(g.result()); });
}

}  // namespace a2sf::python
