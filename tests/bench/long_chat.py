"""A long conversation under a budget: what a token costs at its start and at its end.

    python tests/bench/long_chat.py model.gguf [--turns 200] [--budget 1024] [--answer 32]

Each turn asks something and takes an answer of at most so many tokens. When the cache is full for
the first time the conversation is forked, and every fourth turn is held by a copy of that young one
too, right after the old one, so that whatever else the machine does slows both alike. Printed per
tenth of the conversation: what the cache holds, its bytes, milliseconds per token of the median
turn, and the median ratio old / young. Needs jinja2 and a model with a chat template.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

import a2sf

SYSTEM = "You are a patient assistant who answers in full sentences."
SUBJECTS = ("rivers", "bread", "old maps", "winter", "bicycles", "the moon", "tea", "bridges")


PAIR = 4  # turns from one comparison to the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One question and its answer. Times in seconds per token."""

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
        live=math.ceil(cache.live.mean()),
        bytes=cache.bytes,
        read_s=stats.prompt_s / max(1, stats.n_prompt),
        write_s=stats.decode_s / max(1, stats.n_generated - 1),
    )


def converse(
    session: a2sf.Session, n_turns: int, n_answer: int, budget: int
) -> tuple[list[Turn], list[float]]:
    """Hold all turns; per turn the ratio of writing times old / young, NaN where not compared."""
    turns: list[Turn] = []
    ratios: list[float] = []
    young: a2sf.Session | None = None
    for i in range(n_turns):
        turns.append(hold(session, i, n_answer))
        ratio = math.nan
        if young is not None and i % PAIR == 0:
            ratio = turns[-1].write_s / hold(young.fork(), i, n_answer).write_s
        elif young is None and turns[-1].live == budget:
            young = session.fork()
        ratios.append(ratio)
    return turns, ratios


def median(values: Iterable[float]) -> float:
    """Median of those that are numbers; NaN if none is."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


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
    turns, ratios = converse(session, options.turns, options.answer, options.budget)
    print("| turns | tokens | kept per head | bytes | read, ms | write, ms | old / young |")
    print("|---|---|---|---|---|---|---|")
    tenth = max(1, len(turns) // 10)
    for first in range(0, len(turns), tenth):
        row = turns[first : first + tenth]
        read, write = median(t.read_s for t in row), median(t.write_s for t in row)
        print(
            f"| {first + 1}-{first + len(row)} | {row[-1].n_tokens:,} | {row[-1].live:,} "
            f"| {row[-1].bytes:,} | {1e3 * read:.2f} | {1e3 * write:.2f} "
            f"| {median(ratios[first : first + tenth]):.3f} |"
        )
    print(f"writing a token, last half, old / young: {median(ratios[len(ratios) // 2 :]):.3f}")
    if len(turns) > 20:
        print(f"cache bytes after turn 20: {turns[19].bytes:,}, at the end: {turns[-1].bytes:,}")


if __name__ == "__main__":
    main()
