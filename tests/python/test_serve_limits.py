"""a2sf serve: what it refuses, and how answers end before their time."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import a2sf
import pytest
from cli_program import a2sf as run_program

openai = pytest.importorskip("openai")
pytest.importorskip("uvicorn")
from serve_process import (  # noqa: E402
    ENDLESS_OPTIONS,
    ENDLESS_PROMPT,
    ENDLESS_TOKENS,
    ServeProcess,
    environment,
)

MAX_BYTES = 600_000
MESSAGE = {"role": "user", "content": "Hello"}
CHAT: dict[str, Any] = {"messages": [MESSAGE], "max_tokens": 2}
COMPLETION: dict[str, Any] = {"prompt": "Hello", "max_tokens": 2}


@pytest.fixture(scope="module")
def server(bundled: Path) -> Iterator[ServeProcess]:
    """One place, one more in the queue."""
    options = ["--parallel", 1, "--queue", 1, "--max-request-bytes", MAX_BYTES, "--batch", 1]
    with ServeProcess(bundled, *options, *ENDLESS_OPTIONS) as process:
        yield process


@pytest.fixture
def idle(server: ServeProcess) -> Iterator[ServeProcess]:
    """Nothing runs before and nothing after: each test gives back the places it took."""

    def is_idle(m: dict[str, float]) -> bool:
        return m["a2sf_sequences_running"] == m["a2sf_sequences_waiting"] == 0

    server.wait_for(is_idle)
    yield server
    assert server.wait_for(is_idle)["a2sf_kv_cache_bytes"] == 0


def refused(server: ServeProcess, path: str, body: Any) -> tuple[int, dict[str, Any]]:
    """Status and error object of a request that must fail."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = server.http.post(path, content=data, headers={"Content-Type": "application/json"})
    assert answer.status_code >= 400, answer.text
    assert answer.json().keys() == {"error"}
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return answer.status_code, error


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("nonsense", 1),
        ("n", 2),
        ("n", True),
        ("max_tokens", 0),
        ("max_tokens", ENDLESS_TOKENS + 1),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("temperature", -1),
        ("temperature", "hot"),
        ("top_p", 2),
        ("top_k", -1),
        ("min_p", 1.5),
        ("repeat_penalty", 0),
        ("seed", "a"),
        ("seed", 2**64),
        ("stop", [""]),
        ("stop", 7),
        ("stop", ["x"] * 100),
        ("stream", "yes"),
        ("stream_options", {"include_usage": True}),
        ("store", True),
        ("logit_bias", {"5": 100}),
        ("frequency_penalty", 0.5),
        ("presence_penalty", -1),
    ],
)
def test_fields_that_cannot_be_met(idle: ServeProcess, field: str, value: Any) -> None:
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION)):
        status, error = refused(idle, path, body | {field: value})
        assert (status, error["type"], error["param"]) == (400, "invalid_request_error", field)
        assert error["message"].startswith(field)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [MESSAGE, {"role": "tool", "content": ""}]}, "messages[1].role"),
        ({"messages": [{**MESSAGE, "tool_calls": [{}]}]}, "messages[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0]",
        ),
        ({"max_completion_tokens": 3}, "max_completion_tokens"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": 1}, "logprobs"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
    ],
)
def test_chats_that_cannot_be_met(idle: ServeProcess, change: dict[str, Any], param: str) -> None:
    status, error = refused(idle, "/v1/chat/completions", CHAT | change)
    assert (status, error["param"]) == (400, param)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": [10**30]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["a", "b", "c"]}, "prompt"),  # more than places and queue together
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "."}, "suffix"),
        ({"logprobs": 1}, "logprobs"),
    ],
)
def test_completions_that_cannot_be_met(
    idle: ServeProcess, change: dict[str, Any], param: str
) -> None:
    status, error = refused(idle, "/v1/completions", COMPLETION | change)
    assert (status, error["param"]) == (400, param)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000,
        b'{"prompt": "a", "temperature": NaN}', b'{"prompt": "a", "seed": ' + b"9" * 10_000 + b"}",
        b'{"prompt": "\\ud800"}', b'{"prompt": "a", "stop": "\\ud800"}', b'{"\\ud800": 1}',
    ],
)  # fmt: skip
def test_bodies_that_are_none(idle: ServeProcess, body: bytes) -> None:
    assert refused(idle, "/v1/completions", body)[0] == 400


