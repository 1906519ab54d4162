"""What a token costs in bytes and operations: the formulas of docs/cost-model.md, nothing measured.

A token's work is a number of amounts; times the costs of one unit each (`Costs`, fitted by
cost_model.py) it is seconds. Shapes, bits per weight and the sizes of the KV cache are here too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Work = dict[str, float]  # amounts of work of one token, by the name of their cost


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder; `tied` says that the embedding is the output matrix too."""

    n_layers: int
    dim: int
    hidden_dim: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_vocab: int
    tied: bool = True

    @property
    def output_weights(self) -> int:
        return self.n_vocab * self.dim

    def matrices(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of one layer's matrices."""
        q_dim, kv_dim = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        return {
            "attn_q": (q_dim, self.dim),
            "attn_k": (kv_dim, self.dim),
            "attn_v": (kv_dim, self.dim),
            "attn_output": (self.dim, q_dim),
            "ffn_gate": (self.hidden_dim, self.dim),
            "ffn_up": (self.hidden_dim, self.dim),
            "ffn_down": (self.dim, self.hidden_dim),
        }

    @property
    def layer_weights(self) -> int:
        """Weights of all layers' matrices."""
        return self.n_layers * sum(rows * cols for rows, cols in self.matrices().values())

    @property
    def n_params(self) -> int:
        """Parameters of a file of this shape with two norms a layer and no biases."""
        norms = (2 * self.n_layers + 1) * self.dim
        return self.layer_weights + self.output_weights * (1 if self.tied else 2) + norms


SHAPES = {
    "smollm2-135m": Shape(30, 576, 1536, 9, 3, 64, 49152),
    "1b": Shape(16, 2048, 8192, 32, 8, 64, 128256),  # Llama-3.2-1B
    "3b": Shape(28, 3072, 8192, 24, 8, 128, 128256),  # Llama-3.2-3B
    "7b": Shape(32, 4096, 11008, 32, 32, 128, 32000, tied=False),  # Llama-2-7B
    "8b": Shape(32, 4096, 14336, 32, 8, 128, 128256, tied=False),  # Llama-3.1-8B
}
# Bits of a stored weight, scales included: bytes of a GGUF block x 8 / its weights.
BITS = {
    "F32": 32.0, "F16": 16.0, "BF16": 16.0, "Q8_0": 8.5, "Q4_0": 4.5, "Q4_1": 5.0, "Q5_0": 5.5,
    "Q5_1": 6.0, "Q2_K": 2.625, "Q3_K": 3.4375, "Q4_K": 4.5, "Q5_K": 5.5, "Q6_K": 6.5625,
    "IQ4_NL": 4.5, "IQ4_XS": 4.25, "MXFP4": 4.25,
}  # fmt: skip
PLAIN = ("F32", "F16", "BF16")
FALLBACK = {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}  # of rows that 256 does not divide
FILE_TYPES = ("Q4_K_M", *BITS)
KV_BITS = {"f32": 32.0, "f16": 16.0, "q8_0": 8.5}
# Scores that a policy keeps per slot; those not named here keep 1, as a2sf.
LANES = {"full": 0, "streaming": 0, "keydiff": 0, "a2sf": 1, "a2sf-dual": 2}


def use_more_bits(layer: int, n_layers: int) -> bool:
    """llama.cpp's rule for the layers of a Q4_K_M file that keep Q6_K."""
    eighth = n_layers // 8
    return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2


def matrix_bits(name: str, layer: int, shape: Shape, file_type: str) -> float:
    """Bits per weight of one matrix, as llama.cpp's quantiser chooses its type."""
    cols = shape.dim if name == "output" else shape.matrices()[name][1]
    kind = "Q4_K" if file_type == "Q4_K_M" else file_type
    more = name in ("attn_v", "ffn_down") and use_more_bits(layer, shape.n_layers)
    if (name == "output" and kind in ("Q4_0", "Q4_1", "Q4_K")) or (more and file_type == "Q4_K_M"):
        kind = "Q6_K"
    return BITS[FALLBACK.get(kind, kind) if cols % 256 else kind]


def weight_bytes(shape: Shape, file_type: str) -> float:
    """Bytes of weights that decoding one token reads: every layer and the output once."""
    n_bits = shape.output_weights * matrix_bits("output", 0, shape, file_type)
    for layer in range(shape.n_layers):
        for name, (rows, cols) in shape.matrices().items():
            n_bits += rows * cols * matrix_bits(name, layer, shape, file_type)
    return n_bits / 8


def kv_bytes_per_slot(shape: Shape, kv_type: str) -> float:
    """K and V of one token in all layers and heads."""
    return 2 * shape.n_layers * shape.n_kv_heads * shape.head_dim * KV_BITS[kv_type] / 8


def capacity(n_tokens: int, budget: int | None, chunk: int) -> int:
    """Slots per head that a text of n_tokens, read in chunks at once, makes the cache allocate."""
    return n_tokens if budget is None else min(n_tokens, budget + min(n_tokens, chunk))


def cache_bytes(shape: Shape, kv_type: str, n_slots: int, lanes: int) -> float:
    """What Cache::n_bytes reports: K and V, and position, order, hole, scores of every slot."""
    book = 4 * (3 + lanes) * shape.n_layers * shape.n_kv_heads
    return n_slots * (kv_bytes_per_slot(shape, kv_type) + book)


@dataclass(frozen=True)
class Costs:
    """What one unit of each kind of work takes. None: not measured."""

    read: float | None = None  # bytes / bandwidth: 1 / efficiency
    layer: float | None = None  # seconds
    slot: float | None = None  # seconds
    rank: float | None = None  # seconds
    multiply: float | None = None  # seconds per operation
    multiply_float: float | None = None
    attend: float | None = None
    unpack: float | None = None  # seconds per weight


def decode_work(
    shape: Shape, n_bytes: float, kv_type: str, live: float, ranked: float, gb_s: float
) -> Work:
    """One token given `live` slots to attend to; an eviction looks at `ranked` of them (or 0)."""
    kv_bytes = live * kv_bytes_per_slot(shape, kv_type)
    return {
        "read": (n_bytes + kv_bytes) / (gb_s * 1e9),
        "layer": shape.n_layers,
        "slot": live * shape.n_layers * shape.n_heads * shape.head_dim / 64,
        "rank": ranked * shape.n_layers * shape.n_kv_heads,
    }


def prompt_slots(n: int, depth: int, budget: int | None, chunk: int) -> tuple[float, float]:
    """Slots that n tokens after `depth` attend to, and that evictions rank, summed over tokens."""
    attended = ranked = 0.0
    for first in range(depth, depth + n, chunk):
        m = min(chunk, depth + n - first)
        before = first if budget is None else min(first, budget)
        attended += m * (before + (m + 1) / 2)  # a query does not see later ones
        if budget is not None and first + m > budget:
            ranked += before + m
    return attended, ranked


def prompt_work(
    shape: Shape, n: int, depth: int, budget: int | None, chunk: int, *,
    n_bytes: float, plain: bool, gb_s: float,
) -> Work:  # fmt: skip
    """One token of a prompt of n, on average. n_bytes: weights, as for decoding."""
    attended, ranked = prompt_slots(n, depth, budget, chunk)
    n_chunks = math.ceil(n / chunk)
    output = shape.output_weights / (shape.layer_weights + shape.output_weights)
    return {
        "read": n_bytes * output / n / (gb_s * 1e9),  # the logits of the last token
        "layer": shape.n_layers * n_chunks / n,
        "rank": shape.n_layers * shape.n_kv_heads * ranked / n,
        "multiply_float" if plain else "multiply": 2.0 * shape.layer_weights,
        "attend": 4.0 * shape.n_heads * shape.head_dim * shape.n_layers * attended / n,
        "unpack": shape.layer_weights * n_chunks / n,
    }


def time_parts(work: Work, costs: Costs) -> dict[str, float]:
    """Seconds per token of each kind of work."""
    parts = {}
    for name, amount in work.items():
        cost = getattr(costs, name)
        if cost is None and amount > 0:
            raise ValueError(f"{name}: a fitted cost expected, found none")
        parts[name] = amount * (cost or 0.0)
    return parts


def token_work(
    shape: Shape, file_type: str, kv_type: str, depth: int, budget: int | None, gb_s: float
) -> Work:
    """Decoding one token at a depth."""
    live = (depth if budget is None else min(depth, budget)) + 1
    ranked = live if budget is not None and depth >= budget else 0
    return decode_work(shape, weight_bytes(shape, file_type), kv_type, live, ranked, gb_s)
