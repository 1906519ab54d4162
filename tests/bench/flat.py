"""Is the cost of a token flat in the length of the text, and what does scoring cost?

Sessions are measured in turn, piece by piece, so that whatever else the machine does slows all of
them alike; printed are medians and the median of the rounds' ratios.

    python tests/bench/flat.py MODEL.gguf [--budget 1024] [--length 30000]
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import a2sf
import numpy as np
from peer_engines import Ids, single, tokens_per_s

DECODE = 8  # tokens of one round


def random_ids(engine: a2sf.Engine, n: int, seed: int) -> Ids:
    """Tokens that are no control tokens in the usual vocabularies."""
    n_vocab = engine.session().feed([1]).size
    rng = np.random.default_rng(seed)
    return rng.integers(n_vocab // 100, n_vocab, n).astype(np.int32)


def show(name: str, found: list[float], base_name: str, base: list[float]) -> None:
    """One line: medians, and the median of the ratios."""
    ratios = sorted(a / b for a, b in zip(found, base, strict=True))
    print(
        f"{name:32} {statistics.median(found):8.1f} tokens/s; {base_name} "
        f"{statistics.median(base):8.1f}; ratio {statistics.median(ratios):.3f} "
        f"({ratios[len(ratios) // 4]:.3f} to {ratios[-1 - len(ratios) // 4]:.3f})",
        flush=True,
    )


def prompts(engine: a2sf.Engine, args: argparse.Namespace, ids: Ids) -> dict[str, a2sf.Session]:
    """Read the long text under both policies, beside a fresh prompt of one piece each time."""
    options = {name: a2sf.Eviction(policy=name, budget=args.budget) for name in args.policies}
    long = {name: engine.session(eviction=option) for name, option in options.items()}
    fresh = engine.session(eviction=options[args.policies[0]])
    speeds: dict[str, list[float]] = {name: [] for name in (*args.policies, "fresh")}
    for first in range(0, args.length - args.piece + 1, args.piece):  # whole pieces
        piece = ids[first : first + args.piece]
        for name, session in long.items():
            speeds[name].append(tokens_per_s(session.feed, [piece]))
        fresh.reset()
        speeds["fresh"].append(tokens_per_s(fresh.feed, [piece]))
        print(f"\r{first + len(piece):,} of {args.length:,} tokens read", end="", file=sys.stderr)
    print(file=sys.stderr)
    own, other = args.policies
    # A text's speed is its length by the sum of its pieces' times.
    whole = {name: len(found) / sum(1 / speed for speed in found) for name, found in speeds.items()}
    print(
        f"{f'prompt of {args.length:,}, {own}':32} {whole[own]:8.1f} tokens/s; of {args.piece:,} "
        f"{whole['fresh']:8.1f}; ratio {whole[own] / whole['fresh']:.3f}"
    )
    show("its pieces", speeds[own], f"of {args.piece:,}", speeds["fresh"])
    show(f"pieces, {own}", speeds[own][2:], other, speeds[other][2:])
    return long


def decoding(
    engine: a2sf.Engine, args: argparse.Namespace, ids: Ids, long: dict[str, a2sf.Session]
) -> None:
    """Single steps at the end of the long text and just past the budget, in turn."""
    own, other = args.policies
    short = engine.session(eviction=a2sf.Eviction(policy=own, budget=args.budget))
    short.feed(ids[: args.budget + 16])
    sessions = {"short": short, own: long[own], other: long[other]}
    speeds: dict[str, list[float]] = {name: [] for name in sessions}
    for first in range(0, args.rounds * DECODE, DECODE):
        for name, session in sessions.items():
            speeds[name].append(tokens_per_s(session.feed, single(ids[first : first + DECODE])))
    show(f"decode at {args.length:,}, {own}", speeds[own], f"at {args.budget:,}", speeds["short"])
    show(f"decode, {own}", speeds[own], other, speeds[other])


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--budget", type=int, default=1024)
    parser.add_argument("--length", type=int, default=30000, help="tokens of the long text")
    parser.add_argument("--piece", type=int, default=1024, help="tokens of the short prompt")
    parser.add_argument("--rounds", type=int, default=100, help="of 8 decoded tokens each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--policies", nargs=2, default=["a2sf", "streaming"], metavar="NAME")
    args = parser.parse_args()
    if min(args.budget, args.piece, args.rounds) < 1 or args.length < 4 * args.piece:
        parser.error("numbers above 0 expected, and a text of at least four pieces")
    engine = a2sf.Engine(args.model, threads=args.threads)
    ids = random_ids(engine, args.length, 0)
    decoding(engine, args, ids, prompts(engine, args, ids))
    return 0


if __name__ == "__main__":
    sys.exit(main())
