// The two forms of `a2sf inspect`: text for people, JSON for programs.
#include <algorithm>
#include <limits>
#include <type_traits>
#include <variant>

#include "base/error.h"
#include "cli/inspection.h"
#include "cli/terminal.h"

namespace a2sf::cli {
namespace {

constexpr size_t kShownItems = 8;  // of a metadata array

std::string padded(std::string text, size_t width) {
    text.resize(std::max(width, text.size()), ' ');
    return text;
}

std::string right(const std::string &text, size_t width) {
    return std::string(width > text.size() ? width - text.size() : 0, ' ') + text;
}

std::string row(const std::string &name, const std::string &content) {
    return "  " + padded(name, 17) + content + '\n';
}

// Text from the file, safe for a terminal.
std::string safe(std::string_view text) {
    return printable(text, std::numeric_limits<size_t>::max());
}

std::string file_text(const Inspection &seen) {
    const GgufFile &file = seen.file;
    return "File\n" + row("path", safe(file.name())) +
           row("size", str(human_bytes(file.n_bytes()), " (", grouped(file.n_bytes()), " bytes)")) +
           row("format", str("GGUF version ", file.version(), ", ", file.metadata().size(),
                             " metadata keys, ", file.tensors().size(), " tensors"));
}

std::string architecture_text(const Inspection &seen) {
    std::string text = "\nArchitecture\n";
    text += row("architecture", seen.architecture.empty() ? "unknown" : safe(seen.architecture));
    if (!seen.name.empty()) text += row("name", safe(seen.name));
    for (const auto &[name, value] : seen.numbers) text += row(name, grouped(value));
    return text + row("runs here", seen.unsupported.empty() ? "yes" : "no: " + seen.unsupported);
}

std::string token_text(const Tokenizer &tokenizer, int32_t id) {
    if (id < 0) return "none";
    return str(id, " ", safe(tokenizer.token_text(id)));
}

std::string tokenizer_text(const Inspection &seen) {
    std::string text = "\nTokenizer\n";
    if (!seen.tokenizer) return text + row("readable", "no: " + seen.no_tokenizer);
    const Tokenizer &tokenizer = *seen.tokenizer;
    text += row("model", safe(tokenizer.model()));
    const std::string &pre = tokenizer.pre_tokenizer();
    text += row("pre-tokenizer", pre.empty() ? "none" : safe(pre));
    text += row("n_vocab", grouped(tokenizer.n_vocab()));
    text += row("bos", token_text(tokenizer, tokenizer.bos()) +
                           (tokenizer.adds_bos() ? ", put before a text" : ""));
    text += row("eos", token_text(tokenizer, tokenizer.eos()) +
                           (tokenizer.adds_eos() ? ", put after a text" : ""));
    text += row("unknown", token_text(tokenizer, tokenizer.unknown()));
    std::vector<std::string> ends;
    for (const int32_t id : seen.end_ids) ends.push_back(token_text(tokenizer, id));
    text += row("ends a text", ends.empty() ? "none" : join(ends));
    text += row("chat template", tokenizer.chat_template().empty() ? "no" : "yes");
    for (const std::string &warning : tokenizer.warnings()) text += row("warning", warning);
    return text;
}

std::string weights_text(const Inspection &seen) {
    if (seen.types.empty()) return "\nWeights\n" + row("tensors", "none");
    std::string text = "\nWeights\n";
    const auto line = [&](const std::string &name, size_t n_tensors, size_t n_params,
                          size_t n_bytes) {
        text += "  " + padded(name, 10) + right(grouped(n_tensors), 8) +
                right(grouped(n_params), 17) + right(human_bytes(n_bytes), 12) + '\n';
    };
    text += "  " + padded("type", 10) + right("tensors", 8) + right("parameters", 17) +
            right("size", 12) + '\n';
    for (const TypeShare &share : seen.types) {
        line(share.type->name, share.n_tensors, share.n_params, share.n_bytes);
    }
    line("all", seen.file.tensors().size(), seen.n_params, seen.n_weight_bytes);
    return text;
}

std::string kv_text(const Inspection &seen) {
    if (seen.kv.empty()) return {};
    const uint64_t *n_ctx = seen.number("n_ctx");
    std::string text = "\nKV cache: K and V of all layers\n  " + padded("--kv-type", 10) +
                       right("one token", 13) + right(str("budget of ", grouped(seen.budget)), 20);
    if (n_ctx != nullptr) text += right(str("full context, ", grouped(*n_ctx)), 24);
    text += '\n';
    for (const KvSize &size : seen.kv) {
        text += "  " + padded(name_of(size.type), 10) +
                right(grouped(size.bytes_per_token) + " B", 13) +
                right(human_bytes(size.bytes_budget), 20);
        if (n_ctx != nullptr) text += right(human_bytes(size.bytes_context), 24);
        text += '\n';
    }
    return text;
}

std::string value_text(const GgufValue &value, bool show_all) {
    if (!show_all) return value.to_string(kShownItems);
    if (const auto *text = std::get_if<std::string_view>(&value.data)) {
        return '"' + safe(*text) + '"';
    }
    return value.to_string(std::numeric_limits<size_t>::max());
}

std::string metadata_text(const Inspection &seen, bool show_all) {
    std::string text = "\nMetadata\n";
    for (const auto &[key, value] : seen.file.metadata()) {
        text +=
            "  " + safe(key) + " (" + value.type_name + ") = " + value_text(value, show_all) + '\n';
    }
    return text;
}

std::string tensors_text(const Inspection &seen) {
    std::string text = "\nTensors\n";
    size_t widest = 0;
    for (const TensorInfo &tensor : seen.file.tensors()) {
        widest = std::max(widest, tensor.name.size());
    }
    for (const TensorInfo &tensor : seen.file.tensors()) {
        text += "  " + padded(tensor.name, widest + 2) + padded(tensor.type->name, 8) +
                padded(tensor.shape_text(), 22) + right(human_bytes(tensor.data.size()), 12) + '\n';
    }
    return text;
}

// One metadata value. Long arrays are cut unless show_all: {"n": 49152, "first": [...]}.
struct ValueWriter {
    JsonWriter &json;
    bool show_all;

