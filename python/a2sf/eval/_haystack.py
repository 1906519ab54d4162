"""Prompts that hide a number in a long text and ask for it at the end."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .._core import OptionError
from .._dialogue import encode_start, write_out
from .._tokenizer import Tokenizer

TASK = (
    "Somewhere in the text below a number is given to remember. Read the text, then answer the "
    "question after it.\n\n"
)
QUESTION = "\n\nQuestion: What is the secret number of the {place}? Answer with the number alone."
FACT = "The secret number of the {place} is {number}."
ANSWER_LEAD = "The secret number of the {place} is"

PLACES = ("lighthouse", "old mill", "harbour", "station", "town library", "glass house", "quarry")
_WHO = (
    "The gardener",
    "A neighbour",
    "The baker",
    "My aunt",
    "The postman",
    "A young teacher",
    "The fisherman",
    "An old friend",
    "The doctor",
    "Our guide",
)
_DID = (
    "walked along",
    "talked about",
    "painted a picture of",
    "wrote a letter about",
    "looked for",
    "swept",
    "remembered",
    "took the children to",
    "passed by",
    "measured",
)
_WHAT = (
    "the river bank",
    "the market square",
    "a row of birch trees",
    "the broken fence",
    "the long stairs",
    "the blue door",
    "a field of barley",
    "the narrow bridge",
    "the empty barn",
    "the church tower",
)
_WHEN = (
    "before breakfast",
    "on a rainy afternoon",
    "at the end of May",
    "after the concert",
    "while the kettle boiled",
    "in the early evening",
    "during the harvest",
    "last Sunday",
    "when the wind had turned",
    "once the snow was gone",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt and what its answer has to hold."""

    ids: list[int]
    number: str


def filler(seed: int) -> Iterator[str]:
    """Endless sentences of no importance."""
    draw = random.Random(f"filler {seed}")
    while True:
        parts = [draw.choice(words) for words in (_WHO, _DID, _WHAT, _WHEN)]
        yield " ".join(parts) + "."


def sentences_of(text: str, seed: int) -> Iterator[str]:
    """Sentences of a text from a seeded place on, round and round."""
    flat = " ".join(text.split())
    parts = [part.strip() + "." for part in flat.split(". ") if part.strip(" .")]
    if not parts:
        raise OptionError("file: a text with sentences expected, found none")
    start = random.Random(f"haystack {seed}").randrange(len(parts))
    while True:
        yield parts[start % len(parts)]
        start += 1


def make_prompt(
    tokenizer: Tokenizer, length: int, depth: float, seed: int, text: str | None = None
) -> Prompt:
    """Hide a number at a depth of a text.

    Parameters
    ----------
    tokenizer
        Its model's chat template writes the prompt out; without one the question is plain text
        and the answer's beginning is given.
    length : int
        Most tokens of the whole prompt; at most a sentence less.
    depth : float
        Where the fact stands, 0 (before everything else) to 1 (right before the question), by
        sentences.
    seed : int
        Decides number, place, and the text around them.
    text : str, optional
        What to hide it in; default generated sentences.

    Raises
    ------
    OptionError
        Not even the question fits in `length`, or a text has no sentences.
    """
    place, number, fact = _hidden(seed)
    source = filler(seed) if text is None else sentences_of(text, seed)
    hay: list[str] = []
    ids = _encode(tokenizer, fact, place)
    if len(ids) > length:
        raise OptionError(f"length: at least {len(ids)} tokens expected, found {length}")
    # Grow by guess, then one by one: encoding a long prompt for each sentence would take minutes.
    while True:
        room = length - len(ids)
        step = max(1, room // 40)
        more = [next(source) for _ in range(step)]
        longer = _encode(tokenizer, _around(hay + more, fact, depth), place)
        if len(longer) > length:
            if step == 1 or not more:
                break
            more = more[: max(1, step // 2)]
            longer = _encode(tokenizer, _around(hay + more, fact, depth), place)
            if len(longer) > length:
                break
        hay += more
        ids = longer
    return Prompt(ids=ids, number=number)


def least_length(tokenizer: Tokenizer, seed: int) -> int:
    """Tokens of a seed's prompt with nothing around the fact."""
    place, _, fact = _hidden(seed)
    return len(_encode(tokenizer, fact, place))


def _hidden(seed: int) -> tuple[str, str, str]:
    """Place, number, and the sentence that says it."""
    draw = random.Random(f"needle {seed}")
    place, number = draw.choice(PLACES), str(draw.randrange(10000, 100000))
    return place, number, FACT.format(place=place, number=number)


def _around(hay: Sequence[str], fact: str, depth: float) -> str:
    at = round(depth * len(hay))
    return " ".join([*hay[:at], fact, *hay[at:]])


def _encode(tokenizer: Tokenizer, story: str, place: str) -> list[int]:
    content = TASK + story + QUESTION.format(place=place)
    if tokenizer.chat_template:
        text = write_out(tokenizer, [{"role": "user", "content": content}])
        return encode_start(tokenizer, text)
    return tokenizer.encode(f"{content}\n\nAnswer: {ANSWER_LEAD.format(place=place)}")
