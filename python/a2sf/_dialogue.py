"""A conversation on one session: what each turn adds to what was read before.

The model's Jinja template writes out the whole conversation each time; only the difference to what
the session has read is fed. That works for templates that leave earlier messages as they were.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._chat import Messages, render
from ._core import Error, SavedSessionError, UnsupportedError
from ._ids import as_bytes
from ._stream import TokenStream
from ._tokenizer import Tokenizer


class Dialogue:
    """Messages so far, and the text that the session has read of them.

    Attributes
    ----------
    messages : list of dict
        With the answers.
    n_tokens : int
        What the session had read after the newest answer.
    """

    __slots__ = ("_prompt", "_tokenizer", "messages", "n_tokens")

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._prompt = ""  # the rendered conversation up to where the newest answer begins
        self.messages: list[dict[str, Any]] = []
        self.n_tokens = 0

    def copy(self) -> Dialogue:
        """Return one that goes on by itself."""
        other = Dialogue(self._tokenizer)
        other._prompt = self._prompt
        other.messages = [dict(message) for message in self.messages]
        other.n_tokens = self.n_tokens
        return other

    def text(self, system: str | None) -> str:
        """Return it as text, with the system prompt of one that begins: for `parse`."""
        fields = {"prompt": self._prompt, "messages": self.messages, "system": system}
        return json.dumps(fields)

    def parse(self, text: str, path: str, n_tokens: int) -> tuple[Dialogue, str | None]:
        """Return what `text` stood for, of a session at `path` that has read `n_tokens`."""
        dialogue = Dialogue(self._tokenizer)
        dialogue.n_tokens = n_tokens
        try:
            fields = json.loads(text)
            system = None if fields["system"] is None else str(fields["system"])
            dialogue._prompt = str(fields["prompt"])
            dialogue.messages = [
                {"role": str(message["role"]), "content": str(message["content"])}
                for message in fields["messages"]
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise SavedSessionError(
                f"{path}: the messages of a conversation expected, found a note of another kind"
            ) from error
        return dialogue, system

    def after(self, messages: Messages) -> tuple[Dialogue, NDArray[np.int32]]:
        """Return the conversation with more messages, and what the session has to read for them.

        Raises
        ------
        UnsupportedError
            The template writes earlier messages differently now.
        """
        text = write_out(self._tokenizer, [*self.messages, *messages])
        if self.messages:
            rest = as_bytes(self._difference(text))
            ids = self._tokenizer._native.encode(rest, True, False, True)
        else:
            ids = encode_start(self._tokenizer, text)
        other = self.copy()
        other._prompt = text
        other.messages += [dict(message) for message in messages]
        return other, np.asarray(ids, np.int32)

    def _difference(self, text: str) -> str:
        """Return what follows the newest answer. Templates may trim answers."""
        answer = self.messages[-1]["content"]
        rest = text[len(self._prompt) :]
        if text.startswith(self._prompt):
            if rest.startswith(answer):
                return rest[len(answer) :]
            trimmed, bare = rest.lstrip(), answer.strip()
            if trimmed.startswith(bare):
                return trimmed[len(bare) :]
        raise UnsupportedError(
            "chat template: one that leaves earlier messages as they were expected, found one that "
            "rewrites them when more follow; Engine.chat reads the whole conversation each time"
        )


class DialogueStream(TokenStream):
    """A stream whose answer joins the conversation, however it ends."""

    __slots__ = ("_dialogue", "_read", "_tell")

    def __init__(
        self,
        generator: _core.Generator,
        ids: NDArray[np.int32],
        *,
        show_progress: bool | None,
        dialogue: Dialogue,
        tell: Callable[[Dialogue], None],
    ) -> None:
        super().__init__(generator, ids, show_progress=show_progress, settles=True)
        self._dialogue = dialogue  # with the message
        self._tell = tell  # takes the conversation when it has the answer as well
        self._read = False

    def _start(self, generator: _core.Generator) -> None:
        super()._start(generator)
        self._read = True

    def _advance(self, generator: _core.Generator) -> None:
        super()._advance(generator)
        if self._result is not None:
            self._join(self._result.text)

    def close(self) -> None:
        """End the answer. What was written of it stays in the conversation."""
        generator = self._generator
        super().close()
        if generator is None or not self._read:
            return
        try:
            generator.settle()
        except Error:  # the session has been used for something else
            return
        self._join(generator.result.text)

    def _join(self, answer: str) -> None:
        self._read = False
        self._dialogue.messages.append({"role": "assistant", "content": answer})
        self._tell(self._dialogue)


def special_texts(tokenizer: Tokenizer) -> tuple[str, str]:
    """Texts of the beginning- and end-of-text tokens; empty for none."""
    bos, eos, entry = tokenizer.bos, tokenizer.eos, tokenizer._native.entry
    return "" if bos is None else entry(bos), "" if eos is None else entry(eos)


def write_out(tokenizer: Tokenizer, messages: Messages) -> str:
    """Text of a conversation, by the model's own template."""
    bos_token, eos_token = special_texts(tokenizer)
    return render(tokenizer.chat_template, messages, bos_token=bos_token, eos_token=eos_token)


def encode_start(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a rendered conversation from its start.

    Most templates write the beginning-of-text token themselves; there is to be one, not two.
    """
    bos_token, _ = special_texts(tokenizer)
    written = bool(bos_token) and text.startswith(bos_token)
    return tokenizer.encode(text, bos=False if written else None)


def n_opening_tokens(tokenizer: Tokenizer, system: str | None) -> int:
    """How many tokens of a conversation come before the first message."""
    first = [] if system is None else [{"role": "system", "content": system}]
    one, other = (
        Dialogue(tokenizer).after([*first, {"role": "user", "content": text}])[1] for text in "AB"
    )
    n = min(len(one), len(other))
    differ = np.flatnonzero(one[:n] != other[:n])
    return int(differ[0]) if len(differ) else n
