"""Generate the bundled model's training text: short village notes whose facts are stated early and asked for later.

A document opens with a few facts ("Mara keeps the copper key in the green jar."), goes on as a story in which the same
people and things come back, sometimes with a question somebody answers, and ends with questions in a fixed format:

    Question: Where does Mara keep the copper key?
    Answer: Mara keeps the copper key in the green jar.<|end|>

Everything is a function of the seed. Needs the standard library only; knows nothing of tokens, tensors or models.
"""

from __future__ import annotations

import argparse
import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

END = "<|end|>"  # closes every answer
PLAIN, FACT, REPLY, ANSWER = range(4)  # roles of a span, see Span

NAMES = """
Mara Tom Lena Oskar Ruth Felix Nora Hugo Clara Simon Anna Victor Elsa Martin Julia Peter
Greta Paul Irma Leo Rosa Adam Vera Max Ida Karl Nina Otto Alma Ben Edith Walter Flora Jonas
Olga Ivan Marta Henry Lucy David
""".split()
MATERIALS = """
copper silver wooden golden glass iron paper stone silk brass ivory clay tin linen leather
pearl
""".split()
OBJECTS = """
key ring map coin bell lamp comb knife flute letter button spoon needle whistle mirror
candle
""".split()
COLOURS = """
green red blue white black yellow grey brown purple pink orange striped round old tiny
broken
""".split()
CONTAINERS = """
jar box drawer basket chest bucket kettle boot barrel cupboard sack pot trunk bag bowl hat
""".split()
PREPOSITIONS = ["in", "under", "behind", "beside"]
DOORS = ["gate", "door", "cellar", "safe", "tower", "shed", "vault", "cabin"]
WORD_FIRST = """
amber winter silent happy misty lucky gentle distant bitter hollow sunny rapid humble royal
secret salty
""".split()
WORD_SECOND = """
otter falcon maple river lantern anchor walnut thunder meadow pebble badger violin harbour
feather acorn island
""".split()
DISHES = """
bean onion carrot fish potato lentil barley pumpkin mushroom cabbage chicken leek tomato
spinach turnip pea
""".split()
MEALS = ["soup", "pie", "stew", "salad", "bread", "pancakes", "dumplings", "noodles"]
SIDES = """
honey butter pepper garlic cheese mustard cream lemon ginger mint vinegar sugar
""".split()

PLACES = """
well mill bridge market church harbour forest meadow bakery school orchard barn inn river
garden square
""".split()
ANIMALS = """
dog cat goat horse crow duck mouse owl fox sheep cow heron
""".split()
WEATHER = ["rain", "wind", "snow", "sun", "fog", "frost", "thunder"]
TIMES = [
    "in the morning",
    "at noon",
    "in the evening",
    "after lunch",
    "before dark",
    "that day",
    "the next day",
    "a little later",
    "on Sunday",
    "on Monday",
    "on Friday",
]
MOODS = ["slowly", "quietly", "quickly", "happily", "carefully", "gladly", "alone", "together"]
WENT = ["walked", "ran", "went", "rode", "wandered", "hurried"]
PAST = ["past", "to", "around", "behind", "toward"]
DID = [
    "whistled",
    "laughed",
    "sang a song",
    "told a joke",
    "sat down",
    "fell asleep",
    "looked up",
    "began to hum",
    "counted the clouds",
    "swept the floor",
    "cut some wood",
    "fed the hens",
    "picked apples",
    "wrote a list",
]
TOPICS = [
    "the weather",
    "old times",
    "the harvest",
    "the price of wool",
    "a strange dream",
    "the new road",
    "the summer fair",
    "the long winter",
    "a lost sheep",
    "the school play",
]

STORY = [
    "{n} {went} {past} the {place} {time}.",
    "{n} {did} and {went} {past} the {place}.",
    "{n} met {m} near the {place}.",
    "{n} and {m} talked about {topic}.",
    "{m} asked {n} about {topic}.",
    "The {animal} of {n} slept near the {place}.",
    "A {animal} followed {n} {past} the {place}.",
    "The {weather} came {time} and {n} stayed at home.",
    "{time}, {n} {did}.",
    "{time}, {n} and {m} {went} {past} the {place}.",
    "There was {weather} over the {place}, and {n} {did}.",
    "{n} waited {mood} at the {place} for {m}.",
    "{n} helped {m} at the {place}.",
    "{m} waved to {n} {mood}.",
    "{n} {did} {mood}.",
    "Nobody saw {n} {time}.",
    "{n} was tired, so {m} {did}.",
    "{n} read a book about {topic}.",
    "Then {n} {went} home {mood}.",
    "It was quiet at the {place} until {n} {did}.",
    "{n} gave the {animal} some water.",
    "The {animal} ran away and {m} {did}.",
    "{m} said that {n} was at the {place}.",
    "{n} thought about {topic} and {did}.",
    "At the {place}, {m} {did} while {n} slept.",
]
OPENINGS = [
    "These are the notes of {n}, written near the {place}.",
    "This is a story about {n} and {m}.",
    "{n} and {m} live in a village by the {place}.",
    "Here is what happened at the {place}.",
]


