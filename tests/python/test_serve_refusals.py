"""a2sf serve: what is refused before any work is done for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import a2sf
import pytest

pytest.importorskip("openai")
pytest.importorskip("uvicorn")
from a2sf.serve import ServerOptions, create_app
from a2sf.serve._errors import ApiError
from a2sf.serve._requests import parse_chat, parse_completion, short
from serve_process import ServeProcess
from starlette.testclient import TestClient

ROOM = 3
URL = "http://127.0.0.1"


@pytest.fixture(scope="module")
def engine(bundled: Path) -> a2sf.Engine:
    return a2sf.Engine(bundled)


@pytest.fixture(scope="module")
def client(engine: a2sf.Engine) -> Iterator[TestClient]:
    options = ServerOptions(parallel=1, queue=ROOM - 1)
    with TestClient(create_app(engine, options), base_url=URL) as client:
        yield client


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Texts that were tokenised."""
    texts: list[str] = []
    encode = a2sf.Tokenizer.encode

    def noted(tokenizer: a2sf.Tokenizer, text: str, **options: Any) -> list[int]:
        texts.append(text)
        return encode(tokenizer, text, **options)

    monkeypatch.setattr(a2sf.Tokenizer, "encode", noted)
    return texts


def test_more_prompts_than_places_are_not_tokenised(client: TestClient, encoded: list[str]) -> None:
    answer = client.post("/v1/completions", json={"prompt": ["text"] * (ROOM + 1)})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")
    assert encoded == []


def test_no_prompt_is_tokenised_after_one_that_is_too_long(
    engine: a2sf.Engine, client: TestClient, encoded: list[str]
) -> None:
    long = "long " * engine.info.n_ctx
    for prompts, n_encoded in ((["text", long, "more"], 2), ([long, "more"], 1)):
        encoded.clear()
        answer = client.post("/v1/completions", json={"prompt": prompts})
        assert answer.json()["error"]["code"] == "context_length_exceeded"
        assert len(encoded) == n_encoded


def test_the_length_of_ids_is_checked_before_the_ids(
    engine: a2sf.Engine, client: TestClient
) -> None:
    ids = [engine.info.n_vocab] * (engine.info.n_ctx + 1)
    answer = client.post("/v1/completions", json={"prompt": ids})
    assert answer.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("parse", [parse_chat, parse_completion])
@pytest.mark.parametrize("kind", ["[]", "{}"])
def test_bodies_of_any_depth(parse: Callable[..., object], kind: str) -> None:
    """Those that are just not too deep to be read are not too deep to be told of."""
    opening, closing = ("[", "]") if kind == "[]" else ('{"a":', "}")
    for depth in range(700, 1000):
        value = opening * depth + "1" + closing * depth
        for field in ("messages", "prompt", "stop", "tools"):
            with pytest.raises(ApiError) as refused:
                parse(f'{{"{field}":{value}}}'.encode(), ServerOptions(), "model")
            assert refused.value.status == 400


def test_a_value_that_is_told_of_is_cut() -> None:
    for value in ("text", 5, 1.5, True, [], {}, [1, "a", {"b": [None]}], {"a": 1, "b": "\ud800"}):
        assert short(value) == json.dumps(value)
    assert short(None) == "none"
    assert short([7] * 1_000_000) == json.dumps([7] * 100)[:100] + "..."


@pytest.mark.parametrize(
    ("host", "is_let_in"),
    [
        ("localhost", True), ("LOCALHOST:8080", True), ("127.0.0.1:1", True), ("[::1]:80", True),
        ("[::1]", True), ("a.example", False), ("a.example:8080", False), ("", False),
        ("localhost.a.example", False), ("127.0.0.1.a.example", False), ("::1", False),
        ("[]", False), (":80", False), ("localhost@a.example", False), ("localhost.", False),
    ],
)  # fmt: skip
def test_hosts(engine: a2sf.Engine, host: str, is_let_in: bool) -> None:
    """A page whose name leads here by DNS rebinding calls the server by that name."""
    options = ServerOptions(allowed_hosts=("localhost", "127.0.0.1", "::1"))
    with TestClient(create_app(engine, options), base_url=URL) as client:
        for path in ("/v1/models", "/health", "/metrics"):
            answer = client.get(path, headers={"Host": host})
            assert answer.status_code == (200 if is_let_in else 403)
    if not is_let_in:
        assert answer.json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize("hosts", [(), ("*",), ("localhost", "*")])
def test_any_host(engine: a2sf.Engine, hosts: tuple[str, ...]) -> None:
    app = create_app(engine, ServerOptions(allowed_hosts=hosts))
    with TestClient(app, base_url="http://a.example") as client:
        assert client.get("/v1/models").status_code == 200


def test_a_server_without_keys_refuses_other_hosts(bundled: Path) -> None:
    with ServeProcess(bundled) as server:
        assert server.http.get("/v1/models").status_code == 200
        answer = server.http.get("/v1/models", headers={"Host": "a.example"})
        assert answer.status_code == 403
        status = "a2sf_requests_total{/v1/models,403}"
        assert server.metrics()[status] == 1
