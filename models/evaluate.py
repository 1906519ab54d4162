"""Ask a model held-out questions under several eviction policies and budgets and print the table of right answers.

A question is a generated note of about 2,000 tokens, one of its facts, and how many tokens back that fact was last
stated. Every (owner, value) pair is one that training text never holds. An answer is right when it equals the expected
text up to the end of the sentence. Runs on the engine: `python models/evaluate.py --help`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from notes import ANSWER, FACT, REPLY, make_document


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt that ends with "Answer:", the answer expected and where it was last stated."""

    prompt: str
    expected: str  # without the leading space, with the full stop
    kind: str  # of the fact, see notes.KINDS
    n_tokens: int  # of the prompt
    distance: int  # tokens from the end of the last statement of the value to the end of the prompt


def make_questions(
    seed: str,
    count_tokens: Callable[[str], int],
    *,
    nearest: int = 1000,
    farthest: int = 1800,
    n_tokens: int = 1900,
    longest: int = 2030,
    per_document: int = 2,
) -> Iterator[Question]:
    """Endless held-out questions whose answer lies `nearest` to `farthest` tokens back."""
    i = 0
    while True:
        doc = make_document(
            f"held-out/{seed}/{i}", n_tokens, held_out=True, n_facts=7, stated_within=0.5
        )
        i += 1
        story = doc.text[: doc.text.index("\nQuestion:")]
        last = {span.fact: span.end for span in doc.spans if span.role in (FACT, REPLY)}
        found = 0
        for index in (span.fact for span in doc.spans if span.role == ANSWER):
            fact = doc.facts[index]
            tail = f"\nQuestion: {fact.question}\nAnswer:"
            distance = count_tokens(story[last[index] :] + tail)
            total = count_tokens(story + tail)
            if nearest <= distance <= farthest and total <= longest and found < per_document:
                found += 1
                yield Question(
                    story + tail, f"{fact.statement} {fact.value}.", fact.kind, total, distance
                )


def is_right(text: str, expected: str) -> bool:
    """Whether the generated text gives the expected answer and stops."""
    return text.strip().split("\n")[0].removesuffix("<|end|>") == expected


@dataclass(frozen=True, slots=True)
class Row:
    """Accuracy of one policy at one budget (None: no eviction)."""

    policy: str
    budget: int | None
    n_questions: int
    n_right: int


def run_table(
    answer: Callable[[Question, str, int | None], str],
    questions: Sequence[Question],
    policies: Sequence[str],
    budgets: Sequence[int],
    report: Callable[[Row], None],
) -> list[Row]:
    """Ask all questions under the full cache, then under every policy and budget; `report` sees each row when done."""
    rows = []
    for policy, budget in [
        ("full", None),
        *((p, b) for p in policies if p != "full" for b in budgets),
    ]:
        n_right = sum(
            is_right(answer(question, policy, budget), question.expected) for question in questions
        )
        rows.append(Row(policy, budget, len(questions), n_right))
        report(rows[-1])
    return rows


def format_table(rows: Sequence[Row]) -> str:
    """Markdown: one line per policy, one column per budget."""
    budgets = sorted({row.budget for row in rows if row.budget is not None}, reverse=True)
    lines = [
        "| policy | " + " | ".join(f"budget {b}" for b in budgets) + " |",
        "|---" * (len(budgets) + 1) + "|",
    ]
    for policy in dict.fromkeys(row.policy for row in rows):
        of = {
            row.budget: f"{100 * row.n_right / row.n_questions:.1f} %"
            for row in rows
            if row.policy == policy
        }
        lines.append(
            f"| {policy} | " + " | ".join(of.get(b, of.get(None, "")) for b in budgets) + " |"
        )
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "-m",
        "--model",
        default=str(Path(__file__).with_name("notes-1m-f16.gguf")),
        help="GGUF file",
    )
    parser.add_argument("-n", type=int, default=200, help="number of questions")
    parser.add_argument(
        "--policies",
        default="a2sf,a2sf-dual,h2o,tova,snapkv,keydiff,streaming",
        help="comma-separated",
    )
    parser.add_argument("--budgets", default="1024,512,256", help="tokens, comma-separated")
    parser.add_argument("--seed", default="table", help="of the questions, any text")
    parser.add_argument(
        "--nearest", type=int, default=1000, help="least distance of the fact in tokens"
    )
    parser.add_argument(
        "--farthest", type=int, default=1800, help="greatest distance of the fact in tokens"
    )
    parser.add_argument(
        "--questions",
        metavar="FILE",
        help="write the questions as JSON lines, for a2sf-eval needle --questions, and ask none",
    )
    parser.add_argument(
        "--json", action="store_true", help="print rows as JSON lines instead of a table"
    )
    return parser.parse_args()


def main() -> None:
    """Print the table, made on the engine."""
    args = parse_arguments()
    import a2sf  # here, so that the rest of this file works without the engine

    engine = a2sf.Engine(args.model)
    sampling = a2sf.Sampling(temperature=0)

    def answer(question: Question, policy: str, budget: int | None) -> str:
        eviction = (
            a2sf.Eviction(policy=policy)
            if budget is None
            else a2sf.Eviction(policy=policy, budget=budget)
        )
        return engine.generate(
            question.prompt, max_tokens=16, sampling=sampling, eviction=eviction
        ).text

    stream = make_questions(
        args.seed,
        lambda text: len(engine.tokenize(text)),
        nearest=args.nearest,
        farthest=args.farthest,
    )
    questions = [next(stream) for _ in range(args.n)]
    if args.questions is not None:
        lines = [json.dumps({"prompt": q.prompt, "answer": q.expected}) for q in questions]
        Path(args.questions).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return
    rows = run_table(
        answer,
        questions,
        args.policies.split(","),
        [int(b) for b in args.budgets.split(",")],
        lambda row: print(
            row.policy, row.budget, f"{row.n_right}/{row.n_questions}", file=sys.stderr
        ),
    )
    print("\n".join(json.dumps(asdict(row)) for row in rows) if args.json else format_table(rows))


if __name__ == "__main__":
    main()
