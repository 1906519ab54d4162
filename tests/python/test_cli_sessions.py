"""`a2sf run --save-session` and `--load-session`: nothing is lost between the two."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import a2sf
import pytest
from cli_program import TIMEOUT_S, catches_interrupt, program
from cli_program import a2sf as run_a2sf

PROMPT = "The quick brown fox jumps over the lazy dog. " * 10
EVICTION = ["--policy", "a2sf", "--budget", "64"]


def generate(*arguments: object, stdin: str = "") -> dict[str, Any]:
    """What `a2sf run --json` tells; end-of-text tokens are left to themselves."""
    done = run_a2sf("run", "--json", *arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("eviction", [EVICTION, []])
def test_a_generation_goes_on_where_it_was_saved(eviction: list[str], tmp_path: Path) -> None:
    file = tmp_path / "it.session"
    whole = generate("-p", PROMPT, "-n", "12", *eviction)
    first = generate("-p", PROMPT, "-n", "5", "--save-session", file, *eviction)
    second = generate("-n", "7", "--load-session", file)
    assert len(whole["ids"]) == 12
    assert first["ids"] + second["ids"] == whole["ids"]
    # Also without the generated tokens, and through a second file.
    generate("-p", PROMPT, "-n", "0", "--save-session", file, *eviction)
    again = tmp_path / "again.session"
    generate("-n", "5", "--load-session", file, "--save-session", again)
    assert generate("-n", "7", "--load-session", again)["ids"] == whole["ids"][5:]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.session", "it.session"]


def test_a_prompt_over_a_pipe_is_read_behind_a_loaded_session(tmp_path: Path) -> None:
    file = tmp_path / "it.session"
    generate("-p", PROMPT, "-n", "0", "--save-session", file, *EVICTION)
    by_option = generate("-n", "5", "-p", "And then", "--load-session", file)
    by_pipe = generate("-n", "5", "--load-session", file, stdin="And then\n")
    assert by_pipe["ids"] == by_option["ids"]
    assert by_pipe["stats"]["n_prompt"] > 0


def test_options_of_the_file_may_be_given_and_no_others(tmp_path: Path) -> None:
    file = tmp_path / "it.session"
    generate("-p", PROMPT, "-n", "0", "--save-session", file, "--kv-type", "f32", *EVICTION)
    same = ["--kv-type", "f32", "--batch", "512", *EVICTION]
    assert generate("-n", "1", "--load-session", file, *same)["options"]["kv_type"] == "f32"
    for other, told in [
        (["--kv-type", "f16"], "--kv-type: f32"),
        (["--batch", "16"], "--batch: 512"),
        (["--policy", "full"], "eviction options"),
        (["--budget", "65"], "eviction options"),
    ]:
        done = run_a2sf("run", "-n", "1", "--load-session", file, *other)
        assert done.returncode != 0, other
        assert told in done.stderr


def test_an_interrupted_prompt_is_saved_as_far_as_it_was_read(tmp_path: Path) -> None:
    file = tmp_path / "it.session"
    prompt = tmp_path / "long.txt"
    prompt.write_text(PROMPT * 4000)
    options = ["-n", "4", "--save-session", str(file), "--batch", "32", "--json", *EVICTION]
    process = subprocess.Popen(
        [program(), "run", "-f", str(prompt), *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and not catches_interrupt(process.pid):
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, err
    assert json.loads(out)["finish_reason"] == "interrupted"
    engine = a2sf.Engine(progress=False)
    session = engine.session(load=file)
    ids = engine.tokenize(prompt.read_text())
    assert session.n_tokens < len(ids)
    assert session.n_tokens % 32 == 0
    session.feed(ids[session.n_tokens : session.n_tokens + 100])
    assert len(session.generate(max_tokens=3).ids) == 3


def test_a_place_where_nothing_can_be_saved_is_told_before_anything_is_read() -> None:
    done = run_a2sf("run", "-p", PROMPT, "-n", "3", "--json", "--save-session", "/dev/full/x")
    assert done.returncode == 1
    assert "can be written" in done.stderr
    assert done.stdout == ""


def test_what_was_generated_is_told_even_if_it_cannot_be_saved(tmp_path: Path) -> None:
    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = run_a2sf(
        "run", "-p", PROMPT, "-n", "3", "--json", "--save-session", tmp_path / "s.session",
        preexec_fn=small_files, restore_signals=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "can be written" in done.stderr
    assert len(json.loads(done.stdout)["ids"]) == 3
    assert list(tmp_path.iterdir()) == []
