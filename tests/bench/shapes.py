"""Sizes, weight types and the made-up vocabulary of the models whose speed is measured.

Needs Python alone; writes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, product


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_dim: int
    n_vocab: int = 128256
    n_control: int = 256
    context: int = 131072
    rope_base: float = 500000.0
    tied: bool = True  # the embedding is the output

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes (rows, columns), in the order of the file."""
        q_dim, kv_dim = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        yield "token_embd.weight", (self.n_vocab, self.dim)
        for i in range(self.n_layers):
            yield f"blk.{i}.attn_norm.weight", (self.dim,)
            yield f"blk.{i}.attn_q.weight", (q_dim, self.dim)
            yield f"blk.{i}.attn_k.weight", (kv_dim, self.dim)
            yield f"blk.{i}.attn_v.weight", (kv_dim, self.dim)
            yield f"blk.{i}.attn_output.weight", (self.dim, q_dim)
            yield f"blk.{i}.ffn_norm.weight", (self.dim,)
            yield f"blk.{i}.ffn_gate.weight", (self.hidden_dim, self.dim)
            yield f"blk.{i}.ffn_up.weight", (self.hidden_dim, self.dim)
            yield f"blk.{i}.ffn_down.weight", (self.dim, self.hidden_dim)
        yield "output_norm.weight", (self.dim,)
        if not self.tied:
            yield "output.weight", (self.n_vocab, self.dim)


SHAPES = {
    "1b": Shape(2048, 16, 32, 8, 64, 8192),
    "3b": Shape(3072, 28, 24, 8, 128, 8192),
    "8b": Shape(4096, 32, 32, 8, 128, 14336, tied=False),
    # For the tests.
    "tiny": Shape(256, 2, 4, 2, 64, 512, n_vocab=768, n_control=2, context=4096),
}
HIDDEN_SHAPES = ("tiny",)
# Names of a file type: of the type that most tensors have, and the number in general.file_type.
FILE_TYPES = {
    "Q4_0": ("Q4_0", 2),
    "Q4_1": ("Q4_1", 3),
    "Q8_0": ("Q8_0", 7),
    "Q4_K_M": ("Q4_K", 15),
    "F16": ("F16", 1),
    "BF16": ("BF16", 32),
}
FALLBACK = {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}
BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"
NORMAL, CONTROL = 1, 3  # token types


def use_more_bits(layer: int, n_layers: int) -> bool:
    """llama.cpp's rule for the layers of a _K_M file that keep Q6_K."""
    eighth = n_layers // 8
    return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2


def tensor_kind(
    name: str, shape: tuple[int, ...], file_type: str, n_layers: int, *, tied: bool, pure: bool
) -> str:
    """Weight type of a tensor, as llama.cpp's quantiser chooses it for the llama architecture.

    The output matrix (with tied embeddings, the embedding) is Q6_K in every 4-bit file. Rows that
    256-weight blocks do not divide fall back to Q5_0 for Q4_K and Q8_0 for Q6_K. `pure` gives
    every matrix the file's own type.
    """
    if len(shape) == 1:
        return "F32"
    kind = FILE_TYPES[file_type][0]
    n_columns = shape[-1]
    four_bits = kind in ("Q4_0", "Q4_1", "Q4_K")
    if four_bits and not pure:
        layer = re.match(r"blk\.(\d+)\.(attn_v|ffn_down)\.", name)
        if name == ("token_embd.weight" if tied else "output.weight") or (
            file_type == "Q4_K_M" and layer and use_more_bits(int(layer.group(1)), n_layers)
        ):
            kind = "Q6_K"
    return FALLBACK.get(kind, kind) if n_columns % 256 != 0 else kind


def byte_alphabet() -> list[str]:
    """GPT-2's printable characters for the bytes 0 to 255."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    table = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    return [table[b] for b in range(256)]


def vocabulary(n_vocab: int, n_control: int) -> tuple[list[str], list[int], list[str]]:
    """Tokens, token types and merges of a made-up byte-level BPE vocabulary.

    Every byte, then words of two to four letters, each made by one merge, then control tokens.
    """
    alphabet, letters = byte_alphabet(), "etaoinshrdlcumwfgypbvkjxqz"
    space = alphabet[ord(" ")]
    pairs = [a + b for a, b in product(letters, letters)]
    splits = chain(product(letters, letters), product(space, [*letters, *pairs]))
    n_words = n_vocab - n_control - len(alphabet)
    merges = list(islice(chain(splits, product(pairs, pairs)), n_words))
    if n_words < 0 or len(merges) < n_words:
        raise ValueError(f"n_vocab: cannot make a vocabulary of {n_vocab} tokens")
    controls = [BEGIN, END, *(f"<|reserved_special_token_{i}|>" for i in range(n_control - 2))]
    tokens = [*alphabet, *(a + b for a, b in merges), *controls]
    types = [NORMAL] * (n_vocab - n_control) + [CONTROL] * n_control
    return tokens, types, [f"{a} {b}" for a, b in merges]
