"""Time and memory until a GGUF file is usable: start-up of the a2sf program, and its peak memory.

    python tests/bench/startup.py MODEL.gguf [--program PATH]

The file is read once beforehand, so that it is in the page cache. Usable is when the first token
could be read: the time from starting the process to its end, less the time it says it spent on the
prompt and on generating. Peak memory is taken with a prompt of one word and with one of more than
512 tokens. Exits 1 if a limit is exceeded: 1 s per GB of file but at least 1 s, and file size
x 1.1 + KV cache + 64 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

LONG_PROMPT = "the of " * 400


@dataclass(frozen=True)
class Start:
    """One run of the program."""

    usable_s: float
    first_token_s: float
    peak_bytes: int
    kv_bytes: int


def read_through(path: Path) -> None:
    """Bring a file into the page cache without keeping it in this process."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def run_once(program: str, model: Path, prompt: str, threads: int) -> Start:
    """Start the program, let it generate one token, wait for its end.

    The kernel counts this small process's own memory as the child's until it becomes the program:
    a lower bound of some 20 MB on the peak.
    """
    command = [program, "run", "-m", str(model), "-p", prompt, "-n", "1"]
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, "-t", str(threads), "--json", "-q"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    elapsed = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{program}: exit status {process.returncode}")
    stats = json.loads(text)["stats"]
    return Start(
        usable_s=elapsed - stats["prompt_s"] - stats["decode_s"],
        first_token_s=elapsed,
        peak_bytes=usage.ru_maxrss * 1024,
        kv_bytes=stats["kv_bytes"],
    )


def check(name: str, found: float, limit: float, unit: str) -> bool:
    """Print a figure against its limit."""
    good = found <= limit
    print(
        f"{name:<28} {found:9.2f} {unit}   limit {limit:9.2f} {unit}   {'ok' if good else 'OVER'}"
    )
    return good


def main() -> int:
    """Measure; 0 if within the limits."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--program", default=shutil.which("a2sf"), help="default: the one on PATH")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if args.program is None:
        parser.error("--program: no a2sf on PATH")
    n_bytes = args.model.stat().st_size
    read_through(args.model)
    starts = [run_once(args.program, args.model, "x", args.threads) for _ in range(args.rounds)]
    best = min(starts, key=lambda start: start.usable_s)
    long = run_once(args.program, args.model, LONG_PROMPT, args.threads)
    print(f"{args.model.name}: {n_bytes / 1e6:.0f} MB, best of {args.rounds}")
    print(f"{'first token, process ended':<28} {best.first_token_s:9.2f} s")
    good = [check("usable", best.usable_s, max(1.0, n_bytes / 1e9), "s")]
    peak = max(starts, key=lambda start: start.peak_bytes)
    for name, start in (("peak, one word", peak), ("peak, 800 words", long)):
        limit = n_bytes * 1.1 + start.kv_bytes + 64e6
        good.append(check(name, start.peak_bytes / 1e6, limit / 1e6, "MB"))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
