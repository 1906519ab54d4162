"""Questions that the bundled model can answer: it knows the words of its own notes only.

python tests/python/eval_items.py FILE -n 100 --tokens 320      multiple choice, for a2sf-eval tasks
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

PATH = Path(__file__).resolve().parents[2] / "models" / "notes.py"


@lru_cache(maxsize=1)
def _load() -> Any:
    spec = importlib.util.spec_from_file_location("a2sf_notes", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def notes(seed: int, n_tokens: int) -> tuple[str, list[Any]]:
    """A story without its questions, and its facts."""
    document = _load().make_document(f"eval/{seed}", n_tokens, n_facts=4)
    return document.text.partition("\nQuestion:")[0], document.facts


@lru_cache(maxsize=1)
def _values() -> dict[str, list[str]]:
    """Values of facts of each kind, from other notes."""
    found: dict[str, dict[str, None]] = {}
    for seed in range(1000, 1020):
        for fact in notes(seed, 80)[1]:
            found.setdefault(fact.kind, {})[fact.value] = None
    return {kind: list(values) for kind, values in found.items()}


def choice_items(n_items: int, *, n_tokens: int = 160) -> list[dict[str, Any]]:
    """Ask for a fact: right is what the notes say, wrong are values of facts from other notes."""
    made = []
    for seed in range(n_items):
        rng = random.Random(seed)
        story, facts = notes(seed, n_tokens)
        fact = rng.choice(facts)
        wrong = [v for v in _values()[fact.kind] if v != fact.value]
        values = [fact.value, *rng.sample(wrong, 3)]
        rng.shuffle(values)
        made.append(
            {
                "context": f"{story}\nQuestion: {fact.question}\nAnswer:",
                "choices": [f"{fact.statement} {value}." for value in values],
                "answer": values.index(fact.value),
            }
        )
    return made


def written_items(n_items: int, *, n_tokens: int = 160) -> list[dict[str, Any]]:
    """The same questions, to be answered in words."""
    return [
        {
            "prompt": item["context"],
            "answer": item["choices"][item["answer"]],
            "until": ".",
            "max_tokens": 24,
        }
        for item in choice_items(n_items, n_tokens=n_tokens)
    ]


def save(path: Path, items: list[dict[str, Any]]) -> Path:
    """Write items as a file of JSON lines."""
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def main() -> None:
    """Write questions with choices; a story has about as many tokens as asked for."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("-n", type=int, default=100, help="questions (%(default)s)")
    parser.add_argument("--tokens", type=int, default=320, help="of a story (%(default)s)")
    given = parser.parse_args()
    save(given.file, choice_items(given.n, n_tokens=given.tokens))


if __name__ == "__main__":
    main()
