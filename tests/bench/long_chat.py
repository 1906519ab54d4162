"""A long conversation under a budget: what a token costs at its start and at its end.

    python tests/bench/long_chat.py model.gguf [--turns 200] [--budget 1024] [--answer 32]

Each turn asks something and takes an answer of at most so many tokens. Printed per tenth of the
conversation: the milliseconds that reading and writing a token took (the median turn), what the
cache holds and its bytes; then the ratio of the last tenth to the first one whose cache was full,
and the bytes after turn 20 and at the end. Needs jinja2 and a model with a chat template.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass

import a2sf

SYSTEM = "You are a patient assistant who answers in full sentences."
SUBJECTS = ("rivers", "bread", "old maps", "winter", "bicycles", "the moon", "tea", "bridges")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One question and its answer. Times in seconds."""

    n_tokens: int
    live: int
    bytes: int
    read_s: float
    write_s: float


def hold(session: a2sf.Session, number: int, n_answer: int) -> Turn:
    """Ask question `number`."""
    subject = SUBJECTS[number % len(SUBJECTS)]
    answer = session.chat(
        f"Question {number + 1000}: tell me something new about {subject}.",
        max_tokens=n_answer,
        sampling=a2sf.Sampling(temperature=0.8, top_p=0.95, seed=number),
    )
    stats, cache = answer.stats, session.cache
    return Turn(
        n_tokens=session.n_tokens,
        live=int(cache.live.max()),
        bytes=cache.bytes,
        read_s=stats.prompt_s / max(1, stats.n_prompt),
        write_s=stats.decode_s / max(1, stats.n_generated - 1),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--budget", type=int, default=1024)
    parser.add_argument("--answer", type=int, default=32)
    options = parser.parse_args()
    eviction = a2sf.Eviction(budget=options.budget)
    engine = a2sf.Engine(options.model, eviction=eviction, progress=False)
    session = engine.chat_session(system=SYSTEM)
    turns = [hold(session, i, options.answer) for i in range(options.turns)]
    print(
        "| turns | tokens read | kept per head | cache bytes | read, ms/token | write, ms/token |"
    )
    print("|---|---|---|---|---|---|")
    tenth = max(1, len(turns) // 10)
    rows = [turns[i : i + tenth] for i in range(0, len(turns), tenth)]
    for i, row in enumerate(rows):
        read, write = (statistics.median(getattr(t, k) for t in row) for k in ("read_s", "write_s"))
        last = row[-1]
        print(
            f"| {i * tenth + 1}-{i * tenth + len(row)} | {last.n_tokens:,} | {last.live:,} "
            f"| {last.bytes:,} | {1e3 * read:.2f} | {1e3 * write:.2f} |"
        )
    full = [row for row in rows if row[0].live == options.budget]
    if len(full) > 1:
        first, end = (statistics.median(t.write_s for t in row) for row in (full[0], full[-1]))
        print(f"writing, last tenth / first tenth with a full cache: {end / first:.3f}")
    if len(turns) > 20:
        print(f"cache bytes after turn 20: {turns[19].bytes:,}, at the end: {turns[-1].bytes:,}")


if __name__ == "__main__":
    main()
