"""Session.chat: turns read once, the same tokens as the whole conversation, pinned prompts."""

from __future__ import annotations

import os
from pathlib import Path

import a2sf
import numpy as np
import pytest
from a2sf._chat import render
from chat_templates import TEMPLATES
from gguf_edit import copy_with

NOTE = "These are the notes of Nora. Jonas keeps the brass coin under the pink cupboard."
QUESTIONS = ["Where is the brass coin?", "Who wrote the notes?", "Where is the stone letter?"]


@pytest.fixture(scope="module")
def engine(bundled: Path) -> a2sf.Engine:
    return a2sf.Engine(bundled, progress=False)


def with_template(engine: a2sf.Engine, folder: Path, template: str) -> a2sf.Engine:
    path = folder / "chat.gguf"
    copy_with(Path(engine.info.path), path, {"tokenizer.chat_template": template})
    return a2sf.Engine(path, progress=False)


def rendered(engine: a2sf.Engine, messages: list[dict[str, str]]) -> str:
    native = engine.tokenizer._native
    bos, eos = (native.entry(i) for i in (engine.tokenizer.bos, engine.tokenizer.eos))
    return render(engine.tokenizer.chat_template, messages, bos_token=bos, eos_token=eos)


def read_ids(session: a2sf.Session, ask: str, **options: object) -> list[int]:
    """Tokens that one turn reads and writes."""
    stream = session.stream_chat(ask, max_tokens=12, **options)  # type: ignore[arg-type]
    fed = stream._ids.tolist()  # type: ignore[attr-defined]
    return [*fed, *(token.id for token in stream)]


def test_turns_equal_one_rendering(engine: a2sf.Engine) -> None:
    """Token for token, and in what the model then predicts."""
    session = engine.session()
    read = read_ids(session, QUESTIONS[0], system=NOTE)
    for ask in QUESTIONS[1:]:
        read += read_ids(session, ask)
    assert session.n_tokens == len(read)
    assert [m["role"] for m in session.messages] == ["system", *["user", "assistant"] * 3]
    text = rendered(engine, session.messages[:-1]) + session.messages[-1]["content"]
    assert engine.tokenize(text) == read
    expected = engine.logits([*read, 5])[-1]
    found = session.feed([5])
    assert np.abs(found - expected).mean() < 2e-2 * expected.std()
    assert found.argmax() == expected.argmax()


@pytest.mark.real
@pytest.mark.slow
def test_turns_of_a_real_model_equal_one_rendering() -> None:
    path = os.environ.get("A2SF_REAL_MODEL")
    if not path:
        pytest.skip("A2SF_REAL_MODEL names no model (SmolLM2-135M-Instruct Q4_1)")
    engine = a2sf.Engine(path, progress=False)
    session = engine.session()
    read: list[int] = []
    for ask in ("What is the capital of France?", "And of Italy?", "Say it in one word."):
        read += read_ids(session, ask, system="You are brief." if not read else None)
    text = rendered(engine, session.messages[:-1]) + session.messages[-1]["content"]
    assert engine.tokenize(text) == read


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_goes_on(engine: a2sf.Engine, tmp_path: Path, name: str) -> None:
    """Whatever the template, a turn reads what one rendering has behind the answer before."""
    _, template, has_system = TEMPLATES[name]
    changed = with_template(engine, tmp_path, template)
    session = changed.session()
    system = NOTE if has_system else None
    read = read_ids(session, QUESTIONS[0], system=system)
    for ask in QUESTIONS[1:]:
        answer = session.messages[-1]["content"].strip()
        turn = read_ids(session, ask)
        read += turn
        whole = rendered(changed, session.messages[:-1])
        text = changed.tokenizer.decode(turn, special=True)
        assert whole.rpartition(answer)[2].strip() in text
    assert session.n_tokens == len(read)


@pytest.mark.parametrize("policy", [name for name in a2sf.policies() if name != "full"])
def test_the_system_prompt_stays(engine: a2sf.Engine, policy: str) -> None:
    eviction = a2sf.Eviction(policy=policy, budget=128, pinned=(150, 155))
    session = engine.chat_session(system=NOTE, eviction=eviction)
    opening = len(engine.tokenize(NOTE + "\nQuestion:"))
    for i in range(12):
        session.chat(f"{QUESTIONS[i % 3]} ({i})", max_tokens=16)
    cache = session.cache
    assert session.n_tokens > 300
    assert cache.live.tolist() == np.minimum(cache.budgets, session.n_tokens).tolist()
    assert cache.budgets.mean() == 128
    must = {*range(opening), *range(150, 155)}
    for layer in range(cache.n_layers):
        for head in range(cache.n_kv_heads):
            assert must <= set(cache.positions(layer, head).tolist())


def test_a_long_conversation_is_of_constant_size(engine: a2sf.Engine) -> None:
    eviction = a2sf.Eviction(budget=128)
    session = engine.chat_session(system=NOTE, eviction=eviction)
    at_20 = 0
    for i in range(200):
        session.chat(f"{QUESTIONS[i % 3]} (number {i + 100})", max_tokens=8)
        assert session.cache.live.mean() <= 128
        if i == 19:
            at_20 = session.cache.bytes
    assert session.n_tokens > 3000
    assert session.cache.bytes == at_20


