"""Several generations at once: one pass over the weights serves all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._core import Cache, Error
from ._ids import Ids
from ._options import GREEDY, Eviction, Sampling, native_generate
from ._results import Generation, Token
from ._stream import TokenQueue

if TYPE_CHECKING:
    from ._engine import Engine


class Batch:
    """Generations that run together, made by `Engine.batch`.

    Each has a session and a cache of its own; together they read the weights once per token, and
    each gets bit for bit what it would get alone in a batch, and all but for rounding what
    `Engine.generate` would give it. Sequences join and leave at any time. One thread at a time may
    use a batch and its sequences.
    """

    __slots__ = ("_engine", "_next_reader", "_running", "_size", "_workspace")

    def __init__(self, engine: Engine, size: int, *, what: str = "size") -> None:
        self._engine = engine
        self._size = size
        self._workspace = engine._make_workspace(size, what)
        self._running: list[BatchStream] = []
        self._next_reader = 0

    @property
    def size(self) -> int:
        """Most sequences that run at once."""
        return self._size

    @property
    def n_running(self) -> int:
        """Sequences that run now, those that still read their prompt included."""
        return len(self._running)

    def add(
        self,
        prompt: str | Ids,
        *,
        max_tokens: int = 128,
        sampling: Sampling = GREEDY,
        stop: str | Sequence[str] = (),
        eviction: Eviction | None = None,
    ) -> BatchStream:
        """Let a sequence join.

        Parameters
        ----------
        prompt, max_tokens, sampling, stop, eviction
            As in `Engine.generate`.

        Returns
        -------
        BatchStream

        Raises
        ------
        OptionError, TypeError
            As `Engine.generate`.
        Error
            `size` sequences run already.
        """
        options = native_generate(max_tokens, sampling, stop)
        ids = self._engine._prompt_ids(prompt)
        if len(self._running) >= self._size:
            raise Error(f"batch: fewer than {self._size} sequences expected, found as many")
        session = self._engine._native.session(
            self._engine._session_options(eviction), self._workspace
        )
        stream = BatchStream(self, session, _core.Generator(session, options), ids)
        self._running.append(stream)
        return stream

    def step(self) -> None:
        """Go on: one chunk of one prompt, then one token of every sequence that has read its own.

        A sequence that fails is over with `BatchStream.error`; the others go on.
        """
        self._read_one()
        ready = [stream for stream in self._running if not stream._reading]
        if not ready:
            return
        try:
            items = _core.Generator.next_each([stream._live for stream in ready])
        except Exception as error:
            self._step_each(ready, error)
            return
        for stream, item in zip(ready, items, strict=True):
            stream._accept(item)

    def _step_each(self, ready: list[BatchStream], error: Exception) -> None:
        """Take the step that failed again, each alone, so that only those fail that cannot.

        Each session is checked and given its room before any reads, so one that cannot go on leaves
        the others as they were. A step that failed later than that leaves none: then the sessions
        refuse to go on, or have read what their streams do not know of.
        """
        for stream in ready:
            if not stream._is_as_told():
                stream._fail(error)
                continue
            try:
                (item,) = _core.Generator.next_each([stream._live])
            except Exception:
                stream._fail(error)
            else:
                stream._accept(item)

    def _read_one(self) -> None:
        """One chunk of one prompt, of each in turn."""
        readers = [stream for stream in self._running if stream._reading]
        if not readers:
            return
        self._next_reader += 1
        stream = readers[self._next_reader % len(readers)]
        try:
            stream._reading = not stream._live.start_chunk(stream._ids)
        except Exception as error:
            stream._fail(error)

    def _leave(self, stream: BatchStream) -> None:
        if stream in self._running:
            self._running.remove(stream)


class BatchStream:
    """One sequence of a `Batch`."""

    __slots__ = (
        "_batch",
        "_error",
        "_generator",
        "_ids",
        "_n_tokens",
        "_native",
        "_reading",
        "_result",
        "_tokens",
    )

    def __init__(
        self,
        batch: Batch,
        native: _core.Session,
        generator: _core.Generator,
        ids: NDArray[np.int32],
    ) -> None:
        self._batch = batch
        self._native = native
        self._generator: _core.Generator | None = generator
        self._ids = ids
        self._n_tokens = 0  # generated, as far as told
        self._reading = True
        self._tokens = TokenQueue()
        self._result: Generation | None = None
        self._error: Exception | None = None

    @property
    def _live(self) -> _core.Generator:
        assert self._generator is not None
        return self._generator

    def take(self) -> list[Token]:
        """Tokens since the last call."""
        tokens = list(self._tokens.ready)
        self._tokens.ready.clear()
        return tokens

    @property
    def result(self) -> Generation | None:
        """The whole generation; None while it runs, and if it failed or was cancelled."""
        return self._result

    @property
    def error(self) -> Exception | None:
        """What ended it, if it failed."""
        return self._error

    @property
    def n_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self._ids)

    @property
    def cache(self) -> Cache:
        """What its KV cache holds at the moment."""
        return self._native.cache

    def cancel(self) -> None:
        """End it now. It gives no more tokens and has no result."""
        self._end()

    def _accept(self, item: tuple[int, str, float] | None) -> None:
        """Take a token, or the end."""
        self._n_tokens += item is not None
        self._result = self._tokens.accept(self._live, item)
        if self._result is not None:
            self._end()

    def _is_as_told(self) -> bool:
        """Whether what it has read and generated is what it was told of: the last token waits."""
        n_read = self.n_prompt + max(self._n_tokens - 1, 0)
        return self._native.n_tokens == n_read and len(self._live.result.ids) == self._n_tokens

    def _fail(self, error: Exception) -> None:
        self._error = error
        self._end()

    def _end(self) -> None:
        self._generator = None
        self._batch._leave(self)


def take_results(running: dict[int, BatchStream]) -> dict[int, Generation]:
    """Take out the sequences that are over; their caches go with them, and nothing else keeps them.

    Raises
    ------
    What the first that failed has failed with.
    """
    results: dict[int, Generation] = {}
    for index, stream in list(running.items()):
        if stream.error is not None:
            raise stream.error
        if stream.result is not None:
            results[index] = stream.result
            del running[index]
    return results
