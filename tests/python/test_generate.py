"""Generation: determinism, streams, stop strings, sessions, chat."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import ClassVar

import a2sf
import numpy as np
import pytest
from gguf_edit import copy_with

EVICTION = a2sf.Eviction(budget=48)
WARM = a2sf.Sampling(temperature=0.9, top_k=50, top_p=0.95, seed=11)
SAMPLINGS = [a2sf.Sampling(), WARM, a2sf.Sampling(temperature=1.5, min_p=0.02, repeat_penalty=1.3)]


@pytest.fixture(scope="module")
def engine(llama: Path) -> a2sf.Engine:
    return a2sf.Engine(llama, threads=2)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=range(len(SAMPLINGS)))
@pytest.mark.parametrize("eviction", [None, EVICTION], ids=["full", "a2sf"])
def test_same_tokens_whatever_the_threads(
    llama: Path, ids: list[int], sampling: a2sf.Sampling, eviction: a2sf.Eviction | None
) -> None:
    results = [
        a2sf.Engine(llama, threads=n, eviction=eviction).generate(
            ids, max_tokens=24, sampling=sampling
        )
        for n in (1, 2, 3, 1)
    ]
    assert len({(tuple(r.ids), tuple(r.logprobs), r.text) for r in results}) == 1
    assert len(results[0].ids) == len(results[0].logprobs)


def test_seeds_differ(engine: a2sf.Engine) -> None:
    texts = {
        engine.generate(
            [1, 2], max_tokens=12, sampling=a2sf.Sampling(temperature=1.0, seed=seed)
        ).text
        for seed in (0, 1, 2, 2**64 - 1)
    }
    assert len(texts) == 4


@pytest.mark.parametrize("stop", [(), "e", ("\x17\x02", "\ufffd")], ids=repr)
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=range(len(SAMPLINGS)))
def test_stream_is_generate(
    engine: a2sf.Engine, ids: list[int], sampling: a2sf.Sampling, stop: str | tuple[str, ...]
) -> None:
    whole = engine.generate(ids, max_tokens=40, sampling=sampling, stop=stop)
    stream = engine.stream(ids, max_tokens=40, sampling=sampling, stop=stop)
    tokens = list(stream)
    assert [t.id for t in tokens] == whole.ids
    assert [t.logprob for t in tokens] == whole.logprobs
    assert "".join(t.text for t in tokens) == whole.text == stream.result.text
    assert stream.result.finish_reason == whole.finish_reason
    assert next(stream, None) is None


def test_result(engine: a2sf.Engine, ids: list[int]) -> None:
    result = engine.generate(ids, max_tokens=8, eviction=EVICTION)
    stats = result.stats
    assert result.finish_reason == "length"
    assert (stats.n_prompt, stats.n_generated, stats.budget) == (96, 8, 48)
    assert stats.n_live == 48
    assert stats.n_evicted == 4 * (96 + 7 - 48)
    assert stats.prompt_tokens_per_s > 0
    assert stats.decode_tokens_per_s > 0
    assert engine.generate(ids, max_tokens=8).stats.budget is None
    assert engine.generate(ids, max_tokens=0).ids == []
    none = a2sf.Stats(
        n_prompt=1, n_generated=0, prompt_s=0.0, decode_s=0.0, kv_bytes=0, kv_bytes_full=0,
        n_evicted=0, n_live=0, budget=None,
    )  # fmt: skip
    assert none.prompt_tokens_per_s == none.decode_tokens_per_s == 0.0


def test_stop_string_ends_the_text_before_it(engine: a2sf.Engine, ids: list[int]) -> None:
    plain = engine.generate(ids, max_tokens=40)
    cut = plain.text[10:13]
    stopped = engine.generate(ids, max_tokens=40, stop=["never seen", cut])
    assert stopped.finish_reason == "stop"
    assert stopped.text == plain.text[: plain.text.index(cut)]
    assert plain.ids[: len(stopped.ids)] == stopped.ids


def test_greedy_follows_the_logits(engine: a2sf.Engine, ids: list[int]) -> None:
    result = engine.generate(ids, max_tokens=6)
    logits = engine.logits([*ids, *result.ids])[len(ids) - 1 : -1].astype(np.float64)
    assert logits.argmax(axis=1).tolist() == result.ids
    top = logits.max(axis=1) - np.log(np.exp(logits).sum(axis=1))
    np.testing.assert_allclose(result.logprobs, top, atol=2e-3)


def test_score_is_that_of_the_logits(engine: a2sf.Engine, ids: list[int]) -> None:
    for eviction in (None, EVICTION):
        logits = engine.logits(ids, eviction=eviction).astype(np.float64)
        assert logits.shape == (96, 512)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        expected = log_p[np.arange(95), ids[1:]]
        found = engine.score(ids, eviction=eviction)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert engine.score(ids[:1]).shape == (0,)


def test_eviction_of_a_call_replaces_the_engines(llama: Path, ids: list[int]) -> None:
    engine = a2sf.Engine(llama, eviction=EVICTION)
    full = a2sf.Engine(llama).logits(ids)
    np.testing.assert_array_equal(engine.logits(ids, eviction=a2sf.Eviction(policy="full")), full)
    np.testing.assert_array_equal(engine.logits(ids, eviction=a2sf.Eviction(budget=96)), full)
    small = a2sf.Engine(llama, eviction=EVICTION, batch=16).logits(ids)
    assert np.abs(small - full).max() > 1e-3


def test_session_feeds_in_pieces(llama: Path, ids: list[int]) -> None:
    # float32 throughout: over a rounded cache, short pieces and long ones round differently.
    engine = a2sf.Engine(llama, threads=2, kv_type="f32")
    session = engine.session()
    for start in range(0, 96, 31):
        last = session.feed(ids[start : start + 31])
    assert last.dtype == np.float32
    assert last.shape == (512,)
    np.testing.assert_allclose(last, engine.logits(ids)[-1], atol=1e-4)
    assert session.n_tokens == session.cache.n_tokens == 96
    session.reset()
    assert session.n_tokens == 0
    np.testing.assert_array_equal(session.feed(ids), engine.session().feed(ids))


@pytest.mark.parametrize("eviction", [None, EVICTION], ids=["full", "a2sf"])
def test_session_goes_on_after_a_generation(
    engine: a2sf.Engine, ids: list[int], eviction: a2sf.Eviction | None
) -> None:
    whole = engine.session(eviction=eviction).generate(ids, max_tokens=12)
    session = engine.session(eviction=eviction)
    first = session.generate(ids, max_tokens=5)
    assert session.n_tokens == 96 + 5
    second = session.generate(max_tokens=7)
    assert first.ids + second.ids == whole.ids
    assert whole.ids == engine.generate(ids, max_tokens=12, eviction=eviction).ids


def test_session_text_begins_with_bos_once(models: Path, tmp_path: Path) -> None:
    engine = a2sf.Engine(models / "llama-F32.gguf")
    session = engine.session()
    session.generate("ab", max_tokens=1)
    n = session.n_tokens
    session.generate("ab", max_tokens=1)
    assert session.n_tokens - n == len(engine.tokenize("ab", bos=False)) + 1


def test_closing_a_stream_frees_its_session(engine: a2sf.Engine, ids: list[int]) -> None:
    for end in ("close", "with", "drop"):
        stream = engine.stream(ids, max_tokens=50)
        next(stream)
        if end == "close":
            stream.close()
        elif end == "with":
            with stream:
                pass
        assert end == "drop" or stream._generator is None
        assert end == "drop" or next(stream, None) is None
        if end != "drop":
            with pytest.raises(a2sf.Error, match="result"):
                _ = stream.result
    session = engine.session()
    stream = session.stream(ids, max_tokens=50)
    next(stream)
    stream.close()
    session.feed([1])  # the session is free again


def test_sessions_do_not_outlive_their_owners(engine: a2sf.Engine) -> None:
    class Watched(a2sf.Session):
        __slots__ = ("__weakref__",)

    session = Watched(engine.session()._native, engine.tokenizer, None)
    ref = weakref.ref(session)
    cache = session.cache
    session.feed([1, 2])
    del session
    gc.collect()
    assert ref() is None
    assert cache.n_tokens == 2  # the view keeps what it shows


def test_a_disturbed_stream_says_so(engine: a2sf.Engine, ids: list[int]) -> None:
    session = engine.session()
    stream = session.stream(ids)
    next(stream)
    session.feed([1, 2])
    with pytest.raises(a2sf.Error, match="nothing else uses"):
        next(stream)


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}"
    "{{ raise_exception('no tools') }}{% endif %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
    "{% generation %}{% if add_generation_prompt %}[assistant]{% endif %}{% endgeneration %}"
)


@pytest.fixture(scope="module")
def chatty(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> a2sf.Engine:
    path = tmp_path_factory.mktemp("chat") / "chat.gguf"
    return a2sf.Engine(copy_with(llama, path, {"tokenizer.chat_template": TEMPLATE}))


class TestChat:
    MESSAGES: ClassVar[list[dict[str, str]]] = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi {{ bos_token }} <b>"},
    ]

    def test_chat_is_generate_of_the_rendered_text(self, chatty: a2sf.Engine) -> None:
        text = "[system]be brief\n[user]hi {{ bos_token }} <b>\n[assistant]"
        prompt = [510, *chatty.tokenize(text, bos=False)]
        expected = chatty.generate(prompt, max_tokens=8)
        found = chatty.chat(self.MESSAGES, max_tokens=8)
        assert (found.ids, found.text) == (expected.ids, expected.text)
        assert found.stats.n_prompt == len(prompt)  # one beginning-of-text token, not two
        stream = chatty.stream_chat(self.MESSAGES, max_tokens=8)
        assert [t.id for t in stream] == expected.ids

    def test_bad_messages(self, chatty: a2sf.Engine) -> None:
        bad: list[tuple[object, type[Exception], str]] = [
            ([], a2sf.OptionError, "at least 1 message"),
            ("hi", TypeError, "sequence"),
            ({"role": "user", "content": ""}, TypeError, "sequence"),
            (["hi"], TypeError, r"messages\[0\]"),
            ([{"role": "user"}], a2sf.OptionError, r"'content' expected, found none"),
            ([{"role": "user", "content": 3}], a2sf.OptionError, "found int"),
            ([{"role": "tool", "content": ""}], a2sf.OptionError, "no tools"),
        ]
        for messages, error, text in bad:
            with pytest.raises(error, match=text):
                chatty.chat(messages)  # type: ignore[arg-type]

    def test_no_template(self, llama: Path) -> None:
        with pytest.raises(a2sf.UnsupportedError, match=r"chat template .* expected, found none"):
            a2sf.Engine(llama).chat(self.MESSAGES)

    @pytest.mark.parametrize(
        "template",
        ["{% for %}", "{{ ''.__class__.__mro__ }}", "{{ nothing.at.all }}", "{{ 1 / 0 }}",
         "{% for i in range(10000000) %}x{% endfor %}"],
    )  # fmt: skip
    def test_bad_templates(self, llama: Path, tmp_path: Path, template: str) -> None:
        path = copy_with(llama, tmp_path / "bad.gguf", {"tokenizer.chat_template": template})
        with pytest.raises(a2sf.UnsupportedError, match="chat template"):
            a2sf.Engine(path).chat(self.MESSAGES)

    def test_without_jinja2(self, chatty: a2sf.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        from a2sf import _chat

        _chat.compile_template.cache_clear()
        monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
        with pytest.raises(a2sf.Error, match=r"jinja2 expected \(pip install a2sf\[chat\]\)"):
            chatty.chat(self.MESSAGES)


def test_bundled_model_generates(bundled: Path) -> None:
    engine = a2sf.Engine()
    assert engine.info.path == str(bundled)
    assert engine.generate("Once upon a time", max_tokens=8).ids


def test_model_of_the_environment(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A2SF_MODEL", str(llama))
    assert a2sf.Engine().info.path == str(llama)
    monkeypatch.setenv("A2SF_MODEL", "/nowhere.gguf")
    with pytest.raises(a2sf.Error, match="nowhere"):
        a2sf.Engine()
