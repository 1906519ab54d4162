"""Damaged files never crash: truncated or with flipped bytes they load or raise a2sf.Error.

Every file is tried in a subprocess, which first says which damage it is about to try, so that a
crash names its bytes instead of ending the test run.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import MODELS

NAMES = sorted(path.stem for path in MODELS.glob("*.gguf"))
N_TRUNCATIONS = 500  # of each model
N_FLIPS = 2000  # over all models
WORKER = """
    import random, sys
    import a2sf

    source, target, n_truncations, n_flips, seed = sys.argv[1:]
    data = open(source, "rb").read()
    rng = random.Random(seed)
    header = len(data) - len(data) // 2 if len(data) < 1 << 20 else 40000

    def attempt(what, damaged):
        print(what, flush=True)
        with open(target, "wb") as file:
            file.write(damaged)
        try:
            engine = a2sf.Engine(target, threads=1)
            engine.generate([1, 2, 3], max_tokens=2)
        except (a2sf.Error, MemoryError):
            return

    for i in range(int(n_truncations)):
        if i % 2:
            n = rng.randrange(min(header, len(data)))
        else:
            n = len(data) * i // int(n_truncations)
        attempt(f"truncated at {n}", data[:n])
    for i in range(int(n_flips)):
        damaged = bytearray(data)
        places = []
        for _ in range(rng.choice([1, 1, 2, 8])):
            place = rng.randrange(len(data) if i % 4 == 0 else min(header, len(data)))
            damaged[place] = rng.choice([0, 255, 127, 128, rng.randrange(256)])
            places.append((place, damaged[place]))
        attempt(f"flipped {places}", damaged)
    print("done")
"""


def run_worker(name: str, folder: Path) -> str | None:
    """None, or what went wrong and with which damage."""
    arguments = [
        str(MODELS / f"{name}.gguf"),
        str(folder / f"{name}.gguf"),
        str(N_TRUNCATIONS),
        str(N_FLIPS // len(NAMES) + 1),
        name,
    ]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WORKER), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    lines = done.stdout.splitlines() or ["start"]
    if done.returncode == 0 and lines[-1] == "done":
        return None
    return f"{name}: exit {done.returncode} after {lines[-1]}\n{done.stderr[-2000:]}"


@pytest.mark.slow
@pytest.mark.skipif(not NAMES, reason=f"no models in {MODELS} (set A2SF_SHARED)")
def test_damaged_files(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        failures = [f for f in pool.map(lambda name: run_worker(name, tmp_path), NAMES) if f]
    assert not failures, "\n".join(failures)
