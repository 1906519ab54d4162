"""A model inside a small limit of address space, and whether `a2sf bench --limits` tells the truth.

    python tests/bench/small_board.py PROGRAM MODEL.gguf TEXT [--memory 256] [--tokens 20000]

Shows, each with the peak of the process: a long prompt under a budget; the full cache, which fails
and says what would fit; that advice, followed; for each kv type the largest budget that is said to
fit, and one a tenth larger, which must fail. TEXT is cut to what is needed. Exits 1 if something
went otherwise. Needs the program and Linux, nothing else.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
TOLERANCE = 0.05  # of the peak around the memory that was given
MOST_SHARE = 4.25  # of a budget, that one head holds at most
N_CTX = 8_192  # and of the model's context


@dataclass
class Run:
    """One end of the program: status, its last message, seconds, peaks in MiB."""

    status: int
    output: str
    message: str
    time_s: float
    peak_mapped: float
    peak_resident: float


def run(command: list[str], memory: int | None) -> Run:
    """Run to the end in so many MiB of address space, reading the peaks on the way."""

    def limit() -> None:
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory * MIB, memory * MIB))

    start = time.perf_counter()
    peaks = {"VmPeak": 0, "VmHWM": 0}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit
    ) as process:
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            for key in peaks:
                found = re.search(rf"{key}:\s+(\d+) kB", status)
                peaks[key] = int(found[1]) if found else peaks[key]
            time.sleep(0.01)
        output, errors = process.communicate()
    lines = errors.strip().splitlines() or [""]
    return Run(
        process.returncode,
        output,
        next((line for line in lines if line.startswith("a2sf: ")), lines[-1]),
        time.perf_counter() - start,
        peaks["VmPeak"] / 1024,
        peaks["VmHWM"] / 1024,
    )


class Board:
    """A program and a model under a limit; counts what went otherwise than it should."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.text = given.text.read_text(encoding="utf-8")
        self.n_wrong = 0
        self.bytes_per_token = 1.0

    def read(self, n_tokens: int, *options: object) -> tuple[Run, int]:
        """Read a prompt of about so many tokens; what happened, and how many there were."""
        given = self.given
        text = self.text[: int(n_tokens * self.bytes_per_token)]
        if len(text) < n_tokens * self.bytes_per_token - 1:
            raise SystemExit(f"text: {n_tokens} tokens expected, found fewer; give a longer one")
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            command = [given.program, "run", "-m", given.model, "-f", file.name, "-n", 2, "--json"]
            command += ["-t", given.threads, *options]
            done = run([*map(str, command)], given.memory)
        n_read = json.loads(done.output)["stats"]["n_prompt"] if done.status == 0 else n_tokens
        return done, n_read

    def tell(self, what: str, done: Run, passes: bool) -> None:
        """One line, and the message of what failed."""
        right = (done.status == 0) == passes
        self.n_wrong += not right
        print(
            f"{what:<42} {'passes' if done.status == 0 else f'exit {done.status}':<7}"
            f"{done.time_s:7.1f} s  mapped {done.peak_mapped:6.1f}  resident "
            f"{done.peak_resident:6.1f} MiB{'' if right else '   NOT AS EXPECTED'}",
            flush=True,
        )
        if done.status != 0:
            print(f"    {done.message}", flush=True)


def show(board: Board) -> None:
    """The long prompt, the full cache, and its advice."""
    given = board.given
    done, n_read = board.read(given.tokens, "--policy", "a2sf", "--budget", given.budget)
    board.tell(f"{n_read:,} tokens, budget {given.budget:,}", done, True)
    done, _ = board.read(given.tokens)
    board.tell(f"{n_read:,} tokens, full cache", done, False)
    n_tokens = given.full
    done, _ = board.read(n_tokens)
    board.tell(f"about {n_tokens:,} tokens, full cache", done, False)
    found = re.search(r"a budget of at most (\d+) with kv_type (\w+)", done.message)
    if found is None:
        raise SystemExit("advice expected in the message, found none")
    advised = ("--budget", found[1], "--kv-type", found[2])
    done, n_read = board.read(given.tokens, *advised)
    board.tell(f"{n_read:,} tokens, {' '.join(advised)}", done, True)


def check_predictions(board: Board) -> None:
    """Each largest budget passes and takes what was given; a tenth more fails."""
    given = board.given
    command = [
        given.program,
        "bench",
        "--limits",
        "--memory",
        f"{given.memory}M",
        "-m",
        given.model,
    ]
    limits = run([*map(str, command), "-t", str(given.threads), "-o", "json"], None)
    for row in json.loads(limits.output)["limits"]:
        budget, kv_type = row["budget"], row["kv_type"]
        for n, passes in ((budget, True), (int(1.1 * budget), False)):
            # Until the heads that hold most are full, too.
            n_tokens = max(n, min(int(MOST_SHARE * n), N_CTX)) + 1_500
            done, _ = board.read(n_tokens, "--budget", n, "--kv-type", kv_type)
            board.tell(f"{kv_type}, budget {n:,}", done, passes)
            if passes and abs(done.peak_mapped / given.memory - 1) > TOLERANCE:
                board.n_wrong += 1
                print(f"    {given.memory} MiB expected within {TOLERANCE:.0%}")


def main() -> None:
    """Run all and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--memory", type=int, default=256, help="MiB")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--full", type=int, default=7_500, help="tokens within the model's context")
    parser.add_argument("--budget", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    board = Board(parser.parse_args())
    probe, n_read = board.read(4_000, "--budget", "256")
    if probe.status != 0:
        raise SystemExit(probe.message)
    board.bytes_per_token = 4_000 / n_read
    show(board)
    check_predictions(board)
    raise SystemExit(board.n_wrong > 0)


if __name__ == "__main__":
    main()
