// a2sf.Error and its kin. The package moves them from a2sf._core to a2sf, where pickle finds them.
#include <nanobind/stl/string.h>

#include <cstring>
#include <exception>
#include <string>

#include "base/error.h"
#include "bindings.h"

namespace a2sf::python {

namespace {

nb::object new_exception(nb::module_ &m, const char *name, nb::handle bases, const char *doc) {
    const std::string qualified = nb::cast<std::string>(m.attr("__name__")) + "." + name;
    PyObject *type = PyErr_NewExceptionWithDoc(qualified.c_str(), doc, bases.ptr(), nullptr);
    if (!type) throw nb::python_error();
    nb::object result = nb::steal(type);
    m.attr(name) = result;
    return result;
}

// Throws C++ exceptions of type T as the Python type `python_type`, which is never freed. nanobind
// asks the translator registered last first: derived types come after their bases.
template <typename T>
void translate(nb::handle python_type) {
    nb::register_exception_translator(
        [](const std::exception_ptr &thrown, void *type) {
            try {
                std::rethrow_exception(thrown);
            } catch (const T &error) {
                // Not PyErr_SetString: a message may quote bytes of a damaged file.
                PyObject *text = PyUnicode_DecodeUTF8(
                    error.what(), static_cast<Py_ssize_t>(std::strlen(error.what())), "replace");
                if (!text) return;
                PyErr_SetObject(static_cast<PyObject *>(type), text);
                Py_DECREF(text);
            }
        },
        nb::handle(python_type).inc_ref().ptr());
}

}  // namespace

void bind_errors(nb::module_ &m) {
    const nb::object error =
        new_exception(m, "Error", PyExc_Exception, "Base of everything a2sf raises on purpose.");
    const nb::tuple value_bases = nb::make_tuple(error, nb::handle(PyExc_ValueError));
    const nb::object gguf =
        new_exception(m, "GgufError", value_bases, "A GGUF file is damaged or contradicts itself.");
    const nb::object option =
        new_exception(m, "OptionError", value_bases, "An option or argument makes no sense.");
    const nb::object saved = new_exception(m, "SavedSessionError", value_bases,
                                           "A saved session is damaged or belongs elsewhere.");
    const nb::object unsupported = new_exception(
        m, "UnsupportedError", error, "A valid file or request needs what this build has not.");
    const nb::object device =
        new_exception(m, "DeviceError", error, "A device is missing or ran out of memory.");
    translate<Error>(error);
    translate<GgufError>(gguf);
    translate<OptionError>(option);
    translate<SavedSessionError>(saved);
    translate<UnsupportedError>(unsupported);
    translate<DeviceError>(device);
}

}  // namespace a2sf::python
