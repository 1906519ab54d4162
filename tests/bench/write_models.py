"""Write the GGUF files whose speed is measured: seeded random weights, or a model quantised anew.

The weight type of each tensor is the one llama.cpp's quantiser gives it (`tensor_kind`). Random
models have the shape and the vocabulary size of a Llama 3.2 model, and a made-up vocabulary: they
say how fast an engine is, nothing else.

    python tests/bench/write_models.py --shape 1b --type Q4_0 Q8_0 --out DIR
    python tests/bench/write_models.py --from MODEL.gguf --type Q4_K_M --out DIR
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapes
from blocks import Bytes, Kind, random_weights, requantise, row_bytes
from gguf import GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
from numpy.typing import NDArray
from shapes import BEGIN, END, FILE_TYPES, HIDDEN_SHAPES, SHAPES, Shape, vocabulary

# File types: the kind of most tensors, and the number in general.file_type.
TYPES = {name: (Kind[kind], LlamaFileType(number)) for name, (kind, number) in FILE_TYPES.items()}


def tensor_kind(
    name: str, shape: tuple[int, ...], file_type: str, n_layers: int, *, tied: bool, pure: bool
) -> Kind:
    """Weight type of a tensor, as llama.cpp's quantiser chooses it for the llama architecture."""
    return Kind[shapes.tensor_kind(name, shape, file_type, n_layers, tied=tied, pure=pure)]


def add_header(writer: GGUFWriter, name: str, shape: Shape) -> None:
    """Metadata of a random model: numbers and vocabulary."""
    writer.add_name(f"random-{name}")
    writer.add_description("Seeded random weights, for measuring speed")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.dim)
    writer.add_block_count(shape.n_layers)
    writer.add_feed_forward_length(shape.hidden_dim)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_vocab_size(shape.n_vocab)
    writer.add_quantization_version(2)
    tokens, types, merges = vocabulary(shape.n_vocab, shape.n_control)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index(BEGIN))
    writer.add_eos_token_id(tokens.index(END))
    writer.add_add_bos_token(True)


@dataclass(frozen=True)
class Tensor:
    """One tensor to write: its bytes are made when their turn comes."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    make: Callable[[], NDArray[Any]]

    @property
    def n_bytes(self) -> int:
        return int(np.prod(self.shape[:-1])) * row_bytes(self.kind, self.shape[-1])


def random_tensors(shape: Shape, file_type: str, seed: int, *, pure: bool) -> Iterator[Tensor]:
    """The tensors of a random model; the seed of each depends on its name only."""
    for name, size in shape.tensors():
        kind = tensor_kind(name, size, file_type, shape.n_layers, tied=shape.tied, pure=pure)

        def make(name: str = name, size: tuple[int, ...] = size, kind: Kind = kind) -> Bytes:
            if len(size) == 1:
                return np.ones(size, np.float32).view(np.uint8)
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            return random_weights(rng, kind, *size)

        yield Tensor(name, size, kind, make)


def quantised_tensors(reader: GGUFReader, file_type: str, *, pure: bool) -> Iterator[Tensor]:
    """The tensors of an existing model in another type."""
    tied = all(tensor.name != "output.weight" for tensor in reader.tensors)
    n_layers = int(value_of(reader, f"{architecture(reader)}.block_count"))
    for tensor in reader.tensors:
        size = tuple(int(n) for n in reversed(tensor.shape))
        kind = tensor_kind(tensor.name, size, file_type, n_layers, tied=tied, pure=pure)

        def make(tensor: Any = tensor, kind: Kind = kind, n_columns: int = size[-1]) -> Bytes:
            rows = tensor.data.reshape(-1, tensor.data.shape[-1])
            return requantise(rows, tensor.tensor_type, kind, n_columns)

        yield Tensor(tensor.name, size, kind, make)


def value_of(reader: GGUFReader, key: str) -> Any:
    """A metadata value that must be there."""
    field = reader.get_field(key)
    if field is None:
        raise SystemExit(f"{key}: missing")
    return field.contents()


def architecture(reader: GGUFReader) -> str:
    """The file's architecture."""
    return str(value_of(reader, "general.architecture"))


