"""A budget divided among heads: `Eviction(allocation=)`, and eviction files."""

from __future__ import annotations

import json
import subprocess

import a2sf
import numpy as np
import pytest
from cli_program import program

TEXT = "Nora keeps the stone letter in the white sack. " * 20


@pytest.fixture(scope="module")
def engine():
    return a2sf.Engine()


@pytest.fixture(scope="module")
def shares(engine):
    shape = (engine.info.n_layers, engine.info.n_kv_heads)
    return np.linspace(0.5, 1.5, int(np.prod(shape)), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize("prefill", ["token", "chunk", "full"])
@pytest.mark.parametrize("policy", sorted(set(a2sf.policies()) - {"full"}))
def test_heads_hold_their_shares_and_the_memory_is_the_same(engine, shares, policy, prefill):
    options = {"policy": policy, "budget": 80, "prefill": prefill}
    uneven = engine.session(eviction=a2sf.Eviction(**options, allocation=shares))
    even = engine.session(eviction=a2sf.Eviction(**options, allocation="equal"))
    ids = engine.tokenize(TEXT)[:400]
    for session in (uneven, even):
        session.feed(ids[:-3])
        for at in range(len(ids) - 3, len(ids)):
            session.feed(ids[at : at + 1])
    live = uneven.cache.live
    assert live.sum() == 80 * live.size == even.cache.live.sum()
    least = 33 if policy == "snapkv" else 1  # its 32 newest and one that may go
    order = np.argsort(shares.ravel(), kind="stable")
    assert (np.diff(live.ravel()[order]) >= 0).all()
    assert live.min() >= least
    assert live.max() > 100
    if prefill == "token":
        assert uneven.cache.bytes <= even.cache.bytes * 1.01
    for layer, head in np.ndindex(*live.shape):
        assert len(uneven.cache.positions(layer, head)) == live[layer, head]


def test_equal_shares_change_nothing(engine):
    n_heads = engine.info.n_layers * engine.info.n_kv_heads
    ids = engine.tokenize(TEXT)[:300]
    plain = engine.score(ids, eviction=a2sf.Eviction(budget=64, allocation="equal"))
    equal = engine.score(ids, eviction=a2sf.Eviction(budget=64, allocation=[2.0] * n_heads))
    np.testing.assert_array_equal(plain, equal)


def test_saved_and_forked_sessions_go_on_the_same(engine, shares, tmp_path):
    eviction = a2sf.Eviction(budget=48, allocation=shares)
    session = engine.session(eviction=eviction)
    session.feed(engine.tokenize(TEXT)[:200])
    session.save(tmp_path / "s.session")
    loaded = engine.session(load=tmp_path / "s.session")
    forked = session.fork()
    expected = session.generate(max_tokens=40)
    for other in (loaded, forked):
        found = other.generate(max_tokens=40)
        assert found.ids == expected.ids
        assert found.logprobs == expected.logprobs
        np.testing.assert_array_equal(other.cache.live, session.cache.live)


def test_a_shape_that_is_not_the_models_is_refused(engine):
    with pytest.raises(a2sf.OptionError, match="n_layers \\* n_kv_heads"):
        engine.session(eviction=a2sf.Eviction(budget=48, allocation=[1.0, 2.0]))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"allocation": []}, a2sf.OptionError),
        ({"allocation": [1.0, 0.0]}, a2sf.OptionError),
        ({"allocation": [1.0, float("nan")]}, a2sf.OptionError),
        ({"allocation": ["a"]}, TypeError),
        ({"allocation": [1.0], "scope": "layer"}, a2sf.OptionError),
        ({"allocation": "even"}, a2sf.OptionError),
        ({"allocation": "auto", "policy": "full"}, a2sf.OptionError),
        ({"allocation": [1.0], "policy": "full"}, a2sf.OptionError),
    ],
)
def test_shares_that_make_no_sense_are_refused(options, error):
    with pytest.raises(error, match="allocation"):
        a2sf.Eviction(**options)


def test_an_eviction_file_reads_back_equal(shares, tmp_path):
    path = tmp_path / "mine.eviction"
    for eviction in (
        a2sf.Eviction(budget="20%", forgetting_factor=0.9973, recent=7, allocation=shares),
        a2sf.Eviction(policy="snapkv", window=16, budget=99, pinned=(3, 9)),
        a2sf.Eviction(policy="streaming", sinks=0, prefill="token", positions="compact"),
    ):
        eviction.save(path, note="found by hand")
        again = a2sf.Eviction.load(path)
        assert again == a2sf.Eviction(**{**asdict(eviction), "budget": again.budget})
        assert again._native().text("") == eviction._native().text("")


def asdict(eviction):
    return {name: getattr(eviction, name) for name in a2sf.Eviction.__slots__}


def test_a_file_of_something_else_is_an_error(tmp_path):
    path = tmp_path / "notes.txt"
    with pytest.raises(a2sf.Error, match="an eviction file expected"):
        a2sf.Eviction.load(path)
    path.write_text("my notes")
    with pytest.raises(a2sf.OptionError, match=r"notes\.txt: line 1"):
        a2sf.Eviction.load(path)


def test_the_command_line_takes_the_file(engine, shares, tmp_path):
    path = tmp_path / "mine.eviction"
    a2sf.Eviction(budget=48, allocation=shares).save(path)
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(TEXT)
    command = [program(), "run", "-f", str(prompt), "-n", "8", "--json", "-q"]
    printed = subprocess.run(
        [*command, "--eviction-file", str(path), "--sinks", "2"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    found = json.loads(printed)
    options = found["options"]
    assert options["budget"] == 48
    assert options["sinks"] == 2
    np.testing.assert_allclose(options["allocation"], shares.ravel(), rtol=1e-6)
    expected = engine.generate(
        TEXT, max_tokens=8, eviction=a2sf.Eviction(budget=48, sinks=2, allocation=shares)
    )
    assert found["text"] == expected.text
    path.write_text("nothing")
    refused = subprocess.run(
        [*command, "--eviction-file", str(path)], check=False, capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert "line 1" in refused.stderr
