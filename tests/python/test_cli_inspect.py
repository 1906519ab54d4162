"""a2sf inspect: what it shows of models, vocabularies and files that cannot be run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_program import a2sf

gguf = pytest.importorskip("gguf")


def inspect_json(path: Path, *arguments: object) -> dict[str, Any]:
    done = a2sf("inspect", path, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def unknown_model(path: Path, value: bool = False) -> Path:
    """Write a model of an architecture that nobody has, with strange metadata."""
    writer = gguf.GGUFWriter(path, "martian")
    writer.add_string("general.name", "esc \x1b[31m red")
    writer.add_uint32("martian.block_count", 3)
    writer.add_uint32("martian.attention.head_count", 4)
    writer.add_uint32("martian.attention.head_count_kv", 2)
    writer.add_uint32("martian.embedding_length", 128)
    writer.add_array("martian.list", list(range(100)))
    writer.add_float32("martian.nan", float("nan"))
    writer.add_bool("martian.truth", value)
    writer.add_tensor("token_embd.weight", np.zeros((16, 128), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_text(llama: Path) -> None:
    done = a2sf("inspect", "-m", llama)
    assert (done.returncode, done.stderr) == (0, "")
    for part in ("File\n", "Architecture\n", "Tokenizer\n", "Weights\n", "KV cache", "Metadata\n"):
        assert part in done.stdout
    assert "blk.0.attn_q.weight" not in done.stdout
    assert "blk.0.attn_q.weight" in a2sf("inspect", llama, "--tensors").stdout


def test_every_reference_model(models: Path) -> None:
    for path in sorted(models.glob("*.gguf")):
        result = inspect_json(path, "--tensors")
        assert result["supported"], (path, result["unsupported"])
        assert len(result["tensors"]) == result["n_tensors"]
        assert sum(t["n_bytes"] for t in result["tensors"]) == result["weight_bytes"]
        assert sum(t["n_tensors"] for t in result["weight_types"]) == result["n_tensors"]


def test_numbers_agree_with_gguf_py(llama: Path) -> None:
    reader = gguf.GGUFReader(llama)
    result = inspect_json(llama, "--all")
    assert result["n_params"] == sum(int(t.n_elements) for t in reader.tensors)
    assert set(result["metadata"]) == {k for k in reader.fields if not k.startswith("GGUF.")}
    for key, value in result["metadata"].items():
        expected = reader.fields[key].contents()
        if isinstance(expected, float):
            assert value == pytest.approx(expected)
        else:
            assert value == expected, key


def test_long_arrays_are_cut_unless_all(llama: Path) -> None:
    tokens = inspect_json(llama)["metadata"]["tokenizer.ggml.tokens"]
    assert (tokens["n"], len(tokens["first"])) == (512, 8)
    assert len(inspect_json(llama, "--all")["metadata"]["tokenizer.ggml.tokens"]) == 512


def test_kv_sizes(llama: Path) -> None:
    result = inspect_json(llama, "--budget", "100")
    per_token = 2 * result["n_layers"] * result["n_kv_heads"] * result["head_dim"]
    sizes = {row["kv_type"]: row for row in result["kv"]}
    assert sizes["f32"]["bytes_per_token"] == per_token * 4
    assert sizes["f16"]["bytes_per_token"] == per_token * 2
    assert sizes["q8_0"]["bytes_per_token"] == per_token * 34 // 32
    assert sizes["f16"]["bytes_budget"] == per_token * 2 * 100
    assert sizes["f16"]["bytes_context"] == per_token * 2 * result["n_ctx"]


def test_unknown_architecture(tmp_path: Path) -> None:
    path = unknown_model(tmp_path / "martian.gguf")
    result = inspect_json(path)
    assert result["architecture"] == "martian"
    assert not result["supported"]
    assert "llama" in result["unsupported"]  # lists the known ones
    assert (result["n_layers"], result["n_kv_heads"]) == (3, 2)
    assert result["kv"][0]["bytes_per_token"] == 2 * 3 * 2 * 32 * 4
    assert result["metadata"]["martian.nan"] is None
    assert result["metadata"]["martian.truth"] is False
    assert "unreadable" in result["tokenizer"]
    done = a2sf("inspect", path)
    assert done.returncode == 0
    assert "runs here        no: " in done.stdout
    assert "\x1b" not in done.stdout  # nothing from the file reaches the terminal unescaped
    assert a2sf("run", "-m", path, "-p", "x").returncode == 1


def test_vocabularies(models: Path) -> None:
    for path in sorted((models.parents[1] / "vocab").glob("*.gguf")):
        result = inspect_json(path)
        assert result["n_tensors"] == 0
        assert not result["supported"]
        assert result["tokenizer"]["n_vocab"] > 30000
        done = a2sf("inspect", path)
        assert done.returncode == 0
        assert "vocabulary" in done.stdout


def test_truncated_file(llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(llama.read_bytes()[:5000])
    done = a2sf("inspect", path)
    assert done.returncode == 1
    assert str(path) in done.stderr
