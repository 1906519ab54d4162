"""What every head of a cache held after some of the steps of a text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._core import Cache, OptionError
from .._ids import Ids, as_ids
from .._session import Session

NEVER = np.iinfo(np.int32).max  # while recording: not gone yet


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recording:
    """Which tokens each KV head held, at several looks at a cache.

    A token that was evicted does not come back, so one number for each token and head says all:
    4 bytes, however many looks there are.

    Attributes
    ----------
    steps : int32 [n_steps]
        Tokens read at each look, ascending.
    gone : int32 [n_layers, n_kv_heads, n_tokens]
        The first look at which a token had been read and was not held; n_steps if there is none.
        n_tokens is the last of `steps`.
    """

    steps: NDArray[np.int32]
    gone: NDArray[np.int32]

    @property
    def n_steps(self) -> int:
        """Looks."""
        return len(self.steps)

    @property
    def n_layers(self) -> int:
        """Layers."""
        return int(self.gone.shape[0])

    @property
    def n_kv_heads(self) -> int:
        """KV heads of each layer."""
        return int(self.gone.shape[1])

    @property
    def n_tokens(self) -> int:
        """Tokens read at the last look."""
        return int(self.gone.shape[2])

    def positions(self, step: int, layer: int, head: int) -> NDArray[np.int32]:
        """Positions in the text that a head held at a look.

        Parameters
        ----------
        step : int
            Index into `steps`; -1 is the last.
        layer, head : int

        Returns
        -------
        int32 [live], ascending.

        Raises
        ------
        OptionError
            There is no such look, layer or head.
        """
        step = _index("step", step, self.n_steps)
        gone = self.gone[self._layer(layer), self._head(head), : self.steps[step]]
        return np.flatnonzero(gone > step).astype(np.int32)

    def live(self) -> NDArray[np.int32]:
        """Tokens held by each head at each look.

        Returns
        -------
        int32 [n_steps, n_layers, n_kv_heads]
        """
        found = [(self.gone[:, :, :n] > step).sum(axis=2) for step, n in enumerate(self.steps)]
        return np.array(found, np.int32)

    def _layer(self, layer: int) -> int:
        return _index("layer", layer, self.n_layers)

    def _head(self, head: int) -> int:
        return _index("head", head, self.n_kv_heads)


def record(session: Session, ids: Ids, *, every: int = 1) -> Recording:
    """Feed tokens to a session and note what its cache holds on the way.

    The tokens are fed in pieces of `every`. Prefill "token" evicts the same tokens however a text
    is cut; "chunk" and "full" also evict at the end of each piece, which they would not do
    otherwise. A budget given as a share is one of the first piece: give it in tokens.

    Parameters
    ----------
    session : Session
        What it has read before is in the recording too, as it is held from now on.
    ids : sequence of int, or integer array [n]
    every : int, default 1
        Tokens from one look to the next; the last look is after the last token.

    Returns
    -------
    Recording
        With ceil(n / every) looks.

    Raises
    ------
    OptionError
        `every` below 1, no ids, or as `Session.feed`.
    """
    if every < 1:
        raise OptionError(f"every: at least 1 token expected, found {every}")
    array = as_ids(ids, session._tokenizer.n_vocab)
    if len(array) == 0:
        raise OptionError("ids: at least 1 token expected, found 0")
    cache = session.cache
    shape = (cache.n_layers, cache.n_kv_heads, cache.n_tokens + len(array))
    gone = np.full(shape, NEVER, np.int32)
    steps: list[int] = []
    for first in range(0, len(array), every):
        session.feed(array[first : first + every])
        _look(cache, gone, len(steps))
        steps.append(cache.n_tokens)
    np.minimum(gone, len(steps), out=gone)
    return Recording(steps=np.array(steps, np.int32), gone=gone)


def snapshot(cache: Cache) -> Recording:
    """Make a recording of one look.

    Parameters
    ----------
    cache : Cache
        Of a session that has read something.

    Raises
    ------
    OptionError
        It has read nothing.
    """
    if cache.n_tokens == 0:
        raise OptionError("cache: one of a session that has read tokens expected, found 0 tokens")
    gone = np.full((cache.n_layers, cache.n_kv_heads, cache.n_tokens), 1, np.int32)
    _look(cache, gone, 0)
    return Recording(steps=np.array([cache.n_tokens], np.int32), gone=gone)


def _look(cache: Cache, gone: NDArray[np.int32], step: int) -> None:
    """Mark with `step` what is not held and was not marked before."""
    held = np.empty(cache.n_tokens, bool)
    for layer, head in np.ndindex(*gone.shape[:2]):
        held[:] = False
        held[cache.positions(layer, head)] = True
        read = gone[layer, head, : len(held)]
        read[~held & (read > step)] = step


def _index(what: str, value: int, n: int) -> int:
    if not -n <= value < n:
        raise OptionError(f"{what}: 0 to {n - 1} expected, found {value}")
    return value % n
