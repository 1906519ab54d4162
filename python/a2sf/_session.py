"""A text that grows: feed tokens, look at logits and cache, generate."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._core import Cache, OptionError
from ._dialogue import Dialogue, DialogueStream
from ._hub import path_text
from ._ids import Ids, as_ids
from ._options import GREEDY, Sampling, native_generate
from ._progress import prompt_bar
from ._results import Generation
from ._stream import TokenStream, drain
from ._tokenizer import Tokenizer


class Session:
    """One sequence of tokens and its KV cache, made by `Engine.session`.

    Several sessions of an engine may run at once, each used by one thread at a time; a second
    thread gets an `Error`. After an exception out of `feed` or `generate` call `reset`.
    """

    __slots__ = (
        "_answer",
        "_dialogue",
        "_native",
        "_show",
        "_system",
        "_tokenizer",
        "saved_ids",
    )

    saved_ids: NDArray[np.int32]
    """int32 [n], the tokens saved with a loaded session; none in others."""

    def __init__(
        self,
        native: _core.Session,
        tokenizer: Tokenizer,
        show_progress: bool | None,
        saved_ids: NDArray[np.int32] | None = None,
        *,
        system: str | None = None,
    ) -> None:
        self._native = native
        self.saved_ids = np.empty(0, np.int32) if saved_ids is None else saved_ids
        self._tokenizer = tokenizer
        self._show = show_progress
        self._system = system  # of chat(), unless that is given another one
        self._dialogue = Dialogue(tokenizer)
        self._answer: DialogueStream | None = None

    def feed(self, ids: Ids) -> NDArray[np.float32]:
        """Read tokens after those read before.

        One call is one prompt: prefill "full" evicts at its end, and a budget given as a share is
        one of the first call's tokens.

        Parameters
        ----------
        ids : sequence of int, or integer array [n]

        Returns
        -------
        float32 [n_vocab]
            Logits of the token that follows the last one.

        Raises
        ------
        OptionError
            No ids, ids outside the vocabulary, or more tokens than the model's context holds
            without eviction.
        KeyboardInterrupt
            Ctrl-C. Reset the session before using it again.
        """
        array = as_ids(ids, self._tokenizer.n_vocab)
        with prompt_bar(self._show, len(array)) as report:
            return self._native.feed(array, report)

    def generate(
        self,
        prompt: str | Ids = (),
        *,
        max_tokens: int = 128,
        sampling: Sampling = GREEDY,
        stop: str | Sequence[str] = (),
    ) -> Generation:
        """Go on with the text, after a prompt if one is given.

        The session has then read the prompt and what it generated.

        Parameters
        ----------
        prompt : str, sequence of int, or integer array [n]
            Read first. May be empty once the session has read something. Text begins with the
            model's beginning-of-text token only at the start of a session.
        max_tokens, sampling, stop
            As in `Engine.generate`.

        Returns
        -------
        Generation

        Raises
        ------
        As `Engine.generate`.
        """
        return drain(self.stream(prompt, max_tokens=max_tokens, sampling=sampling, stop=stop))

    def stream(
        self,
        prompt: str | Ids = (),
        *,
        max_tokens: int = 128,
        sampling: Sampling = GREEDY,
        stop: str | Sequence[str] = (),
    ) -> TokenStream:
        """Do as `generate`, but return an iterator of `Token`.

        Nothing else may use the session until the iterator has ended or is closed.
        """
        options = native_generate(max_tokens, sampling, stop)
        if isinstance(prompt, str):
            bos = None if self.n_tokens == 0 else False
            prompt = self._tokenizer.encode(prompt, bos=bos)
        ids = as_ids(prompt, self._tokenizer.n_vocab, what="prompt")
        generator = _core.Generator(self._native, options)
        return TokenStream(generator, ids, show_progress=self._show, settles=True)

    def chat(
        self,
        message: str,
        *,
        role: str = "user",
        system: str | None = None,
        max_tokens: int = 128,
        sampling: Sampling = GREEDY,
        stop: str | Sequence[str] = (),
    ) -> Generation:
        """Answer the next message of a conversation, written out by the model's own template.

        Only what is new is read: the end of the answer before, the message, and what an answer
        begins behind. So a turn costs the same however long the conversation is, given a budget.

        Parameters
        ----------
        message : str
        role : str, default "user"
            Who says it; what a template knows beside "user" is its own matter.
        system : str or None, default None
            System prompt of the conversation, with its first message only. None is that of
            `Engine.chat_session`, else none.
        max_tokens, sampling, stop
            As in `Engine.generate`. An answer cut short stays in the conversation as it is, and
            is closed as a whole one; so do the tokens of a stop string, which its text lacks.

        Returns
        -------
        Generation

        Raises
        ------
        UnsupportedError
            The model has no chat template, one that does not work, or one that rewrites earlier
            messages.
        OptionError
            A conversation that the template refuses, a system prompt later than the first message,
            a session that has read something else, or as `Engine.generate`.
        Error
            jinja2 is not installed (extra `chat`).
        """
        return drain(
            self.stream_chat(
                message,
                role=role,
                system=system,
                max_tokens=max_tokens,
                sampling=sampling,
                stop=stop,
            )
        )

    def stream_chat(
        self,
        message: str,
        *,
        role: str = "user",
        system: str | None = None,
        max_tokens: int = 128,
        sampling: Sampling = GREEDY,
        stop: str | Sequence[str] = (),
    ) -> TokenStream:
        """Do as `chat`, but return an iterator of `Token`.

        Closing it, or the next message, ends the answer where it is.
        """
        options = native_generate(max_tokens, sampling, stop)
        if self._answer is not None:
            self._answer.close()
        dialogue = self._dialogue
        if self.n_tokens != dialogue.n_tokens:
            raise OptionError(
                f"chat: a session that has read nothing but its conversation expected, found "
                f"{self.n_tokens} tokens where that has {dialogue.n_tokens}; reset it first"
            )
        messages = [{"role": role, "content": message}]
        if not dialogue.messages:
            chosen = self._system if system is None else system
            if chosen is not None:
                messages.insert(0, {"role": "system", "content": chosen})
        elif system is not None:
            raise OptionError("system: with the first message expected, found with a later one")
        after, ids = dialogue.after(messages)
        generator = _core.Generator(self._native, options)
        self._answer = DialogueStream(
            generator, ids, show_progress=self._show, dialogue=after, tell=self._keep
        )
        return self._answer

    def _keep(self, dialogue: Dialogue) -> None:
        dialogue.n_tokens = self.n_tokens
        self._dialogue = dialogue
        self._answer = None

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation of `chat` so far, a copy."""
        return [dict(message) for message in self._dialogue.messages]

    def save(self, path: str | os.PathLike[str], *, ids: Ids = ()) -> None:
        """Write what was read to a file, for `Engine.session(load=path)`.

        The file holds what survived in the cache, not the text: 25 MB for a budget of 1,024 and
        a model of 135 million parameters. It belongs to this model and these options, and takes its
        name only when it is whole. The messages of `chat` are in it; an answer that is still
        streamed ends where it is.

        Parameters
        ----------
        path : path
            Replaced if it is there.
        ids : sequence of int, or integer array [n], default none
            Tokens to keep with it, for instance those that were read: `Session.saved_ids`.

        Raises
        ------
        Error
            The file cannot be written, or the session was interrupted and not reset.
        """
        array = as_ids(ids, self._tokenizer.n_vocab)
        if self._answer is not None:
            self._answer.close()
        dialogue = self._dialogue
        talks = dialogue.n_tokens == self.n_tokens and (dialogue.messages or self._system)
        self._native.save(path_text(path), array, dialogue.text(self._system) if talks else "")

    def fork(self) -> Session:
        """Return a session of its own that has read the same.

        An answer of `stream_chat` that is still open ends where it is.
        """
        if self._answer is not None:
            self._answer.close()
        copy = Session(
            self._native.fork(),
            self._tokenizer,
            self._show,
            self.saved_ids,
            system=self._system,
        )
        copy._dialogue = self._dialogue.copy()
        return copy

    def reset(self) -> None:
        """Forget everything read."""
        self._native.reset()
        self._dialogue = Dialogue(self._tokenizer)
        self._answer = None

    @property
    def n_tokens(self) -> int:
        """Tokens read so far, evicted ones included."""
        return self._native.n_tokens

    @property
    def cache(self) -> Cache:
        """What the KV cache holds at the moment; follows the session."""
        return self._native.cache
