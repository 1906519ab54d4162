"""`a2sf-eval recall`: the full cache's attention, and the three figures taken from it."""

from __future__ import annotations

import a2sf
import numpy as np
import pytest
from a2sf._options import fix_budget
from a2sf.eval import read_rows
from a2sf.eval.__main__ import main
from a2sf.eval._recall import MEASURES, Recall, compare, watcher
from reference.cache import LayerCache
from reference.decoder import Model, Session
from reference.policies import PRESETS

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


@pytest.mark.parametrize("name", ["llama-F32", "gemma3-F16"])
def test_the_watchers_attention_is_that_of_a_decoder_in_numpy(models, ids, name, monkeypatch):
    rows = []  # of every layer of a step: float [n_kv_heads, n_tokens], summed over the group
    softmax = LayerCache._softmax

    def spy(self, logits, m, start, stop):
        p = softmax(self, logits, m, start, stop)
        rows.append(p.reshape(len(p), -1, self.live).sum(axis=1))
        return p

    monkeypatch.setattr(LayerCache, "_softmax", spy)
    reference = Session(Model(models / f"{name}.gguf"), PRESETS["full"])
    engine = a2sf.Engine(models / f"{name}.gguf", kv_type="f32", progress=False)
    session = engine.session(eviction=watcher(len(ids)))
    reference.step(ids[:-1])
    session.feed(ids[:-1])
    rows.clear()
    reference.step(ids[-1:])
    session.feed(ids[-1:])
    assert len(rows) == session.cache.n_layers
    for layer, head in np.ndindex(session.cache.n_layers, session.cache.n_kv_heads):
        found = session.cache.scores(layer, head)
        np.testing.assert_allclose(found, rows[layer][head], rtol=0.02, atol=1e-4)


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
        ideal[np.argsort(-p, kind="stable")[: held.sum()]] = True
        ours_p, ideal_p = p * held, p * ideal
        norms = np.linalg.norm(ours_p) * np.linalg.norm(ideal_p)
        assert cosine[layer, head] == pytest.approx(ours_p @ ideal_p / norms, abs=1e-9)
        assert mass[layer, head] == pytest.approx(ours_p.sum(), abs=1e-9)
        assert top[layer, head] == pytest.approx((held & ideal).sum() / held.sum(), abs=1e-9)
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


@pytest.mark.parametrize("n_layers", [4, 40])
def test_a_map_for_each_eviction_on_one_scale(n_layers):
    rows = [
        {
            "key": policy,
            "engine": {},
            "files": {"text": "text.txt"},
            "options": {"text": "5a", "eviction": {"policy": policy, "budget": "20%"}},
            "result": {"mass": np.linspace(low, 1, 2 * n_layers).reshape(n_layers, 2).tolist()},
        }
        for policy, low in (("a2sf", 0.75), ("streaming", 0.43))
    ]
    figures = Recall().figures(rows)
    assert len(figures) == 2
    for row, figure in zip(rows, figures, strict=True):
        image = figure.axes[0].images[0]
        np.testing.assert_allclose(np.asarray(image.get_array()).T, row["result"]["mass"])
        assert image.get_clim() == (0.4, 1.0)
        assert row["options"]["eviction"]["policy"] in figure.axes[0].get_title()
        assert len(figure.axes[0].texts) == (2 * n_layers if n_layers == 4 else 0)


def test_a_share_is_one_of_the_window():
    assert fix_budget(a2sf.Eviction(budget="20%"), 1536).budget == 307
    assert fix_budget(a2sf.Eviction(budget=0.5), 100).budget == 50
    assert fix_budget(a2sf.Eviction(budget=64), 100).budget == 64


def test_what_was_compared_is_past_the_budget_and_the_worst_head_is_named(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    output = tmp_path / "out.jsonl"
    command = ["recall", "-q", "-f", str(text), "-o", str(output), "--ctx", "80", "--skip", "8",
               "--every", "10", "--windows", "1", "--policy", "streaming"]  # fmt: skip
    assert main([*command, "--budget", "50%"]) == 0
    (row,) = read_rows([output])
    result = row["result"]
    assert result["n"] == len(result["queries"]["mass"]) == 4  # 40, 50, 60, 70
    assert max(result["queries"]["mass"]) < 1
    mass = np.array(result["mass"])
    layer, head = np.unravel_index(mass.argmin(), mass.shape)
    assert f"{layer}.{head}: {mass.min():.3f}" in capsys.readouterr().out


def test_a_full_cache_alone_is_bad_usage(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    assert main(["recall", "-f", str(text), "--ctx", "80", "--skip", "8", "--policy", "full"]) == 2
    assert "one that evicts expected" in capsys.readouterr().err


def test_tokens_outside_a_sliding_window_count_as_equals():
    class Held:
        """One head: positions held, attention of a full cache."""

        n_layers = n_kv_heads = 1

        def __init__(self, held, attention):
            self.cache = self
            self._held, self._attention = np.array(held), np.array(attention, np.float32)

        def positions(self, layer, head):
            return self._held

        def scores(self, layer, head):
            return self._attention

    attention = [0.0, 0.0, 0.0, 0.0, 1.5, 0.5]
    for held, top in (([0, 1, 4, 5], 1.0), ([2, 3, 4, 5], 1.0)):
        cosine, mass, found = compare(Held(held, attention), Held(range(6), attention))
        assert (cosine.item(), mass.item(), found.item()) == pytest.approx((1.0, 1.0, top))
    _, mass, found = compare(Held([0, 4], attention), Held(range(6), attention))
    assert (mass.item(), found.item()) == pytest.approx((0.75, 0.5))
