"""Several sequences at once: each gets what it would get alone."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import a2sf
import numpy as np
import pytest
from a2sf import _batch, _core

PROMPTS = [list(range(50 + 7 * i, 120 + 31 * i)) for i in range(6)]
EVICTION = a2sf.Eviction(policy="a2sf", budget=48)


@pytest.fixture(scope="module")
def engine() -> a2sf.Engine:
    return a2sf.Engine(eviction=EVICTION, batch=64, progress=False)


@pytest.mark.parametrize("parallel", [1, 2, 4, 8])
def test_a_batch_gives_each_what_it_would_get_alone(engine: a2sf.Engine, parallel: int) -> None:
    together = engine.generate_batch(PROMPTS, max_tokens=24, parallel=parallel)
    assert len(together) == len(PROMPTS)
    for prompt, generation in zip(PROMPTS, together, strict=True):
        alone = engine.generate(prompt, max_tokens=24)
        assert generation.ids == alone.ids
        assert generation.text == alone.text
        assert generation.logprobs == alone.logprobs
        assert generation.finish_reason == alone.finish_reason
        assert generation.stats.n_prompt == alone.stats.n_prompt == len(prompt)
        assert generation.stats.n_evicted == alone.stats.n_evicted


def test_sampling_stop_and_policies_are_each_sequences_own(engine: a2sf.Engine) -> None:
    sampling = a2sf.Sampling(temperature=1.0, seed=3)
    batch = engine.batch(8)
    streams = []
    for i, policy in enumerate(("full", "h2o", "streaming", "a2sf")):
        eviction = a2sf.Eviction(policy=policy)
        streams.append(batch.add(PROMPTS[i], max_tokens=20, sampling=sampling, eviction=eviction))
    while batch.n_running:
        batch.step()
    for i, policy in enumerate(("full", "h2o", "streaming", "a2sf")):
        eviction = a2sf.Eviction(policy=policy)
        alone = engine.generate(PROMPTS[i], max_tokens=20, sampling=sampling, eviction=eviction)
        result = streams[i].result
        assert result is not None
        assert result.ids == alone.ids
        assert "".join(token.text for token in streams[i].take()) == alone.text


def test_sequences_join_leave_and_fail_without_the_others_noticing(engine: a2sf.Engine) -> None:
    batch = engine.batch(2)
    first = batch.add(PROMPTS[0], max_tokens=30)
    for _ in range(5):
        batch.step()
    second = batch.add(PROMPTS[1], max_tokens=30)
    with pytest.raises(a2sf.Error, match="fewer than 2 sequences expected"):
        batch.add(PROMPTS[2])
    for _ in range(4):
        batch.step()
    second.cancel()
    assert batch.n_running == 1
    assert second.result is None
    # A prompt longer than the context fails when it is read, alone.
    full = a2sf.Eviction(policy="full")
    too_long = batch.add(np.full(engine.info.n_ctx + 1, 70), eviction=full)
    while batch.n_running:
        batch.step()
    assert isinstance(too_long.error, a2sf.OptionError)
    assert first.result is not None
    assert first.result.ids == engine.generate(PROMPTS[0], max_tokens=30).ids


def read_prompts(batch: a2sf.Batch, streams: list[a2sf.BatchStream]) -> None:
    """Step until every sequence has generated something."""
    while not all(stream._n_tokens for stream in streams):
        batch.step()


@pytest.mark.parametrize("guilty", [0, 1, 2])
def test_a_sequence_that_cannot_take_a_step_fails_alone(engine: a2sf.Engine, guilty: int) -> None:
    batch = engine.batch(3)
    streams = [batch.add(prompt, max_tokens=20) for prompt in PROMPTS[:3]]
    read_prompts(batch, streams)
    streams[guilty]._native.reset()  # the step refuses a session that something else has used
    while batch.n_running:
        batch.step()
    for i, stream in enumerate(streams):
        if i == guilty:
            assert isinstance(stream.error, a2sf.Error)
            assert stream.result is None
            continue
        alone = engine.generate(PROMPTS[i], max_tokens=20)
        assert stream.error is None
        assert stream.result is not None
        assert stream.result.ids == alone.ids
        assert stream.result.logprobs == alone.logprobs
        assert "".join(token.text for token in stream.take()) == alone.text


def test_no_token_is_lost_when_a_step_fails_after_it_was_read(
    engine: a2sf.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the sequences read and did not tell of must not be read again, nor left out."""
    batch = engine.batch(2)
    streams = [batch.add(prompt, max_tokens=20) for prompt in PROMPTS[:2]]
    read_prompts(batch, streams)
    native = _core.Generator.next_each

    class Late:
        @staticmethod
        def next_each(generators: list[_core.Generator]) -> None:
            native(generators)
            raise MemoryError("late")

    with monkeypatch.context() as patched:
        patched.setattr(_batch, "_core", SimpleNamespace(Generator=Late))
        batch.step()
    assert batch.n_running == 0
    for stream in streams:
        assert isinstance(stream.error, MemoryError)
        assert stream.result is None


def test_a_batchs_caches_are_those_of_the_sequences_that_run(
    engine: a2sf.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished sequence frees its own before the next joins and while the others go on."""
    step, add = a2sf.Batch.step, a2sf.Batch.add
    counts: list[tuple[int, int]] = []

    def count(batch: a2sf.Batch) -> None:
        n_held = sum(isinstance(item, a2sf.BatchStream) for item in gc.get_objects())
        counts.append((n_held, batch.n_running))

    def counted_step(batch: a2sf.Batch) -> None:
        count(batch)
        step(batch)

    def counted_add(batch: a2sf.Batch, *args: Any, **options: Any) -> a2sf.BatchStream:
        count(batch)
        return add(batch, *args, **options)

    monkeypatch.setattr(a2sf.Batch, "step", counted_step)
    monkeypatch.setattr(a2sf.Batch, "add", counted_add)
    gc.collect()
    engine.generate_batch(PROMPTS, max_tokens=5, parallel=2)
    assert {n_running for _, n_running in counts} == {0, 1, 2}
    assert all(n_held == n_running for n_held, n_running in counts), counts


def test_a_prompt_that_fails_fails_the_call(engine: a2sf.Engine) -> None:
    with pytest.raises(a2sf.OptionError, match="at least 1 token expected"):
        engine.generate_batch([PROMPTS[0], []])
    with pytest.raises(a2sf.OptionError, match="1 to 1024 sequences expected"):
        engine.generate_batch(PROMPTS, parallel=0)
    with pytest.raises(TypeError, match="a sequence of prompts"):
        engine.generate_batch("text")
    assert engine.generate_batch([]) == []


def test_what_is_wrong_with_a_batch_is_named_as_it_was_given() -> None:
    engine = a2sf.Engine()
    with pytest.raises(a2sf.OptionError, match=r"^parallel: 1 to 1024"):
        engine.generate_batch(["One"], parallel=0)
    with pytest.raises(TypeError, match=r"^prompts: a sequence of prompts expected, found gen"):
        engine.generate_batch(text for text in ["One"])
