"""Options, checked when they are built. The rules are the native library's, so they exist once."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._ids import as_bytes

KvType = Literal["f32", "f16", "q8_0"]
Positions = int | range | tuple[int, int]
Pinned = Positions | Sequence[Positions] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """How the KV cache is kept inside a budget.

    An option left at None takes the policy's preset; the numbers below are those of "a2sf". An
    option that the policy would ignore is an error.

    Parameters
    ----------
    policy : str, default "a2sf"
        One of `a2sf.policies()`. "full" evicts nothing.
    budget : int, float, str or None
        Most tokens that each KV head of each layer holds after a step, protected ones included, in
        the mean over heads where `allocation` divides it: a number of tokens, or a share of the
        prompt as "20%" or 0.2. Default 1024 for every policy that evicts.
    forgetting_factor : float, "auto" or None
        Weight that a token's accumulated attention loses to each newer query, 0 to 1: 1 never
        forgets (h2o), 0 looks at the newest query only (tova). "auto" and None are the policy's
        own; that of a2sf is min(0.99, 1 - 2.5 / budget), so that a score remembers as many
        queries as two fifths of the budget have tokens, and 0.998 between the queries of a chunk
        that is read at once (docs/evaluation.md says why).
    sinks : int or None
        First tokens of the text, never evicted. Preset 4.
    recent : int, float, str or None
        Newest tokens, never evicted: a number, or a share of the budget as "25%" or 0.25.
        Preset "25%".
    window : int or None
        Newest queries that snapkv looks at, preset 32 there. No other policy has it.
    scope : {"head", "layer"} or None
        Whether each KV head keeps its own tokens, or all heads of a layer the same ones.
        Preset "head".
    pooling : int or None
        Odd. A token counts as much as the best one within `pooling // 2` positions of it; 1 is
        none. Preset 1.
    prefill : {"token", "chunk", "full"} or None
        When a prompt's tokens are evicted: after each token (the paper's order), once per
        `Engine(batch=...)` tokens, or once at its end (the whole prompt must fit in memory).
        Preset "chunk".
    positions : {"original", "compact"} or None
        Where RoPE sees the tokens of a head: at their positions in the text, or one after the other
        (StreamingLLM, arXiv 2309.17453, section 3.2), so that a text can be longer than what the
        model was trained on. Preset "original".
    pinned : int, range, pair (first, end) of int, list or tuple of such, or None
        Positions of the text that are never evicted, whatever the policy: the first n, or those
        from first to before end. They count in the budget. Kept as ordered pairs.
    allocation : {"auto", "equal"}, sequence of float or array [n_layers * n_kv_heads], or None
        What each KV head gets of the budget relative to the others, layer by layer; the mean over
        heads stays the budget, and so does the memory. No head gets less than what is protected in
        it. "auto" measures once per loaded model, when something is first evicted, how much each
        head looks up far back (as long as reading 1,280 tokens takes), and gives more to those that
        do; "equal" is the same for all; `a2sf-eval calibrate` finds shares on a text. Preset
        "auto". Shares are kept as float32 values.
    guard : float or None
        When a chunk of a prompt has been read (prefill "chunk"), this share of what stays beside
        the protected tokens goes to the keys least like the others (KeyDiff, arXiv 2504.15364),
        whatever attention says of them: it cannot know yet what will be looked for. 0 to 1.
        Preset 0.65.

    Raises
    ------
    OptionError
        No prompt could make these valid: an unknown name, a number out of range, an option that
        the policy would ignore, sinks and recent larger than the budget.
    TypeError
        A value of another type.

    Notes
    -----
    Source: Jo and Shin, "A2SF", arXiv 2407.20485 (2024). The paper's own setting is policy
    "a2sf-paper".
    """

    policy: str = "a2sf"
    budget: int | float | str | None = None
    forgetting_factor: float | Literal["auto"] | None = None
    sinks: int | None = None
    recent: int | float | str | None = None
    window: int | None = None
    scope: Literal["head", "layer"] | None = None
    pooling: int | None = None
    prefill: Literal["token", "chunk", "full"] | None = None
    positions: Literal["original", "compact"] | None = None
    pinned: Pinned = None
    allocation: str | Sequence[float] | NDArray[np.floating] | None = None
    guard: float | None = None

    def __post_init__(self) -> None:
        if self.forgetting_factor == "auto":
            object.__setattr__(self, "forgetting_factor", None)
        object.__setattr__(self, "allocation", _shares(self.allocation))
        ranges = tuple(self._native().pinned)
        object.__setattr__(self, "pinned", ranges or None)
        if self.budget is None and _core.policy_evicts(self.policy):
            object.__setattr__(self, "budget", _core.DEFAULT_BUDGET)
            self._native()

    def _native(self) -> _core.EvictionOptions:
        return _core.EvictionOptions(
            policy=self.policy,
            budget=self.budget,
            forgetting_factor=self.forgetting_factor,
            sinks=self.sinks,
            recent=self.recent,
            window=self.window,
            scope=self.scope,
            pooling=self.pooling,
            prefill=self.prefill,
            positions=self.positions,
            pinned=self.pinned,
            guard=self.guard,
            division=self.allocation if isinstance(self.allocation, str) else None,
            allocation=_list_of(self.allocation),
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Eviction:
        """Read an eviction file, which `save` and `a2sf-eval calibrate` write.

        Raises
        ------
        Error
            The file cannot be read.
        OptionError
            It is no eviction file, or its options make no sense; names file and line.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise _core.Error(f"{path}: an eviction file expected, found: {error}") from error
        try:
            given: dict[str, Any] = dict(_core.EvictionOptions.parse(text).options)
            return cls(**given)
        except _core.OptionError as error:
            raise _core.OptionError(f"{path}: {error}") from error

    def save(self, path: str | os.PathLike[str], *, note: str = "") -> None:
        """Write the options to a text file, for `load` and `a2sf run --eviction-file`.

        Parameters
        ----------
        path : path
            Replaced if it is there.
        note : str
            Lines for people.

        Raises
        ------
        Error
            The file cannot be written.
        """
        try:
            Path(path).write_text(self._native().text(note), encoding="utf-8")
        except OSError as error:
            raise _core.Error(f"{path}: a file to write expected, found: {error}") from error


