"""a2sf chat: turns over a pipe and in a terminal, its commands, Ctrl-C."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import a2sf as package
import pytest
from chat_templates import SMOLLM2
from cli_program import TIMEOUT_S, a2sf, program
from gguf_edit import copy_with

NOTE = "These are the notes of Nora. Jonas keeps the brass coin under the pink cupboard."
ASK = "Where is the brass coin?"


def chat(*arguments: object, lines: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    text = "".join(line + "\n" for line in lines)
    return a2sf("chat", *arguments, stdin=text, **options)


def read_until(descriptor: int, wanted: bytes) -> bytes:
    """What comes from a descriptor, up to and including `wanted`."""
    found = b""
    end = time.monotonic() + TIMEOUT_S
    while wanted not in found:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
        part = os.read(descriptor, 65536) if ready else b""
        assert part, f"{wanted!r} expected, found {found[-500:]!r}"
        found += part
    return found


def test_a_line_is_a_turn(bundled: Path) -> None:
    done = chat("-m", bundled, "--system", NOTE, lines=[ASK, "", "Who wrote the notes?"])
    assert done.returncode == 0
    assert done.stderr == ""  # no prompts where nobody types
    answers = done.stdout.splitlines()
    session = package.Engine(bundled, progress=False).session()
    for found, ask in zip(answers, (ASK, "Who wrote the notes?"), strict=True):
        answer = session.chat(ask, system=None if session.messages else NOTE)
        assert found == answer.text.lstrip()


def test_system_prompt_from_a_file(bundled: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text(NOTE + "\n")
    by_file = chat("-m", bundled, "--system-file", tmp_path / "note.txt", lines=[ASK])
    assert by_file.stdout == chat("-m", bundled, "--system", NOTE, lines=[ASK]).stdout != ""
    both = chat("--system", "x", "--system-file", "y", lines=[])
    assert (both.returncode, both.stdout) == (2, "")
    assert "--system, --system-file: one of them" in both.stderr


def test_stats_and_budget(bundled: Path) -> None:
    questions = [f"{ASK} ({i})" for i in range(20)]
    lines = [*questions, "/stats", "/budget 100", "/stats", ASK, "/stats", "/quit", ASK]
    done = chat("-m", bundled, "--system", NOTE, "--budget", 200, "--allocation", "equal",
                lines=lines)  # fmt: skip
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 21  # nothing after /quit
    kept = [int(n) for n in re.findall(r"kept +([\d,]+) tokens", done.stderr)]
    assert kept == [200, 100, 100]
    assert re.findall(r"budget (\d+),", done.stderr) == ["200", "100", "100"]
    assert "positions compact" in done.stderr
    pinned = re.findall(r"pinned 0-(\d+)", done.stderr)
    assert len(set(pinned)) == 1
    assert int(pinned[0]) >= len(package.Tokenizer(bundled).encode(NOTE))


def test_clear_and_system(bundled: Path) -> None:
    lines = [ASK, "/clear", ASK, "/system Other notes.", "/system " + NOTE, ASK]
    done = chat("-m", bundled, "--system", NOTE, lines=lines)
    assert done.returncode == 0
    first, second, third = done.stdout.splitlines()
    assert first == second == third


def test_save_and_load(bundled: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.session"
    then = "Who wrote the notes?"
    saved = chat("-m", bundled, "--system", NOTE, lines=[ASK, f"/save {file}", then])
    assert saved.returncode == 0
    assert f"as {file}" in saved.stderr
    after = saved.stdout.splitlines()[1:]
    assert chat("-m", bundled, "--load", file, lines=[then]).stdout.splitlines() == after
    lines = ["Hello", f"/load {file}", then, "/clear", "/stats"]
    loaded = chat("-m", bundled, "-n", "20", lines=lines)
    assert loaded.stdout.splitlines()[-1:] == after
    assert "0 tokens read" in loaded.stderr
    session = package.Engine(bundled, progress=False).session(load=file)
    assert session.n_tokens == len(session.saved_ids) > 0
    text = package.Tokenizer(bundled).decode(session.saved_ids, special=True)
    assert text.partition(NOTE)[2].startswith("\nQuestion: " + ASK)
    assert text.endswith("<|end|>")


def test_goes_on_with_a_session_of_pythons_chat(bundled: Path, tmp_path: Path) -> None:
    """Such a file ends in an answer that the next message has to close."""
    file = tmp_path / "python.session"
    eviction = package.Eviction(budget=1024, positions="compact")
    session = package.Engine(bundled, progress=False).session(eviction=eviction)
    session.chat(ASK, system=NOTE, max_tokens=3)  # cut short
    session.save(file)
    then = ["Who wrote the notes?", "What does Jonas keep?"]
    found = chat("-m", bundled, "--load", file, "-n", "20", lines=then).stdout.splitlines()
    assert found == [session.chat(line, max_tokens=20).text.lstrip() for line in then]


def test_errors_of_commands_end_a_pipe(bundled: Path) -> None:
    for line, message in [
        ("/nope", 'found "/nope"'),
        ("/stat", "did you mean /stats?"),
        ("/save", "/save: PATH expected, found nothing"),
        ("/clear now", "/clear: nothing behind it expected"),
        ("/budget x", "a number of tokens or a percentage"),
        ("/budget 1", "budget: at least"),
        ("/budget 25%", "(a conversation has no length to take a share of), found 25%"),
        ("/load /no/such/file", "/no/such/file"),
        ("/save /no/such/folder/file", "/no/such/folder/file"),
    ]:
        done = chat("-m", bundled, lines=[line, ASK])
        assert done.returncode in (1, 2), line
        assert done.stdout == ""
        assert message in done.stderr


def test_bad_usage(bundled: Path, llama: Path) -> None:
    for arguments, status, message in [
        (["-m", llama], 1, "--template NAME"),
        (["-m", bundled, "--template", "x"], 2, "--template: one of llama3, chatml"),
        (["-m", bundled, "--system", "note " * 2000], 2, "--budget: at least"),
        (["-m", bundled, "--policy", "full", "--positions", "compact"], 2, "--positions: "),
        (["-m", bundled, "--budget", "25%"], 2, "budget: a number of tokens expected"),
        (["-m", bundled, "hello"], 2, "messages are read from standard input"),
        (["-m", bundled, "--max-tokens", "0"], 2, "--max-tokens: "),
        (["-m", bundled, "--system-file", "-"], 2, "--system-file: a file expected"),
        (["-m", bundled, "--system-file", "/no/file"], 1, "/no/file: cannot open"),
    ]:
        done = chat(*arguments, lines=[ASK])
        assert (done.returncode, done.stdout) == (status, ""), arguments
        assert message in done.stderr


def test_a_full_cache_says_when_it_is_full(llama: Path) -> None:
    done = chat("-m", llama, "--template", "chatml", "--policy", "full", "-n", "100000", "--temp",
                "1", lines=[ASK, "x " * 3000, "x " * 3000])  # fmt: skip
    assert done.returncode == 2
    assert "give a budget" in done.stderr


def test_chatml_by_name_and_by_template(llama: Path, tmp_path: Path) -> None:
    own = copy_with(llama, tmp_path / "own.gguf", {"tokenizer.chat_template": SMOLLM2})
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    by_template = chat("-m", own, "-n", "8", "-q", lines=[ASK, ASK])
    by_name = chat("-m", llama, "-n", "8", "-q", "--template", "chatml", "--system", system,
                   lines=[ASK, ASK])  # fmt: skip
    assert by_template.returncode == by_name.returncode == 0
    assert by_template.stdout == by_name.stdout != ""


@pytest.fixture
def talker(llama: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One that never ends an answer by itself, over pipes."""
    endless = copy_with(llama, tmp_path / "endless.gguf", {"tokenizer.ggml.eos_token_id": None})
    process = subprocess.Popen(
        [program(), "chat", "-m", str(endless), "--template", "chatml", "--budget", "64",
         "--allocation", "equal", "-n", "2000000000"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    yield process
    process.kill()
    process.communicate()


def say(process: subprocess.Popen[bytes], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line.encode() + b"\n")
    process.stdin.flush()


def test_interrupt_stops_the_answer_not_the_program(talker: subprocess.Popen[bytes]) -> None:
    assert talker.stdout is not None
    assert talker.stderr is not None
    for _ in range(3):  # each Ctrl-C the same
        say(talker, ASK)
        assert os.read(talker.stdout.fileno(), 1)
        talker.send_signal(signal.SIGINT)
        read_until(talker.stderr.fileno(), b"stopped")
        while select.select([talker.stdout.fileno()], [], [], 0)[0]:
            os.read(talker.stdout.fileno(), 65536)
        assert talker.poll() is None
    say(talker, "/stats")
    text = read_until(talker.stderr.fileno(), b"eviction")
    assert b"kept       64 tokens" in text
    say(talker, "/quit")
    assert talker.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize("leave", ["interrupt", "end", "quit"])
def test_terminal(bundled: Path, leave: str) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [program(), "chat", "-m", str(bundled), "--system", NOTE],
        stdin=follower, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    os.close(follower)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        read_until(process.stderr.fileno(), b"> ")
        os.write(leader, b"/nope\n")  # something to try again
        assert b"/help, /stats" in read_until(process.stderr.fileno(), b"> ")
        os.write(leader, b"x" * 5000 + b"\n")  # of which the terminal keeps less
        assert b"at most 4,094 bytes" in read_until(process.stderr.fileno(), b"> ")
        os.write(leader, ASK.encode() + b"\n")
        assert len(read_until(process.stdout.fileno(), b"\n")) > 2
        read_until(process.stderr.fileno(), b"> ")
        if leave == "interrupt":
            process.send_signal(signal.SIGINT)
        else:
            os.write(leader, b"\x04" if leave == "end" else b"/quit\n")
        assert process.wait(TIMEOUT_S) == 0
        assert process.stdout.read() == b""
    finally:
        process.kill()
        process.communicate()
        os.close(leader)


def test_memory_does_not_grow(llama: Path) -> None:
    turns = [f"{ASK} {i + 100}" for i in range(60)]
    lines = [*turns[:20], "/stats", *turns[20:], "/stats"]
    done = chat("-m", llama, "--template", "chatml", "--budget", "64", "-n", "8", lines=lines)
    assert done.returncode == 0
    assert len(set(re.findall(r"KV cache +([\d.]+ \w+) allocated", done.stderr))) == 1
    assert re.findall(r"kept +(\d+) tokens", done.stderr) == ["64", "64"]
