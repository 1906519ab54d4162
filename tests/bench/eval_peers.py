"""Compare what evicted caches still know, and how fast, with kvpress and OpenVINO GenAI.

A five-digit number hidden in filler is asked for at the end of a prompt. Every engine reads the
same token ids of the same GGUF file, with the policies that it shares with a2sf. Engines run one
after the other, each in its own process; one that is not installed is named and skipped.

    python tests/bench/eval_peers.py MODEL.gguf --json answers.json

What each does exactly: eval_peer_engines.py. Peers may live in other environments:
--python-kvpress and --python-openvino name their interpreters (which need NumPy).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval_peer_engines import ANSWERERS, cases, work
from peer_process import PeerError

OURS = "a2sf"
PEOPLE = ("Nora", "Piet", "Amal", "Rosa", "Tomo", "Greta", "Idris", "Lena")
PLACES = ("harbour", "orchard", "library", "mill", "station", "market", "chapel", "meadow")
DEEDS = (
    "walked to the {} before the rain came",
    "painted a small picture of the {}",
    "met an old friend near the {}",
    "lost a grey glove behind the {}",
    "wrote a long letter about the {}",
    "heard somebody sing at the {}",
)


@dataclass(frozen=True)
class Prompt:
    """Token ids of a question, its size as asked for, and what answers it."""

    size: int
    ids: list[int]
    number: str


@dataclass(frozen=True)
class Found:
    """One engine's answer to one prompt."""

    policy: str
    engine: str
    size: int
    budget: int
    prompt: int
    text: str
    right: bool
    time_s: float


def question(rng: random.Random, n_sentences: int, depth: float) -> tuple[str, str]:
    """The text of a prompt, and the number in it.

    depth : where the number is, 0 at the beginning to 1 at the end.
    """
    sentences = [
        f"{rng.choice(PEOPLE)} {rng.choice(DEEDS).format(rng.choice(PLACES))}."
        for _ in range(n_sentences)
    ]
    number = str(rng.randrange(10_000, 100_000))
    sentences.insert(round(depth * n_sentences), f"The code of the vault is {number}.")
    text = "Remember what is in this text.\n\n" + " ".join(sentences)
    return f"{text}\n\nWhat is the code of the vault? Answer with the number only.", number


