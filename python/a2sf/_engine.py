"""The engine: a model, how its cache is kept, and everything one can ask of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._batch import Batch, BatchStream, take_results
from ._chat import Messages
from ._core import OptionError
from ._dialogue import Dialogue, encode_start, n_opening_tokens, write_out
from ._hub import bundled_path, local_path, path_text
from ._ids import Ids, as_ids
from ._options import (
    GREEDY,
    Eviction,
    KvType,
    Sampling,
    native_eviction,
    native_generate,
    pinned_of,
)
from ._progress import prompt_bar
from ._results import Generation, ModelInfo, info_from
from ._session import Session
from ._stream import TokenStream, drain
from ._tokenizer import Tokenizer


class Engine:
    """A model ready to run.

    Immutable: any number of threads may use it, each call has a session of its own.

    Parameters
    ----------
    path : str, os.PathLike or None, default None
        A GGUF file; "hf:owner/repo/file.gguf" or "hf:owner/repo@revision/file.gguf", downloaded
        with a progress bar, cached and then usable offline (needs the extra `hub`); None for
        $A2SF_MODEL or the small model bundled with the package.
    eviction : Eviction or None, default None
        How the KV cache is kept inside a budget; None keeps everything.
    kv_type : {"f16", "f32", "q8_0"}, default "f16"
        How K and V are stored.
    device : {"auto", "cpu", "cuda"}, default "auto"
        What to run on; "auto" is the best of `a2sf.devices()`.
    threads : int or None, default None
        CPU threads of each session; None is the number of cores. Results do not depend on it.
    batch : int, default 512
        Prompt tokens processed together, at most 65536. Prefill "chunk" evicts once per batch.
    progress : bool or None, default None
        A progress bar on standard error while a prompt is read. None: only on a long prompt and
        when standard error is a terminal.

    Raises
    ------
    OptionError
        An option makes no sense.
    GgufError
        The file is damaged.
    UnsupportedError
        An architecture or weight type that is not known.
    DeviceError
        The device is missing.
    Error
        The file cannot be read or downloaded.
    """

    __slots__ = ("_eviction", "_info", "_native", "_options", "_progress", "_tokenizer")

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        eviction: Eviction | None = None,
        kv_type: KvType = "f16",
        device: Literal["auto", "cpu", "cuda"] = "auto",
        threads: int | None = None,
        batch: int = 512,
        progress: bool | None = None,
    ) -> None:
        if not (progress is None or isinstance(progress, bool)):
            found = type(progress).__name__
            raise TypeError(f"progress: bool or None expected, found {found}")
        if not isinstance(device, str):
            raise TypeError(f"device: str expected, found {type(device).__name__}")
        self._eviction = eviction
        self._options = (kv_type, threads, batch)
        self._session_options(None)
        file = bundled_path() if path is None else local_path(path)
        self._native = _core.Engine.load(file, device)
        self._tokenizer = Tokenizer._of(self._native.tokenizer)
        self._info = info_from(self._native, file)
        self._progress = progress

    def _session_options(self, eviction: Eviction | None) -> _core.SessionOptions:
        kv_type, threads, batch = self._options
        chosen = self._eviction if eviction is None else eviction
        return _core.SessionOptions(native_eviction(chosen), kv_type, threads, batch)

    @property
    def eviction(self) -> Eviction | None:
        """How the cache is kept unless a call says otherwise; None keeps everything."""
        return self._eviction

    @property
    def info(self) -> ModelInfo:
        """What the model is: sizes, weight type, device."""
        return self._info

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._tokenizer

    def tokenize(self, text: str, *, special: bool = True, bos: bool | None = None) -> list[int]:
        """Token ids of a text; see `Tokenizer.encode`."""
        return self._tokenizer.encode(text, special=special, bos=bos)

    def detokenize(self, ids: Ids) -> str:
        """Text of token ids; see `Tokenizer.decode`."""
        return self._tokenizer.decode(ids)

    def generate(
        self,
        prompt: str | Ids,
        *,
        max_tokens: int = 128,
        sampling: Sampling = GREEDY,
        stop: str | Sequence[str] = (),
        eviction: Eviction | None = None,
    ) -> Generation:
        """Continue a prompt.

        Parameters
        ----------
        prompt : str, sequence of int, or integer array [n]
            At least one token. In text, special tokens count as such.
        max_tokens : int, default 128
            Most tokens to generate. Without eviction the model's context also ends a generation.
        sampling : Sampling
            How tokens are chosen; default greedy.
        stop : str or sequence of str
            The text ends before the first of these.
        eviction : Eviction or None, default None
            Instead of the engine's; `Eviction(policy="full")` for the full cache.

        Returns
        -------
        Generation

        Raises
        ------
        OptionError
            An empty prompt, ids outside the vocabulary, a prompt longer than the model's context
            without eviction, or options that cannot be met.
        TypeError
            A value of another type.
        KeyboardInterrupt
            Ctrl-C, also in the middle of a long prompt.
        """
        return drain(
            self.stream(
                prompt, max_tokens=max_tokens, sampling=sampling, stop=stop, eviction=eviction
            )
        )

    def generate_batch(
        self,
        prompts: Sequence[str | Ids],
        *,
        max_tokens: int = 128,
        sampling: Sampling = GREEDY,
        stop: str | Sequence[str] = (),
        eviction: Eviction | None = None,
        parallel: int = 8,
    ) -> list[Generation]:
        """Continue several prompts at once, each as it would be continued alone.

        Bit for bit, whatever the other prompts are; `generate` adds up in another order for some
        weight types, so that its logits can differ by rounding.

        Parameters
        ----------
        prompts : sequence of str, of sequences of int, or of integer arrays [n]
        max_tokens, sampling, stop, eviction
            As in `generate`, the same for all.
        parallel : int, default 8
            Most sequences that run together; each has a cache of its own. More give more tokens per
            second, since they share each pass over the weights.

        Returns
        -------
        list of Generation
            In the order of the prompts. `stats.decode_s` counts the time of passes that served
            others as well.

        Raises
        ------
        As `generate`, for the first prompt that fails.
        """
        if isinstance(prompts, str) or not isinstance(prompts, Sequence):
            found = type(prompts).__name__
            raise TypeError(f"prompts: a sequence of prompts expected, found {found}")
        batch = Batch(self, parallel, what="parallel")
        running: dict[int, BatchStream] = {}  # by the prompt's index
        results: dict[int, Generation] = {}
        n_added = 0
        while n_added < len(prompts) or running:
            while n_added < len(prompts) and batch.n_running < batch.size:
                running[n_added] = batch.add(
                    prompts[n_added],
                    max_tokens=max_tokens,
                    sampling=sampling,
                    stop=stop,
                    eviction=eviction,
                )
                n_added += 1
            batch.step()
            results.update(take_results(running))
        return [results[index] for index in range(n_added)]

    def batch(self, size: int = 8) -> Batch:
        """Return a `Batch`, whose sequences join and leave at any time.

        Parameters
        ----------
        size : int, default 8
            Most sequences that run at once, at least 1.

        Raises
        ------
        OptionError
            A size out of range.
        """
        return Batch(self, size)

    def _prompt_ids(self, prompt: str | Ids) -> NDArray[np.int32]:
        """Ids of a prompt that begins a text."""
        if isinstance(prompt, str):
            prompt = self.tokenize(prompt)
        ids = as_ids(prompt, self._info.n_vocab, what="prompt")
        if len(ids) == 0:
            raise OptionError("prompt: at least 1 token expected, found 0")
        return ids

    def _make_workspace(self, size: int, what: str) -> _core.Workspace:
        if not isinstance(size, int) or isinstance(size, bool):
            raise TypeError(f"{what}: int expected, found {type(size).__name__}")
        if not 1 <= size <= 1024:
            raise OptionError(f"{what}: 1 to 1024 sequences expected, found {size}")
        return self._native.workspace(self._session_options(None), size)

    def stream(
        self,
        prompt: str | Ids,
        *,
        max_tokens: int = 128,
        sampling: Sampling = GREEDY,
        stop: str | Sequence[str] = (),
        eviction: Eviction | None = None,
    ) -> TokenStream:
        """Do as `generate`, but return an iterator of `Token`.

        Options are checked at once; the prompt is read when the first token is asked for.
        """
        options = native_generate(max_tokens, sampling, stop)
        ids = self._prompt_ids(prompt)
        session = self._native.session(self._session_options(eviction))
        generator = _core.Generator(session, options)
        return TokenStream(generator, ids, show_progress=self._progress, settles=False)

    def chat(
        self,
        messages: Messages,
        *,
        max_tokens: int = 128,
        sampling: Sampling = GREEDY,
        stop: str | Sequence[str] = (),
        eviction: Eviction | None = None,
    ) -> Generation:
        """Answer a conversation, written out by the model's own template.

        Parameters
        ----------
        messages : sequence of mappings
            Each with "role" ("system", "user", "assistant") and "content" (text), oldest first.
        max_tokens, sampling, stop, eviction
            As in `generate`.

        Returns
        -------
        Generation

        Raises
        ------
        UnsupportedError
            The model has no chat template, or one that does not work.
        OptionError
            No messages, wrong ones, or a conversation that the template refuses.
        Error
            jinja2 is not installed (extra `chat`).
        """
        return drain(
            self.stream_chat(
                messages, max_tokens=max_tokens, sampling=sampling, stop=stop, eviction=eviction
            )
        )

    def stream_chat(
        self,
        messages: Messages,
        *,
        max_tokens: int = 128,
        sampling: Sampling = GREEDY,
        stop: str | Sequence[str] = (),
        eviction: Eviction | None = None,
    ) -> TokenStream:
        """Do as `chat`, but return an iterator of `Token`."""
        ids = encode_start(self._tokenizer, write_out(self._tokenizer, messages))
        return self.stream(
            ids, max_tokens=max_tokens, sampling=sampling, stop=stop, eviction=eviction
        )

    def logits(self, ids: Ids, *, eviction: Eviction | None = None) -> NDArray[np.float32]:
        """Read tokens and return what the model predicts after each.

        Parameters
        ----------
        ids : sequence of int, or integer array [n]
        eviction : Eviction or None, default None
            Instead of the engine's.

        Returns
        -------
        float32 [n, n_vocab]
            Row i holds the logits of the token that follows ids[i].

        Raises
        ------
        OptionError, TypeError, KeyboardInterrupt
            As `generate`.
        MemoryError
            There is no room for the result.
        """
        array = as_ids(ids, self._info.n_vocab)
        session = self._native.session(self._session_options(eviction))
        out = np.empty((len(array), self._info.n_vocab), np.float32)
        with prompt_bar(self._progress, len(array)) as report:
            session.feed_all(array, out, report)
        return out

    def score(self, ids: Ids, *, eviction: Eviction | None = None) -> NDArray[np.float32]:
        """Log-probability of each token given those before it.

        Parameters
        ----------
        ids : sequence of int, or integer array [n]
        eviction : Eviction or None, default None
            Instead of the engine's.

        Returns
        -------
        float32 [n - 1]
            Natural logs; entry i is that of ids[i + 1].

        Raises
        ------
        OptionError, TypeError, KeyboardInterrupt
            As `generate`.
        """
        array = as_ids(ids, self._info.n_vocab)
        session = self._native.session(self._session_options(eviction))
        with prompt_bar(self._progress, len(array)) as report:
            return session.score(array, report)

    def session(
        self,
        *,
        eviction: Eviction | None = None,
        load: str | os.PathLike[str] | None = None,
    ) -> Session:
        """Return a new session: empty, or one that `Session.save` wrote.

        Parameters
        ----------
        eviction : Eviction or None, default None
            Instead of the engine's. A saved session brings its own; given with `load`, it must be
            the one it was saved with.
        load : path, default None
            A saved session of this model. It goes on bit for bit as if never saved.

        Raises
        ------
        OptionError
            Options that the model cannot meet.
        SavedSessionError
            The file is no saved session, is damaged, or belongs to another model or other options.
        Error
            The file cannot be read.
        """
        if load is not None:
            asked = None if eviction is None else native_eviction(eviction)
            path = path_text(load)
            saved, ids, note = self._native.load_session(path, self._options[1], asked)
            dialogue, system = Dialogue(self._tokenizer), None
            if note:
                dialogue, system = dialogue.parse(note, path, saved.n_tokens)
            session = Session(saved, self._tokenizer, self._progress, ids, system=system)
            session._dialogue = dialogue
            return session
        native = self._native.session(self._session_options(eviction))
        return Session(native, self._tokenizer, self._progress)

    def chat_session(
        self, *, system: str | None = None, eviction: Eviction | None = None
    ) -> Session:
        """Return an empty session for `Session.chat` that never evicts its system prompt.

        Parameters
        ----------
        system : str or None, default None
            The conversation's system prompt; None for the template's own, if it has one.
        eviction : Eviction or None, default None
            Instead of the engine's. Everything the template writes before the first message is
            pinned, beside what this pins.

        Raises
        ------
        OptionError
            The system prompt does not fit into the budget, the budget is a share of a text, or the
            template takes no system prompt.
        UnsupportedError, Error
            As `chat`.
        """
        chosen = self._eviction if eviction is None else eviction
        if chosen is not None and isinstance(chosen.budget, str):
            raise OptionError(
                "budget: a number of tokens expected (a conversation has no length to take a "
                f"share of), found {chosen.budget}"
            )
        n = n_opening_tokens(self._tokenizer, system)
        if chosen is not None and _core.policy_evicts(chosen.policy):
            chosen = replace(chosen, pinned=[*pinned_of(chosen), (0, n)])
        native = self._native.session(self._session_options(chosen))
        return Session(native, self._tokenizer, self._progress, system=system)

    def __repr__(self) -> str:
        kind, weights = self._info.architecture, self._info.weight_type
        return f"Engine({self._info.path!r}, {kind}, {weights}, eviction={self._eviction!r})"
