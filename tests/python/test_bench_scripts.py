"""The scripts of tests/bench work: models that load and compute, peers that may be missing."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import a2sf
import numpy as np
import pytest

gguf = pytest.importorskip("gguf")

BENCH = Path(__file__).resolve().parents[1] / "bench"
TYPES = ("Q4_0", "Q4_1", "Q8_0", "Q4_K_M", "F16", "BF16")
IDS = [300, 400, 65, 700, 20]


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random model in every type."""
    out = tmp_path_factory.mktemp("models")
    run("write_models.py", "--shape", "tiny", "--type", *TYPES, "--out", out)
    assert sorted(path.name for path in out.iterdir()) == sorted(f"tiny-{t}.gguf" for t in TYPES)
    return out


@pytest.mark.parametrize("name", TYPES)
def test_a_random_model_runs(written: Path, name: str) -> None:
    engine = a2sf.Engine(written / f"tiny-{name}.gguf")
    logits = engine.logits(IDS)
    assert np.isfinite(logits).all()
    assert 0.05 < logits.std() < 5
    text = "the cat, é\n"
    assert engine.detokenize(engine.tokenize(text, bos=False)) == text


def test_each_tensor_has_the_type_llama_cpp_gives_it(written: Path) -> None:
    reader = gguf.GGUFReader(written / "tiny-Q4_K_M.gguf")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["token_embd.weight"] == "Q6_K"
    assert kinds["blk.0.attn_v.weight"] == "Q4_K"
    assert kinds["blk.1.attn_v.weight"] == kinds["blk.1.ffn_down.weight"] == "Q6_K"
    assert kinds["blk.1.attn_q.weight"] == "Q4_K"
    assert kinds["blk.1.ffn_norm.weight"] == "F32"


def test_a_seed_gives_the_same_file(written: Path, tmp_path: Path) -> None:
    run("write_models.py", "--shape", "tiny", "--type", "Q4_K_M", "--out", tmp_path)
    name = "tiny-Q4_K_M.gguf"
    assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


@pytest.mark.parametrize(("name", "error"), [("Q8_0", 0.05), ("Q4_K_M", 0.4)])
def test_a_model_quantised_again_is_the_same_model(
    written: Path, tmp_path: Path, name: str, error: float
) -> None:
    source = written / "tiny-BF16.gguf"
    run("write_models.py", "--from", source, "--type", name, "--out", tmp_path)
    engines = [a2sf.Engine(path) for path in (source, tmp_path / f"tiny-{name}.gguf")]
    expected, found = (engine.logits(IDS) for engine in engines)
    assert np.sqrt(np.mean((found - expected) ** 2)) < error * expected.std()
    assert engines[0].tokenize("the cat") == engines[1].tokenize("the cat")


def test_missing_peers_are_named_and_skipped(written: Path, tmp_path: Path) -> None:
    results = tmp_path / "rounds.json"
    done = run(
        "compare_peers.py",
        written / "tiny-Q8_0.gguf",
        *("--rounds", "2", "--prompt", "16", "--decode", "2", "--depths", "0,64", "--budget", "32"),
        *("--python-llama", tmp_path / "none", "--json", results),
    )
    assert "llama.cpp skipped: " in done.stdout
    assert "No such file" in done.stderr
    if importlib.util.find_spec("openvino_genai") is None:
        assert "OpenVINO skipped: openvino-genai is not installed for " in done.stderr
    rounds = [r for r in json.loads(results.read_text())["results"] if r["engine"] == "a2sf"]
    assert [(r["depth"], r["round"], r["cache"]) for r in rounds] == [
        *((0, i, "full") for i in range(2)),
        *((64, i, cache) for i in range(2) for cache in ("full", "32")),
    ]
    assert all(speed > 0 for r in rounds for speed in r["speeds"].values())
    assert "| whole prompt | 64 | 32 | " in done.stdout


def test_long_chat_runs(bundled: Path) -> None:
    done = run("long_chat.py", bundled, "--turns", "22", "--budget", "128", "--answer", "6")
    lines = done.stdout.splitlines()
    assert len([line for line in lines if line.startswith("|")]) == 13
    assert "| 128 |" in lines[-3]
    assert lines[-2].startswith("writing a token, last half, old / young: ")
    assert lines[-1].startswith("cache bytes after turn 20: ")