def test_openais_client_sees_its_own_errors(idle: ServeProcess) -> None:
    client = idle.client()
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="gpt-4", prompt="a")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")
    with pytest.raises(openai.BadRequestError) as unknown:
        client.completions.create(model=idle.model, prompt="a", extra_body={"mirostat": 2})
    assert (unknown.value.code, unknown.value.param) == ("unknown_field", "mirostat")


def test_paths_methods_and_types(idle: ServeProcess) -> None:
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/completions", 405),
        ("POST", "/metrics", 405),
    ):
        answer = idle.http.request(method, path)
        assert answer.status_code == status
        assert path in answer.json()["error"]["message"]
    # What a browser sends to another site without asking it first.
    answer = idle.http.post("/v1/completions", content=b'{"prompt": "a"}')
    assert answer.status_code == 415
    assert "access-control-allow-origin" not in answer.headers


def test_bodies_that_are_too_large(idle: ServeProcess) -> None:
    fits = json.dumps({"prompt": "a", "max_tokens": 1, "user": ""}).encode()
    fits = fits[:-2] + b"u" * (MAX_BYTES - len(fits)) + fits[-2:]
    kind = {"Content-Type": "application/json"}
    assert idle.http.post("/v1/completions", content=fits, headers=kind).status_code == 200
    status, error = refused(idle, "/v1/completions", fits + b" ")
    assert (status, error["code"]) == (413, "request_too_large")
    with pytest.raises(openai.APIStatusError) as large:  # far larger
        idle.client().completions.create(model=idle.model, prompt="a" * 20 * MAX_BYTES)
    assert large.value.status_code == 413


def test_a_prompt_beyond_the_context_without_eviction(bundled: Path) -> None:
    n_ctx = a2sf.Engine(bundled).info.n_ctx
    with ServeProcess(bundled, "--max-tokens-limit", 5) as server:
        long = {"prompt": [5] * (n_ctx + 1)}
        status, error = refused(server, "/v1/completions", long)
        assert (status, error["code"]) == (400, "context_length_exceeded")
        status, error = refused(server, "/v1/completions", COMPLETION | {"max_tokens": 6})
        assert (status, error["param"]) == (400, "max_tokens")
        answer = server.client().completions.create(model=server.model, prompt=[5] * n_ctx)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == n_ctx


def test_keys(bundled: Path) -> None:
    variables = {"A2SF_API_KEY": "first, second"}
    with ServeProcess(bundled, "--api-key", "third", variables=variables) as server:
        for key in ("first", "second", "third"):
            assert server.client(key).models.list().data[0].id == server.model
        for key in ("fourth", "firs", "first,", "first, second", "\u00fc"):
            header = f"Bearer {key}".encode()
            answer = server.http.get("/v1/models", headers={b"Authorization": header})
            assert answer.status_code == 401
        with pytest.raises(openai.AuthenticationError) as wrong:
            server.client("fourth").completions.create(model=server.model, prompt="a")
        assert wrong.value.code == "invalid_api_key"
        for path in ("/v1/models", "/metrics", "/nothing"):
            assert server.http.get(path).status_code == 401
        assert server.http.get("/v1/models", headers={"Authorization": "first"}).status_code == 401
        assert server.http.get("/health").status_code == 200
        server.http.headers["Authorization"] = "Bearer first"
        assert server.metrics()["a2sf_requests_total{/v1/completions,401}"] == 1


def test_origins(bundled: Path) -> None:
    options = ["--cors-origin", "https://a.example", "--api-key", "k"]
    with ServeProcess(bundled, *options) as server:
        for origin, allowed in (("https://a.example", True), ("https://b.example", False)):
            ask = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            answer = server.http.options("/v1/completions", headers=ask)
            assert ("access-control-allow-origin" in answer.headers) == allowed