def copy_header(writer: GGUFWriter, reader: GGUFReader) -> None:
    """All metadata of a file but what describes its weight type."""
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        sub_kind = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, sub_type=sub_kind)


def write_file(path: Path, writer: GGUFWriter, tensors: list[Tensor]) -> None:
    """Write header and tensors, one tensor in memory at a time, then rename to `path`."""
    temporary = path.with_name(path.name + ".part")
    for tensor in tensors:
        # The writer takes element shapes of any type but uint8.
        size, dtype = tensor.shape, np.dtype(np.float32)
        writer.add_tensor_info(tensor.name, size, dtype, tensor.n_bytes, raw_dtype=tensor.kind)
    try:
        writer.write_header_to_file(temporary)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with progress(path.name, sum(tensor.n_bytes for tensor in tensors)) as advance:
            for tensor in tensors:
                writer.write_tensor_data(tensor.make())
                advance(tensor.n_bytes)
        writer.close()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def progress(title: str, n_bytes: int) -> Iterator[Callable[[int], object]]:
    """A bar on a terminal if tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda _: None
        return
    with tqdm(total=n_bytes, desc=title, unit="B", unit_scale=True, disable=None) as bar:
        yield bar.update


def write_random(
    out: Path, name: str, file_type: str, *, seed: int = 1, pure: bool = False
) -> Path:
    """Write OUT/NAME-TYPE.gguf with random weights; returns its path."""
    path = out / f"{name}-{file_type}{'-pure' if pure else ''}.gguf"
    writer = GGUFWriter(None, "llama")
    add_header(writer, name, SHAPES[name])
    writer.add_file_type(TYPES[file_type][1])
    write_file(path, writer, list(random_tensors(SHAPES[name], file_type, seed, pure=pure)))
    return path


def write_quantised(out: Path, source: Path, file_type: str, *, pure: bool = False) -> Path:
    """Write OUT/NAME-TYPE.gguf from an existing model; returns its path."""
    reader = GGUFReader(source)
    name = re.sub(r"[-.](I?Q\d\w*|B?F\d+)$", "", source.stem, flags=re.IGNORECASE)
    path = out / f"{name}-{file_type}{'-pure' if pure else ''}.gguf"
    if path.resolve() == source.resolve():
        raise SystemExit(f"{source}: is its own result; choose another --out")
    writer = GGUFWriter(None, architecture(reader))
    copy_header(writer, reader)
    writer.add_file_type(TYPES[file_type][1])
    write_file(path, writer, list(quantised_tensors(reader, file_type, pure=pure)))
    return path


def print_list() -> None:
    """Print shapes and types, with the size of each file."""
    for name, shape in SHAPES.items():
        if name in HIDDEN_SHAPES:
            continue
        n_params = sum(int(np.prod(size)) for _, size in shape.tensors())
        print(f"{name}: {n_params / 1e9:.2f} G weights, {shape}")
        for file_type in TYPES:
            tensors = random_tensors(shape, file_type, 0, pure=False)
            n_bytes = sum(tensor.n_bytes for tensor in tensors)
            print(f"    {name}-{file_type}.gguf  {n_bytes / 1e9:.2f} GB")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", nargs="+", choices=SHAPES, metavar="SHAPE", default=[])
    parser.add_argument("--from", dest="source", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--type", nargs="+", choices=TYPES, default=list(TYPES))
    parser.add_argument("--out", type=Path, default=Path(), help="folder (default: this one)")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--pure", action="store_true", help="one type for every matrix")
    parser.add_argument("--list", action="store_true", help="shapes, types and file sizes")
    args = parser.parse_args()
    if args.list:
        print_list()
        return
    if bool(args.shape) == bool(args.source):
        parser.error("--shape or --from expected, one of the two")
    args.out.mkdir(parents=True, exist_ok=True)
    for file_type in args.type:
        for name in args.shape:
            print(write_random(args.out, name, file_type, seed=args.seed, pure=args.pure))
        if args.source:
            print(write_quantised(args.out, args.source, file_type, pure=args.pure))


if __name__ == "__main__":
    main()
