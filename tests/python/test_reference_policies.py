"""The policy oracle: its definitions by brute force, and the invariants of an evicting cache."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from reference.cache import LayerCache
from reference.decoder import Model
from reference.policies import (
    PRESETS,
    Mode,
    Policy,
    brute_force_scores,
    edge_gap,
    keep_mask,
    pool,
    protected,
    query_weights,
    ranks,
    resolve_budget,
    resolve_factor,
    resolve_recent,
    update_scores,
    validate,
)

SHARED = Path(os.environ.get("A2SF_SHARED", Path(__file__).resolve().parents[3] / "shared"))
MODEL = SHARED / "reference" / "models" / "llama-F32.gguf"
needs_shared = pytest.mark.skipif(
    not MODEL.exists(), reason=f"no {MODEL} (set A2SF_SHARED to the folder of reference models)"
)
EVICTING = [name for name in PRESETS if name != "full"]
MODES: list[Mode] = ["token", "chunk", "full"]
Array = NDArray[Any]


def make_cache(policy: Policy, budget: int | None, n_kv_heads: int = 2) -> LayerCache:
    return LayerCache(policy, budget, n_kv_heads=n_kv_heads, head_dim=8, value_dim=8, window=None)


def random_qkv(n: int, n_heads: int = 4, n_kv_heads: int = 2) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(7)
    q = rng.normal(size=(n_heads, n, 8)).astype(np.float32)
    k, v = rng.normal(size=(2, n_kv_heads, n, 8)).astype(np.float32)
    return q, k, v


def causal_attention(q: Array, k: Array, group: int) -> Array:
    """Full causal softmax, [n_kv_heads, group, n, n]."""
    n = q.shape[1]
    logits = q.reshape(-1, group, n, 8) @ k[:, None].transpose(0, 1, 3, 2)
    logits = np.where(np.tri(n, dtype=bool), logits.astype(np.float64), -np.inf)
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(p / p.sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("factor", [0.0, 0.3, 0.99, 1.0])
@pytest.mark.parametrize("pieces", [[40], [1] * 40, [7, 1, 30, 2]])
def test_recursion_equals_definition(factor: float, pieces: list[int]) -> None:
    q, k, v = random_qkv(40)
    cache = make_cache(Policy("a", forgetting_factor=factor), None)
    start = 0
    for m in pieces:
        part = slice(start, start + m)
        cache.process(q[:, part], k[:, part], v[:, part], 1.0, evict=True)
        start += m
    p = causal_attention(q, k, group=2)
    for head in range(2):
        expected = brute_force_scores(p[head], factor)
        np.testing.assert_allclose(cache.scores[0, head, :40], expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("name", EVICTING)
def test_cache_scores_as_update_scores(name: str) -> None:
    """The cache's tiled update is the plain one."""
    (q, k, v), cache = random_qkv(40), make_cache(PRESETS[name], None)
    cache.process(q[:, :39], k[:, :39], v[:, :39], 1.0, evict=True)
    before = cache.scores[:, :, :39].copy()
    cache.process(q[:, 39:], k[:, 39:], v[:, 39:], 1.0, evict=True)
    p = causal_attention(q, k, group=2).sum(axis=1)[:, 39:].astype(np.float32)
    expected = update_scores(cache.policy, np.pad(before, [(0, 0), (0, 0), (0, 1)]), p)
    np.testing.assert_allclose(cache.scores[:, :, :40], expected, rtol=1e-5, atol=1e-7)


def test_factor_by_the_budget() -> None:
    factors = [resolve_factor(PRESETS["a2sf"], budget) for budget in (50, 125, 250, None)]
    assert factors == [pytest.approx(0.95), pytest.approx(0.98), 0.99, 0.99]
    assert resolve_factor(PRESETS["h2o"], 50) == 1.0


def test_snapkv_weights() -> None:
    policy = PRESETS["snapkv"]
    decay, weights = query_weights(policy, 100)
    assert decay[0] == 0
    assert weights[0].tolist() == [0.0] * 68 + [1.0] * 32
    decay, weights = query_weights(policy, 8)
    assert decay[0] == 1 - 8 / 32
    assert weights[0].tolist() == [1.0] * 8
    assert query_weights(policy, 1)[0][0] == 1 - 1 / 32


def test_lambda_zero_is_exact() -> None:
    decay, weights = query_weights(PRESETS["tova"], 3)
    assert decay.tolist() == [0.0]
    assert weights.tolist() == [[0.0, 0.0, 1.0]]


def test_ties_evict_the_older() -> None:
    pos = np.array([[3, 5, 8, 9, 12]])
    scores = np.array([[[1.0, 0.5, 0.5, 0.5, 1.0]]], np.float32)
    keep, gap = keep_mask(Policy("a"), pos, scores, n_seen=13, budget=3)
    assert pos[keep].tolist() == [3, 9, 12]
    assert gap == 0.5


