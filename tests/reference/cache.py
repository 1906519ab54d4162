"""KV cache of one layer: every KV head's slots, attention over them, scores and eviction.

All heads of a layer hold equally many slots at any time (they append together and evict down to
the same budget), so dense arrays do. Slots are stored in order of position; the engine stores them
in any order, which attention cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .policies import Policy, keep_mask, query_weights, resolve_factor

Array = NDArray[Any]
Turn = Callable[[Array, int], Array]  # [heads, n, head_dim] at positions from the given one on
QUERY_BLOCK = 256  # queries per attention tile, to bound memory


class LayerCache:
    """What one layer remembers.

    Attributes
    ----------
    k, v : float [n_kv_heads, capacity, head_dim]
        Keys after RoPE at their original position (before it if `process` gets a `turn`);
        values. Rows >= live are unused.
    pos : int64 [n_kv_heads, capacity]
    scores : float [n_memories, n_kv_heads, capacity]
    guarded : bool
        Whether evictions are those of a prompt's chunks (mode "chunk").
    live : int
        Slots in use in each head.
    n_seen : int
        Tokens appended so far.
    n_evicted : int
        Tokens each head has thrown away.
    min_gap : float
        Smallest relative rank difference any eviction hung on (see policies.keep_mask).
    """

    def __init__(
        self,
        policy: Policy,
        budget: int | None,
        *,
        n_kv_heads: int,
        head_dim: int,
        value_dim: int,
        window: int | None,
        dtype: Any = np.float32,
        guarded: bool = False,
    ) -> None:
        self.policy = replace(
            policy,
            forgetting_factor=resolve_factor(policy, budget),
            chunk_factor=policy.chunk_factor if policy.forgetting_factor is None else None,
        )
        self.guarded = guarded
        self.budget = budget
        self.window = window
        self.k = np.zeros((n_kv_heads, 0, head_dim), dtype)
        self.v = np.zeros((n_kv_heads, 0, value_dim), dtype)
        self.pos = np.zeros((n_kv_heads, 0), np.int64)
        self.scores = np.zeros((policy.n_memories, n_kv_heads, 0), dtype)
        self.live = 0
        self.n_seen = 0
        self.n_evicted = 0
        self.min_gap = math.inf

    def process(
        self, q: Array, k: Array, v: Array, scale: float, *, evict: bool, turn: Turn | None = None
    ) -> Array:
        """Section 2 for a chunk of m queries: append, attend, score, evict.

        Parameters
        ----------
        q : float [n_heads, m, head_dim]
        k, v : float [n_kv_heads, m, head_dim]
        scale : float
            Factor on q.k before the softmax.
        evict : bool
            False while a "full" prompt is still arriving.
        turn
            Compact positions: q and k come before RoPE, and each head's live tokens, the new ones
            last, are rotated as if they stood at places 0, 1, ... (StreamingLLM, arXiv 2309.17453,
            section 3.2). Keys are stored as they came.

        Returns
        -------
        float [m, n_heads * head_dim]
        """
        self._append(k, v)
        if turn is None:
            out = self._attend(q, self.k[:, : self.live], scale)
        else:
            first = self.live - q.shape[1]
            out = self._attend(turn(q, first), turn(self.k[:, : self.live], 0), scale)
        if evict:
            self.evict()
        return out

    def _append(self, k: Array, v: Array) -> None:
        m = k.shape[1]
        if self.live + m > self.k.shape[1]:
            extra = max(m, self.k.shape[1])
            wide = [(0, 0), (0, extra)]
            self.k = np.pad(self.k, [*wide, (0, 0)])
            self.v = np.pad(self.v, [*wide, (0, 0)])
            self.pos = np.pad(self.pos, wide)
            self.scores = np.pad(self.scores, [(0, 0), *wide])
        new = slice(self.live, self.live + m)
        self.k[:, new], self.v[:, new] = k, v
        self.pos[:, new] = np.arange(self.n_seen, self.n_seen + m)
        self.scores[:, :, new] = 0
        self.live += m
        self.n_seen += m

    def _attend(self, q: Array, k: Array, scale: float) -> Array:
        """Attention of the newest m tokens over the live slots; updates the scores."""
        n_heads, m, head_dim = q.shape
        n_kv_heads = self.k.shape[0]
        group = n_heads // n_kv_heads
        v = self.v[:, : self.live]
        out = np.empty((n_kv_heads, group, m, v.shape[2]), q.dtype)
        decay, weights = query_weights(self.policy, m)
        seen = np.zeros_like(self.scores[:, :, : self.live])
        for start in range(0, m, QUERY_BLOCK):
            stop = min(start + QUERY_BLOCK, m)
            block = q[:, start:stop].reshape(n_kv_heads, group * (stop - start), head_dim)
            p = self._softmax(block @ k.transpose(0, 2, 1) * q.dtype.type(scale), m, start, stop)
            out[:, :, start:stop] = (p @ v).reshape(n_kv_heads, group, stop - start, -1)
            if self.policy.observes:  # sum over the group, then over the queries with their weights
                by_query = p.reshape(n_kv_heads, group, stop - start, self.live).sum(axis=1)
                rows = weights[:, start:stop].astype(q.dtype)
                seen += (rows[None] @ by_query).transpose(1, 0, 2)
        if self.policy.observes:
            old = self.scores[:, :, : self.live]
            old[...] = decay[:, None, None].astype(q.dtype) * old + seen
        return np.asarray(out.transpose(2, 0, 1, 3).reshape(m, -1))

    def _softmax(self, logits: Array, m: int, start: int, stop: int) -> Array:
        """Softmax over the slots a query may see: pos <= its own, and > its own - window.

        logits : [n_kv_heads, group * (stop - start), live], overwritten and returned.
        """
        n_kv_heads = logits.shape[0]
        q_pos = np.arange(self.n_seen - m + start, self.n_seen - m + stop)[None, :, None]
        pos = self.pos[:, None, : self.live]
        hidden = pos > q_pos
        if self.window is not None:
            hidden |= pos <= q_pos - self.window
        p = logits.reshape(n_kv_heads, -1, stop - start, self.live)
        np.copyto(p, -np.inf, where=hidden[:, None])
        p -= p.max(axis=-1, keepdims=True)
        np.exp(p, out=p)
        p /= p.sum(axis=-1, keepdims=True)
        return p.reshape(logits.shape)

    def evict(self) -> None:
        """One eviction round, down to the budget."""
        if self.budget is None or self.policy.kind == "none" or self.live <= self.budget:
            return
        n_kv_heads, live = self.pos.shape[0], slice(0, self.live)
        keep, gap = keep_mask(
            self.policy,
            self.pos[:, live],
            self.scores[:, :, live],
            n_seen=self.n_seen,
            budget=self.budget,
            keys=self.k[:, live],
            guarded=self.guarded,
        )
        n_kept, kept = self.budget, slice(0, self.budget)
        self.k[:, kept] = self.k[:, live][keep].reshape(n_kv_heads, n_kept, -1)
        self.v[:, kept] = self.v[:, live][keep].reshape(n_kv_heads, n_kept, -1)
        self.pos[:, kept] = self.pos[:, live][keep].reshape(n_kv_heads, n_kept)
        for score in self.scores:
            score[:, kept] = score[:, live][keep].reshape(n_kv_heads, n_kept)
        self.n_evicted += self.live - n_kept
        self.min_gap = min(self.min_gap, gap)
        self.live = n_kept
