"""A real model: SmolLM2-135M-Instruct Q4_1, named by A2SF_REAL_MODEL.

It is compared with the float oracle of tests/reference on real text: text that makes sense, the
perplexity of a long window, and what each policy loses when the cache is short.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import a2sf
import numpy as np
import pytest
from conftest import SHARED
from reference import policies, tasks
from reference.decoder import Model

pytestmark = [pytest.mark.real, pytest.mark.slow]

TEXT = SHARED / "data" / "wikitext2-test.txt"
# Scored tokens of the loss tests: [512, 1536) of a window, as in the algorithm note.
FIRST, LAST = 512, 1536


@pytest.fixture(scope="module")
def path() -> Path:
    """File of the real model."""
    value = os.environ.get("A2SF_REAL_MODEL")
    if not value:
        pytest.skip("A2SF_REAL_MODEL names no model (SmolLM2-135M-Instruct Q4_1)")
    return Path(value)


@pytest.fixture(scope="module")
def engine(path: Path) -> a2sf.Engine:
    """Engine with an exact cache, so that only the weights' arithmetic differs from the oracle."""
    return a2sf.Engine(path, kv_type="f32")


@cache
def oracle(path: Path) -> Model:
    """Float model of the same file."""
    return Model(path)


@pytest.fixture(scope="module")
def wikitext(engine: a2sf.Engine) -> list[int]:
    """Tokens of WikiText-2's test set."""
    if not TEXT.is_file():
        pytest.skip(f"no {TEXT}")
    return engine.tokenize(TEXT.read_text(encoding="utf-8")[:120_000], special=False)


def test_greedy_text_is_sensible(engine: a2sf.Engine) -> None:
    """The model knows capitals, in a chat and without one, full cache or short."""
    short = a2sf.Eviction(policy="a2sf", budget=32)
    for country, capital in (("France", "Paris"), ("Japan", "Tokyo")):
        question = f"What is the capital of {country}? Answer in one sentence."
        for eviction in (None, short):
            answer = engine.chat(
                [{"role": "user", "content": question}], max_tokens=24, eviction=eviction
            )
            assert capital in answer.text
            assert answer.finish_reason == "end"
    assert "Paris" in engine.generate("The capital of France is", max_tokens=8).text


def test_perplexity_is_the_oracles(engine: a2sf.Engine, path: Path, wikitext: list[int]) -> None:
    """First 4,096 tokens: within 0.5 % of the float oracle's perplexity."""
    ids = wikitext[:4096]
    ours = float(np.exp(-engine.score(ids).mean(dtype=np.float64)))
    expected = tasks.perplexity(oracle(path), ids)
    print(f"perplexity {ours:.4f}, oracle {expected:.4f}, ratio {ours / expected:.5f}")
    assert ours == pytest.approx(expected, rel=0.005)


def equal(policy: str, budget: int) -> a2sf.Eviction:
    """All heads the same budget, as the oracle has it."""
    return a2sf.Eviction(policy=policy, budget=budget, prefill="token", allocation="equal")


def loss(engine: a2sf.Engine, ids: list[int], eviction: a2sf.Eviction | None) -> float:
    """Mean nll of tokens [FIRST, LAST) in nats."""
    return -float(engine.score(ids, eviction=eviction)[FIRST - 1 :].mean(dtype=np.float64))


@pytest.mark.parametrize("budget", [128, 307])
def test_losses_are_the_oracles(
    engine: a2sf.Engine, path: Path, wikitext: list[int], budget: int
) -> None:
    """Excess nll of streaming, h2o and a2sf in `token` mode: within 0.02 of the oracle's."""
    ids = wikitext[2 * LAST : 3 * LAST]
    full = loss(engine, ids, None)
    oracle_full = tasks.mean_nll(oracle(path), ids, FIRST, LAST)
    for name in ("streaming", "h2o", "a2sf"):
        ours = loss(engine, ids, equal(name, budget)) - full
        expected = (
            tasks.mean_nll(
                oracle(path),
                ids,
                FIRST,
                LAST,
                policy=policies.PRESETS[name],
                budget=budget,
                mode="token",
            )
            - oracle_full
        )
        print(f"{name} {budget}: excess nll {ours:.4f}, oracle {expected:.4f}")
        assert ours == pytest.approx(expected, abs=0.02)


def test_policies_rank_as_published(engine: a2sf.Engine, wikitext: list[int]) -> None:
    """At a budget of 128, a2sf loses less than h2o, h2o less than streaming, over three windows."""
    lost = {}
    windows = [wikitext[i * LAST : (i + 1) * LAST] for i in (1, 2, 3)]
    full = [loss(engine, ids, None) for ids in windows]
    for name in ("streaming", "h2o", "a2sf"):
        eviction = a2sf.Eviction(policy=name, budget=128, prefill="token")
        lost[name] = float(
            np.mean([loss(engine, ids, eviction) for ids in windows]) - np.mean(full)
        )
    print(lost)
    assert 0 < lost["a2sf"] < lost["h2o"] < lost["streaming"]