def test_a_full_queue_refuses_and_recovers(idle: ServeProcess) -> None:
    first = idle.endless()
    next(iter(first))
    answers: list[Any] = []

    def wait_in_queue() -> None:
        client = idle.client()
        answers.append(client.completions.create(model=idle.model, prompt="a", max_tokens=3))

    second = threading.Thread(target=wait_in_queue)
    second.start()
    idle.wait_for(lambda m: m["a2sf_sequences_waiting"] == 1)
    with pytest.raises(openai.RateLimitError) as full:
        idle.client().completions.create(model=idle.model, prompt="a", max_tokens=1)
    assert full.value.code == "queue_full"
    assert int(full.value.response.headers["Retry-After"]) >= 1
    assert answers == []
    first.close()
    second.join()
    assert answers[0].usage.completion_tokens == 3


def test_a_client_that_leaves_frees_its_place(idle: ServeProcess) -> None:
    before = idle.metrics().get("a2sf_sequences_total{cancelled}", 0)
    stream = idle.endless()
    next(iter(stream))
    running = idle.metrics()
    assert running["a2sf_sequences_running"] == 1
    assert running["a2sf_kv_cache_bytes"] > 0
    stream.close()
    idle.wait_for(lambda m: m.get("a2sf_sequences_total{cancelled}") == before + 1)


@pytest.mark.parametrize(
    ("prompt", "stream"),
    [(ENDLESS_PROMPT, False), ([5] * 120_000, False), ([5] * 120_000, True)],
    ids=["while decoding", "in its prompt", "in its prompt, streaming"],
)
def test_a_client_that_leaves_before_the_first_byte(
    idle: ServeProcess, prompt: Any, stream: bool
) -> None:
    before = idle.metrics()
    body = {"prompt": prompt, "max_tokens": ENDLESS_TOKENS, "temperature": 0, "stream": stream}
    host = idle.root.removeprefix("http://")
    connection = http.client.HTTPConnection(host)
    connection.request(
        "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
    )
    idle.wait_for(lambda m: m["a2sf_sequences_running"] == 1)
    connection.close()
    ended = before.get("a2sf_sequences_total{cancelled}", 0) + 1
    after = idle.wait_for(lambda m: m.get("a2sf_sequences_total{cancelled}") == ended)
    if not isinstance(prompt, str):
        assert after["a2sf_generated_tokens_total"] == before["a2sf_generated_tokens_total"]


def test_a_client_that_leaves_the_queue(idle: ServeProcess) -> None:
    first = idle.endless()
    next(iter(first))
    connection = http.client.HTTPConnection(idle.root.removeprefix("http://"))
    kind = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", json.dumps(COMPLETION), kind)
    idle.wait_for(lambda m: m["a2sf_sequences_waiting"] == 1)
    connection.close()
    after = idle.wait_for(lambda m: m["a2sf_sequences_waiting"] == 0)
    assert after["a2sf_sequences_running"] == 1
    first.close()


def collect(stream: Any) -> tuple[str, Exception | None]:
    """Text of a stream, and the error that it ended with."""
    text = ""
    try:
        for chunk in stream:
            text += chunk.choices[0].text
    except openai.APIError as error:
        return text, error
    return text, None