    template <typename T>
    void operator()(const T &value) const {
        if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string_view>) {
            json.value(value);
        } else {
            const bool whole = show_all || value.size() <= kShownItems;
            if (!whole) json.begin_object().field("n", value.size()).key("first");
            json.begin_array();
            const size_t n = whole ? value.size() : kShownItems;
            for (size_t i = 0; i < n; ++i) {
                json.value(static_cast<typename T::value_type>(value[i]));
            }
            json.end_array();
            if (!whole) json.end_object();
        }
    }
};

void write_id(JsonWriter &json, const char *name, int32_t id) {
    json.key(name);
    id < 0 ? json.null() : json.value(id);
}

void write_tokenizer(JsonWriter &json, const Inspection &seen) {
    json.key("tokenizer").begin_object();
    if (seen.tokenizer) {
        const Tokenizer &tokenizer = *seen.tokenizer;
        json.field("model", tokenizer.model());
        json.field("pre_tokenizer", tokenizer.pre_tokenizer());
        json.field("n_vocab", tokenizer.n_vocab());
        write_id(json, "bos", tokenizer.bos());
        write_id(json, "eos", tokenizer.eos());
        write_id(json, "unknown", tokenizer.unknown());
        json.field("adds_bos", tokenizer.adds_bos());
        json.field("adds_eos", tokenizer.adds_eos());
        json.list("end_ids", seen.end_ids);
        json.field("chat_template", !tokenizer.chat_template().empty());
        json.list("warnings", tokenizer.warnings());
    } else {
        json.field("unreadable", seen.no_tokenizer);
    }
    json.end_object();
}

void write_weights(JsonWriter &json, const Inspection &seen) {
    json.field("n_params", seen.n_params);
    json.field("weight_bytes", seen.n_weight_bytes);
    json.key("weight_types").begin_array();
    for (const TypeShare &share : seen.types) {
        json.begin_object().field("type", share.type->name).field("n_tensors", share.n_tensors);
        json.field("n_params", share.n_params).field("n_bytes", share.n_bytes).end_object();
    }
    json.end_array();
    json.key("kv").begin_array();
    for (const KvSize &size : seen.kv) {
        json.begin_object().field("kv_type", name_of(size.type));
        json.field("bytes_per_token", size.bytes_per_token);
        json.field("budget", seen.budget).field("bytes_budget", size.bytes_budget);
        json.field("bytes_context", size.bytes_context).end_object();
    }
    json.end_array();
}

void write_tensors(JsonWriter &json, const Inspection &seen) {
    json.key("tensors").begin_array();
    for (const TensorInfo &tensor : seen.file.tensors()) {
        json.begin_object().field("name", tensor.name).field("type", tensor.type->name);
        json.list("shape", tensor.shape);
        json.field("offset", tensor.offset).field("n_bytes", tensor.data.size()).end_object();
    }
    json.end_array();
}

}  // namespace

std::string inspection_text(const Inspection &seen, bool show_all, bool show_tensors) {
    std::string text = file_text(seen) + architecture_text(seen) + tokenizer_text(seen) +
                       weights_text(seen) + kv_text(seen) + metadata_text(seen, show_all);
    if (show_tensors) text += tensors_text(seen);
    return text;
}

std::string inspection_json(const Inspection &seen, bool show_all, bool show_tensors) {
    JsonWriter json;
    json.begin_object();
    json.field("path", seen.file.name()).field("n_bytes", seen.file.n_bytes());
    json.field("gguf_version", seen.file.version());
    json.field("n_tensors", seen.file.tensors().size());
    json.field("supported", seen.unsupported.empty());
    json.key("unsupported");
    seen.unsupported.empty() ? json.null() : json.value(seen.unsupported);
    json.field("architecture", seen.architecture).field("name", seen.name);
    for (const auto &[name, value] : seen.numbers) json.field(name, value);
    write_tokenizer(json, seen);
    write_weights(json, seen);
    json.key("metadata").begin_object();
    for (const auto &[key, value] : seen.file.metadata()) {
        json.key(key);
        std::visit(ValueWriter{json, show_all}, value.data);
    }
    json.end_object();
    if (show_tensors) write_tensors(json, seen);
    json.end_object();
    return json.text() + "\n";
}

}  // namespace a2sf::cli
