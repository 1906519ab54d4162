"""The cache view: shapes, dtypes, budgets, bytes."""

from __future__ import annotations

from pathlib import Path

import a2sf
import numpy as np
import pytest

POLICIES = [name for name in a2sf.policies() if name != "full"]


@pytest.fixture(scope="module")
def engine(llama: Path) -> a2sf.Engine:
    return a2sf.Engine(llama, batch=32)


def test_full_cache(engine: a2sf.Engine, ids: list[int]) -> None:
    session = engine.session()
    session.feed(ids)
    cache = session.cache
    assert (cache.n_layers, cache.n_kv_heads, cache.budget, cache.n_evicted) == (2, 2, None, 0)
    assert cache.live.dtype == np.int32
    assert cache.live.tolist() == [[96, 96], [96, 96]]
    assert cache.positions(1, 1).tolist() == list(range(96))
    assert cache.bytes_full == 96 * 2 * 2 * 64 * 2 * 2  # K and V, layers, heads, dim, half floats
    assert cache.bytes >= cache.bytes_full


@pytest.mark.parametrize("prefill", ["token", "chunk", "full"])
@pytest.mark.parametrize("policy", POLICIES)
def test_evicting_cache(engine: a2sf.Engine, ids: list[int], policy: str, prefill: str) -> None:
    eviction = a2sf.Eviction(policy=policy, budget=40, prefill=prefill)  # type: ignore[arg-type]
    session = engine.session(eviction=eviction)
    session.feed(ids)
    cache = session.cache
    assert cache.budget == 40
    assert cache.live.sum() == 4 * 40
    assert cache.live.tolist() == cache.budgets.tolist()
    assert cache.n_evicted == 4 * 56
    for layer in range(2):
        for head in range(2):
            pos, scores = cache.positions(layer, head), cache.scores(layer, head)
            assert pos.dtype == np.int32
            assert scores.dtype == np.float32
            assert pos.shape == scores.shape == (cache.budgets[layer, head],)
            assert np.all(np.diff(pos) > 0)
            assert pos[-1] <= 95
            assert np.all(np.isfinite(scores))
            assert np.all(scores >= 0)
    most = {"token": 41, "chunk": 72, "full": 96}[prefill]
    slot = 2 * 2 * (2 * 64 * 2 + 64)  # K and V in half floats, and bookkeeping
    assert cache.bytes <= most * slot + 4096
    assert cache.n_tokens == 96


def test_share_of_the_prompt(engine: a2sf.Engine, ids: list[int]) -> None:
    for budget in ("25%", 0.25):
        session = engine.session(eviction=a2sf.Eviction(budget=budget))
        session.feed(ids)
        assert session.cache.budget == 24
        assert session.cache.live.mean() == 24


def test_bytes_by_type(llama: Path, ids: list[int]) -> None:
    full = {}
    for kv_type in ("f32", "f16", "q8_0"):
        session = a2sf.Engine(llama, kv_type=kv_type).session()  # type: ignore[arg-type]
        session.feed(ids)
        full[kv_type] = session.cache.bytes_full
    rows = 96 * 2 * 2 * 2  # tokens, K and V, layers, heads
    assert full == {"f32": rows * 256, "f16": rows * 128, "q8_0": rows * 68}


def test_outside(engine: a2sf.Engine, ids: list[int]) -> None:
    session = engine.session()
    session.feed(ids)
    for layer, head, where in [(2, 0, "layer"), (-1, 0, "layer"), (0, 2, "head"), (0, -1, "head")]:
        for read in (session.cache.positions, session.cache.scores):
            with pytest.raises(a2sf.OptionError, match=f"{where}: 0 to 1 expected, found"):
                read(layer, head)
    with pytest.raises(TypeError):
        session.cache.positions(0.0, 0)


def test_empty(engine: a2sf.Engine) -> None:
    for eviction in (None, a2sf.Eviction(budget="10%"), a2sf.Eviction(budget=32)):
        cache = engine.session(eviction=eviction).cache
        assert cache.live.tolist() == [[0, 0], [0, 0]]
        assert cache.positions(0, 0).shape == cache.scores(0, 0).shape == (0,)
        assert (cache.n_tokens, cache.bytes_full, cache.n_evicted) == (0, 0, 0)


def test_views_are_copies_and_follow(engine: a2sf.Engine, ids: list[int]) -> None:
    session = engine.session()
    cache = session.cache
    session.feed(ids[:5])
    first = cache.positions(0, 0)
    first[:] = -7
    session.feed(ids[5:8])
    assert cache.positions(0, 0).tolist() == list(range(8))
    session.reset()
    assert cache.live.max() == 0
