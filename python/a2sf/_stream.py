"""A generation, token by token."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._core import Error
from ._progress import prompt_bar
from ._results import Generation, Token, generation_from


class TokenQueue:
    """Tokens of one generation, in order. One waits while the text that it began is not decided."""

    __slots__ = ("_pending", "ready")

    def __init__(self) -> None:
        self._pending: list[Token] = []
        self.ready: deque[Token] = deque()

    def accept(
        self, generator: _core.Generator, item: tuple[int, str, float] | None
    ) -> Generation | None:
        """Take what the generator gave; return the whole generation if that was the end."""
        if item is not None:
            token_id, text, logprob = item
            self._pending.append(Token(id=token_id, text=text, logprob=logprob))
            if not generator.holds_text:
                self._release()
            return None
        rest = generator.rest()
        if self._pending:
            last = self._pending[-1]
            self._pending[-1] = replace(last, text=last.text + rest)
        self._release()
        return generation_from(generator.result)

    def _release(self) -> None:
        self.ready.extend(self._pending)
        self._pending.clear()

    def clear(self) -> None:
        """Drop them all."""
        self._pending.clear()
        self.ready.clear()


class TokenStream:
    """Iterator of `Token`, made by `Engine.stream` and its like.

    The prompt is read when the first token is asked for. Closing the stream, or dropping it, frees
    what it holds; so does its end. It is also a context manager.
    """

    __slots__ = (
        "_generator",
        "_ids",
        "_result",
        "_settles",
        "_show",
        "_started",
        "_tokens",
    )

    def __init__(
        self,
        generator: _core.Generator,
        ids: NDArray[np.int32],
        *,
        show_progress: bool | None,
        settles: bool,
    ) -> None:
        self._generator: _core.Generator | None = generator
        self._ids = ids
        self._show = show_progress
        self._settles = settles  # whether the session is to be used after the generation
        self._started = False
        self._tokens = TokenQueue()
        self._result: Generation | None = None

    def __iter__(self) -> TokenStream:
        return self

    def __next__(self) -> Token:
        """Return the next token.

        Raises
        ------
        StopIteration
            The generation is over; see `result`.
        KeyboardInterrupt
            Ctrl-C, also in the middle of a long prompt.
        OptionError
            The prompt does not fit (first call).
        Error
            Something else used the session since the last token.
        """
        while not self._tokens.ready:
            if self._generator is None:
                raise StopIteration
            if not self._started:
                self._start(self._generator)
            self._advance(self._generator)
        return self._tokens.ready.popleft()

    def _start(self, generator: _core.Generator) -> None:
        self._started = True
        try:
            with prompt_bar(self._show, len(self._ids)) as report:
                generator.start(self._ids, report)
        except BaseException:
            self.close()
            raise

    def _advance(self, generator: _core.Generator) -> None:
        """Generate once."""
        self._result = self._tokens.accept(generator, generator.next())
        if self._result is not None:
            if self._settles:
                generator.settle()
            self._generator = None

    def close(self) -> None:
        """End the generation and free what it holds. The stream gives no more tokens."""
        self._generator = None
        self._tokens.clear()

    def __enter__(self) -> TokenStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def result(self) -> Generation:
        """The whole generation. Error unless the stream was read to its end."""
        if self._result is None:
            raise Error("result: a stream read to its end expected, found one cut short or open")
        return self._result


def drain(stream: TokenStream) -> Generation:
    """Read a stream to its end."""
    for _ in stream:
        pass
    return stream.result
