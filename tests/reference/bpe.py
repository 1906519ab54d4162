"""Byte-level BPE of a GGUF vocabulary, for the "gpt-2" and "smollm" pre-tokenizers.

Sennrich et al., arXiv 1508.07909, over bytes as in GPT-2. Special tokens in the text are not
looked for. Needs the `regex` package for \\p classes.
"""

from __future__ import annotations

import os
from functools import cache, cached_property
from itertools import pairwise

import regex  # type: ignore[import-untyped]
from gguf import GGUFReader

GPT2_PIECE = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
PATTERNS: dict[str, tuple[str, ...]] = {
    "gpt-2": (GPT2_PIECE,),
    "smollm": (r"\p{N}", GPT2_PIECE),
}


def split(text: str, pattern: str) -> list[str]:
    """Cut text at the matches of a pattern; what lies between two matches is a piece too."""
    pieces, end = [], 0
    for match in regex.finditer(pattern, text):
        pieces += [text[end : match.start()], match.group()]
        end = match.end()
    return [piece for piece in [*pieces, text[end:]] if piece]


@cache
def byte_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-in for every byte: itself where printable, else from U+0100 up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(0x100 + i) for i, b in enumerate(others)}


class Bpe:
    """Encoder read from a GGUF file (a vocabulary-only one will do).

    Parameters
    ----------
    path
        GGUF file with `tokenizer.ggml.model` "gpt2".
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        reader = GGUFReader(path)

        def read(key: str, default: object = None) -> object:
            field = reader.get_field(f"tokenizer.ggml.{key}")
            return default if field is None else field.contents()

        pre = str(read("pre"))
        if read("model") != "gpt2" or pre not in PATTERNS:
            raise ValueError(
                f"tokenizer: gpt2 with one of {', '.join(PATTERNS)} expected, "
                f"found {read('model')} with {pre}"
            )
        tokens, merges = read("tokens"), read("merges")
        assert isinstance(tokens, list)
        assert isinstance(merges, list)
        self.patterns = PATTERNS[pre]
        self.tokens: list[str] = tokens
        self.merges: list[str] = merges
        self.bos_id = int(str(read("bos_token_id", -1)))
        self.add_bos = bool(read("add_bos_token", False))
        self._cache: dict[str, list[int]] = {}

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    @cached_property
    def _merge_rank(self) -> dict[tuple[str, str], int]:
        pairs = (merge.split(" ", 1) for merge in self.merges)
        return {(left, right): i for i, (left, right) in enumerate(pairs)}

    def encode(self, text: str, *, bos: bool | None = None) -> list[int]:
        """Token ids; bos None follows the file's `add_bos_token`."""
        pieces = [text]
        for pattern in self.patterns:
            pieces = [part for piece in pieces for part in split(piece, pattern)]
        ids = [token for piece in pieces for token in self._encode_piece(piece)]
        return [self.bos_id, *ids] if (self.add_bos if bos is None else bos) else ids

    def _encode_piece(self, piece: str) -> list[int]:
        """Merge the adjacent pair of lowest merge rank (leftmost first) until none is left."""
        if piece not in self._cache:
            alphabet = byte_alphabet()
            parts = [alphabet[b] for b in piece.encode("utf-8")]
            while len(parts) > 1:
                pairs = list(pairwise(parts))
                best = min(pairs, key=lambda pair: self._merge_rank.get(pair, len(self.merges)))
                if best not in self._merge_rank:
                    break
                i = pairs.index(best)
                parts[i : i + 2] = ["".join(best)]
            self._cache[piece] = [self._ids[part] for part in parts]
        return self._cache[piece]