def is_reserved(owner: str, value: str) -> bool:
    """Whether the pair is kept out of the training text (one in eight): held-out questions use only such pairs."""
    return zlib.crc32(f"{owner}|{value}".encode()) % 8 == 0


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing to remember: the sentence `statement` `value`. states it, repeats it in the story and answers it."""

    kind: str
    owner: str  # the person, or the door of a password
    statement: str  # up to the value and the space before it
    value: str
    question: str
    mentions: tuple[
        str, ...
    ]  # sentences that name the key but not the value; {m} is another person


@dataclass(frozen=True, slots=True)
class Span:
    """Characters [start, end) of a document that say something about fact number `fact`.

    FACT: the sentence that states it. REPLY: its value, said again within the story. ANSWER: the answer to a final
    question, the whole sentence and the end mark.
    """

    start: int
    end: int
    role: int
    fact: int


@dataclass(slots=True)
class Document:
    """A text, its facts and where they are spoken of."""

    facts: list[Fact]
    text: str = ""
    spans: list[Span] = field(default_factory=list)

    def add(self, text: str, role: int = PLAIN, fact: int = -1) -> None:
        """Append text, without its leading space at the start of a line; remember a role other than PLAIN as a span."""
        if self.text.endswith("\n"):
            text = text.removeprefix(" ")
        if role != PLAIN:
            self.spans.append(Span(len(self.text), len(self.text) + len(text), role, fact))
        self.text += text


def count_words(text: str) -> int:
    """Words and punctuation marks: close to the number of tokens, because frequent words are one token each."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def _invented_name(rng: random.Random) -> str:
    """A name outside NAMES, so that the model also copes with names it has never seen."""
    syllables = rng.choices(
        ["ba", "do", "ki", "lu", "me", "ra", "so", "ti", "va", "zu"], k=rng.randint(2, 3)
    )
    return "".join(syllables).capitalize()


def _keep(rng: random.Random, n: str) -> Fact:
    thing = f"{rng.choice(MATERIALS)} {rng.choice(OBJECTS)}"
    value = f"{rng.choice(PREPOSITIONS)} the {rng.choice(COLOURS)} {rng.choice(CONTAINERS)}"
    return Fact(
        "keep",
        n,
        f"{n} keeps the {thing}",
        value,
        f"Where does {n} keep the {thing}?",
        (
            f"{n} thought about the {thing}.",
            f"{{m}} looked for the {thing} of {n}.",
            f"{n} was glad that the {thing} was safe.",
            f"{{m}} dreamed about the {thing} of {n}.",
            f"{n} told {{m}} about the {thing}.",
        ),
    )


def _word(rng: random.Random, n: str) -> Fact:
    value = f"{rng.choice(WORD_FIRST)} {rng.choice(WORD_SECOND)}"
    return Fact(
        "word",
        n,
        f"The secret word of {n} is",
        value,
        f"What is the secret word of {n}?",
        (
            f"{{m}} tried to guess the secret word of {n}.",
            f"{n} whispered the secret word.",
            f"{{m}} had heard the secret word of {n}.",
            f"{n} was proud of the secret word.",
        ),
    )


def _password(rng: random.Random, n: str) -> Fact:
    door = f"{rng.choice(MATERIALS)} {rng.choice(DOORS)}"
    value = f"{rng.choice(WORD_FIRST)} {rng.choice(WORD_SECOND)}"
    return Fact(
        "password",
        door,
        f"The password of the {door} is",
        value,
        f"What is the password of the {door}?",
        (
            f"{{m}} opened the {door} with the password.",
            f"{{m}} stood before the {door} and said the password.",
            f"{{m}} locked the {door} again.",
            f"{{m}} painted the {door}.",
        ),
    )


def _supper(rng: random.Random, n: str) -> Fact:
    value = f"{rng.choice(DISHES)} {rng.choice(MEALS)} with {rng.choice(SIDES)}"
    return Fact(
        "supper",
        n,
        f"For supper {n} likes",
        value,
        f"What does {n} like for supper?",
        (
            f"{n} was hungry for supper.",
            f"{{m}} cooked supper for {n}.",
            f"{n} dreamed about supper.",
            f"{{m}} asked {n} to supper.",
        ),
    )


KINDS = (_keep, _keep, _word, _password, _supper)  # "keep" twice as often


