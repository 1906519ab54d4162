"""Does a model stay sane past the context it was trained on? Original against compact positions.

    python tests/bench/endless.py MODEL.gguf TEXT [--tokens 100000] [--budget 1024]

Reads --tokens tokens under a budget and prints the perplexity of windows on the way. Windows of a
text differ by themselves, so the last one is also read behind 4,000 tokens only: the same words,
early and late. The ratio of the two is what the length of the text costs.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import a2sf
import numpy as np

WINDOW = 2_000  # tokens of a window
EARLY = 6_000  # where the same words end when they come early


def perplexity(logprobs: np.ndarray) -> float:
    """exp of the mean negative log-probability."""
    return math.exp(-float(np.mean(logprobs)))


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--budget", type=int, default=1024)
    parser.add_argument("--policy", default="a2sf")
    given = parser.parse_args()
    engine = a2sf.Engine(given.model)
    ids = engine.tokenize(given.text.read_text(encoding="utf-8"))[: given.tokens]
    if len(ids) < given.tokens:
        raise SystemExit(f"{given.text}: {given.tokens} tokens expected, found {len(ids)}")
    print(f"{engine.info.name}: trained on {engine.info.n_ctx:,} tokens; budget {given.budget:,}")
    for positions in ("compact", "original"):
        eviction = a2sf.Eviction(policy=given.policy, budget=given.budget, positions=positions)
        early = perplexity(engine.score(ids[-EARLY:], eviction=eviction)[-WINDOW:])
        scores = engine.score(ids, eviction=eviction)
        late = perplexity(scores[-WINDOW:])
        print(f"\n{positions}")
        for end in [EARLY, *range(20_000, len(ids) + 1, 20_000)]:
            window = scores[end - WINDOW : end]
            print(
                f"  tokens {end - WINDOW:>7,} to {end:>7,}: perplexity {perplexity(window):10.2f}"
            )
        print(f"  the last {WINDOW:,} tokens after {EARLY - WINDOW:,} tokens: {early:.2f}")
        print(f"  the same tokens after {len(ids) - WINDOW:,} tokens: {late:.2f}")
        print(f"  late / early: {late / early:.3f}")


if __name__ == "__main__":
    main()
