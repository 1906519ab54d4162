// A session: tokens in, logits out. Long calls run without the GIL and stop on Ctrl-C.
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <vector>

#include "bindings.h"
#include "convert.h"
#include "engine/perplexity.h"
#include "engine/saved_session.h"
#include "interrupt.h"

namespace a2sf::python {

namespace {

using LogitsArg = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

Array1<float> feed(PySession &self, const IdsArg &ids, nb::handle progress) {
    SharedSession &shared = *self.shared;
    const Lease lease(shared);
    ++shared.n_uses;
    run_interruptible(progress,
                      [&](const Progress &ask) { shared.session.feed(as_span(ids), ask); });
    return to_array<float>(shared.session.logits());
}

// out [n_ids, n_vocab] belongs to the caller, who can so have it mapped or preallocated.
void feed_all(PySession &self, const IdsArg &ids, const LogitsArg &out, nb::handle progress) {
    SharedSession &shared = *self.shared;
    const size_t n_vocab = shared.session.model().config().n_vocab;
    if (out.shape(0) != ids.size() || out.shape(1) != n_vocab) {
        throw OptionError(str("out: shape (", ids.size(), ", ", n_vocab, ") expected, found (",
                              out.shape(0), ", ", out.shape(1), ")"));
    }
    const Lease lease(shared);
    ++shared.n_uses;
    const LogitsSink sink = [&](size_t first, size_t n, const float *logits) {
        std::copy(logits, logits + n * n_vocab, out.data() + first * n_vocab);
    };
    run_interruptible(
        progress, [&](const Progress &ask) { shared.session.feed_all(as_span(ids), sink, ask); });
}

Array1<float> score_ids(PySession &self, const IdsArg &ids, nb::handle progress) {
    SharedSession &shared = *self.shared;
    const Lease lease(shared);
    ++shared.n_uses;
    std::vector<float> scores;
    run_interruptible(
        progress, [&](const Progress &ask) { scores = score(shared.session, as_span(ids), ask); });
    return to_array<float>(scores);
}

void reset(PySession &self) {
    const Lease lease(*self.shared);
    ++self.shared->n_uses;
    self.shared->session.reset();
}

void save(PySession &self, const std::string &path, const IdsArg &ids, const std::string &note) {
    const Lease lease(*self.shared);
    const nb::gil_scoped_release release;
    save_session(self.shared->session, path, as_span(ids), note);
}

PySession fork(PySession &self) {
    const Lease lease(*self.shared);
    std::unique_ptr<Session> copy;
    {
        const nb::gil_scoped_release release;
        copy = self.shared->session.fork();
    }
    return PySession{std::make_shared<SharedSession>(self.shared->engine, std::move(copy))};
}

}  // namespace

void bind_session(nb::module_ &m) {
    using nb::arg;
    nb::class_<PySession>(m, "Session", "Native part of a2sf.Session.")
        .def("feed", &feed, arg("ids").noconvert(), arg("progress").none())
        .def("feed_all", &feed_all, arg("ids").noconvert(), arg("out").noconvert(),
             arg("progress").none())
        .def("score", &score_ids, arg("ids").noconvert(), arg("progress").none())
        .def("reset", &reset)
        .def("save", &save, arg("path"), arg("ids").noconvert(), arg("note"))
        .def("fork", &fork)
        .def_prop_ro("n_tokens",
                     [](const PySession &self) {
                         const Lease lease(*self.shared);
                         return self.shared->session.n_tokens();
                     })
        .def_prop_ro("cache", [](const PySession &self) { return PyCache{self.shared}; });
}

}  // namespace a2sf::python
