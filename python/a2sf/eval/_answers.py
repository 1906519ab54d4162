"""How well a written answer matches the right ones."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ._packages import require

_DROPPED = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> list[str]:
    """Words of an answer, as SQuAD compares them (Rajpurkar et al., arXiv 1606.05250).

    Lower case, without ASCII punctuation, without the words a, an and the.
    """
    words = text.lower().translate(_DROPPED).split()
    return [word for word in words if word not in ("a", "an", "the")]


def exact_match(answer: str, right: Sequence[str]) -> float:
    """1 if the answer has the words of a right one in their order, else 0."""
    return float(any(normalised(answer) == normalised(text) for text in right))


def token_f1(answer: str, right: Sequence[str]) -> float:
    """F1 of the answer's words against those of the right answer that it is closest to.

    Words count as often as they occur. Two answers without words agree.
    """
    return max(_f1(normalised(answer), normalised(text)) for text in right)


def _f1(found: list[str], wanted: list[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    n_common = (Counter(found) & Counter(wanted)).total()
    return 2.0 * n_common / (len(found) + len(wanted))


def rouge_l(answer: str, right: Sequence[str]) -> float:
    """ROUGE-L F-measure (Lin 2004) by the package rouge-score, without stemming; of the closest."""
    scorer = _scorer()
    return max(float(scorer.score(text, answer)["rougeL"].fmeasure) for text in right)


@lru_cache(maxsize=1)
def _scorer() -> Any:
    return require("rouge_score.rouge_scorer", "rouge-score").RougeScorer(["rougeL"])
