"""a2sf run: prompts, output, JSON, and how it ends when something goes wrong."""

from __future__ import annotations

import errno
import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_program import TIMEOUT_S, a2sf, catches_interrupt, program

TEXT = "To be, or not to be, that is the question. "


def run_json(llama: Path, *arguments: object, prompt: str = TEXT) -> dict[str, Any]:
    done = a2sf("run", "-m", llama, "-p", prompt, "--json", "-q", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_text_goes_to_stdout_and_the_rest_to_stderr(llama: Path) -> None:
    done = a2sf("run", "-m", llama, "-p", TEXT, "-n", "8")
    assert done.returncode == 0
    assert "tokens/s" in done.stderr
    assert "KV cache" in done.stderr
    quiet = a2sf("run", "-m", llama, "-p", TEXT, "-n", "8", "-q")
    assert quiet.stderr == ""
    assert quiet.stdout == done.stdout == run_json(llama, "-n", "8")["text"]


def test_json(llama: Path) -> None:
    result = run_json(
        llama, "-n", "12", "--budget", "32", "--stop", "a\\nb", "--seed", "7", "-t", "1"
    )
    assert set(result) == {"text", "ids", "logprobs", "finish_reason", "stats", "options", "model"}
    assert len(result["ids"]) == len(result["logprobs"]) == 12
    assert all(value <= 0 for value in result["logprobs"])
    assert result["finish_reason"] == "length"
    options = result["options"]
    assert (options["policy"], options["budget"], options["sinks"]) == ("a2sf", 32, 4)
    assert (options["recent"], options["threads"], options["seed"]) == (8, 1, 7)
    assert options["stop"] == ["a\nb"]
    assert result["stats"]["n_generated"] == 12
    assert result["stats"]["n_live"] <= 32
    assert result["stats"]["n_evicted"] > 0
    assert result["model"]["architecture"] == "llama"
    assert result["model"]["path"] == str(llama)


def test_json_keeps_odd_text(llama: Path) -> None:
    prompt = 'quote " backslash \\ newline \n tab \t bell \x07 \u00fc \U0001f600'
    result = run_json(llama, "-n", "1", "--echo", prompt=prompt)
    assert result["text"].startswith(prompt)


@pytest.mark.parametrize(
    ("arguments", "policy", "budget"),
    [
        ([], "full", None),
        (["--policy", "h2o"], "h2o", 1024),
        (["--budget", "64"], "a2sf", 64),
        (["--sinks", "8"], "a2sf", 1024),
        (["--policy", "streaming", "--budget", "16"], "streaming", 16),
        (["--policy", "full"], "full", None),
    ],
)
def test_which_policy_and_budget(
    llama: Path, arguments: list[str], policy: str, budget: int | None
) -> None:
    options = run_json(llama, "-n", "1", *arguments)["options"]
    assert (options["policy"], options["budget"]) == (policy, budget)


def test_budget_as_a_share_of_the_prompt(llama: Path) -> None:
    result = run_json(llama, "-n", "1", "--budget", "50%", prompt=TEXT * 4)
    assert result["options"]["budget"] == int(0.5 * result["stats"]["n_prompt"] + 0.5)


def test_a_budget_that_holds_everything_changes_nothing(llama: Path) -> None:
    assert run_json(llama, "--budget", "4096")["ids"] == run_json(llama)["ids"]


def test_prompt_sources_agree(llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("Hello there\n")
    expected = a2sf("run", "-m", llama, "-p", "Hello there", "-n", "6", "-q").stdout
    for arguments, stdin in (
        (["-f", file], ""),
        ([], "Hello there"),
        ([], "Hello there\n"),
        (["-f", "-"], "Hello there\n"),
    ):
        done = a2sf("run", "-m", llama, "-n", "6", "-q", *arguments, stdin=stdin)
        assert (done.returncode, done.stdout) == (0, expected)


def test_prompt_of_any_bytes(llama: Path) -> None:
    done = a2sf("run", "-m", llama, "-n", "2", "--json", "--echo", "-q", stdin=b"\xff\x00\xfeabc")
    assert done.returncode == 0
    assert json.loads(done.stdout)["text"].startswith("\ufffd\x00\ufffdabc")


def test_ids(llama: Path) -> None:
    result = run_json(llama, "-n", "5", "--ids")
    done = a2sf("run", "-m", llama, "-p", TEXT, "-n", "5", "--ids", "-q")
    assert done.stdout == " ".join(map(str, result["ids"])) + "\n"
    echo = a2sf("run", "-m", llama, "-p", TEXT, "-n", "5", "--ids", "--echo", "-q")
    assert echo.stdout == " ".join(map(str, result["prompt_ids"] + result["ids"])) + "\n"


def test_seed_decides_the_draw(llama: Path) -> None:
    def draw(seed: int, threads: int) -> list[int]:
        ids: list[int] = run_json(llama, "-n", "12", "--temp", "1", "--seed", seed, "-t", threads)[
            "ids"
        ]
        return ids

    assert draw(1, 1) == draw(1, 2)
    assert draw(1, 1) != draw(2, 1)


def test_stop_ends_before_it(llama: Path) -> None:
    whole = run_json(llama, "-n", "24")["text"]
    stop = whole[len(whole) // 2 :][:2]
    result = run_json(llama, "-n", "24", "--stop", "zzzzzzzz", f"--stop={stop}")
    assert result["finish_reason"] == "stop"
    assert result["text"] == whole[: whole.index(stop)]


def test_options_without_effect_are_told(llama: Path) -> None:
    assert "--temp" in a2sf("run", "-m", llama, "-p", "a", "-n", "1", "--top-k", "5").stderr


def test_no_tokens_wanted(llama: Path) -> None:
    result = run_json(llama, "-n", "0")
    assert (result["ids"], result["text"], result["finish_reason"]) == ([], "", "length")


def test_one_token_has_no_speed(llama: Path) -> None:
    for n, n_speeds in (("0", 1), ("1", 1), ("4", 2)):
        done = a2sf("run", "-m", llama, "-p", TEXT, "-n", n)
        assert done.stderr.count("tokens/s") == n_speeds, done.stderr
    stats = run_json(llama, "-n", "4")["stats"]
    assert stats["decode_per_s"] == pytest.approx(3 / stats["decode_s"])
    assert run_json(llama, "-n", "1")["stats"]["decode_per_s"] == 0


@pytest.mark.parametrize("command", ["run", "inspect", "perplexity"])
def test_hub_names_work_from_python_only(command: str, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("some text")
    arguments = {"run": ["-p", "x"], "inspect": [], "perplexity": ["-f", text]}[command]
    done = a2sf(command, "-m", "hf:owner/repo/file.gguf", *arguments)
    assert done.returncode == 2
    assert "Python only" in done.stderr
    assert 'a2sf.Engine("hf:owner/repo/file.gguf")' in done.stderr


def test_prompt_beyond_the_context(llama: Path, tmp_path: Path) -> None:
    prompt = TEXT * 300
    done = a2sf("run", "-m", llama, "-n", "1", stdin=prompt)
    assert done.returncode == 2
    assert "a2sf: prompt: at most " in done.stderr
    (tmp_path / "long.txt").write_text(prompt)
    for options, where in ((["-f", "long.txt"], "long.txt"), (["-p", prompt], "--prompt")):
        named = a2sf("run", "-m", llama, "-n", "1", *options, cwd=tmp_path)
        assert named.returncode == 2
        assert f"a2sf: {where}: at most " in named.stderr
    assert "4096" in done.stderr
    assert "budget" in done.stderr
    done = a2sf("run", "-m", llama, "-n", "1", "--budget", "64", stdin=prompt)
    assert done.returncode == 0
    assert "trained for" in done.stderr


def test_generation_stops_at_the_context(llama: Path) -> None:
    done = a2sf("run", "-m", llama, "-p", "a", "-n", "5000", "--json")
    result = json.loads(done.stdout)
    if result["finish_reason"] == "length":
        assert len(result["ids"]) < 5000
        assert "--budget" in done.stderr


@pytest.mark.parametrize("stdin", ["", "\n"])
def test_empty_prompt(llama: Path, stdin: str) -> None:
    done = a2sf("run", "-m", llama, "-n", "1", stdin=stdin)
    begins_with_bos = "put before a text" in a2sf("inspect", llama).stdout
    if begins_with_bos:
        assert done.returncode == 0
    else:
        assert done.returncode == 2
        assert "prompt: " in done.stderr


def test_no_prompt_on_a_terminal(llama: Path) -> None:
    leader, follower = pty.openpty()
    try:
        done = a2sf("run", "-m", llama, stdin_file=follower)
    finally:
        os.close(leader)
        os.close(follower)
    assert done.returncode == 2
    assert "-p TEXT" in done.stderr


def make_nothing(folder: Path) -> Path:
    return folder / "missing.gguf"


def make_folder(folder: Path) -> Path:
    return folder


def make_text(folder: Path) -> Path:
    path = folder / "text.gguf"
    path.write_text("This is not a model.")
    return path


def make_empty(folder: Path) -> Path:
    path = folder / "empty.gguf"
    path.touch()
    return path


@pytest.mark.parametrize("make", [make_nothing, make_folder, make_text, make_empty])
@pytest.mark.parametrize("command", ["run", "inspect", "perplexity"])
def test_bad_model_file(command: str, make: Callable[[Path], Path], tmp_path: Path) -> None:
    model = make(tmp_path)
    text = tmp_path / "text"
    text.write_text("some text")
    arguments = {"run": ["-p", "x"], "inspect": [], "perplexity": ["-f", text]}[command]
    done = a2sf(command, "-m", model, *arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert str(model) in done.stderr


def test_no_model_at_all(tmp_path: Path) -> None:
    done = a2sf("run", "-p", "x", env={"A2SF_MODEL": str(tmp_path / "none.gguf")})
    assert done.returncode == 1
    assert "none.gguf" in done.stderr


@pytest.mark.parametrize("name", ["missing.txt", "."])
def test_bad_prompt_file(llama: Path, tmp_path: Path, name: str) -> None:
    done = a2sf("run", "-m", llama, "-f", tmp_path / name)
    assert done.returncode == 1
    assert str(tmp_path) in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [["-p", "a", "-n", "4"], ["-p", "a", "--json"], ["--help"]])
def test_full_disk(llama: Path, arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = a2sf("run", "-m", llama, *arguments, stdout=full)
    assert done.returncode == 1
    assert os.strerror(errno.ENOSPC) in done.stderr


def test_closed_pipe(llama: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = a2sf("run", "-m", llama, "-p", "a", "-n", "4", stdout=write_end)
    finally:
        os.close(write_end)
    assert done.returncode == 1
    assert os.strerror(errno.EPIPE) in done.stderr


def start(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [program(), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_interrupt_while_generating(llama: Path) -> None:
    process = start("run", "-m", llama, "-p", "a", "-n", "50000000", "--budget", "64", "--ids")
    assert process.stdout is not None
    first = os.read(process.stdout.fileno(), 1)  # it has begun
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    if b"(end)" in err:
        pytest.skip("the model ended by itself")
    assert process.returncode == 0, err
    assert (first + out).endswith(b"\n")
    assert b"interrupted" in err


def test_interrupt_while_reading_the_prompt(llama: Path, tmp_path: Path) -> None:
    prompt = tmp_path / "long.txt"
    prompt.write_text(TEXT * 40000)
    process = start(
        "run",
        "-m",
        llama,
        "-f",
        prompt,
        "-n",
        "4",
        "--policy",
        "a2sf-paper",
        "--budget",
        "1024",
        "--json",
    )
    # The handler is installed when everything is loaded, just before the prompt is read.
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and not catches_interrupt(process.pid):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, err
    result = json.loads(out)
    assert result["finish_reason"] == "interrupted"
    assert result["ids"] == []


def test_second_interrupt_kills(llama: Path) -> None:
    process = start("run", "-m", llama, "-p", "a", "-n", "50000000", "--budget", "64", "--json")
    while not catches_interrupt(process.pid) and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    os.kill(process.pid, signal.SIGCONT)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode in (0, -signal.SIGINT)


def in_terminal(*arguments: object, columns: int = 80) -> bytes:
    """What the program writes to a terminal which is its stderr; Ctrl-C after a few redraws."""
    import fcntl
    import struct
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [program(), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=follower,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(follower)
    seen = b""
    stopped = False
    try:
        while select.select([leader], [], [], TIMEOUT_S)[0]:
            try:
                part = os.read(leader, 65536)
            except OSError:  # Linux: EIO when the other end is closed
                break
            if not part:
                break
            seen += part
            if not stopped and seen.count(b"\x1b[K") >= 3:
                process.send_signal(signal.SIGINT)
                stopped = True
    finally:
        os.close(leader)
    assert process.wait(timeout=TIMEOUT_S) == 0, seen
    return seen


@pytest.mark.parametrize("columns", [20, 60, 120])
def test_progress_bar(llama: Path, tmp_path: Path, columns: int) -> None:
    prompt = tmp_path / "long.txt"
    prompt.write_text(TEXT * 4000)
    seen = in_terminal(
        "run", "-m", llama, "-f", prompt, "-n", "1", "--budget", "512", columns=columns
    )
    drawn = [part.split(b"\x1b[K")[0] for part in seen.split(b"\r") if b"\x1b[K" in part]
    assert len(drawn) >= 3
    assert all(len(line) < columns for line in drawn)
    assert all(b"%" in line for line in drawn[:-1])
    assert drawn[-1] == b""  # erased before anything else is written
    assert b"%" not in seen.split(b"\r\x1b[K")[-1].split(b"KV cache")[0]


def test_no_bar_without_a_terminal(llama: Path) -> None:
    done = a2sf("run", "-m", llama, "-n", "1", "--budget", "512", stdin=TEXT * 200)
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr


def test_pinned_positions(llama: Path) -> None:
    options = ("run", "-m", llama, "-p", TEXT, "-n", "4", "--budget", "24", "--sinks", "2")
    done = a2sf(*options, "--pinned", "9-12,1-4", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["options"]
    assert found["pinned"] == [[1, 4], [9, 12]]
    assert found["sinks"] == 4  # a range that begins among them extends them
    assert "sinks 4, recent 6, factor 0.8958 (0.998 in chunks), pinned 1-4,9-12" in done.stderr
    plain = a2sf(*options, "--pinned", "4", "--json")
    assert json.loads(plain.stdout)["options"]["pinned"] == [[0, 4]]