def test_an_answer_cut_short_is_closed(engine: a2sf.Engine) -> None:
    session = engine.session()
    stream = session.stream_chat(QUESTIONS[0], system=NOTE, max_tokens=32)
    tokens = [next(stream), next(stream)]
    answer = session.chat(QUESTIONS[1], max_tokens=4)
    kept = session.messages[2]
    assert kept == {"role": "assistant", "content": "".join(t.text for t in tokens)}
    assert session.messages[-1]["content"] == answer.text
    with pytest.raises(StopIteration):
        next(stream)
    other = engine.session()
    text = rendered(engine, session.messages[:-1])
    assert other.generate(text, max_tokens=4).ids == answer.ids


def test_a_stream_that_was_never_read_changes_nothing(engine: a2sf.Engine) -> None:
    session = engine.session()
    session.stream_chat(QUESTIONS[0])
    assert session.n_tokens == 0
    assert session.messages == []
    assert len(session.chat(QUESTIONS[0], system=NOTE).ids) > 0


def test_forks_go_on_by_themselves(engine: a2sf.Engine) -> None:
    session = engine.chat_session(system=NOTE)
    session.chat(QUESTIONS[0])
    fork = session.fork()
    one, other = session.chat(QUESTIONS[1]), fork.chat(QUESTIONS[1])
    assert one.ids == other.ids
    fork.chat(QUESTIONS[2])
    assert len(fork.messages) == len(session.messages) + 2
    session.reset()
    assert session.messages == []
    assert session.chat(QUESTIONS[0]).stats.n_prompt > 0


def test_a_fork_ends_an_open_answer(engine: a2sf.Engine) -> None:
    session = engine.chat_session(system=NOTE)
    answer = session.stream_chat(QUESTIONS[0])
    next(answer)
    fork = session.fork()
    assert fork.messages == session.messages
    assert fork.messages[-1]["role"] == "assistant"
    assert fork.chat(QUESTIONS[1]).ids == session.chat(QUESTIONS[1]).ids


def test_refusals(engine: a2sf.Engine, tmp_path: Path) -> None:
    session = engine.session()
    session.chat(QUESTIONS[0], system=NOTE)
    with pytest.raises(a2sf.OptionError, match=r"^system: .* expected, found"):
        session.chat(QUESTIONS[0], system=NOTE)
    session.feed([5])
    with pytest.raises(a2sf.OptionError, match=r"^chat: .* reset it first"):
        session.chat(QUESTIONS[0])
    with pytest.raises(a2sf.OptionError, match=r"^budget: .* pinned"):
        engine.chat_session(system=NOTE * 9, eviction=a2sf.Eviction(budget=64))
    # One that leaves out earlier answers.
    forgetful = (
        "{% for m in messages %}{% if m.role == 'user' %}[{{ m.content }}]{% endif %}{% endfor %}"
    )
    session = with_template(engine, tmp_path, forgetful).session()
    session.chat(QUESTIONS[0], max_tokens=4)
    with pytest.raises(a2sf.UnsupportedError, match=r"chat template: .* expected, found one that"):
        session.chat(QUESTIONS[1])


def test_a_full_context_refuses_and_keeps_the_conversation(engine: a2sf.Engine) -> None:
    session = engine.session()
    session.chat(QUESTIONS[0], system=NOTE, max_tokens=4)
    before = session.n_tokens
    with pytest.raises(a2sf.OptionError, match="give a budget"):
        session.chat("word " * 2 * engine.info.n_ctx)
    assert session.n_tokens == before
    assert len(session.messages) == 3
    session.chat(QUESTIONS[1], max_tokens=4)


def test_a_loaded_conversation_goes_on(engine: a2sf.Engine, tmp_path: Path) -> None:
    session = engine.chat_session(system=NOTE)
    first = session.chat(QUESTIONS[0], max_tokens=12)
    session.save(tmp_path / "it.session")
    loaded = engine.session(load=tmp_path / "it.session")
    assert loaded.messages == session.messages
    assert [m["role"] for m in loaded.messages] == ["system", "user", "assistant"]
    assert loaded.messages[-1]["content"] == first.text
    assert read_ids(loaded, QUESTIONS[1]) == read_ids(session, QUESTIONS[1])
    # What was read by other means than chat() is no conversation, nor is a note of another kind.
    session.feed([5])
    session.save(tmp_path / "fed.session")
    assert engine.session(load=tmp_path / "fed.session").messages == []
    session._native.save(str(tmp_path / "odd.session"), np.empty(0, np.int32), '{"messages": 3}')
    with pytest.raises(a2sf.SavedSessionError, match="another kind"):
        engine.session(load=tmp_path / "odd.session")


def test_saving_ends_an_answer_that_is_streamed(engine: a2sf.Engine, tmp_path: Path) -> None:
    session = engine.chat_session(system=NOTE)
    stream = session.stream_chat(QUESTIONS[0], max_tokens=12)
    begun = next(iter(stream)).text
    session.save(tmp_path / "it.session")
    loaded = engine.session(load=tmp_path / "it.session")
    assert loaded.messages[-1]["content"].startswith(begun)
    assert loaded.n_tokens == session.n_tokens
    assert read_ids(loaded, QUESTIONS[1]) == read_ids(session, QUESTIONS[1])


def test_a_conversation_saved_before_its_first_message(engine: a2sf.Engine, tmp_path: Path) -> None:
    session = engine.chat_session(system=NOTE)
    session.save(tmp_path / "it.session")
    loaded = engine.session(load=tmp_path / "it.session")
    assert read_ids(loaded, QUESTIONS[0]) == read_ids(session, QUESTIONS[0])
    assert loaded.messages[0] == {"role": "system", "content": NOTE}


def test_share_of_no_length(engine: a2sf.Engine) -> None:
    with pytest.raises(a2sf.OptionError, match="no length to take a share of"):
        engine.chat_session(eviction=a2sf.Eviction(budget="25%"))
