// Options: Python's keyword arguments become the library's structures, which validate themselves.
// The rules live there and nowhere else.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "convert.h"
#include "evict/eviction_file.h"

namespace a2sf::python {

namespace {

constexpr size_t kMaxThreads = 1024;
constexpr size_t kMaxBatch = 65536;

EvictionOptions make_eviction(nb::handle policy, nb::handle budget, nb::handle forgetting_factor,
                              nb::handle sinks, nb::handle recent, nb::handle window,
                              nb::handle scope, nb::handle pooling, nb::handle prefill,
                              nb::handle positions, nb::handle pinned, nb::handle guard,
                              nb::handle division, std::vector<float> allocation) {
    EvictionOptions options;
    options.policy = to_text(policy, "policy");
    options.budget = to_amount(budget, "budget");
    options.recent = to_amount(recent, "recent");
    if (!forgetting_factor.is_none()) {
        options.forgetting_factor = to_number(forgetting_factor, "forgetting_factor");
    }
    if (!sinks.is_none()) options.sinks = to_count(sinks, "sinks");
    if (!window.is_none()) options.window = to_count(window, "window");
    if (!scope.is_none()) options.scope = parse_scope(to_text(scope, "scope"));
    if (!pooling.is_none()) options.pooling = to_count(pooling, "pooling");
    if (!prefill.is_none()) options.prefill = parse_prompt_mode(to_text(prefill, "prefill"));
    if (!positions.is_none()) {
        options.positions = parse_positions(to_text(positions, "positions"));
    }
    options.pinned = to_ranges(pinned, "pinned");
    if (!guard.is_none()) options.guard = to_number(guard, "guard");
    if (!division.is_none()) options.division = parse_division(to_text(division, "allocation"));
    options.allocation = std::move(allocation);
    options.validate();
    return options;
}

// As (first, end).
std::vector<std::pair<size_t, size_t>> to_pairs(const std::vector<PositionRange> &ranges) {
    std::vector<std::pair<size_t, size_t>> pairs;
    for (const PositionRange &range : ranges) pairs.emplace_back(range.first, range.last);
    return pairs;
}

nb::object to_python(const std::optional<Amount> &amount) {
    if (!amount) return nb::none();
    if (amount->tokens) return nb::int_(*amount->tokens);
    return nb::float_(*amount->share);
}

// Arguments of a2sf.Eviction that make the same options.
nb::dict given_options(const EvictionOptions &options) {
    nb::dict given;
    const auto set = [&](const char *name, nb::object value) {
        if (!value.is_none()) given[name] = value;
    };
    const auto count = [](const std::optional<size_t> &value) -> nb::object {
        return value ? nb::object(nb::int_(*value)) : nb::none();
    };
    const auto name = [](const auto &value) -> nb::object {
        return value ? nb::object(nb::str(name_of(*value))) : nb::none();
    };
    set("policy", nb::str(options.policy.c_str()));
    set("budget", to_python(options.budget));
    if (options.forgetting_factor) set("forgetting_factor", nb::float_(*options.forgetting_factor));
    set("sinks", count(options.sinks));
    set("recent", to_python(options.recent));
    set("window", count(options.window));
    set("scope", name(options.scope));
    set("pooling", count(options.pooling));
    set("prefill", name(options.prefill));
    set("positions", name(options.positions));
    if (!options.pinned.empty()) set("pinned", nb::cast(to_pairs(options.pinned)));
    if (options.guard) set("guard", nb::float_(*options.guard));
    if (options.division) set("allocation", nb::str(name_of(*options.division)));
    if (!options.allocation.empty()) set("allocation", nb::cast(options.allocation));
    return given;
}

SamplingOptions make_sampling(nb::handle temperature, nb::handle top_k, nb::handle top_p,
                              nb::handle min_p, nb::handle repeat_penalty, nb::handle repeat_window,
                              nb::handle seed) {
    SamplingOptions options;
    options.temperature = static_cast<float>(to_number(temperature, "temperature"));
    options.top_k = to_count(top_k, "top_k");
    options.top_p = static_cast<float>(to_number(top_p, "top_p"));
    options.min_p = static_cast<float>(to_number(min_p, "min_p"));
    options.repeat_penalty = static_cast<float>(to_number(repeat_penalty, "repeat_penalty"));
    options.repeat_window = to_count(repeat_window, "repeat_window", 0, INT32_MAX);
    options.seed = to_seed(seed);
    options.validate();
    return options;
}

SessionOptions make_session(const EvictionOptions &eviction, nb::handle kv_type, nb::handle threads,
                            nb::handle batch) {
    SessionOptions options;
    options.eviction = eviction;
    options.kv_type = parse_kv_type(to_text(kv_type, "kv_type"));
    options.n_threads = threads.is_none() ? 0 : to_count(threads, "threads", 1, kMaxThreads);
    options.batch = to_count(batch, "batch", 1, kMaxBatch);
    return options;
}

GenerateOptions make_generate(nb::handle max_tokens, const SamplingOptions &sampling,
                              std::vector<std::string> stop) {
    GenerateOptions options;
    options.max_tokens = to_count(max_tokens, "max_tokens");
    options.sampling = sampling;
    options.stop = std::move(stop);
    options.validate();
    return options;
}

// nb::init needs a constructor; these structures are made by the functions above.
template <typename T, typename... Args>
auto make_with(T (*make)(Args...)) {
    return [make](T *self, Args... args) { new (self) T(make(std::forward<Args>(args)...)); };
}

}  // namespace

void bind_options(nb::module_ &m) {
    using nb::arg;
    nb::class_<EvictionOptions>(m, "EvictionOptions", "A validated a2sf.Eviction.")
        .def("__init__", make_with(&make_eviction), arg("policy").none(), arg("budget").none(),
             arg("forgetting_factor").none(), arg("sinks").none(), arg("recent").none(),
             arg("window").none(), arg("scope").none(), arg("pooling").none(),
             arg("prefill").none(), arg("positions").none(), arg("pinned") = nb::none(),
             arg("guard") = nb::none(), arg("division") = nb::none(),
             arg("allocation") = std::vector<float>())
        .def_prop_ro("pinned",
                     [](const EvictionOptions &options) { return to_pairs(options.pinned); })
        .def_prop_ro("options", &given_options, nb::sig("def options(self) -> dict[str, object]"),
                     "What was given, by name.")
        .def("text", &eviction_file, arg("note"), "The options as an eviction file.")
        .def_static("parse", &parse_eviction_file, arg("text"), "Reads an eviction file.");
    m.def(
        "parse_ranges", [](const std::string &text) { return to_pairs(parse_ranges(text)); },
        arg("text"), "Pairs (first, end) of a command line's --pinned. OptionError for others.");
    nb::class_<SamplingOptions>(m, "SamplingOptions", "A validated a2sf.Sampling.")
        .def("__init__", make_with(&make_sampling), arg("temperature").none(), arg("top_k").none(),
             arg("top_p").none(), arg("min_p").none(), arg("repeat_penalty").none(),
             arg("repeat_window").none(), arg("seed").none());
    nb::class_<SessionOptions>(m, "SessionOptions", "What a session is made with.")
        .def("__init__", make_with(&make_session), arg("eviction"), arg("kv_type").none(),
             arg("threads").none(), arg("batch").none());
    nb::class_<GenerateOptions>(m, "GenerateOptions", "What a generation is made with.")
        .def("__init__", make_with(&make_generate), arg("max_tokens").none(), arg("sampling"),
             arg("stop"));
}

}  // namespace a2sf::python
