// The tokenizer. Text crosses over as UTF-8 bytes; the package turns str into them and back.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <vector>

#include "bindings.h"
#include "convert.h"
#include "gguf/file.h"
#include "py_tokenizer.h"
#include "token/chat_template.h"

namespace a2sf::python {

namespace {

PyTokenizer open(const std::string &path) {
    const nb::gil_scoped_release release;
    return {std::make_shared<const Tokenizer>(GgufFile::open(path))};
}

std::vector<int32_t> encode(const PyTokenizer &self, const nb::bytes &text, bool special,
                            std::optional<bool> bos, bool continues_text) {
    const std::string_view view(text.c_str(), text.size());
    const nb::gil_scoped_release release;
    return self.tokenizer->encode(view, {special, bos, continues_text});
}

nb::str decode(const PyTokenizer &self, const IdsArg &ids, bool special) {
    std::string text;
    {
        const nb::gil_scoped_release release;
        text = self.tokenizer->decode(as_span(ids), special);
    }
    return to_str(text);
}

// A conversation as `a2sf chat` writes it: messages and answers in turn, up to the next answer.
nb::str chat_text(const std::string &jinja, std::optional<std::string> name, const std::string &bos,
                  const std::string &eos, std::optional<std::string> system,
                  const std::vector<std::string> &turns) {
    const ChatFormat format(jinja, name, bos, eos);
    std::string text = format.opening(system);
    for (size_t i = 0; i < turns.size(); ++i) {
        const bool answer = i % 2 == 1;
        text += answer ? format.answer(turns[i]) + format.close() + format.open_message()
                       : format.message(turns[i]);
    }
    return to_str(text);
}

std::optional<int32_t> known(int32_t id) {
    return id < 0 ? std::nullopt : std::optional<int32_t>(id);
}

nb::str entry(const PyTokenizer &self, int32_t id) {
    return to_str(self.tokenizer->token_text(id));
}

}  // namespace

void bind_tokenizer(nb::module_ &m) {
    using nb::arg;
    m.def("chat_text", &chat_text, arg("template"), arg("name").none(), arg("bos"), arg("eos"),
          arg("system").none(), arg("turns"), "A conversation in the form of a known template.");
    nb::class_<PyTokenizer>(m, "Tokenizer", "Native part of a2sf.Tokenizer.")
        .def_static("open", &open, arg("path"))
        .def("encode", &encode, arg("text"), arg("special"), arg("bos").none(),
             arg("continues_text") = false)
        .def("decode", &decode, arg("ids").noconvert(), arg("special"))
        .def("entry", &entry, arg("id"))
        .def(
            "is_end", [](const PyTokenizer &t, int32_t id) { return t.tokenizer->is_end(id); },
            arg("id"))
        .def_prop_ro("n_vocab", [](const PyTokenizer &t) { return t.tokenizer->n_vocab(); })
        .def_prop_ro("bos", [](const PyTokenizer &t) { return known(t.tokenizer->bos()); })
        .def_prop_ro("eos", [](const PyTokenizer &t) { return known(t.tokenizer->eos()); })
        .def_prop_ro("adds_bos", [](const PyTokenizer &t) { return t.tokenizer->adds_bos(); })
        .def_prop_ro("model", [](const PyTokenizer &t) { return t.tokenizer->model(); })
        .def_prop_ro("pre_tokenizer",
                     [](const PyTokenizer &t) { return t.tokenizer->pre_tokenizer(); })
        .def_prop_ro("chat_template",
                     [](const PyTokenizer &t) { return to_str(t.tokenizer->chat_template()); })
        .def_prop_ro("warnings", [](const PyTokenizer &t) { return t.tokenizer->warnings(); });
}

}  // namespace a2sf::python
