"""a2sf serve under load: every answer is its own request's, and memory stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import a2sf
import pytest
from conftest import ROOT

openai = pytest.importorskip("openai")
pytest.importorskip("uvicorn")
from serve_process import ServeProcess  # noqa: E402

N_REQUESTS = 1000
N_WARM = 200  # after these the server has seen every kind of work
N_CLIENTS = 16
N_TOKENS = 16
BUDGET = 24
MOST_GROWTH = 20_000_000  # bytes


def make_prompts(engine: a2sf.Engine) -> list[list[int]]:
    """Pieces of a text, of 8 to 67 tokens, no two alike."""
    ids = engine.tokenize((ROOT / "models" / "demo.txt").read_text())
    prompts = [ids[i : i + 8 + i % 60] for i in range(N_REQUESTS)]
    assert len({tuple(prompt) for prompt in prompts}) == N_REQUESTS
    return prompts


@pytest.mark.slow
def test_no_answer_is_lost_or_mixed(bundled: Path) -> None:
    engine = a2sf.Engine(bundled, eviction=a2sf.Eviction(budget=BUDGET, positions="compact"))
    prompts = make_prompts(engine)
    expected = [engine.generate(prompt, max_tokens=N_TOKENS).text for prompt in prompts]
    assert len(set(expected)) > N_REQUESTS / 2  # so that a mixed one is another
    options = ["--budget", BUDGET, "--parallel", 8, "--queue", N_CLIENTS, "--threads", 1]
    with ServeProcess(bundled, *options) as server:
        clients = [server.client() for _ in range(N_CLIENTS)]

        def ask(i: int) -> str:
            client = clients[i % N_CLIENTS]
            create = client.completions.create
            if i % 2:
                chunks = create(
                    model=server.model,
                    prompt=prompts[i],
                    max_tokens=N_TOKENS,
                    temperature=0,
                    stream=True,
                )
                return "".join(chunk.choices[0].text for chunk in chunks)
            answer = create(
                model=server.model, prompt=prompts[i], max_tokens=N_TOKENS, temperature=0
            )
            assert answer.usage is not None
            assert answer.usage.prompt_tokens == len(prompts[i])
            return answer.choices[0].text

        warm = serve_all(ask, range(N_WARM))
        early = server.metrics()
        rest = serve_all(ask, range(N_WARM, N_REQUESTS))
        late = server.wait_for(lambda m: m["a2sf_sequences_running"] == 0)
    assert warm + rest == expected
    assert late["a2sf_requests_total{/v1/completions,200}"] == N_REQUESTS
    name = "process_resident_memory_bytes"
    assert late[name] - early[name] < MOST_GROWTH, (early[name], late[name])


def serve_all(ask: Callable[[int], str], numbers: range) -> list[str]:
    with ThreadPoolExecutor(N_CLIENTS) as pool:
        return list(pool.map(ask, numbers))
