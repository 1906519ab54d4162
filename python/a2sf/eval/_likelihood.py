"""What a model makes of contexts under an eviction: how likely continuations are, what it writes.

What is measured does not depend on what else is asked for at the same time. A context is one prompt
of its own, its budget is decided in advance (`fix_budget`), and the tokens of a continuation are
read one at a time, as while decoding. Equal contexts share one session, which is forked for each
continuation.

Contexts that only begin alike share the reading of their beginning where a prompt may be read in
parts: without eviction, and with prefill "token". Even there the number of tokens read together
decides how sums are rounded, so such a context is always read in the same parts, `PART` tokens each
and the rest with the last, whether any is shared or not. With "chunk" and "full" it matters where a
prompt ends; there each context is read at once, by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._core import Error
from .._dialogue import encode_start
from .._engine import Engine
from .._options import GREEDY, Eviction, Sampling
from .._session import Session
from .._tokenizer import Tokenizer
from ._packages import require

Context = tuple[int, ...]  # token ids
Key = TypeVar("Key", bound=Hashable)
PART = 64  # tokens: few enough to share short beginnings, enough to multiply matrices well


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A continuation to score.

    Attributes
    ----------
    context, continuation : tuple of int
        Token ids; the context has at least one.
    eviction : Eviction
        With a budget in tokens, see `fix_budget`.
    """

    context: Context
    continuation: Context
    eviction: Eviction


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """A context to go on with.

    Attributes
    ----------
    context, eviction
        As in `Request`.
    max_tokens, stop, sampling
        As in `Engine.generate`.
    """

    context: Context
    eviction: Eviction
    max_tokens: int
    stop: tuple[str, ...] = ()
    sampling: Sampling = GREEDY


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How likely a continuation is.

    Attributes
    ----------
    log_prob : float
        Natural log of its probability, a sum over its tokens.
    greedy : bool
        Whether each of its tokens is the likeliest after those before it.
    """

    log_prob: float
    greedy: bool


def encode_context(tokenizer: Tokenizer, text: str) -> Context:
    """Token ids of a text that others follow.

    An empty one becomes the token that begins texts, or ends them if the model has no other, as in
    lm-evaluation-harness.

    Raises
    ------
    Error
        An empty text and a model that has neither token.
    """
    ids = encode_start(tokenizer, text)
    if ids:
        return tuple(ids)
    first = tokenizer.bos if tokenizer.bos is not None else tokenizer.eos
    if first is None:
        raise Error("context: text expected (the model has no token that begins one), found none")
    return (first,)


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[Context, Context]:
    """Token ids of a context and of what follows.

    White space at the end of the context belongs to the continuation, because tokens begin with it.
    Both are encoded together and cut where the context alone ends: the rule of
    lm-evaluation-harness (`TemplateLM._encode_pair`).
    """
    start = context.rstrip()
    continuation = context[len(start) :] + continuation
    first = encode_context(tokenizer, start)
    if not start:
        return first, tuple(tokenizer.encode(continuation, bos=False))
    return first, tuple(encode_start(tokenizer, start + continuation)[len(first) :])


def read_contexts(
    engine: Engine, contexts: Iterable[Context], eviction: Eviction
) -> Iterator[tuple[Context, Session, NDArray[np.float32]]]:
    """Read each context once.

    Yields
    ------
    context, session, logits : tuple, Session, float32 [n_vocab]
        The session has read the context, is the caller's own, and gave these logits.
    """
    ordered = sorted(set(contexts))
    common = [0] * (len(ordered) + 1)  # common[i]: tokens of number i read as of the one before
    splits = may_split(eviction)
    if splits:
        for i, (before, context) in enumerate(itertools.pairwise(ordered), 1):
            common[i] = _n_shared(before, context)
    kept: list[Session] = []  # each has read a beginning of the context that is next
    for i, context in enumerate(ordered):
        while kept and kept[-1].n_tokens > common[i]:
            kept.pop()
        session = kept[-1].fork() if kept else engine.session(eviction=eviction)
        forks = _forks(common[i + 1 :], session.n_tokens)
        while splits and len(context) - session.n_tokens >= 2 * PART:
            session.feed(context[session.n_tokens : session.n_tokens + PART])
            if session.n_tokens in forks:
                kept.append(session.fork())
        yield context, session, session.feed(context[session.n_tokens :])


def may_split(eviction: Eviction) -> bool:
    """Whether a prompt read in parts loses the same tokens as one read at once."""
    return not _core.policy_evicts(eviction.policy) or eviction.prefill == "token"


def _n_shared(one: Context, other: Context) -> int:
    """Tokens at the beginning of both that are read in the same parts, none of them the last."""
    n = min(len(one), len(other))
    differ = np.flatnonzero(np.array(one[:n]) != np.array(other[:n]))
    n_common = int(differ[0]) if len(differ) else n
    return max(0, min(n_common, n - PART)) // PART * PART


def _forks(common: Sequence[int], n_read: int) -> set[int]:
    """Lengths at which contexts that come later leave this one."""
    lengths = itertools.accumulate(common, min)
    return set(itertools.takewhile(lambda n: n > n_read, lengths))


def log_likelihoods(
    engine: Engine, requests: Sequence[Request], *, quiet: bool = True
) -> list[Score]:
    """Score continuations.

    Parameters
    ----------
    requests
        In any order; each result is bit for bit what the request alone would give.
    quiet
        No progress bar.

    Returns
    -------
    list of Score
        In the order of the requests. An empty continuation has log-probability 0.
    """
    scores: dict[int, Score] = {}
    for i, session, logits in _sessions(engine, requests, quiet):
        scores[i] = _score(session, logits, requests[i].continuation)
    return [scores[i] for i in range(len(requests))]


def write_answers(engine: Engine, tasks: Sequence[Writing], *, quiet: bool = True) -> list[str]:
    """Let the model go on with texts.

    Parameters
    ----------
    tasks
        In any order.
    quiet
        No progress bar.

    Returns
    -------
    list of str
        What it wrote, in the order of the tasks, each as if it were the only one.
    """
    texts: dict[int, str] = {}
    for i, session, _ in _sessions(engine, tasks, quiet):
        task = tasks[i]
        texts[i] = session.generate(
            max_tokens=task.max_tokens, sampling=task.sampling, stop=task.stop
        ).text
    return [texts[i] for i in range(len(tasks))]


def _sessions(
    engine: Engine, asked: Sequence[Request] | Sequence[Writing], quiet: bool
) -> Iterator[tuple[int, Session, NDArray[np.float32]]]:
    """Give each number a session of its own that has read the context, and its logits."""
    bar = require("tqdm", "tqdm").tqdm(total=len(asked), disable=quiet)
    with bar:
        for eviction, numbers in _groups(range(len(asked)), lambda i: asked[i].eviction):
            by_context = dict(_groups(numbers, lambda i: asked[i].context))
            for context, session, logits in read_contexts(engine, by_context, eviction):
                *others, last = by_context[context]
                for i in others:
                    yield i, session.fork(), logits
                    bar.update()
                yield last, session, logits
                bar.update()


def _groups(numbers: Iterable[int], key: Callable[[int], Key]) -> Iterator[tuple[Key, list[int]]]:
    """Group numbers by a key, in the order in which keys come first."""
    found: dict[Key, list[int]] = {}
    for number in numbers:
        found.setdefault(key(number), []).append(number)
    return iter(found.items())


def _score(session: Session, logits: NDArray[np.float32], continuation: Context) -> Score:
    """Score what follows a session that gave these logits; the session reads all but the last."""
    log_softmax = require("scipy.special", "scipy").log_softmax
    total, greedy = 0.0, True
    for i, token in enumerate(continuation):
        if i > 0:
            logits = session.feed(continuation[i - 1 : i])
        total += float(log_softmax(logits.astype(np.float64))[token])
        greedy = greedy and int(logits.argmax()) == token
    return Score(log_prob=total, greedy=greedy)