def test_edge_gap() -> None:
    rank = np.array([4.0, 1.0, 2.0, np.inf, 4.0])
    assert edge_gap(rank, 1) == 0.5
    assert edge_gap(rank, 2) == 0.5
    assert edge_gap(rank, 3) == 0.5  # a tie: 2 is the nearest other rank
    assert edge_gap(rank, 4) == math.inf


def test_protection_beats_rank() -> None:
    policy = Policy("a", sinks=2, recent=3)
    pos = np.array([[0, 1, 4, 6, 7, 8, 9]])
    scores = np.array([[[0, 0, 9, 8, 0, 0, 0]]], np.float32)
    assert protected(policy, pos, 10, 6).tolist() == [[True, True, False, False, True, True, True]]
    keep, gap = keep_mask(policy, pos, scores, n_seen=10, budget=6)
    assert pos[keep].tolist() == [0, 1, 4, 7, 8, 9]
    assert gap == pytest.approx(1 / 9)


def test_pool_is_by_position_not_by_slot() -> None:
    rank = np.array([1.0, 5.0, 2.0, 0.0])
    pos = np.array([0, 3, 4, 9])
    assert pool(rank, pos, 1) is rank
    assert pool(rank, pos, 3).tolist() == [1.0, 5.0, 5.0, 0.0]
    assert pool(rank, pos, 7).tolist() == [5.0, 5.0, 5.0, 0.0]


def test_layer_scope_sums_then_pools() -> None:
    policy = Policy("a", scope="layer", pooling=3)
    pos = np.array([[0, 1, 5], [0, 1, 5]])
    scores = np.array([[[1.0, 0.0, 3.0], [2.0, 5.0, 0.0]]], np.float32)
    assert ranks(policy, pos, scores).tolist() == [[5.0, 5.0, 3.0]] * 2


def test_dual_by_hand() -> None:
    """Two heads that no longer hold the same positions; the shared half spans their union."""
    pos = np.array([[0, 2, 9], [0, 5, 9]])
    slow = [[1.0, 1.0, 2.0], [1.0, 6.0, 1.0]]
    fast = [[0.0, 2.0, 1.0], [1.0, 4.0, 2.0]]
    found = ranks(PRESETS["a2sf-dual"], pos, np.array([slow, fast]))
    # sums over heads: 0 -> 1, 2 -> 2, 5 -> 4, 9 -> 3, total 10; pooled within 3: 2, 4, 4, 3
    expected = [
        [max(0.2, 1 / 4), max(0.4, 1 / 4), max(0.3, 2 / 4)],
        [max(0.2, 1 / 8), max(0.4, 6 / 8), max(0.3, 1 / 8)],
    ]
    np.testing.assert_allclose(found, expected)


def test_keydiff_evicts_the_most_ordinary_key() -> None:
    keys = np.array([[[1.0, 0.1], [1.0, 0.0], [-1.0, 0.2], [1.0, -0.3]]])
    rank = ranks(PRESETS["keydiff"], np.arange(4)[None], np.zeros((1, 1, 4)), keys)
    mean = keys[0].mean(axis=0)
    for slot in range(4):
        key = keys[0, slot]
        cosine = key @ mean / math.sqrt((key @ key) * (mean @ mean))
        assert rank[0, slot] == pytest.approx(-cosine)
    assert rank[0].argmax() == 2


def test_shares() -> None:
    assert resolve_budget("20%", 1022) == 204
    assert resolve_budget("29%", 100) == 29
    assert resolve_budget("0.1%", 10) == 1
    assert resolve_budget("50%", 5) == 3
    assert resolve_budget(77, 10) == 77
    assert resolve_budget(None, 10) is None
    assert [resolve_recent(PRESETS["a2sf"], b) for b in (16, 19, 20)] == [4, 4, 5]
    assert resolve_recent(PRESETS["h2o"], 307) == 153


@pytest.mark.parametrize("budget", [1, 4])
def test_protection_must_leave_room(budget: int) -> None:
    with pytest.raises(ValueError, match=r"sinks \+ recent <= budget expected, found"):
        validate(PRESETS["a2sf"], budget)
    validate(PRESETS["a2sf"], 5)


@pytest.mark.parametrize("scope", ["head", "layer"])
@pytest.mark.parametrize("name", EVICTING)
def test_decoding_keeps_budget_sinks_and_recent(name: str, scope: Any) -> None:
    budget = 40
    policy = replace(PRESETS[name], scope=scope)
    cache, (q, k, v) = make_cache(policy, budget), random_qkv(90)
    for i in range(90):
        before = [set(row[: cache.live].tolist()) for row in cache.pos]
        one = slice(i, i + 1)
        cache.process(q[:, one], k[:, one], v[:, one], 1.0, evict=True)
        assert cache.live == min(i + 1, budget)
        rows = [row[: cache.live].tolist() for row in cache.pos]
        must = {*range(min(policy.sinks, i + 1))}
        must |= {*range(max(0, i + 1 - resolve_recent(policy, budget)), i + 1)}
        for old, row in zip(before, rows, strict=True):
            assert row == sorted(set(row))
            assert must <= set(row)
            assert set(row) <= old | {i}  # what was evicted never comes back
        assert scope == "head" or rows[0] == rows[1]
    assert cache.n_evicted == 50


