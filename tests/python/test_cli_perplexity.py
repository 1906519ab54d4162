"""a2sf perplexity: numbers, windows, policies."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_program import TIMEOUT_S, a2sf, catches_interrupt, program

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


def test_windows_are_joined_as_one_text(llama: Path, text: Path) -> None:
    """Mean and standard error are those of all tokens scored, whatever the windows."""
    engine = pytest.importorskip("a2sf").Engine(llama)
    ids = engine.tokenize(TEXT, special=False)[:80]
    parts = [-engine.score(ids[first : first + 32]) for first in range(0, 80, 32)]
    nll = np.concatenate(parts).astype(np.float64)
    result = score(llama, text, "--ctx", "32", "--tokens", "80")
    assert (result["n_scored"], result["n_windows"]) == (len(nll), 3)
    assert result["mean_nll"] == pytest.approx(nll.mean(), rel=1e-5)
    assert result["standard_error"] == pytest.approx(nll.std() / math.sqrt(len(nll) - 1), rel=1e-4)
    assert result["interrupted"] is False


def test_share_is_one_of_the_longest_window(llama: Path, text: Path) -> None:
    # The last window has 2 tokens, of which half is less than any policy protects.
    windows = ["--ctx", "32", "--prefill", "token"]
    result = score(llama, text, *windows, "--tokens", "66", "--budget", "50%")
    assert (result["n_windows"], result["options"]["budget"]) == (3, 16)
    fixed = score(llama, text, *windows, "--tokens", "66", "--budget", "16")
    assert result["mean_nll"] == fixed["mean_nll"]
    short = score(llama, text, "--tokens", "50", "--prefill", "token", "--budget", "40%")
    assert short["options"]["budget"] == 20


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--budget", "16"], "--prefill token"),
        (["--budget", "16", "--batch", "32"], ""),
        (["--budget", "16", "--prefill", "token"], ""),
        (["--budget", "16", "--prefill", "full", "--batch", "32"], "--prefill token"),
        (["--budget", "64"], "nothing is evicted"),
        ([], ""),
    ],
)
def test_eviction_without_effect_is_told(
    llama: Path, text: Path, arguments: list[str], expected: str
) -> None:
    done = a2sf("perplexity", "-m", llama, "-f", text, "--tokens", "64", *arguments)
    assert done.returncode == 0
    notes = [line for line in done.stderr.splitlines() if line.startswith("a2sf: ")]
    assert len(notes) == (expected != "")
    assert expected in "".join(notes)


def test_interrupt_leaves_the_result_so_far(llama: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.txt"
    long.write_text(TEXT * 2000)
    process = subprocess.Popen(
        [program(), "perplexity", "-m", llama, "-f", long, "--ctx", "16", "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    # Only the time tells when a window is complete; the handler comes with the first one.
    while process.poll() is None and not catches_interrupt(process.pid):
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, err
    result = json.loads(out)
    assert result["interrupted"] is True
    assert b"interrupted" in err
    if result["n_scored"] > 0:
        assert result["n_scored"] == 15 * result["n_windows"]
        assert result["perplexity"] == pytest.approx(math.exp(result["mean_nll"]))
        assert b"partial" in err
    else:
        assert result["mean_nll"] is None


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
