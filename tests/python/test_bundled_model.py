"""The bundled model has learned its task, and shows what eviction costs.

Held-out questions about facts 1,000 to 1,800 tokens back, on the engine as installed. README's
table is made by models/evaluate.py from more of the same questions.
"""

from __future__ import annotations

import sys
from pathlib import Path

import a2sf
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "models"))
from evaluate import Question, is_right, make_questions

pytestmark = pytest.mark.slow

N_QUESTIONS = 60


@pytest.fixture(scope="module")
def engine(bundled: Path) -> a2sf.Engine:
    """Engine of the bundled model."""
    return a2sf.Engine(bundled)


@pytest.fixture(scope="module")
def questions(engine: a2sf.Engine) -> list[Question]:
    """Questions whose (owner, value) pairs the training text never held."""
    stream = make_questions("tests", lambda text: len(engine.tokenize(text)))
    return [next(stream) for _ in range(N_QUESTIONS)]


def accuracy(
    engine: a2sf.Engine, questions: list[Question], eviction: a2sf.Eviction | None
) -> float:
    """Share of the questions answered exactly."""
    right = sum(
        is_right(
            engine.generate(question.prompt, max_tokens=24, eviction=eviction).text,
            question.expected,
        )
        for question in questions
    )
    return right / len(questions)


def test_small_and_grouped(engine: a2sf.Engine, bundled: Path) -> None:
    """At most 4 MB, grouped-query attention, a context of 2,048 or more."""
    assert bundled.stat().st_size <= 4_000_000
    assert engine.info.architecture == "llama"
    assert engine.info.n_kv_heads < engine.info.n_heads
    assert engine.info.n_ctx >= 2048
    assert (
        engine.tokenizer.decode(engine.tokenize("Zażółć gęślą jaźń 🦙")) == "Zażółć gęślą jaźń 🦙"
    )


def test_full_cache_answers(engine: a2sf.Engine, questions: list[Question]) -> None:
    """With the full cache at least 95 % are right."""
    assert all(1000 <= question.distance <= 1800 for question in questions)
    assert accuracy(engine, questions, None) >= 0.95


def test_a2sf_keeps_what_streaming_loses(engine: a2sf.Engine, questions: list[Question]) -> None:
    """At a quarter of the cache a2sf answers nearly all, streaming next to none."""
    assert accuracy(engine, questions, a2sf.Eviction(policy="a2sf", budget="25%")) >= 0.85
    assert accuracy(engine, questions, a2sf.Eviction(policy="streaming", budget="25%")) <= 0.1


def test_divided_heads_answer_from_little(engine: a2sf.Engine, questions: list[Question]) -> None:
    """At 128 tokens, a sixteenth, most answers are still there: more than with equal heads."""
    few = questions[:30]
    divided = accuracy(engine, few, a2sf.Eviction(policy="a2sf", budget=128))
    equal = a2sf.Eviction(policy="a2sf", budget=128, allocation="equal")
    assert divided >= 0.75
    assert divided > accuracy(engine, few, equal)


def test_demo_of_readme(engine: a2sf.Engine) -> None:
    """README's example: right with the full cache and under a2sf, wrong under streaming."""
    prompt = (ROOT / "models" / "demo.txt").read_text(encoding="utf-8").removesuffix("\n")
    answers = [
        engine.generate(prompt, max_tokens=24, stop="\n", eviction=eviction).text
        for eviction in (
            None,
            a2sf.Eviction(policy="a2sf", budget="25%"),
            a2sf.Eviction(policy="streaming", budget="25%"),
        )
    ]
    assert answers[0] == answers[1] != answers[2]
