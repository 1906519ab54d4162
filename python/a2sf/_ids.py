"""Token ids and text on their way into the native library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._core import OptionError

Ids = Sequence[int] | NDArray[np.integer[Any]]


def as_ids(ids: Ids, n_vocab: int, *, what: str = "ids") -> NDArray[np.int32]:
    """Check ids and make them what the library reads.

    Parameters
    ----------
    ids
        Integers in [0, n_vocab): a sequence, or a NumPy array of one dimension and any integer
        dtype.
    n_vocab
        Size of the vocabulary.
    what
        Their name in messages.

    Returns
    -------
    int32 [n], contiguous.

    Raises
    ------
    TypeError
        Not integers: floats, text, booleans.
    OptionError
        More than one dimension, or an id outside the vocabulary.
    """
    if isinstance(ids, (str, bytes)):
        raise TypeError(f"{what}: integers expected, found {type(ids).__name__}")
    try:
        array: NDArray[Any] = np.asarray(ids)
    except ValueError as error:  # ragged lists
        raise OptionError(f"{what}: one dimension expected, found nested sequences") from error
    if array.ndim != 1:
        raise OptionError(f"{what}: one dimension expected, found {array.ndim}")
    if array.size == 0:
        return np.empty(0, np.int32)
    if array.dtype == object:  # integers beyond 64 bits, or something else altogether
        _check_objects(array, what)
    elif not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{what}: integers expected, found {array.dtype}")
    wrong = np.flatnonzero((array < 0) | (array >= n_vocab))
    if wrong.size:
        first = int(wrong[0])
        found = f"{array[first]} at index {first}"
        raise OptionError(f"{what}: 0 to {n_vocab - 1} expected, found {found}")
    return np.ascontiguousarray(array, dtype=np.int32)


def _check_objects(array: NDArray[Any], what: str) -> None:
    for item in array:
        if not isinstance(item, int):
            raise TypeError(f"{what}: integers expected, found {type(item).__name__}")


def as_bytes(text: str, *, what: str = "text") -> bytes:
    """UTF-8 of a text. TypeError if it is none, OptionError for lone surrogates."""
    if not isinstance(text, str):
        raise TypeError(f"{what}: str expected, found {type(text).__name__}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        found = f"a lone surrogate at index {error.start}"
        raise OptionError(f"{what}: Unicode text expected, found {found}") from error
