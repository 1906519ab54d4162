"""a2sf serve: answers, as OpenAI's own client gets them, against the engine's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import a2sf
import pytest
from cli_program import a2sf as run_program
from cli_program import program

pytest.importorskip("openai")
pytest.importorskip("uvicorn")
from serve_process import ServeProcess, environment

PROMPT = "Nora keeps the stone letter in the white sack. Nora keeps the stone letter"
MESSAGES: list[Any] = [{"role": "user", "content": "Where is the letter?"}]
BUDGET = 32


@pytest.fixture(scope="module")
def engine(bundled: Path) -> a2sf.Engine:
    return a2sf.Engine(bundled, eviction=a2sf.Eviction(budget=BUDGET, positions="compact"))


@pytest.fixture(scope="module")
def server(bundled: Path) -> Iterator[ServeProcess]:
    with ServeProcess(bundled, "--budget", BUDGET, "--parallel", 3) as process:
        yield process


def test_completion(server: ServeProcess, engine: a2sf.Engine) -> None:
    expected = engine.generate(PROMPT, max_tokens=40)
    answer = server.client().completions.create(
        model=server.model, prompt=PROMPT, max_tokens=40, temperature=0
    )
    assert answer.object == "text_completion"
    assert answer.model == server.model
    assert [choice.text for choice in answer.choices] == [expected.text]
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    usage = answer.usage.to_dict()
    n_prompt = len(engine.tokenize(PROMPT))
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (n_prompt, 40)
    assert usage["total_tokens"] == n_prompt + 40
    cache: dict[str, Any] = usage["a2sf"]  # type: ignore[assignment]
    assert cache.keys() == {
        "budget", "n_evicted", "n_live", "kv_bytes", "kv_bytes_full", "prompt_s", "decode_s",
    }  # fmt: skip
    for name in ("budget", "n_evicted", "n_live", "kv_bytes_full"):
        assert cache[name] == getattr(expected.stats, name), name
    assert cache["n_evicted"] > 0


def test_prompts_of_every_kind(server: ServeProcess, engine: a2sf.Engine) -> None:
    texts = ["Marta waited", "The secret word of Karl is", "Oskar sang", "Nora keeps", "Where"]
    ids = [engine.tokenize(text) for text in texts]
    expected = [engine.generate(text, max_tokens=12).text for text in texts]
    assert len(set(expected)) == len(texts)
    client = server.client()

    def texts_of(prompt: Any) -> list[str]:
        answer = client.completions.create(
            model=server.model, prompt=prompt, max_tokens=12, temperature=0
        )
        assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
        return [choice.text for choice in answer.choices]

    assert texts_of(texts) == texts_of(ids) == expected  # more than run at once
    assert texts_of(ids[1]) == texts_of(texts[1]) == [expected[1]]


def test_streams_of_several_prompts(server: ServeProcess, engine: a2sf.Engine) -> None:
    texts = ["Marta waited", "The secret word of Karl is", "Oskar sang", "Nora keeps"]
    got = [""] * len(texts)
    for chunk in server.client().completions.create(
        model=server.model, prompt=texts, max_tokens=20, temperature=0, stream=True
    ):
        for choice in chunk.choices:
            got[choice.index] += choice.text
    assert got == [engine.generate(text, max_tokens=20).text for text in texts]


def test_completion_defaults_to_openais_16_tokens(server: ServeProcess) -> None:
    answer = server.client().completions.create(model=server.model, prompt=PROMPT, temperature=0)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


def test_chat(server: ServeProcess, engine: a2sf.Engine) -> None:
    expected = engine.chat(MESSAGES, max_tokens=60)
    assert expected.finish_reason == "end"
    answer = server.client().chat.completions.create(
        model=server.model, messages=MESSAGES, max_completion_tokens=60, temperature=0
    )
    (choice,) = answer.choices
    assert answer.object == "chat.completion"
    assert (choice.message.role, choice.message.content) == ("assistant", expected.text)
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == expected.stats.n_prompt
    assert answer.usage.completion_tokens == len(expected.ids)


def test_chat_content_in_parts(server: ServeProcess, engine: a2sf.Engine) -> None:
    parts = [{"type": "text", "text": "Where is "}, {"type": "text", "text": "the letter?"}]
    conversation: list[Any] = [{"role": "developer", "content": "Nora has the spoon."}]
    answer = server.client().chat.completions.create(
        model=server.model,
        messages=[*conversation, {"role": "user", "content": parts}],  # type: ignore[list-item]
        max_tokens=20,
        temperature=0,
    )
    system = [{"role": "system", "content": "Nora has the spoon."}]
    assert answer.choices[0].message.content == engine.chat(system + MESSAGES, max_tokens=20).text


def test_chat_stream_with_usage(server: ServeProcess, engine: a2sf.Engine) -> None:
    expected = engine.chat(MESSAGES, max_tokens=60)
    chunks = list(
        server.client().chat.completions.create(
            model=server.model,
            messages=MESSAGES,
            max_tokens=60,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    *pieces, last = chunks
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == expected.text
    assert len(pieces) > len(expected.text.split())  # in pieces indeed
    reasons = [piece.choices[0].finish_reason for piece in pieces]
    assert reasons == [None] * (len(pieces) - 1) + ["stop"]
    assert all(piece.usage is None for piece in pieces)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == len(expected.ids)
    assert last.usage.to_dict()["a2sf"]["budget"] == BUDGET  # type: ignore[index]


def test_stream_is_server_sent_events(server: ServeProcess) -> None:
    body = {"prompt": PROMPT, "max_tokens": 3, "temperature": 0, "stream": True}
    answer = server.http.post("/v1/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, rest = answer.text.split("\n\n")
    assert rest == ""
    assert events[-1] == "data: [DONE]"
    for event in events[:-1]:
        chunk = json.loads(event.removeprefix("data: "))
        assert "usage" not in chunk
        assert chunk["object"] == "text_completion"


def test_stop(server: ServeProcess, engine: a2sf.Engine) -> None:
    full = engine.generate(PROMPT, max_tokens=40).text
    stop = full.split()[5]
    for given in (stop, ["not in the text", stop]):
        answer = server.client().completions.create(
            model=server.model, prompt=PROMPT, max_tokens=40, temperature=0, stop=given
        )
        assert answer.choices[0].text == full.partition(stop)[0]
        assert answer.choices[0].finish_reason == "stop"


def test_sampling_and_seed_are_the_engines(server: ServeProcess, engine: a2sf.Engine) -> None:
    sampling = a2sf.Sampling(
        temperature=1.5, top_p=0.9, top_k=50, min_p=0.01, repeat_penalty=1.1, seed=11
    )
    expected = engine.generate(PROMPT, max_tokens=30, sampling=sampling).text
    answer = server.client().completions.create(
        model=server.model,
        prompt=PROMPT,
        max_tokens=30,
        temperature=1.5,
        top_p=0.9,
        seed=11,
        extra_body={"top_k": 50, "min_p": 0.01, "repeat_penalty": 1.1},
    )
    assert answer.choices[0].text == expected


def test_without_seed_answers_differ(server: ServeProcess) -> None:
    client = server.client()
    texts = {
        client.completions.create(model=server.model, prompt="The", max_tokens=30).choices[0].text
        for _ in range(4)
    }
    assert len(texts) > 1  # also shows that the temperature is 1 unless named


def test_logprobs(server: ServeProcess, engine: a2sf.Engine) -> None:
    expected = engine.generate(PROMPT, max_tokens=8)
    client = server.client()
    answer = client.completions.create(
        model=server.model, prompt=PROMPT, max_tokens=8, temperature=0, logprobs=0
    )
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.token_logprobs == pytest.approx(expected.logprobs)
    assert found.tokens is not None
    assert "".join(found.tokens) == expected.text
    assert found.text_offset is not None
    for token, offset in zip(found.tokens, found.text_offset, strict=True):
        assert expected.text[offset : offset + len(token)] == token
    chat = client.chat.completions.create(
        model=server.model, messages=MESSAGES, max_tokens=8, temperature=0, logprobs=True
    )
    logprobs = chat.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    values = [item.logprob for item in logprobs.content]
    assert values == pytest.approx(engine.chat(MESSAGES, max_tokens=8).logprobs)


def test_fields_that_change_nothing_are_accepted(server: ServeProcess, engine: a2sf.Engine) -> None:
    answer = server.client().chat.completions.create(
        model=server.model,
        messages=MESSAGES,
        max_tokens=10,
        temperature=0,
        n=1,
        store=False,
        user="someone",
        metadata={"a": "b"},
        frequency_penalty=0,
        presence_penalty=0.0,
        response_format={"type": "text"},
        extra_body={"tools": None},
    )
    assert answer.choices[0].message.content == engine.chat(MESSAGES, max_tokens=10).text


def test_models(server: ServeProcess, bundled: Path) -> None:
    client = server.client()
    (model,) = client.models.list().data
    assert model.id == server.model == bundled.name.removesuffix(".gguf")
    assert client.models.retrieve(model.id) == model
    assert model.to_dict()["a2sf"]["budget"] == BUDGET  # type: ignore[index]


def test_metrics_count(server: ServeProcess) -> None:
    before = server.metrics()
    answer = server.client().completions.create(
        model=server.model, prompt=PROMPT, max_tokens=40, temperature=0
    )
    after = server.metrics()
    assert answer.usage is not None

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown("a2sf_requests_total{/v1/completions,200}") == 1
    assert grown("a2sf_sequences_total{length}") == 1
    assert grown("a2sf_prompt_tokens_total") == answer.usage.prompt_tokens
    assert grown("a2sf_generated_tokens_total") == 40
    assert grown("a2sf_evicted_tokens_total") == answer.usage.to_dict()["a2sf"]["n_evicted"]  # type: ignore[index]
    assert grown("a2sf_request_seconds_count") == grown("a2sf_first_token_seconds_count") == 1
    assert after["process_resident_memory_bytes"] > 0


def test_health(server: ServeProcess) -> None:
    answer = server.http.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_the_native_program_starts_it(bundled: Path, engine: a2sf.Engine) -> None:
    options = ["--budget", BUDGET, "--temperature", 0, "--served-model-name", "notes"]
    with ServeProcess(bundled, *options, command=[program(), "serve"]) as server:
        assert server.model == "notes"
        answer = server.client().completions.create(model="notes", prompt=PROMPT, max_tokens=20)
    assert answer.choices[0].text == engine.generate(PROMPT, max_tokens=20).text


def test_help_and_bad_usage_of_the_command() -> None:
    env = environment()
    done = run_program("serve", "--help", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    for option in ("--port", "--api-key", "--parallel", "--budget", "--kv-type", "--queue"):
        assert option in done.stdout
    for wrong in (["--nonsense"], ["--budget", "x"], ["--parallel", "0"], ["--port", "70000"]):
        done = run_program("serve", *wrong, env=env)
        assert done.returncode == 2
        assert wrong[0].strip("-") in done.stderr
    done = run_program("serve", "-m", "no-such-model.gguf", env=env)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no-such-model.gguf" in done.stderr


def test_without_python_or_package_the_command_says_what_to_install(tmp_path: Path) -> None:
    alone = tmp_path / "a2sf"
    alone.write_bytes(Path(program()).read_bytes())
    alone.chmod(0o755)

    def run(path: str) -> str:
        done = subprocess.run(
            [alone, "serve"], env={"PATH": path}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        return done.stderr

    assert "pip install 'a2sf[serve]'" in run(str(tmp_path))
    fake = tmp_path / "python3"
    fake.write_text('#!/bin/sh\necho "beside: $1" >&2; exit 1\n')
    fake.chmod(0o755)
    assert "beside: -c" in run("/usr/bin:/bin")
