"""`a2sf-eval recall`: the full cache's attention, and the three figures taken from it."""

from __future__ import annotations

import a2sf
import numpy as np
import pytest
from a2sf.eval import read_rows
from a2sf.eval.__main__ import main
from a2sf.eval._recall import MEASURES, compare, fixed_budget, watcher

TEXT = "Nora keeps the stone letter in the white sack. " * 12


@pytest.fixture(scope="module")
def engine():
    return a2sf.Engine(kv_type="f32")


def test_the_watcher_sees_one_querys_whole_attention(engine):
    ids = engine.tokenize(TEXT, special=False)[:80]
    session = engine.session(eviction=watcher(len(ids)))
    session.feed(ids[:60])
    group = engine.info.n_heads / engine.info.n_kv_heads
    for at in range(60, 64):
        session.feed(ids[at : at + 1])
        for layer, head in np.ndindex(engine.info.n_layers, engine.info.n_kv_heads):
            scores = session.cache.scores(layer, head)
            assert session.cache.positions(layer, head).tolist() == list(range(at + 1))
            assert scores.sum() == pytest.approx(group, rel=1e-4)
            assert scores.min() >= 0


def test_the_watchers_attention_adds_up_to_the_accumulated_one(engine):
    ids = engine.tokenize(TEXT, special=False)[:40]
    session = engine.session(eviction=watcher(len(ids)))
    total = np.zeros((engine.info.n_layers, engine.info.n_kv_heads, len(ids)))
    for at in range(len(ids)):
        session.feed(ids[at : at + 1])
        for layer, head in np.ndindex(*total.shape[:2]):
            total[layer, head, : at + 1] += session.cache.scores(layer, head)
    summed = engine.session(eviction=a2sf.Eviction(policy="h2o", budget=len(ids), recent=0))
    for at in range(len(ids)):
        summed.feed(ids[at : at + 1])
    for layer, head in np.ndindex(*total.shape[:2]):
        np.testing.assert_allclose(
            summed.cache.scores(layer, head), total[layer, head], rtol=2e-3, atol=2e-3
        )


def test_the_figures_are_those_of_their_definitions(engine):
    ids = engine.tokenize(TEXT, special=False)[:90]
    ours = engine.session(eviction=a2sf.Eviction(budget=24, prefill="token"))
    full = engine.session(eviction=watcher(len(ids)))
    for session in (ours, full):
        session.feed(ids[:-1])
        session.feed(ids[-1:])
    cosine, mass, top = compare(ours, full)
    for layer, head in np.ndindex(*mass.shape):
        p = full.cache.scores(layer, head).astype(np.float64)
        p /= p.sum()
        held = np.isin(np.arange(len(p)), ours.cache.positions(layer, head))
        ideal = np.zeros(len(p), bool)
        ideal[np.argsort(-p, kind="stable")[:24]] = True
        ours_p, ideal_p = p * held, p * ideal
        norms = np.linalg.norm(ours_p) * np.linalg.norm(ideal_p)
        assert cosine[layer, head] == pytest.approx(ours_p @ ideal_p / norms, abs=1e-9)
        assert mass[layer, head] == pytest.approx(ours_p.sum(), abs=1e-9)
        assert top[layer, head] == pytest.approx((held & ideal).sum() / 24, abs=1e-9)
    assert 0 < mass.min() < 1


def test_a_budget_that_keeps_everything_loses_nothing(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    output = tmp_path / "out.jsonl"
    command = ["recall", "-q", "-f", str(text), "-o", str(output), "--ctx", "80", "--skip", "20",
               "--every", "16", "--windows", "1", "--policy", "a2sf,streaming"]  # fmt: skip
    assert main([*command, "--budget", "100%,25%"]) == 0
    rows = read_rows([output])
    assert len(rows) == 4
    for row in rows:
        values = np.array([row["result"][name] for name in MEASURES])
        if row["options"]["eviction"]["budget"] == "100%":
            np.testing.assert_allclose(values, 1.0, atol=1e-4)
        else:
            assert values.min() < 0.99


def test_a_share_is_one_of_the_window():
    assert fixed_budget(a2sf.Eviction(budget="20%"), 1536).budget == 307
    assert fixed_budget(a2sf.Eviction(budget=0.5), 100).budget == 50
    assert fixed_budget(a2sf.Eviction(budget=64), 100).budget == 64
