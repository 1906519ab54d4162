"""a2sf serve: memory that cannot be got and faults of its own end requests, not the server."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import a2sf
import pytest

openai = pytest.importorskip("openai")
pytest.importorskip("uvicorn")
from a2sf.serve import ServerOptions, _scheduler  # noqa: E402
from a2sf.serve._errors import ApiError  # noqa: E402
from a2sf.serve._metrics import Metrics  # noqa: E402
from a2sf.serve._requests import parse_completion  # noqa: E402
from a2sf.serve._scheduler import Scheduler  # noqa: E402
from serve_process import ServeProcess  # noqa: E402

PROMPT = [5, 6, 7]
PATIENCE_S = 60.0
MOST_MEMORY = 2 * 2**20  # of the process, in KiB
MANY = 100_000_000  # tokens: more memory than that


class Pieces:
    """A batch whose steps, or whose making, fail when they are told to."""

    n_made = 0
    step_error: Exception | None = None
    make_error: Exception | None = None

    def __init__(self, engine: a2sf.Engine, size: int) -> None:
        if Pieces.make_error is not None:
            raise Pieces.make_error
        Pieces.n_made += 1
        self._batch = a2sf.Batch(engine, size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def step(self) -> None:
        if Pieces.step_error is not None:
            raise Pieces.step_error
        self._batch.step()


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Pieces]]:
    monkeypatch.setattr(_scheduler, "Batch", Pieces)
    Pieces.n_made = 0
    yield Pieces
    Pieces.step_error = Pieces.make_error = None


async def ask(scheduler: Scheduler) -> ApiError | int:
    """The error of a request, or how many tokens it got."""
    body = b'{"prompt": [5, 6, 7], "max_tokens": 4, "temperature": 0}'
    request = parse_completion(body, ServerOptions(), "model")
    call = scheduler.submit(request, [a2sf._ids.as_ids(PROMPT, 10)])
    while True:
        event = await asyncio.wait_for(call.events.get(), PATIENCE_S)
        if event.error is not None:
            return event.error
        if event.result is not None:
            return len(event.result.ids)


@pytest.mark.parametrize("error", [RuntimeError("fault"), MemoryError(), a2sf.DeviceError("none")])
def test_a_fault_ends_what_runs_and_no_more(
    bundled: Path, pieces: type[Pieces], caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    scheduler = Scheduler(a2sf.Engine(bundled), ServerOptions(parallel=2), Metrics())

    async def run() -> None:
        scheduler.start()
        assert await ask(scheduler) == 4
        pieces.step_error = error
        # Answers do not wait for the new batch, which cannot be made.
        pieces.make_error = a2sf.DeviceError("threads: 8 expected, the system gave 0")
        for failed in [await ask(scheduler) for _ in range(3)]:
            assert isinstance(failed, ApiError)
        assert not scheduler.is_healthy
        assert scheduler.is_open
        pieces.step_error = pieces.make_error = None
        assert await ask(scheduler) == 4
        assert scheduler.is_healthy
        assert pieces.n_made == 2
        scheduler.stop(0)
        await scheduler.join()

    asyncio.run(run())
    assert "the system gave 0" in caplog.text


def test_health_comes_back_without_a_request(
    bundled: Path, pieces: type[Pieces], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that nobody asks any more because it is not healthy must find out by itself."""
    monkeypatch.setattr(_scheduler, "RETRY_S", 0.01)
    scheduler = Scheduler(a2sf.Engine(bundled), ServerOptions(parallel=2), Metrics())

    async def run() -> None:
        scheduler.start()
        pieces.step_error = RuntimeError("fault")
        pieces.make_error = a2sf.DeviceError("none")
        for _ in range(2):
            assert isinstance(await ask(scheduler), ApiError)
        assert not scheduler.is_healthy
        pieces.step_error = pieces.make_error = None
        deadline = time.monotonic() + PATIENCE_S
        while not scheduler.is_healthy and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert scheduler.is_healthy
        assert await ask(scheduler) == 4
        scheduler.stop(0)
        await scheduler.join()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (a2sf.DeviceError("KV cache: 8 bytes wanted"), 503, "out_of_memory"),
        (MemoryError(), 503, "out_of_memory"),
        (a2sf.OptionError("prompt: too long"), 400, None),
        (a2sf.Error("session: broken"), 500, "internal"),
        (KeyError("x"), 500, "internal"),
    ],
    ids=repr,
)
def test_statuses_of_errors(error: Exception, status: int, code: str | None) -> None:
    told = _scheduler.api_error(error)
    assert (told.status, told.code) == (status, code)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process")
def test_a_request_for_more_memory_than_there_is(bundled: Path) -> None:
    """Refused as such, in an answer and in the log; the next one is answered."""
    limited = ["bash", "-c", f'ulimit -v {MOST_MEMORY}; exec "$@"', "-"]
    command = [*limited, sys.executable, "-m", "a2sf.serve"]
    options = ["--budget", MANY, "--max-tokens-limit", MANY, "--threads", 1, "--parallel", 1]
    with ServeProcess(bundled, *options, command=command, logs="out_of_memory") as server:
        client = server.client()
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError) as refused:
                client.completions.create(
                    model=server.model, prompt=PROMPT, max_tokens=MANY, stream=stream
                )
            assert refused.value.status_code == 503
            assert refused.value.code == "out_of_memory"
            assert "KV cache: room for" in refused.value.message
        answer = client.completions.create(
            model=server.model, prompt=PROMPT, max_tokens=4, temperature=0
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 4
        assert server.http.get("/health").status_code == 200
