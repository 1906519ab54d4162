"""Write the same GGUF files as write_models.py --shape, but with Python alone and fast.

One pattern of random blocks is repeated through all matrices, so that a file is written as fast as
the disk takes it: gigabytes in seconds. Time is measured with these files, nothing else.

    python3 tests/bench/plain_models.py --shape 8b --type F16 --out DIR
"""

from __future__ import annotations

import argparse
import os
import random
import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import BinaryIO

from shapes import BEGIN, END, FILE_TYPES, SHAPES, Shape, tensor_kind, vocabulary

ALIGNMENT = 32
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9  # types of GGUF values
PATTERN_BYTES = 8 << 20
# ggml's number, weights and bytes of a block.
KINDS = {
    "F32": (0, 1, 4), "F16": (1, 1, 2), "Q8_0": (8, 32, 34), "Q4_K": (12, 256, 144),
    "Q6_K": (14, 256, 210),
}  # fmt: skip


def half(value: float) -> bytes:
    return struct.pack("<e", value)


def masks(kind: str) -> tuple[bytes, bytes]:
    """Of a block: which of the random bits stay, and what is set beside them.

    Weights come to about 0.02, as in write_models.py: scales and minima are constants.
    """
    if kind == "F16":  # exponents of 2**-7 and 2**-6
        return b"\xff\x87", b"\x00\x20"
    if kind == "Q8_0":  # odd codes: -128 is none that a quantiser writes
        return bytes(2) + b"\xff" * 32, half(0.02 / 73) + b"\x01" * 32
    if kind == "Q4_K":  # all scales and minima 40, w = d 40 (code - 7.5)
        d, packed = 0.02 / (4.61 * 40), bytes([168] * 8 + [136] * 4)
        return bytes(16) + b"\xff" * 128, half(d) + half(7.5 * d) + packed + bytes(128)
    if kind == "Q6_K":
        return b"\xff" * 192 + bytes(18), bytes(192) + bytes([80] * 16) + half(0.02 / (18.5 * 80))
    raise SystemExit(f"{kind}: one of {', '.join(KINDS)} expected")


def pattern(kind: str, rng: random.Random) -> bytes:
    """Random blocks, about PATTERN_BYTES."""
    if kind == "F32":  # norms
        return struct.pack("<f", 1.0) * 4096
    n = PATTERN_BYTES // KINDS[kind][2]
    kept, added = (int.from_bytes(mask * n, "little") for mask in masks(kind))
    n_bytes = n * KINDS[kind][2]
    codes = int.from_bytes(rng.randbytes(n_bytes), "little")
    return (codes & kept | added).to_bytes(n_bytes, "little")


def text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def strings(values: list[str]) -> bytes:
    return struct.pack("<IQ", STRING, len(values)) + b"".join(map(text, values))


def metadata(name: str, shape: Shape, file_type: str) -> Iterator[tuple[str, int, bytes]]:
    """Keys, types and values."""
    tokens, types, merges = vocabulary(shape.n_vocab, shape.n_control)
    yield "general.architecture", STRING, text("llama")
    yield "general.name", STRING, text(f"random-{name}")
    numbers = {
        "general.file_type": FILE_TYPES[file_type][1],
        "general.quantization_version": 2,
        "llama.context_length": shape.context,
        "llama.embedding_length": shape.dim,
        "llama.block_count": shape.n_layers,
        "llama.feed_forward_length": shape.hidden_dim,
        "llama.attention.head_count": shape.n_heads,
        "llama.attention.head_count_kv": shape.n_kv_heads,
        "llama.attention.key_length": shape.head_dim,
        "llama.attention.value_length": shape.head_dim,
        "llama.rope.dimension_count": shape.head_dim,
        "llama.vocab_size": shape.n_vocab,
        "tokenizer.ggml.bos_token_id": tokens.index(BEGIN),
        "tokenizer.ggml.eos_token_id": tokens.index(END),
    }
    for key, number in numbers.items():
        yield key, UINT32, struct.pack("<I", number)
    yield "llama.attention.layer_norm_rms_epsilon", FLOAT32, struct.pack("<f", 1e-5)
    yield "llama.rope.freq_base", FLOAT32, struct.pack("<f", shape.rope_base)
    yield "tokenizer.ggml.model", STRING, text("gpt2")
    yield "tokenizer.ggml.pre", STRING, text("llama-bpe")
    yield "tokenizer.ggml.add_bos_token", BOOL, b"\x01"
    yield "tokenizer.ggml.tokens", ARRAY, strings(tokens)
    yield "tokenizer.ggml.merges", ARRAY, strings(merges)
    packed = struct.pack(f"<IQ{len(types)}i", INT32, len(types), *types)
    yield "tokenizer.ggml.token_type", ARRAY, packed


def pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % ALIGNMENT))


def write_tensor(file: BinaryIO, blocks: bytes, n_bytes: int) -> None:
    """The pattern, again and again."""
    for _ in range(n_bytes // len(blocks)):
        file.write(blocks)
    file.write(memoryview(blocks)[: n_bytes % len(blocks)])
    pad(file)


def write(out: Path, name: str, file_type: str) -> Path:
    """OUT/NAME-TYPE.gguf; returns its path."""
    shape, rng = SHAPES[name], random.Random(1)
    tensors = [
        (at, size, tensor_kind(at, size, file_type, shape.n_layers, tied=shape.tied, pure=False))
        for at, size in shape.tensors()
    ]
    blocks = {kind: pattern(kind, rng) for kind in sorted({kind for _, _, kind in tensors})}
    fields = list(metadata(name, shape, file_type))
    path = out / f"{name}-{file_type}.gguf"
    temporary = path.with_name(path.name + ".part")
    sizes = [prod(size) // KINDS[kind][1] * KINDS[kind][2] for _, size, kind in tensors]
    with temporary.open("wb", buffering=1 << 20) as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields)))
        for key, value_type, value in fields:
            file.write(text(key) + struct.pack("<I", value_type) + value)
        offset = 0
        for (at, size, kind), n_bytes in zip(tensors, sizes, strict=True):
            dims = struct.pack(f"<I{len(size)}Q", len(size), *reversed(size))
            file.write(text(at) + dims + struct.pack("<IQ", KINDS[kind][0], offset))
            offset += n_bytes + -n_bytes % ALIGNMENT
        pad(file)
        for (_, _, kind), n_bytes in zip(tensors, sizes, strict=True):
            write_tensor(file, blocks[kind], n_bytes)
    os.replace(temporary, path)
    return path


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--type", choices=("Q8_0", "F16", "Q4_K_M"), required=True)
    parser.add_argument("--out", type=Path, default=Path(), help="folder (default: this one)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    print(write(args.out, args.shape, args.type))


if __name__ == "__main__":
    main()