def naive_head(policy: Policy, budget: int, q: Array, k: Array, v: Array) -> tuple[Any, Array]:
    """One KV head, one token at a time, in plain dictionaries and float64.

    q : [group, n, d]; k, v : [n, d]. Returns {pos: score} at the end, and outputs [group, n, d].
    """
    score: dict[int, float] = {}
    out = np.zeros(q.shape)
    recent, factor = resolve_recent(policy, budget), resolve_factor(policy, budget)
    for t in range(len(k)):
        score[t] = 0.0
        held = list(score)
        for s in held:
            score[s] *= factor
        for g in range(len(q)):
            e = {s: math.exp(float(q[g, t].astype(np.float64) @ k[s])) for s in held}
            total = sum(e.values())
            for s in held:
                out[g, t] += e[s] / total * v[s]
                score[s] += e[s] / total
        if len(score) > budget:
            free = [s for s in sorted(score) if s >= policy.sinks and s <= t - recent]
            by_rank = {s: float(s) if policy.kind == "position" else score[s] for s in free}
            del score[min(free, key=lambda s: by_rank[s])]
    return score, out


@pytest.mark.parametrize("name", ["a2sf", "a2sf-paper", "h2o", "tova", "streaming"])
def test_cache_equals_naive_simulation(name: str) -> None:
    policy, (q, k, v) = PRESETS[name], random_qkv(70)
    cache, rows = make_cache(policy, 24), []
    for i in range(70):
        one = slice(i, i + 1)
        rows.append(cache.process(q[:, one], k[:, one], v[:, one], 1.0, evict=True))
    found = np.concatenate(rows).reshape(70, 2, 2, 8).transpose(1, 2, 0, 3)
    for head in range(2):
        score, out = naive_head(policy, 24, q[2 * head : 2 * head + 2], k[head], v[head])
        assert cache.pos[head, :24].tolist() == sorted(score)
        np.testing.assert_allclose(found[head], out, atol=1e-5)
        if policy.observes:
            np.testing.assert_allclose(
                cache.scores[0, head, :24], [score[s] for s in sorted(score)], rtol=1e-4, atol=1e-7
            )


def test_heads_part_ways() -> None:
    cache, (q, k, v) = make_cache(PRESETS["a2sf"], 16), random_qkv(90)
    for i in range(90):
        one = slice(i, i + 1)
        cache.process(q[:, one], k[:, one], v[:, one], 1.0, evict=True)
    assert cache.pos[0, :16].tolist() != cache.pos[1, :16].tolist()


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(MODEL)


@pytest.fixture(scope="module")
def ids() -> list[int]:
    return [int(x) for x in (SHARED / "reference" / "ids.txt").read_text().split()]


@needs_shared
class TestInModel:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("name", EVICTING)
    def test_budget(self, model: Model, ids: list[int], name: str, mode: Mode) -> None:
        """Exact budget; the same logits as the full cache until it first evicts."""
        full = model.logits(ids)
        run = model.run(ids, PRESETS[name], 40, chunks=[30, 30, 36], mode=mode)
        assert {len(head) for layer in run.kept for head in layer} == {40}
        same = {"token": 41, "chunk": 60, "full": 96}[mode]
        np.testing.assert_allclose(run.logits[:same], full[:same], atol=1e-5)
        assert same == 96 or np.abs(run.logits[same:] - full[same:]).max() > 1e-3

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("name", list(PRESETS))
    def test_roomy_budget_is_full(
        self, model: Model, ids: list[int], name: str, mode: Mode
    ) -> None:
        run = model.run(ids, PRESETS[name], len(ids), mode=mode)
        np.testing.assert_allclose(run.logits, model.logits(ids), atol=1e-5)
        assert run.min_gap == math.inf

    @pytest.mark.parametrize("name", EVICTING)
    def test_token_mode_does_not_see_chunks(self, model: Model, ids: list[int], name: str) -> None:
        one = model.run(ids, PRESETS[name], 40, mode="token")
        many = model.run(ids, PRESETS[name], 40, mode="token", chunks=[11, 1, 50, 34])
        stepped = model.run(ids, PRESETS[name], 40, mode="chunk", chunks=[1] * 96)
        for other in (many, stepped):
            np.testing.assert_allclose(other.logits, one.logits, atol=2e-5)
            assert other.kept == one.kept

    @pytest.mark.parametrize("name", EVICTING)
    def test_full_mode_evicts_at_the_end_only(
        self, model: Model, ids: list[int], name: str
    ) -> None:
        policy = PRESETS[name]
        run = model.run(ids, policy, 40, chunks=[64, 32], mode="full", n_prompt=96)
        np.testing.assert_allclose(run.logits, model.logits(ids), atol=1e-5)
        decoded = model.run(ids, policy, 40, chunks=[64], mode="full", n_prompt=64)
        np.testing.assert_allclose(decoded.logits[:64], model.logits(ids)[:64], atol=1e-5)
        assert {len(head) for layer in decoded.kept for head in layer} == {40}
