"""Float32 NumPy decoder for GGUF models, with an optional eviction policy on its KV cache.

>>> model = Model("llama-F32.gguf")
>>> model.logits(ids)                                        # full cache, float32 [n, n_vocab]
>>> run = model.run(ids, PRESETS["a2sf"], budget=32, mode="token")
>>> run.logits, run.kept[layer][head], run.scores[layer][head]

Weights are dequantised by the gguf package; keys and values are stored as computed (float32,
after RoPE). No tokenizer, no sampling, no MoE.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from numpy.typing import NDArray

from .cache import LayerCache
from .config import Config, read_config, rope_frequencies
from .policies import PRESETS, Mode, Policy, resolve_budget, validate

Array = NDArray[Any]
DEFAULT_CHUNK = 512  # the engine's --batch


@dataclass(frozen=True)
class Run:
    """Outcome of `Model.run`.

    Attributes
    ----------
    logits : float32 [n, n_vocab]
    kept : list[list[list[int]]]
        [layer][kv head] -> positions still in the cache, ascending.
    scores : list[list[float array [live]]]
        [layer][kv head] -> score of each of those (the slow one for a2sf-dual; 0 for policies that
        do not look at attention).
    min_gap : float
        Smallest relative difference of ranks that an eviction hung on; below about 1e-4 a float32
        implementation may legitimately keep another token.
    """

    logits: Array
    kept: list[list[list[int]]]
    scores: list[list[Array]]
    min_gap: float


class Model:
    """A decoder read from a GGUF file; constant after construction but for `kept` and `scores`.

    Parameters
    ----------
    path
        GGUF file.
    n_ctx
        Context the model is to be used with; only decides between longrope's short and long
        factors (long when above the original context). Default: the metadata's context length.
    dtype
        Of weights, activations, keys, values and scores: float32, or float64 to tell rounding
        from error.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, n_ctx: int | None = None, dtype: Any = np.float32
    ) -> None:
        reader = GGUFReader(path)
        self.config: Config = read_config(reader)
        self.dtype = np.dtype(dtype)
        self.weights: dict[str, Array] = {
            t.name: np.ascontiguousarray(dequantize(t.data, t.tensor_type), dtype=self.dtype)
            for t in reader.tensors
        }
        factors = self._rope_factors(self.config.context if n_ctx is None else n_ctx)
        self._rope = [
            rope_frequencies(self.config, layer, factors) for layer in range(self.config.n_layers)
        ]
        self.kept: list[list[list[int]]] = []
        self.scores: list[list[Array]] = []

    def _rope_factors(self, n_ctx: int) -> Array | None:
        """Divisors of the rotary frequencies: Llama 3's `rope_freqs`, or Phi 3's longrope."""
        is_long = n_ctx > self.config.scaling.original_context
        longrope = f"rope_factors_{'long' if is_long else 'short'}.weight"
        return self.weights.get("rope_freqs.weight", self.weights.get(longrope))

    def session(
        self,
        policy: Policy | None = None,
        budget: int | None = None,
        *,
        mode: Mode | None = None,
        chunk: int = DEFAULT_CHUNK,
        compact: bool = False,
    ) -> Session:
        """An empty cache to feed tokens to."""
        return Session(self, policy, budget, mode=mode, chunk=chunk, compact=compact)

    def run(
        self,
        ids: Sequence[int],
        policy: Policy | None = None,
        budget: int | str | None = None,
        chunks: Sequence[int] | None = None,
        mode: Mode | None = None,
        n_prompt: int | None = None,
    ) -> Run:
        """Feed a prompt and then decode given tokens one at a time.

        Parameters
        ----------
        ids
            Token ids, used as they are.
        policy
            None keeps everything.
        budget
            Slots per (layer, KV head), or "R%" of the prompt; None keeps everything.
        chunks
            Lengths of the prompt's pieces (their sum is `n_prompt`); default 512 each.
        mode
            How the prompt is processed; default the policy's own.
        n_prompt
            How many of `ids` are the prompt; the rest is decoded, one token a step. Default all.
        """
        n = len(ids) if n_prompt is None else n_prompt
        session = self.session(policy, resolve_budget(budget, n), mode=mode)
        pieces = list(chunks) if chunks is not None else session.pieces(n)
        if sum(pieces) != n:
            raise ValueError(f"chunks: sum {n} expected, found {sum(pieces)}")
        rows, start = [], 0
        for piece in pieces:
            last = start + piece == n
            rows.append(session.step(ids[start : start + piece], end_of_prompt=last))
            start += piece
        rows += [session.step([token]) for token in ids[n:]]
        hidden = np.concatenate(rows)
        return Run(self.project(hidden), session.kept, session.scores, session.min_gap)

    def logits(
        self,
        ids: Sequence[int],
        policy: Policy | None = None,
        budget: int | str | None = None,
        chunks: Sequence[int] | None = None,
        mode: Mode | None = None,
        n_prompt: int | None = None,
    ) -> Array:
        """`run(...)`'s logits; leaves its `kept` and `scores` on the model."""
        result = self.run(ids, policy, budget, chunks, mode, n_prompt)
        self.kept, self.scores = result.kept, result.scores
        return result.logits

    def project(self, hidden: Array) -> Array:
        """Logits of final hidden states: [n, dim] -> float32 [n, n_vocab]; tied if no output."""
        name = "output" if "output.weight" in self.weights else "token_embd"
        return self.linear(hidden, name).astype(np.float32)

    def linear(self, x: Array, name: str) -> Array:
        """x W^T, plus the bias if the file has one: [n, in] -> [n, out]."""
        y = x @ self.weights[f"{name}.weight"].T
        bias = self.weights.get(f"{name}.bias")
        return np.asarray(y if bias is None else y + bias)

    def norm(self, x: Array, name: str) -> Array:
        """RMSNorm over the last axis, Zhang and Sennrich, arXiv 1910.07467.

        x / sqrt(mean(x^2) + eps) * weight; gemma3's 1 + weight is already in the file. Without
        such a weight in the file, x itself.
        """
        weight = self.weights.get(f"{name}.weight")
        if weight is None:
            return x
        mean = np.mean(x.astype(np.float64) ** 2, axis=-1, keepdims=True)
        return np.asarray((x / np.sqrt(mean + self.config.norm_eps)).astype(self.dtype) * weight)

    def rope(self, x: Array, layer: int, first_pos: int) -> Array:
        """Rotate queries or keys at positions first_pos, first_pos + 1, ...

        x : [n, heads, head_dim]; only the first rope_dim components turn.
        """
        frequencies, magnitude = self._rope[layer]
        pos = np.arange(first_pos, first_pos + len(x), dtype=np.float64)
        angle = pos[:, None] * frequencies[None, :]
        cos = (np.cos(angle) * magnitude).astype(self.dtype)[:, None, :]
        sin = (np.sin(angle) * magnitude).astype(self.dtype)[:, None, :]
        half = self.config.rope_dim // 2
        first, second = slice(0, half), slice(half, 2 * half)
        if self.config.interleaved_rope:
            first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
        out = x.copy()
        out[..., first] = x[..., first] * cos - x[..., second] * sin
        out[..., second] = x[..., first] * sin + x[..., second] * cos
        return np.asarray(out)

    def qkv(self, x: Array, layer: int, first_pos: int | None) -> tuple[Array, Array, Array]:
        """Queries, keys and values of a chunk, head first: [heads, m, head_dim].

        Without a position q and k are not rotated.
        """
        c, blk = self.config, f"blk.{layer}."
        if f"{blk}attn_qkv.weight" in self.weights:  # phi3: q, k and v stacked in one matrix
            stacked = self.linear(x, f"{blk}attn_qkv")
            ends = [c.n_heads * c.head_dim, (c.n_heads + c.n_kv_heads) * c.head_dim]
            q, k, v = np.split(stacked, ends, axis=1)
        else:
            q, k, v = (self.linear(x, f"{blk}attn_{part}") for part in "qkv")
        q = self.norm(q.reshape(-1, c.n_heads, c.head_dim), f"{blk}attn_q_norm")
        k = self.norm(k.reshape(-1, c.n_kv_heads, c.head_dim), f"{blk}attn_k_norm")
        v = v.reshape(-1, c.n_kv_heads, c.value_dim)
        if first_pos is not None:
            q, k = self.rope(q, layer, first_pos), self.rope(k, layer, first_pos)
        return q.transpose(1, 0, 2), k.transpose(1, 0, 2), v.transpose(1, 0, 2)

    def feed_forward(self, x: Array, layer: int) -> Array:
        """Gated feed-forward: down(act(gate) * up), [m, dim] -> [m, dim]."""
        blk = f"blk.{layer}."
        up = self.linear(x, f"{blk}ffn_up")
        if f"{blk}ffn_gate.weight" in self.weights:
            gate = self.linear(x, f"{blk}ffn_gate")
        else:  # phi3: gate and up stacked in one matrix, gate first
            gate, up = np.split(up, 2, axis=1)
        act = gelu_tanh(gate) if self.config.gelu else silu(gate)
        return self.linear(act * up, f"{blk}ffn_down")


