"""Eviction policies on plain arrays: what each one scores, ranks, protects and throws away.

Sees positions, scores and (for keydiff) keys of one layer; knows nothing of models. Slots are
kept in order of position, so "the older first" is "the lower slot first".

"section N" below is a section of the project's algorithm note, which restates Jo and Shin,
"A2SF: Accumulative Attention Scoring with Forgetting Factor", arXiv 2407.20485 (2024).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Mode = Literal["token", "chunk", "full"]
Scope = Literal["head", "layer"]
Kind = Literal["none", "attention", "position", "key", "dual"]


@dataclass(frozen=True)
class Policy:
    """One eviction policy with all its options.

    Parameters
    ----------
    name
        Preset it came from.
    kind
        What the rank is made of: "attention" (one decaying score), "dual" (two of them),
        "position", "key", or "none" (never evicts).
    forgetting_factor
        lambda of section 1, in [0, 1]; the slow one for "dual". None: by `resolve_factor`.
    chunk_factor
        lambda between queries that are read together, unless `forgetting_factor` is given; None:
        the same.
    fast_factor
        The fast lambda of "dual"; others ignore it.
    window
        Queries counted by snapkv's box; 0 means the exponential of `forgetting_factor`.
    sinks
        First positions of the sequence, never evicted.
    recent
        Newest positions, never evicted: tokens, or "R%" of the budget (rounded down).
    scope
        "head": each KV head keeps its own tokens. "layer": all keep the same ones.
    pooling
        Width in positions of the maximum taken before ranking; 1 is none. "dual" pools only
        its fast half.
    prefill
        How the prompt is processed unless the caller says otherwise.
    pinned
        Positions never evicted: pairs (first, end), which do not overlap.
    guard
        Of the unprotected slots that the eviction of a chunk leaves, the share that goes to the
        keys least like the head's others (`key_ranks`), each in the mean with the live slots at
        most GUARD_REACH positions away, whatever their rank.
    """

    name: str
    kind: Kind = "attention"
    forgetting_factor: float | None = 1.0
    chunk_factor: float | None = None
    fast_factor: float = 0.9
    window: int = 0
    sinks: int = 0
    recent: int | str = 0
    scope: Scope = "head"
    pooling: int = 1
    prefill: Mode = "chunk"
    pinned: tuple[tuple[int, int], ...] = ()
    guard: float = 0.0

    @property
    def n_memories(self) -> int:
        """Scores kept per slot; the first is always the one of `forgetting_factor`."""
        return 2 if self.kind == "dual" else 1

    @property
    def observes(self) -> bool:
        """Whether attention changes the scores (otherwise they stay 0)."""
        return self.kind in ("attention", "dual")


# Positions on either side that a token of the guard is judged with.
GUARD_REACH = 3
# Means of cosines are told apart ten times as finely as scores, which add up over queries.
COSINE_GAP = 10

# Section 3.
PRESETS: dict[str, Policy] = {
    p.name: p
    for p in (
        Policy("full", "none"),
        Policy(
            "a2sf", forgetting_factor=None, chunk_factor=0.998, sinks=4, recent="25%", guard=0.65
        ),
        Policy("a2sf-paper", forgetting_factor=0.3, prefill="token"),
        Policy("a2sf-dual", "dual", forgetting_factor=0.99, sinks=4, recent="25%", pooling=7),
        Policy("h2o", forgetting_factor=1.0, recent="50%"),
        Policy("tova", forgetting_factor=0.0),
        Policy("streaming", "position", sinks=4),
        Policy("snapkv", window=32, recent=32, pooling=7, prefill="full"),
        Policy("keydiff", "key", sinks=4, recent="25%"),
    )
}


def resolve_budget(budget: int | str | None, prompt_len: int) -> int | None:
    """Slots per (layer, KV head): tokens as given, or "R%" of the prompt, at least 1.

    floor(R / 100 * prompt_len + 0.5), with R * prompt_len computed first so that whole
    percentages are exact (section 6, the rounding of the authors' code).
    """
    if isinstance(budget, str):
        share = float(budget.removesuffix("%"))
        return max(1, math.floor(share * prompt_len / 100 + 0.5))
    return budget


def resolve_factor(policy: Policy, budget: int | None) -> float:
    """Forgetting factor: a2sf remembers 2/5 of the budget in queries, 100 at most."""
    if policy.forgetting_factor is not None:
        return policy.forgetting_factor
    return 0.99 if budget is None else min(0.99, 1 - 1 / max(1.0, 0.4 * budget))


def resolve_recent(policy: Policy, budget: int) -> int:
    """Number of newest positions protected: floor(R * budget / 100) for "R%"."""
    if isinstance(policy.recent, str):
        return math.floor(float(policy.recent.removesuffix("%")) * budget / 100)
    return policy.recent


def validate(policy: Policy, budget: int | None) -> None:
    """Raise ValueError unless the options can be met: sinks + pinned + recent <= budget."""
    if policy.kind == "none" or budget is None:
        return
    recent = resolve_recent(policy, budget)
    first = set(range(policy.sinks)).union(*(range(*pair) for pair in policy.pinned))
    if len(first) + recent > budget:
        raise ValueError(
            f"{policy.name}: sinks + recent <= budget expected, "
            f"found {len(first)} + {recent} and {budget}"
        )


def query_weights(policy: Policy, m: int) -> tuple[Array, Array]:
    """Decay of the old scores and weight of each of m new queries, oldest query first.

    Section 1: A <- lambda^m A + sum_i lambda^(m-1-i) p_i. snapkv's box of `window` queries is not
    a recursion; it is approximated (a divergence from SnapKV, arXiv 2404.14469): a chunk of at
    least `window` queries replaces the score by the sum over its last `window`; a shorter one
    keeps the share 1 - m / window of the old score and adds all m.

    Returns
    -------
    decay : float64 [n_memories]
    weights : float64 [n_memories, m]
    """
    age = np.arange(m - 1, -1, -1)
    if policy.window:
        decay = max(0.0, 1.0 - m / policy.window)
        return np.array([decay]), (age < policy.window).astype(np.float64)[None]
    if policy.forgetting_factor is None:
        raise ValueError("a policy with a forgetting factor expected, see resolve_factor")
    slow = (
        policy.forgetting_factor if policy.chunk_factor is None or m == 1 else policy.chunk_factor
    )
    factors = [slow, policy.fast_factor][: policy.n_memories]
    decays = np.array([f**m for f in factors], dtype=np.float64)
    return decays, np.array([[f**a for a in age.tolist()] for f in factors], dtype=np.float64)


def update_scores(policy: Policy, scores: Array, p: Array) -> Array:
    """Scores after a chunk of m queries.

    Parameters
    ----------
    scores : float [n_memories, n_kv_heads, live]
        Before the chunk; 0 in the slots the chunk has just appended.
    p : float [n_kv_heads, m, live]
        Softmax attention, summed over the query heads of each group.
    """
    if not policy.observes:
        return scores
    decay, weights = query_weights(policy, p.shape[1])
    new = np.einsum("cm,hml->chl", weights.astype(p.dtype), p)
    decayed = decay[:, None, None].astype(scores.dtype) * scores
    return np.asarray((decayed + new).astype(scores.dtype))


def brute_force_scores(p: Array, forgetting_factor: float, n: int | None = None) -> Array:
    """Score by its definition, no recursion: A_n[s] = sum_q lambda^(n-q) sum_g p_g[q, s].

    Parameters
    ----------
    p : float [group, n_queries, n_slots]
        Attention of every query so far, query q at position q, slot s at position s.
    forgetting_factor : float
    n : int, optional
        Position of the newest query counted; default the last.

    Returns
    -------
    float64 [n_slots]
    """
    last = p.shape[1] - 1 if n is None else n
    total = np.zeros(p.shape[2])
    for s in range(p.shape[2]):
        for q in range(s, last + 1):
            age_weight = 1.0 if q == last else forgetting_factor ** (last - q)
            total[s] += age_weight * sum(float(x) for x in p[:, q, s])
    return total


def pool(rank: Array, pos: Array, width: int) -> Array:
    """Maximum over the slots whose positions lie within width // 2 of each slot's own (section 2).

    rank, pos : [live] -> [live]
    """
    if width // 2 == 0:
        return rank
    near = np.abs(pos[:, None] - pos[None, :]) <= width // 2
    return np.asarray(np.where(near, rank[None, :], -np.inf).max(axis=1).astype(rank.dtype))


def _dual_ranks(policy: Policy, pos: Array, scores: Array) -> Array:
    """Section 5: live on a slow memory of one's own, or on a fast one shared by the layer.

    fast[p] = max over |p' - p| <= pooling // 2 of the sum over heads of A_fast[p']
    rank_h[p] = max(fast[p] / sum(unpooled sums), A_h,slow[p] / sum(A_h,slow))

    p' ranges over the union of the heads' positions; all live slots count, protected ones too.
    Scope "layer" (not in the note) sums the slow scores over heads first.
    """
    slow, quick = scores[0], scores[1]
    union = np.unique(pos)
    total = np.zeros(len(union), dtype=quick.dtype)
    for h in range(len(pos)):
        total[np.searchsorted(union, pos[h])] += quick[h]
    fast = pool(total, union, policy.pooling) / total.sum()
    if policy.scope == "layer":
        slow = np.broadcast_to(slow.sum(axis=0), slow.shape)
    own = slow / slow.sum(axis=1, keepdims=True)
    return np.asarray(np.maximum(fast[np.searchsorted(union, pos)], own))


def key_ranks(keys: Array) -> Array:
    """KeyDiff, arXiv 2504.15364: -cosine(key, mean of the head's live keys).

    The mean is of the keys as stored (kvpress averages normalised keys instead).

    keys : [n_kv_heads, live, head_dim] -> [n_kv_heads, live]
    """
    mean = keys.mean(axis=1, keepdims=True)
    dot = (keys * mean).sum(axis=2)
    norms = np.linalg.norm(keys, axis=2) * np.linalg.norm(mean, axis=2)
    return np.asarray(-np.divide(dot, norms, out=np.zeros_like(dot), where=norms > 0))


def ranks(policy: Policy, pos: Array, scores: Array, keys: Array | None = None) -> Array:
    """Rank of every live slot; the lowest goes first.

    Parameters
    ----------
    pos : int [n_kv_heads, live]
        Ascending in each row.
    scores : float [n_memories, n_kv_heads, live]
    keys : float [n_kv_heads, live, head_dim], optional
        Needed by kind "key" only.

    Returns
    -------
    float [n_kv_heads, live], all rows equal for scope "layer".
    """
    if policy.kind == "dual":
        return _dual_ranks(policy, pos, scores)
    if policy.kind == "position":
        rank = pos.astype(scores.dtype)
    elif policy.kind == "key":
        assert keys is not None
        rank = key_ranks(keys)
    else:
        rank = scores[0]
    if policy.scope == "layer":
        one = pool(rank.sum(axis=0), pos[0], policy.pooling)
        return np.broadcast_to(one, rank.shape)
    if policy.pooling // 2 == 0:
        return rank
    return np.stack([pool(rank[h], pos[h], policy.pooling) for h in range(len(pos))])


def protected(policy: Policy, pos: Array, n_seen: int, budget: int) -> Array:
    """Which slots may not go: sinks, pinned, pos >= n_seen - recent. bool, shape of pos."""
    held = (pos < policy.sinks) | (pos >= n_seen - resolve_recent(policy, budget))
    for first, end in policy.pinned:
        held |= (pos >= first) & (pos < end)
    return np.asarray(held)


def edge_gap(rank: Array, n_evict: int) -> float:
    """How close a call it was: relative distance from the last rank evicted to the next one kept.

    Tells a rounding difference from a real one. Exact ties (pooling makes them: neighbours share
    one maximum) are settled by age in any implementation, so then the distance is to the nearest
    different rank on either side.

    rank : [live], inf where protected.
    """
    ordered = np.sort(rank)
    last, kept = ordered[n_evict - 1], ordered[n_evict]
    others = rank[np.isfinite(rank) & ((rank > last) if kept > last else (rank != last))]
    if len(others) == 0:
        return math.inf
    distance = np.abs(others - last) / np.maximum(np.maximum(np.abs(others), abs(last)), 1e-30)
    return float(distance.min())


def keep_mask(
    policy: Policy,
    pos: Array,
    scores: Array,
    *,
    n_seen: int,
    budget: int,
    keys: Array | None = None,
    guarded: bool = False,
) -> tuple[Array, float]:
    """One eviction round: ranks once, then the lowest unprotected slots go, ties older first.

    Parameters
    ----------
    pos, scores, keys
        As for `ranks`.
    n_seen : int
        Tokens of the sequence so far, evicted ones included.
    budget : int
        Slots each head may keep.
    guarded : bool
        Whether this is a chunk's eviction, which the policy's guard is for.

    Returns
    -------
    keep : bool [n_kv_heads, live]
        budget (or all, if fewer) true entries in each row.
    gap : float
        Smallest `edge_gap` over heads; inf if nothing was evicted.
    """
    keep = np.ones(pos.shape, dtype=bool)
    n_evict = pos.shape[1] - budget
    if policy.kind == "none" or n_evict <= 0:
        return keep, math.inf
    rank = np.where(
        protected(policy, pos, n_seen, budget), np.inf, ranks(policy, pos, scores, keys)
    )
    gap = math.inf
    if guarded and policy.guard > 0 and n_evict > 1:
        assert keys is not None
        gap = _guard(policy, pos, rank, keys, n_evict)
    order = np.argsort(rank, axis=1, kind="stable")
    np.put_along_axis(keep, order[:, :n_evict], False, axis=1)
    return keep, min(gap, *(edge_gap(row, n_evict) for row in rank))


def _guard(policy: Policy, pos: Array, rank: Array, keys: Array, n_evict: int) -> float:
    """Lift the slots that the guard keeps to the protected ones' rank, inf.

    Returns how close a call that was: the least distance, COSINE_GAP times over, between one that
    is lifted and one that is left, of those with different neighbours.
    """
    unlike = key_ranks(keys)
    if policy.scope == "layer":
        unlike = np.broadcast_to(unlike.sum(axis=0), unlike.shape)
    gap = math.inf
    for at, row, single in zip(pos, rank, unlike, strict=True):
        near = np.abs(at[:, None] - at[None, :]) <= GUARD_REACH
        own = (near * single).sum(axis=1) / near.sum(axis=1)
        free = np.flatnonzero(np.isfinite(row))
        n_guarded = math.floor(policy.guard * (len(free) - n_evict) + 1e-9)
        order = free[np.argsort(own[free], kind="stable")]
        left, lifted = np.split(order, [len(order) - n_guarded])
        # Slots with the same neighbours are equal in any arithmetic: the older one is left.
        close = own[lifted][:, None] - own[left][None, :]
        close = close[(near[lifted][:, None] != near[left][None, :]).any(axis=2)]
        gap = min(gap, COSINE_GAP * float(close.min(initial=np.inf)))
        row[lifted] = np.inf
    return gap
