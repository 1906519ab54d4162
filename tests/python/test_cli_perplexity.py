"""a2sf perplexity: numbers, windows, policies."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from cli_program import a2sf

TEXT = "It was the best of times, it was the worst of times.\n" * 20


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


def score(llama: Path, text: Path, *arguments: object) -> dict[str, Any]:
    done = a2sf("perplexity", "-m", llama, "-f", text, "--json", "-q", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_output(llama: Path, text: Path) -> None:
    done = a2sf("perplexity", "-m", llama, "-f", text)
    assert done.returncode == 0
    for word in ("mean nll", "perplexity", "standard error", "tokens scored"):
        assert word in done.stdout
    assert "tokens/s" in done.stderr


def test_numbers_fit_together(llama: Path, text: Path) -> None:
    result = score(llama, text)
    assert result["perplexity"] == pytest.approx(math.exp(result["mean_nll"]))
    assert result["standard_error"] > 0
    assert (result["n_windows"], result["options"]["ctx"]) == (1, 2048)


def test_windows(llama: Path, text: Path) -> None:
    result = score(llama, text, "--ctx", "32", "--tokens", "100")
    assert (result["n_windows"], result["n_scored"]) == (4, 100 - 4)
    # A window does not see the one before it.
    assert result["mean_nll"] != score(llama, text, "--ctx", "64", "--tokens", "100")["mean_nll"]


def test_eviction_counts(llama: Path, text: Path) -> None:
    full = score(llama, text, "--kv-type", "f32")
    wide = score(llama, text, "--kv-type", "f32", "--budget", "4096")
    assert wide["mean_nll"] == full["mean_nll"]
    tight = score(llama, text, "--kv-type", "f32", "--budget", "16", "--prefill", "token")
    assert tight["mean_nll"] != full["mean_nll"]
    assert tight["options"]["budget"] == 16


def test_standard_input(llama: Path, text: Path) -> None:
    done = a2sf("perplexity", "-m", llama, "-f", "-", "--json", "-q", stdin=TEXT)
    assert json.loads(done.stdout)["mean_nll"] == score(llama, text)["mean_nll"]


def test_short_text(llama: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    done = a2sf("perplexity", "-m", llama, "-f", empty)
    assert done.returncode == 1
    assert "at least 2 tokens expected" in done.stderr


def test_missing_text(llama: Path, tmp_path: Path) -> None:
    done = a2sf("perplexity", "-m", llama, "-f", tmp_path / "none.txt")
    assert done.returncode == 1
    assert "none.txt" in done.stderr


@pytest.mark.parametrize("value", ["1", "0", "x", "-3"])
def test_bad_window(value: str) -> None:
    done = a2sf("perplexity", "-f", "x", f"--ctx={value}")
    assert done.returncode == 2
    assert done.stderr.startswith("a2sf: --ctx: ")
