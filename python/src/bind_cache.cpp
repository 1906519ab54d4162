// A look into a session's KV cache, for statistics, tests and plots. Everything returned is a copy.
#include <nanobind/stl/optional.h>

#include <optional>
#include <vector>

#include "bindings.h"
#include "convert.h"

namespace a2sf::python {

namespace {

size_t to_layer(const Cache &cache, nb::handle layer) {
    return to_count(layer, "layer", 0, cache.shape().n_layers - 1);
}

size_t to_head(const Cache &cache, nb::handle head) {
    return to_count(head, "head", 0, cache.shape().n_kv_heads - 1);
}

Array1<int32_t> positions(const PyCache &self, nb::handle layer, nb::handle head) {
    const Lease lease(*self.shared);
    const Cache &cache = self.shared->session.cache();
    return to_array<int32_t>(cache.positions(to_layer(cache, layer), to_head(cache, head)));
}

Array1<float> scores(const PyCache &self, nb::handle layer, nb::handle head) {
    const Lease lease(*self.shared);
    const Cache &cache = self.shared->session.cache();
    return to_array<float>(cache.scores(to_layer(cache, layer), to_head(cache, head)));
}

// What `get` says of each layer and head.
template <typename Get>
Array2<int32_t> by_head(const Cache &cache, const Get &get) {
    const size_t n_layers = cache.shape().n_layers;
    const size_t n_heads = cache.shape().n_kv_heads;
    int32_t *data = new int32_t[n_layers * n_heads];
    nb::capsule owner(data, [](void *p) noexcept { delete[] static_cast<int32_t *>(p); });
    for (size_t layer = 0; layer < n_layers; ++layer) {
        for (size_t head = 0; head < n_heads; ++head) {
            data[layer * n_heads + head] = static_cast<int32_t>(get(layer, head));
        }
    }
    return Array2<int32_t>(data, {n_layers, n_heads}, owner);
}

Array2<int32_t> live(const PyCache &self) {
    const Lease lease(*self.shared);
    const Cache &cache = self.shared->session.cache();
    return by_head(cache, [&](size_t layer, size_t head) { return cache.live(layer, head); });
}

Array2<int32_t> budgets(const PyCache &self) {
    const Lease lease(*self.shared);
    const Cache &cache = self.shared->session.cache();
    return by_head(cache, [&](size_t layer, size_t head) { return cache.budget(layer, head); });
}

// A property: what `get` finds in the cache while nobody else uses the session.
template <typename Get>
auto reading(Get get) {
    return [get](const PyCache &self) {
        const Lease lease(*self.shared);
        return get(self.shared->session);
    };
}

std::optional<size_t> budget(const Session &session) {
    const EvictionConfig &config = session.cache().config();
    return config.evicts() ? std::optional<size_t>(config.budget) : std::nullopt;
}

constexpr const char *kClassDoc = R"(What a session's KV cache holds, head by head.

A live view: it follows the session. Every array is a copy.)";

constexpr const char *kPositionsDoc = R"(Positions in the text that a head still holds.

Parameters
----------
layer : int
    0 to n_layers - 1.
head : int
    KV head, 0 to n_kv_heads - 1.

Returns
-------
int32 [live], ascending.

Raises
------
OptionError
    There is no such layer or head.)";

constexpr const char *kScoresDoc =
    R"(Attention that the tokens of `positions(layer, head)` have accumulated.

For a2sf-dual the slow score. Zeros for policies that do not look at attention.

Parameters
----------
layer : int
    0 to n_layers - 1.
head : int
    KV head, 0 to n_kv_heads - 1.

Returns
-------
float32 [live], in the order of `positions`.

Raises
------
OptionError
    There is no such layer or head.)";

}  // namespace

void bind_cache(nb::module_ &m) {
    using nb::arg;
    nb::class_<PyCache>(m, "Cache", kClassDoc)
        .def("positions", &positions, arg("layer").none(), arg("head").none(), kPositionsDoc)
        .def("scores", &scores, arg("layer").none(), arg("head").none(), kScoresDoc)
        .def_prop_ro("live", &live, nb::rv_policy::automatic,
                     "Tokens held by each head: int32 [n_layers, n_kv_heads].")
        .def_prop_ro("n_layers",
                     reading([](const Session &s) { return s.cache().shape().n_layers; }),
                     "Layers, each with a cache of its own.")
        .def_prop_ro("n_kv_heads",
                     reading([](const Session &s) { return s.cache().shape().n_kv_heads; }),
                     "KV heads of each layer.")
        .def_prop_ro("budget", reading(&budget),
                     "Most tokens a head holds after a step, in the mean over heads; None for a "
                     "full cache, and while a budget given as a share waits for the first prompt.")
        .def_prop_ro(
            "budgets", &budgets, nb::rv_policy::automatic,
            "The same of each head: int32 [n_layers, n_kv_heads], 0 for a full cache. With "
            "allocation \"auto\" all the same until something has to be evicted.")
        .def_prop_ro("n_tokens", reading([](const Session &s) { return s.n_tokens(); }),
                     "Tokens seen so far, evicted ones included.")
        .def_prop_ro("bytes", reading([](const Session &s) { return s.cache().n_bytes(); }),
                     "Memory the cache has allocated, in bytes.")
        .def_prop_ro("bytes_full",
                     reading([](const Session &s) { return s.cache().n_bytes_full(s.n_tokens()); }),
                     "Bytes that K and V of all tokens seen would take.")
        .def_prop_ro("n_evicted", reading([](const Session &s) { return s.cache().n_evicted(); }),
                     "Evictions so far, counted once per token and head.");
}

}  // namespace a2sf::python
