"""The bundled model's vocabulary (byte-level BPE, trained on generated notes) and its GGUF file.

All 256 bytes are tokens, so any text can be encoded. Two special tokens: <|begin|> opens a text, <|end|> closes an
answer. Run as a program it prints the manifest of GGUF files: `python models/export.py models/*.gguf`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
from network import Config, Network
from notes import END, make_document
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

BEGIN = "<|begin|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'user' %}{{ '\\nQuestion: ' + message.content + '\\nAnswer:' }}"
    "{% elif message.role == 'assistant' %}{{ ' ' + message.content.strip() + '<|end|>' }}"
    "{% else %}{{ message.content }}{% endif %}"
    "{% endfor %}"
)


def train_tokenizer(n_vocab: int, seed: int, n_documents: int = 1500) -> Tokenizer:
    """Byte-level BPE with GPT-2's splitting rule and byte alphabet."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(text, special=True, normalized=False) for text in (BEGIN, END)]
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )

    def texts() -> Iterator[str]:
        for i in range(n_documents):
            yield make_document(f"vocabulary/{seed}/{i}", 512).text.replace(END, "")

    tokenizer.train_from_iterator(texts(), trainer)
    if tokenizer.get_vocab_size() != n_vocab:
        raise ValueError(
            f"vocabulary: expected {n_vocab} tokens, found {tokenizer.get_vocab_size()}; ask for fewer"
        )
    return tokenizer


def write_gguf(path: Path, network: Network, tokenizer: Tokenizer) -> None:
    """Write the network and its vocabulary as float16 GGUF (norms float32), atomically."""
    config = network.config
    temporary = path.with_suffix(".tmp")
    writer = gguf.GGUFWriter(str(temporary), "llama")
    _add_header(writer, config)
    _add_vocabulary(writer, tokenizer)
    for name, parameter in network.named_parameters():
        values = parameter.detach().float().numpy()
        writer.add_tensor(
            name, values.astype(np.float16) if values.ndim == 2 else values.astype(np.float32)
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(temporary, path)


def _add_header(writer: gguf.GGUFWriter, config: Config) -> None:
    writer.add_name("notes-1m")
    writer.add_description("Remembers facts of short generated notes; bundled with a2sf")
    writer.add_license("MIT")
    writer.add_languages(["en"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.dim)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.hidden_dim)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_vocab_size(config.n_vocab)


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    model = json.loads(tokenizer.to_str())["model"]
    tokens = [text for text, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    types = [
        gguf.TokenType.CONTROL if text in (BEGIN, END) else gguf.TokenType.NORMAL for text in tokens
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokenizer.token_to_id(BEGIN))
    writer.add_eos_token_id(tokenizer.token_to_id(END))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def describe(path: Path, source: str) -> dict[str, str | int]:
    """The manifest entry of a GGUF file, from its own metadata."""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    architecture = fields["general.architecture"]
    return {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "n_bytes": path.stat().st_size,
        "architecture": architecture,
        "n_params": sum(int(np.prod(tensor.shape)) for tensor in reader.tensors),
        "weight_type": max(
            reader.tensors, key=lambda tensor: tensor.n_elements
        ).tensor_type.name.lower(),
        "context": fields[f"{architecture}.context_length"],
        "source": source,
        "licence": fields["general.license"],
    }


def main() -> None:
    """Command line: print the manifest."""
    parser = argparse.ArgumentParser(description="Print the manifest of GGUF files as JSON.")
    parser.add_argument("file", type=Path, nargs="+", help="GGUF file")
    parser.add_argument(
        "--source",
        default="trained by models/train.py on text generated by models/notes.py",
        help="where the files come from (default: %(default)s)",
    )
    args = parser.parse_args()
    print(json.dumps([describe(path, args.source) for path in args.file], indent=2))


if __name__ == "__main__":
    main()