def test_time_outs(bundled: Path) -> None:
    with ServeProcess(bundled, "--timeout", 0.5, "--parallel", 1, *ENDLESS_OPTIONS) as server:
        with pytest.raises(openai.APIStatusError) as late:
            server.client().completions.create(
                model=server.model,
                prompt=ENDLESS_PROMPT,
                max_tokens=ENDLESS_TOKENS,
                temperature=0,
            )
        assert (late.value.status_code, late.value.code) == (504, "timeout")
        text, error = collect(server.endless())
        assert len(text) > 0
        assert isinstance(error, openai.APIError)
        assert error.code == "timeout"
        metrics = server.metrics()
        assert metrics["a2sf_sequences_total{timeout}"] == 2
        assert metrics["a2sf_sequences_running"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_answers_with_an_error(bundled: Path, number: signal.Signals) -> None:
    with ServeProcess(bundled, "--grace", 0.2, "--parallel", 1, *ENDLESS_OPTIONS) as server:
        stream = server.endless()
        next(iter(stream))
        waiting: list[int] = []

        def wait_in_queue() -> None:
            waiting.append(refused(server, "/v1/completions", COMPLETION)[0])

        thread = threading.Thread(target=wait_in_queue)
        thread.start()
        server.wait_for(lambda m: m["a2sf_sequences_waiting"] == 1)
        server.process.send_signal(number)
        _, error = collect(stream)
        assert isinstance(error, openai.APIError)
        assert error.code == "shutting_down"
        thread.join()
        assert waiting == [503]
        assert server.process.wait(timeout=60) == 0


def test_a_second_signal_ends_it_at_once(bundled: Path) -> None:
    with ServeProcess(bundled, "--grace", 10_000, *ENDLESS_OPTIONS) as server:
        stream = server.endless()
        next(iter(stream))
        server.process.send_signal(signal.SIGINT)
        server.wait_until_told_to_end()
        next(iter(stream))  # goes on for its grace
        server.process.send_signal(signal.SIGINT)
        _, error = collect(stream)
        assert isinstance(error, openai.APIError)
        assert error.code == "shutting_down"
        assert server.process.wait(timeout=60) == 0


def test_a_signal_lets_answers_end(bundled: Path) -> None:
    n_tokens = 300
    engine = a2sf.Engine(bundled, eviction=a2sf.Eviction(budget=64, positions="compact"))
    expected = engine.generate(ENDLESS_PROMPT, max_tokens=n_tokens).text
    with ServeProcess(bundled, "--grace", 60, *ENDLESS_OPTIONS) as server:
        stream = server.client().completions.create(
            model=server.model,
            prompt=ENDLESS_PROMPT,
            max_tokens=n_tokens,
            temperature=0,
            stream=True,
        )
        first = next(iter(stream)).choices[0].text
        server.process.send_signal(signal.SIGTERM)
        rest, error = collect(stream)
        assert error is None
        assert first + rest == expected
        assert server.process.wait(timeout=60) == 0


def test_a_body_that_does_not_come(bundled: Path) -> None:
    with ServeProcess(bundled, "--timeout", 0.3) as server:
        connection = http.client.HTTPConnection(server.root.removeprefix("http://"))
        connection.putrequest("POST", "/v1/completions")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b'{"prompt"')
        answer = connection.getresponse()
        assert (answer.status, json.load(answer)["error"]["code"]) == (408, "timeout")
        connection.close()


def test_an_open_address_without_key_is_told(bundled: Path) -> None:
    line = [sys.executable, "-m", "a2sf.serve", "-m", str(bundled), "--port", "0"]
    for options, warned in ((["--host", "0.0.0.0"], True), ([], False)):
        process = subprocess.Popen(
            [*line, *options],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline().startswith("a2sf: serving ")
        process.send_signal(signal.SIGTERM)
        assert ("--api-key" in process.communicate(timeout=60)[1]) == warned


def test_a_port_that_is_taken(server: ServeProcess, bundled: Path) -> None:
    port = server.root.rpartition(":")[2]
    done = run_program("serve", "-m", bundled, "--port", port, env=environment())
    assert (done.returncode, done.stdout) == (1, "")
    assert f"127.0.0.1:{port}: an address to listen at expected" in done.stderr


def test_without_its_packages_the_server_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, bundled: Path
) -> None:
    from a2sf.serve import create_app

    monkeypatch.setitem(sys.modules, "starlette", None)
    with pytest.raises(a2sf.Error, match=r"starlette expected \(pip install 'a2sf\[serve\]'\)"):
        create_app(a2sf.Engine(bundled))