class Session:
    """The caches of one sequence.

    Parameters
    ----------
    mode
        "token": attention walks the queries one by one and evicts after each. "chunk": evict
        once per chunk. "full": evict once, at the end of the prompt. After the prompt every
        step evicts.
    compact
        RoPE sees each head's live tokens at places 0, 1, ... instead of their positions.
    """

    def __init__(
        self,
        model: Model,
        policy: Policy | None = None,
        budget: int | None = None,
        *,
        mode: Mode | None = None,
        chunk: int = DEFAULT_CHUNK,
        compact: bool = False,
    ) -> None:
        self.model = model
        self.compact = compact
        self.policy = PRESETS["full"] if policy is None else policy
        validate(self.policy, budget)
        self.mode: Mode = self.policy.prefill if mode is None else mode
        self.chunk = chunk
        self.n_tokens = 0
        c = model.config
        self.caches = [
            LayerCache(
                self.policy,
                budget,
                n_kv_heads=c.n_kv_heads,
                head_dim=c.head_dim,
                value_dim=c.value_dim,
                window=c.windows[layer],
                dtype=model.dtype,
                guarded=self.mode == "chunk",
            )
            for layer in range(c.n_layers)
        ]

    def pieces(self, n: int) -> list[int]:
        """Lengths a prompt of n tokens is cut into: `chunk` each, the rest last."""
        return [min(self.chunk, n - start) for start in range(0, n, self.chunk)]

    def feed(self, ids: Sequence[int]) -> Array:
        """Process a whole prompt: final hidden states, [n, dim] (see Model.project)."""
        rows, start = [], 0
        for piece in self.pieces(len(ids)):
            last = start + piece == len(ids)
            rows.append(self.step(ids[start : start + piece], end_of_prompt=last))
            start += piece
        return np.concatenate(rows)

    def step(self, ids: Sequence[int], *, end_of_prompt: bool = True) -> Array:
        """Process one chunk (one token while decoding); returns final hidden states [m, dim].

        THE forward pass. In "full" mode eviction waits for `end_of_prompt`.
        """
        model, c = self.model, self.model.config
        x = model.weights["token_embd.weight"][np.asarray(ids)] * model.dtype.type(
            c.embedding_scale
        )
        for layer in range(c.n_layers):
            blk = f"blk.{layer}."
            first_pos = None if self.compact else self.n_tokens
            q, k, v = model.qkv(model.norm(x, f"{blk}attn_norm"), layer, first_pos)
            attended = model.linear(
                self._attention(layer, q, k, v, end_of_prompt), f"{blk}attn_output"
            )
            x = x + model.norm(attended, f"{blk}post_attention_norm")
            ff = model.feed_forward(model.norm(x, f"{blk}ffn_norm"), layer)
            x = x + model.norm(ff, f"{blk}post_ffw_norm")
        self.n_tokens += len(ids)
        return model.norm(x, "output_norm")

    def _attention(self, layer: int, q: Array, k: Array, v: Array, end_of_prompt: bool) -> Array:
        cache, scale = self.caches[layer], self.model.config.attention_scale
        m = q.shape[1]
        width = 1 if self.mode == "token" and self.policy.kind != "none" else m
        evict = self.mode != "full" or end_of_prompt

        def turn(heads: Array, first: int) -> Array:
            return self.model.rope(heads.transpose(1, 0, 2), layer, first).transpose(1, 0, 2)

        rows = []
        for i in range(0, m, width):
            part = slice(i, i + width)
            rows.append(
                cache.process(
                    q[:, part],
                    k[:, part],
                    v[:, part],
                    scale,
                    evict=evict,
                    turn=turn if self.compact else None,
                )
            )
        return np.concatenate(rows)

    @property
    def kept(self) -> list[list[list[int]]]:
        """[layer][kv head] -> ascending positions still held."""
        return [[row[: c.live].tolist() for row in c.pos] for c in self.caches]

    @property
    def scores(self) -> list[list[Array]]:
        """[layer][kv head] -> score of each position held."""
        return [[row[: c.live].copy() for row in c.scores[0]] for c in self.caches]

    @property
    def min_gap(self) -> float:
        """Closest call of any eviction so far (see Run.min_gap)."""
        return min(c.min_gap for c in self.caches)


def silu(x: Array) -> Array:
    """x * sigmoid(x); Ramachandran et al., arXiv 1710.05941."""
    return np.asarray(x * (0.5 + 0.5 * np.tanh(0.5 * x)))


def gelu_tanh(x: Array) -> Array:
    """Hendrycks and Gimpel, arXiv 1606.08415: .5 x (1 + tanh(sqrt(2 / pi) (x + .044715 x^3)))."""
    inner = x.dtype.type(np.sqrt(2.0 / np.pi)) * (x + x.dtype.type(0.044715) * x * x * x)
    return np.asarray(x * (0.5 + 0.5 * np.tanh(inner)))
