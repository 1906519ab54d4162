"""Questions with known answers, from JSON lines, and how they are written out for a model.

A line is an object. Which text it asks with is one of

    "context" or "prompt"   as it is
    "question"              by the template, which may name any field of the item
    "contexts"              several texts that go before one "continuation"

and what is right is one of

    "choices" and "answer", an index from 0     the likeliest choice is the model's answer
    "continuation" and "answer", an index       the likeliest context is (WinoGrande's form)
    "answer" or "answers", text                 the model writes, up to "until" or "max_tokens"

Other fields are the template's.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from .._core import OptionError
from ._jobs import read_text

TEMPLATE = "Question: {question}\nAnswer:"
SEPARATOR = "\n\n"  # after each example
ASKS = ("context", "prompt", "question", "contexts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question.

    Attributes
    ----------
    contexts : tuple of str
        One for each choice; one of a question that is none of choice.
    choices : tuple of str
        As the file has them.
    continuations : tuple of str
        What follows the contexts: the choices behind the layout's delimiter.
    answer : int
        The right choice.
    answers : tuple of str
        Right answers of a question that is none of choice.
    until : tuple of str
        An answer that is written ends before the first of these.
    max_tokens : int
        Most tokens of an answer that is written.
    """

    contexts: tuple[str, ...]
    choices: tuple[str, ...] = ()
    continuations: tuple[str, ...] = ()
    answer: int = 0
    answers: tuple[str, ...] = ()
    until: tuple[str, ...] = ()
    max_tokens: int = 0

    @property
    def solved(self) -> tuple[str, str]:
        """Text and right answer, for an example."""
        if self.choices:
            return self.contexts[self.answer], self.choices[self.answer]
        return self.contexts[0], self.answers[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How items become prompts.

    Attributes
    ----------
    description : str
        Before everything, as it is.
    template : str
        Of items with a "question"; str.format with the item's fields.
    delimiter : str
        Between a context and what follows it.
    shots : int
        Solved examples before each item, each closed by an empty line.
    seed : int
        Which examples.
    """

    description: str = ""
    template: str = TEMPLATE
    delimiter: str = " "
    shots: int = 0
    seed: int = 0


@lru_cache(maxsize=8)
def read_items(path: str, template: str) -> tuple[Item, ...]:
    """Items of a file.

    Raises
    ------
    OptionError
        A line is no item; the message names it.
    """
    items = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            where = f"{path}:{number}"
            try:
                fields = json.loads(line)
            except ValueError as error:
                raise OptionError(
                    f"{where}: a JSON object expected, found {line[:60]!r}"
                ) from error
            items.append(_item(fields, template, where))
    if not items:
        raise OptionError(f"{path}: at least 1 item expected, found none")
    return tuple(items)


def _item(fields: Any, template: str, where: str) -> Item:
    if not isinstance(fields, dict):
        raise OptionError(f"{where}: a JSON object expected, found {type(fields).__name__}")
    asks = [name for name in ASKS if name in fields]
    if len(asks) != 1:
        found = " and ".join(asks) or "none"
        raise OptionError(f"{where}: one of {', '.join(ASKS)} expected, found {found}")
    if asks[0] == "contexts":
        contexts = _texts(fields, "contexts", where)
        texts = (_text(fields, "continuation", where),) * len(contexts)
        return Item(contexts=contexts, choices=texts, answer=_index(fields, len(texts), where))
    context = _text(fields, asks[0], where)
    if asks[0] == "question":
        context = _format(template, fields, where)
    if "choices" in fields:
        choices = _texts(fields, "choices", where)
        answer = _index(fields, len(choices), where)
        return Item(contexts=(context,) * len(choices), choices=choices, answer=answer)
    until = fields.get("until", ["\n"])
    max_tokens = fields.get("max_tokens", 32)
    if not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or max_tokens < 1:
        raise OptionError(f"{where}: max_tokens of at least 1 expected, found {max_tokens!r}")
    return Item(
        contexts=(context,),
        answers=_answers(fields, where),
        until=_texts({"until": [until] if isinstance(until, str) else until}, "until", where),
        max_tokens=max_tokens,
    )


def _answers(fields: dict[str, Any], where: str) -> tuple[str, ...]:
    if "answers" in fields:
        return _texts(fields, "answers", where)
    return (_text(fields, "answer", where),)


def _text(fields: dict[str, Any], name: str, where: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise OptionError(f"{where}: text under {name!r} expected, found {value!r}")
    return value


def _texts(fields: dict[str, Any], name: str, where: str) -> tuple[str, ...]:
    value = fields[name]
    if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
        raise OptionError(f"{where}: a list of texts under {name!r} expected, found {value!r}")
    if not value and name != "until":
        raise OptionError(f"{where}: at least 1 text under {name!r} expected, found none")
    return tuple(value)


def _index(fields: dict[str, Any], n: int, where: str) -> int:
    value = fields.get("answer")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < n:
        raise OptionError(f"{where}: an answer from 0 to {n - 1} expected, found {value!r}")
    return value


def _format(template: str, fields: dict[str, Any], where: str) -> str:
    try:
        return template.format_map(fields)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise OptionError(
            f"{where}: the fields of the template {template!r} expected, found: {error!r}"
        ) from error


def write_out(items: Sequence[Item], examples: Sequence[Item] | None, layout: Layout) -> list[Item]:
    """Put description and examples before each item, and the delimiter after each context.

    All items get the same examples, so that a model reads them once: `layout.shots` drawn from
    `examples`. Without those one more is drawn from the items themselves, and each gets the first
    ones that are not itself.

    Raises
    ------
    OptionError
        Fewer examples than asked for.
    """
    pool = list(items if examples is None else examples)
    n_drawn = 0 if layout.shots == 0 else layout.shots + (examples is None)
    if layout.shots < 0 or n_drawn > len(pool):
        most = len(pool) - (examples is None)
        raise OptionError(f"shots: 0 to {most} expected, found {layout.shots}")
    drawn = random.Random(layout.seed).sample(range(len(pool)), n_drawn)
    written = []
    for number, item in enumerate(items):
        own = [i for i in drawn if examples is not None or i != number][: layout.shots]
        solved = [layout.delimiter.join(pool[i].solved) + SEPARATOR for i in own]
        start = layout.description + "".join(solved)
        written.append(
            replace(
                item,
                contexts=tuple(start + context for context in item.contexts),
                continuations=tuple(layout.delimiter + text for text in item.choices),
            )
        )
    return written
