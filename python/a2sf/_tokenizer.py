"""Text to token ids and back."""

from __future__ import annotations

import os

from . import _core
from ._hub import local_path
from ._ids import Ids, as_bytes, as_ids


class Tokenizer:
    """The tokenizer of a GGUF file, which may hold a vocabulary and nothing else.

    Immutable: any number of threads may use it.

    Parameters
    ----------
    path : str or os.PathLike
        A GGUF file, or "hf:owner/repo/file.gguf" (see `Engine`).

    Raises
    ------
    GgufError
        The file is damaged.
    UnsupportedError
        A kind of tokenizer that is not known.
    Error
        The file cannot be read.
    """

    __slots__ = ("_native",)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._native = _core.Tokenizer.open(local_path(path))

    @classmethod
    def _of(cls, native: _core.Tokenizer) -> Tokenizer:
        self = cls.__new__(cls)
        self._native = native
        return self

    def encode(self, text: str, *, special: bool = True, bos: bool | None = None) -> list[int]:
        """Token ids of a text.

        Parameters
        ----------
        text : str
        special : bool, default True
            Special tokens written in the text ("<|im_end|>") become their ids; otherwise they are
            text like any other.
        bos : bool or None, default None
            Whether to begin with the beginning-of-text token; None does what the model's metadata
            says.

        Returns
        -------
        list of int

        Raises
        ------
        OptionError
            The text has lone surrogates.
        """
        if bos is not None and not isinstance(bos, bool):
            raise TypeError(f"bos: bool or None expected, found {type(bos).__name__}")
        return self._native.encode(as_bytes(text), bool(special), bos)

    def decode(self, ids: Ids, *, special: bool = False) -> str:
        """Text of token ids.

        Parameters
        ----------
        ids : sequence of int, or integer array [n]
        special : bool, default False
            Whether special tokens show as text; otherwise they give none.

        Returns
        -------
        str
            Bytes that are not UTF-8 come out as U+FFFD.

        Raises
        ------
        OptionError
            An id outside the vocabulary.
        TypeError
            Ids that are not integers.
        """
        return self._native.decode(as_ids(ids, self.n_vocab), bool(special))

    @property
    def n_vocab(self) -> int:
        """Number of tokens."""
        return self._native.n_vocab

    @property
    def bos(self) -> int | None:
        """Id of the beginning-of-text token, if there is one."""
        return self._native.bos

    @property
    def eos(self) -> int | None:
        """Id of the end-of-text token, if there is one."""
        return self._native.eos

    @property
    def chat_template(self) -> str:
        """The model's Jinja template for chats; empty when it has none."""
        return self._native.chat_template

    def __repr__(self) -> str:
        kind, pre = self._native.model, self._native.pre_tokenizer
        return f"Tokenizer({kind}/{pre}, {self.n_vocab} tokens)"