def make_prompts(model: str, sizes: Sequence[int], n: int, seed: int) -> tuple[list[Prompt], int]:
    """Prompts in the model's chat template, as long as fits in each size; the id that ends answers.

    Depths are spread evenly from 0.05 to 0.95.
    """
    import a2sf
    from a2sf._dialogue import write_out

    tokenizer = a2sf.Tokenizer(model)

    def encode(text: str) -> list[int]:
        messages = [{"role": "user", "content": text}]
        return tokenizer.encode(write_out(tokenizer, messages), bos=False)

    prompts = []
    for size in sizes:
        for i in range(n):
            depth = 0.05 + 0.9 * i / max(1, n - 1)
            n_sentences = size // 8  # more than fit: about ten tokens each
            while True:
                rng = random.Random(f"{seed} {size} {i}")
                text, number = question(rng, n_sentences, depth)
                ids = encode(text)
                if len(ids) <= size:
                    break
                n_sentences -= max(1, (len(ids) - size) // 16)
                if n_sentences < 1:
                    raise SystemExit(f"sizes: over {len(ids)} tokens expected, found {size}")
            prompts.append(Prompt(size, ids, number))
    if tokenizer.eos is None:
        raise SystemExit(f"{model}: a vocabulary with an end-of-text token expected, found none")
    return prompts, tokenizer.eos


def ask(name: str, python: str, given: dict[str, Any], log: Path | None) -> Iterator[Any]:
    """Run one engine to its end; its lines as they come.

    Raises
    ------
    PeerError
        It is missing, or failed.
    """
    command = [python, str(Path(__file__).resolve()), "--worker", name]
    with log.open("a") if log else open("/dev/null", "w") as errors:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        except OSError as error:
            raise PeerError(f"{name} skipped: {python}: {error.strerror}") from None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            print(json.dumps(given), file=process.stdin, flush=True)
            for line in process.stdout:
                values = json.loads(line)
                if "problem" in values:
                    raise PeerError(values["problem"])
                yield values
            if process.wait() != 0:
                hint = "--log FILE keeps what it printed"
                raise PeerError(f"{name} failed: exit status {process.returncode} ({hint})")
        except BrokenPipeError:
            raise PeerError(f"{name} failed as it started (--log FILE keeps why)") from None
        finally:
            process.kill()
            process.wait()


def p_value(ours: Sequence[bool], theirs: Sequence[bool]) -> float:
    """Exact McNemar test (two-sided) that two engines are right equally often on the same prompts.

    Only prompts that one of them alone got right count: with b and c of those, twice the binomial
    tail P(X <= min(b, c)), X of b + c tosses (McNemar 1947, exact form).
    """
    pairs = list(zip(ours, theirs, strict=True))
    b = sum(x and not y for x, y in pairs)
    c = sum(y and not x for x, y in pairs)
    tail = sum(math.comb(b + c, i) for i in range(min(b, c) + 1)) / 2 ** (b + c)
    return min(1.0, 2 * tail)


def cell(found: Sequence[Found]) -> str:
    """Right of n, and the median of the times."""
    if not found:
        return "-"
    right = sum(f.right for f in found)
    return f"{right}/{len(found)}, {statistics.median(f.time_s for f in found):.2f} s"


def table(found: Sequence[Found], sizes: Sequence[int], budgets: Sequence[int]) -> Iterator[str]:
    """Lines of Markdown: a row for each policy of each engine."""
    columns = [(size, budget) for size in sizes for budget in budgets]
    titles = [f"{size:,} tokens, budget {budget}" for size, budget in columns]
    yield f"| policy | engine | its name there | {' | '.join(titles)} | p |"
    yield "|---" * (len(columns) + 4) + "|"
    for case in sorted(cases(), key=lambda c: [d.policy for d in cases()].index(c.policy)):
        mine = [f for f in found if (f.policy, f.engine) == (case.policy, case.engine)]
        if not mine:
            continue
        cells = [
            cell([f for f in mine if f.size == size and f.budget in (0, budget)])
            for size, budget in columns
        ]
        ours = [f for f in found if (f.policy, f.engine) == (case.policy, OURS)]
        paired = case.engine != OURS and len(ours) == len(mine)
        p = f"{p_value([f.right for f in ours], [f.right for f in mine]):.2f}" if paired else ""
        yield f"| {case.policy} | {case.engine} | {case.name or '-'} | {' | '.join(cells)} | {p} |"


def measure(
    args: argparse.Namespace, prompts: Sequence[Prompt], stop_id: int
) -> tuple[list[Found], dict[str, str], list[str]]:
    """Let every engine answer; answers, versions and what is to be said of missing ones."""
    import a2sf

    tokenizer = a2sf.Tokenizer(args.model)
    given = {
        "model": str(args.model.resolve()),
        "threads": args.threads,
        "stop_id": stop_id,
        "n_tokens": args.answer,
        "budgets": args.budgets,
        "prompts": [prompt.ids for prompt in prompts],
    }
    pythons = dict(zip(ANSWERERS, (sys.executable, args.python_kvpress, args.python_openvino),
                       strict=True))  # fmt: skip
    found: list[Found] = []
    versions, problems = {}, []
    for name, python in pythons.items():
        try:
            for line in ask(name, python, given, args.log):
                if "version" in line:
                    versions[name] = line["version"]
                    continue
                if sys.stderr.isatty():
                    print(f"\r{name}: {line['policy']:20}", end="", file=sys.stderr)
                prompt = prompts[line["prompt"]]
                text = tokenizer.decode(line["ids"])
                found.append(
                    Found(line["policy"], name, prompt.size, line["budget"], line["prompt"],
                          text, prompt.number in text, line["time_s"])
                )  # fmt: skip
        except PeerError as error:
            problems.append(str(error))
            print(error, file=sys.stderr)
    return found, versions, problems


def number_list(text: str) -> list[int]:
    """Numbers of a list with commas, ascending."""
    numbers = sorted({int(part) for part in text.split(",")})
    if numbers[0] < 1:
        raise ValueError(f"numbers above 0 expected, found {numbers[0]}")
    return numbers


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("model", type=Path, nargs="?", metavar="MODEL.gguf", help="a model with a chat template")
    add("--sizes", type=number_list, default=[542, 1022], metavar="N,N",
        help="tokens of a prompt, at most (542,1022)")  # fmt: skip
    add("--budgets", type=number_list, default=[128, 256], metavar="N,N",
        help="tokens that stay; for OpenVINO multiples of 32 (128,256)")  # fmt: skip
    add("--prompts", type=int, default=10, metavar="N", help="of each size (%(default)s)")
    add("--answer", type=int, default=12, metavar="TOKENS", help="at most (%(default)s)")
    add("--seed", type=int, default=1, help="of the prompts (%(default)s)")
    add("--threads", type=int, default=2, help="of each engine (%(default)s)")
    add("--json", type=Path, metavar="FILE", help="every answer, and the settings")
    add("--log", type=Path, metavar="FILE", help="what the engines print")
    add("--python-kvpress", default=sys.executable, metavar="PATH", help="its interpreter")
    add("--python-openvino", default=sys.executable, metavar="PATH", help="its interpreter")
    add("--worker", choices=ANSWERERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker is None:
        if args.model is None or not args.model.is_file():
            parser.error(f"MODEL.gguf: an existing file expected, found {args.model}")
        if min(args.prompts, args.answer, args.threads) < 1:
            parser.error("numbers above 0 expected")
    return args


def main() -> int:
    """Compare; 1 if our own engine did not take part."""
    args = parse_arguments()
    if args.worker:
        work(args.worker)
        return 0
    prompts, stop_id = make_prompts(str(args.model), args.sizes, args.prompts, args.seed)
    found, versions, problems = measure(args, prompts, stop_id)
    lengths = [len(prompt.ids) for prompt in prompts]
    if args.json:
        values = {
            "model": args.model.name,
            "versions": versions,
            "threads": args.threads,
            "seed": args.seed,
            "problems": problems,
            "cases": [asdict(case) for case in cases()],
            "prompts": [asdict(prompt) for prompt in prompts],
            "answers": [asdict(answer) for answer in found],
        }
        args.json.write_text(json.dumps(values, indent=1) + "\n")
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    print(f"{args.model.name}, {args.threads} threads; {named}; {min(lengths)} to {max(lengths)} "
          "tokens.")  # fmt: skip
    print("Right answers, median time of prompt and answer; p: that the peer is right as often as "
          "a2sf in the row beside it (exact McNemar test over all its prompts).\n")  # fmt: skip
    print("\n".join(table(found, args.sizes, args.budgets)))
    for problem in problems:
        print(f"\n{problem}.")
    return 0 if OURS in versions else 1


if __name__ == "__main__":
    sys.exit(main())