def factor_or_auto(text: str) -> float | str:
    """Read a command line's forgetting factor."""
    return text if text == "auto" else float(text)


def _list_of(allocation: str | Sequence[float] | NDArray[np.floating] | None) -> list[float]:
    return [] if allocation is None or isinstance(allocation, str) else list(allocation)


def _shares(
    allocation: str | Sequence[float] | NDArray[np.floating] | None,
) -> str | tuple[float, ...] | None:
    if allocation is None or isinstance(allocation, str):
        return allocation
    array = np.asarray(allocation)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"allocation: numbers expected, found {array.dtype}")
    # The library's precision, so that what is read back is equal.
    shares = tuple(array.astype(np.float32).ravel().tolist())
    if not shares:
        raise _core.OptionError("allocation: shares above 0 expected, found none")
    return shares


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen. The default is greedy: always the likeliest token.

    Parameters
    ----------
    temperature : float, default 0.0
        Divides the logits; 0 is greedy.
    top_k : int, default 0
        Only the k likeliest tokens; 0 is all.
    top_p : float, default 1.0
        Only the likeliest tokens that together have this probability; 1 is all.
    min_p : float, default 0.0
        Only tokens at least this fraction as likely as the likeliest; 0 is all.
    repeat_penalty : float, default 1.0
        Divides positive and multiplies negative logits of recent tokens; 1 is none.
    repeat_window : int, default 64
        Newest tokens that `repeat_penalty` applies to, the prompt's included.
    seed : int, default 0
        0 to 2^64 - 1. The same seed, model and instruction set give the same tokens, whatever the
        number of threads.

    Raises
    ------
    OptionError
        A number out of range, NaN included.
    TypeError
        A value of another type.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    repeat_window: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        self._native()

    def _native(self) -> _core.SamplingOptions:
        return _core.SamplingOptions(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repeat_penalty=self.repeat_penalty,
            repeat_window=self.repeat_window,
            seed=self.seed,
        )


GREEDY = Sampling()


def native_eviction(eviction: Eviction | None) -> _core.EvictionOptions:
    """Make the library's form; None is the full cache."""
    if eviction is None:
        return Eviction(policy="full")._native()
    if not isinstance(eviction, Eviction):
        found = type(eviction).__name__
        raise TypeError(f"eviction: a2sf.Eviction or None expected, found {found}")
    return eviction._native()


def given_options(eviction: Eviction) -> dict[str, Any]:
    """List the options that were given, by name; what is left out is the policy's own."""
    given = {name: getattr(eviction, name) for name in Eviction.__slots__}
    return {name: value for name, value in given.items() if value is not None}


def fix_budget(eviction: Eviction, n_tokens: int) -> Eviction:
    """Turn a budget that is a share into floor(share * n_tokens + 0.5) tokens, at least 1.

    The rounding is the engine's own, and that of the authors of A2SF.

    Raises
    ------
    OptionError
        Too few tokens for what the policy protects.
    """
    budget = eviction.budget
    if not isinstance(budget, (str, float)):
        return eviction
    share = float(budget.removesuffix("%")) / 100 if isinstance(budget, str) else budget
    return replace(eviction, budget=max(1, math.floor(share * n_tokens + 0.5)))


def pinned_of(eviction: Eviction) -> list[Positions]:
    """List what is pinned, for pinning more."""
    pairs = eviction._native().pinned
    return list(pairs)


def native_generate(
    max_tokens: int, sampling: Sampling, stop: str | Sequence[str]
) -> _core.GenerateOptions:
    """Check a generation's options and make the library's form."""
    if not isinstance(sampling, Sampling):
        raise TypeError(f"sampling: a2sf.Sampling expected, found {type(sampling).__name__}")
    strings = [stop] if isinstance(stop, str) else list(stop)
    for string in strings:
        as_bytes(string, what="stop")
    return _core.GenerateOptions(max_tokens=max_tokens, sampling=sampling._native(), stop=strings)
