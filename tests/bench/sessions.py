"""What saving, loading and forking a session costs, and what a batch gains.

    python tests/bench/sessions.py MODEL.gguf TEXT [--tokens 8000] [--budget 1024] [--rounds 7]

Medians over the rounds. Throughput is measured in turn: one sequence, then several.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import a2sf

STEPS = 48  # tokens of a throughput measurement


def median_ms(rounds: int, call: Callable[[], object]) -> float:
    """Median wall-clock time in milliseconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def throughput(engine: a2sf.Engine, ids: list[int], n: int) -> float:
    """Tokens per second of n sequences that decode together, behind prompts of 64 tokens."""
    batch = engine.batch(n)
    streams = [batch.add(ids[100 * i : 100 * i + 64], max_tokens=10_000) for i in range(n)]
    while not all(stream.take() for stream in streams):
        batch.step()
    start = time.perf_counter()
    for _ in range(STEPS):
        batch.step()
    time_s = time.perf_counter() - start
    n_tokens = sum(len(stream.take()) for stream in streams)
    if n_tokens != n * STEPS:
        raise SystemExit(f"{n * STEPS} tokens expected, found {n_tokens}: a sequence ended")
    return n_tokens / time_s


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=8_000)
    parser.add_argument("--budget", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    engine = a2sf.Engine(given.model, eviction=a2sf.Eviction(budget=given.budget), progress=False)
    ids = engine.tokenize(given.text.read_text(encoding="utf-8"))
    session = engine.session()
    start = time.perf_counter()
    session.feed(ids[: given.tokens])
    print(f"reading {given.tokens:,} tokens: {time.perf_counter() - start:.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "saved.session"
        save = median_ms(given.rounds, lambda: session.save(file))
        load = median_ms(given.rounds, lambda: engine.session(load=file))
        size = file.stat().st_size / 1e6
        print(f"file {size:.1f} MB: saved in {save:.0f} ms, loaded in {load:.0f} ms")
    print(f"fork: {median_ms(given.rounds, session.fork):.0f} ms")
    gains: dict[int, list[float]] = {n: [] for n in (2, 4, 8, 16)}
    for _ in range(given.rounds):
        for n, gain in gains.items():
            one = throughput(engine, ids, 1)
            gain.append(throughput(engine, ids, n) / one)
    for n, gain in gains.items():
        low, high = min(gain), max(gain)
        print(f"{n:>3} sequences / 1: {statistics.median(gain):.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
