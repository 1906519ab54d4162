"""A page with a text, each token shaded by how many heads still hold it.

The page needs no other file and no network: `page.html` with `page.css`, `page.js` and the data
filled in.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
from importlib import resources
from pathlib import Path

import numpy as np

from .._core import Cache, Error, OptionError
from .._engine import Engine
from .._ids import Ids, as_ids
from .._tokenizer import Tokenizer
from ._recording import Recording, snapshot

MOST_STEPS = 65535
MOST_JOINED = 8  # tokens that are shown as one because none of them is a character
BROKEN = "\N{REPLACEMENT CHARACTER}"


def text_view(
    source: Engine | Tokenizer,
    ids: Ids,
    held: Cache | Recording,
    path: str | os.PathLike[str],
    *,
    title: str = "What the KV cache holds",
) -> None:
    """Write a page that shows which tokens of a text a cache still holds.

    A token's shade says how many heads hold it. Layer and head can be chosen, and with a recording
    the time; what is chosen is in the address (`#layer=3&head=1&step=2`). Pointing at a token, with
    the mouse or the arrow keys, shows its position, its count and which heads these are. Tokens
    that split a character are shown as one.

    Parameters
    ----------
    source : Engine or Tokenizer
        What the ids belong to.
    ids : sequence of int, or integer array [n]
        All tokens that the cache has read.
    held : Cache or Recording
        `session.cache` as it is now, or several looks at it.
    path : path
        The page, replaced if it is there.
    title : str

    Raises
    ------
    OptionError
        Other ids than the cache has read, by number; a cache that has read none; more than 65535
        looks.
    Error
        The page cannot be written.
    """
    recording = held if isinstance(held, Recording) else snapshot(held)
    tokenizer = source.tokenizer if isinstance(source, Engine) else source
    array = as_ids(ids, tokenizer.n_vocab)
    if len(array) != recording.n_tokens:
        raise OptionError(
            f"ids: the {recording.n_tokens} tokens that the cache has read expected, "
            f"found {len(array)}"
        )
    if recording.n_steps > MOST_STEPS:
        raise OptionError(f"steps: at most {MOST_STEPS} expected, found {recording.n_steps}")
    page = _page(title, _data(recording, text_units(tokenizer, array.tolist())))
    try:
        Path(path).write_text(page, encoding="utf-8")
    except OSError as error:
        raise Error(f"{path}: a file that can be written expected, found: {error}") from error


def text_units(tokenizer: Tokenizer, ids: list[int]) -> list[tuple[str, int]]:
    """Split a text into the shortest runs of tokens that are whole characters.

    Returns
    -------
    list of (text, number of tokens)
        Special tokens show as text, and so does a space that a tokenizer puts before a text; bytes
        that are no UTF-8 in any run are U+FFFD.
    """
    # Some tokenizers drop a space at the beginning of what they decode: nothing here begins there.
    anchor = tokenizer.encode("a", special=False, bos=False)
    n_anchor = len(tokenizer.decode(anchor))

    def text_of(first: int, end: int) -> str:
        return tokenizer.decode([*anchor, *ids[first:end]], special=True)[n_anchor:]

    units: list[tuple[str, int]] = []
    first = 0
    while first < len(ids):
        text, size = text_of(first, first + 1), 1
        if BROKEN in text:
            for end in range(first + 2, min(first + MOST_JOINED, len(ids)) + 1):
                joined = text_of(first, end)
                if BROKEN not in joined:
                    text, size = joined, end - first
                    break
        units.append((text, size))
        first += size
    return units


def _data(recording: Recording, units: list[tuple[str, int]]) -> dict[str, object]:
    """Make what the page's script reads.

    `gone` is Recording.gone in C order and base64: as bits, lowest first, where 1 is held, if there
    is one look; else as bytes, or as 16-bit integers with the low byte first.
    """
    if recording.n_steps == 1:
        bits, packed = 1, np.packbits(recording.gone > 0, bitorder="little")
    elif recording.n_steps < 256:
        bits, packed = 8, recording.gone.astype(np.uint8)
    else:
        bits, packed = 16, recording.gone.astype("<u2").view(np.uint8)
    return {
        "n_layers": recording.n_layers,
        "n_kv_heads": recording.n_kv_heads,
        "steps": recording.steps.tolist(),
        "bits": bits,
        "gone": base64.b64encode(packed.tobytes()).decode("ascii"),
        "units": [text for text, _ in units],
        "sizes": [size for _, size in units],
    }


def _page(title: str, data: dict[str, object]) -> str:
    folder = resources.files(__package__)
    parts = {
        "title": html.escape(title),
        "style": (folder / "page.css").read_text(encoding="utf-8").strip(),
        "script": (folder / "page.js").read_text(encoding="utf-8").strip(),
        # In JSON "<" stands in strings only; escaped it cannot end the element that holds it.
        "data": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    }
    template = (folder / "page.html").read_text(encoding="utf-8")
    # In one pass: a text may hold what looks like a place to be filled.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], template)
