// The extension a2sf._core: what the Python package is made of. Users import a2sf, not this.
#include "bindings.h"

NB_MODULE(_core, m) {
    namespace py = a2sf::python;
    m.doc() = "Native part of a2sf. Import a2sf instead.";
    m.attr("VERSION") = a2sf::version();
    py::bind_errors(m);
    py::bind_registry(m);
    py::bind_options(m);
    py::bind_tokenizer(m);
    py::bind_cache(m);
    py::bind_generator(m);
    py::bind_session(m);
    py::bind_engine(m);
}