def make_facts(rng: random.Random, cast: Sequence[str], n_facts: int, held_out: bool) -> list[Fact]:
    """Facts with distinct questions; their (owner, value) pairs are all reserved ones or all others."""
    facts: list[Fact] = []
    asked: set[str] = set()
    while len(facts) < n_facts:
        fact = rng.choice(KINDS)(rng, rng.choice(cast))
        if fact.question in asked or is_reserved(fact.owner, fact.value) != held_out:
            continue
        asked.add(fact.question)
        facts.append(fact)
    return facts


def _sentence(rng: random.Random, template: str, cast: Sequence[str]) -> str:
    n, m = rng.sample(list(cast), 2)
    text = template.format(
        n=n,
        m=m,
        place=rng.choice(PLACES),
        animal=rng.choice(ANIMALS),
        weather=rng.choice(WEATHER),
        time=rng.choice(TIMES),
        mood=rng.choice(MOODS),
        went=rng.choice(WENT),
        past=rng.choice(PAST),
        did=rng.choice(DID),
        topic=rng.choice(TOPICS),
    )
    return text[0].upper() + text[1:]


def _mention(
    rng: random.Random, doc: Document, index: int, cast: Sequence[str], answered: bool
) -> None:
    """A sentence about a stated fact: it names the key, asks in vain, or asks and is answered."""
    fact = doc.facts[index]
    n, m = rng.sample([name for name in cast if name != fact.owner], 2)
    if answered:
        doc.add(f' "{fact.question}" asked {n}. "{fact.statement}')
        doc.add(f" {fact.value}", REPLY, index)
        doc.add(f'," said {m}.')
    elif rng.random() < 0.3:
        doc.add(f' "{fact.question}" asked {n}, but {m} only smiled.')
    else:
        doc.add(" " + rng.choice(fact.mentions).format(m=m))


def make_document(
    seed: int | str,
    n_tokens: int,
    *,
    held_out: bool = False,
    n_facts: int | None = None,
    stated_within: float = 0.5,
    mention_rate: float = 0.3,
    max_questions: int = 10,
) -> Document:
    """Write one document.

    Parameters
    ----------
    seed : the document is a function of it and of the other arguments
    n_tokens : about how long it becomes, questions included
    held_out : use only reserved (owner, value) pairs, which training text never holds
    n_facts : number of facts; None: 2 to 10, more in longer documents
    stated_within : facts are stated in this first part of the story
    mention_rate : share of the story's sentences that speak of a fact
    max_questions : questions at the end, each about another fact
    """
    rng = random.Random(f"{seed}/{n_tokens}/{held_out}")
    if n_facts is None:
        most = max(3, min(10, n_tokens // 36))
        n_facts = rng.randint(most // 2, most)
    cast = rng.sample(NAMES, rng.randint(4, 6))
    if rng.random() < 0.1:
        cast[rng.randrange(len(cast))] = _invented_name(rng)
    doc = Document(make_facts(rng, cast, n_facts, held_out))
    order = rng.sample(range(n_facts), n_facts)
    n_story = max(16 * n_facts, n_tokens - 24 * min(n_facts, max_questions) - 8)
    starts = sorted(rng.random() ** 1.5 * stated_within * n_story for _ in order)
    repeated = set(
        rng.sample(range(n_facts), n_facts // 2)
    )  # the others are never answered within the story
    doc.add(_sentence(rng, rng.choice(OPENINGS), cast))
    stated: list[int] = []
    n_words, measured, left = 0, 0, 6
    while n_words < n_story or len(stated) < n_facts:
        n_words += count_words(doc.text[measured:])
        measured = len(doc.text)
        if len(stated) < n_facts and n_words >= starts[len(stated)]:
            index = order[len(stated)]
            fact = doc.facts[index]
            doc.add(f" {fact.statement} {fact.value}.", FACT, index)
            stated.append(index)
        elif stated and rng.random() < mention_rate:
            index = rng.choice(stated)
            _mention(rng, doc, index, cast, index in repeated and rng.random() < 0.5)
        else:
            doc.add(" " + _sentence(rng, rng.choice(STORY), cast))
        left -= 1
        if left == 0 and n_words < n_story - 24:
            doc.add("\n")  # the next sentence then starts without a space, see Document.add
            left = rng.randint(5, 9)
    for index in rng.sample(order, min(n_facts, max_questions)):
        doc.add(f"\nQuestion: {doc.facts[index].question}\nAnswer:")
        doc.add(f" {doc.facts[index].statement} {doc.facts[index].value}.{END}", ANSWER, index)
    return doc


def main() -> None:
    """Print one document."""
    parser = argparse.ArgumentParser(description="Print one generated document.")
    parser.add_argument("--seed", default="0", help="any text (default: %(default)s)")
    parser.add_argument(
        "--tokens", type=int, default=400, help="approximate length (default: %(default)s)"
    )
    parser.add_argument(
        "--held-out", action="store_true", help="use only fact pairs kept out of training"
    )
    args = parser.parse_args()
    print(make_document(args.seed, args.tokens, held_out=args.held_out).text)


if __name__ == "__main__":
    main()
