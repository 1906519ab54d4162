"""Damaged files never crash: truncated or with changed bytes they load or raise a2sf.Error.

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
N_CHANGES = 5000  # of each model
USED_EVERY = 4  # of the files that load, one in so many also generates and tokenises
WORKER = """
    import random, shutil, struct, sys
    import a2sf
    from gguf import GGUFReader

    source, target, n_truncations, n_changes, used_every, seed = sys.argv[1:]
    shutil.copyfile(source, target)
    reader = GGUFReader(source)
    data = open(source, "rb").read()
    end = reader.data_offset
    # Where to damage: numbers of the metadata, the whole header, tensor index, the whole file.
    tokens = reader.fields["tokenizer.ggml.tokens"].offset
    index = reader.tensors[0].field.offset
    regions = [(0, tokens + 64), (index, end), (0, end), (0, len(data))]
    weights = [3, 3, 3, 1]
    rng = random.Random(seed)
    numbers = [0, 1, 2, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32]
    numbers += [2**61, 2**63 - 1, 2**63, 2**64 - 1]
    n_loaded = 0

    def attempt(what):
        global n_loaded
        print(what, flush=True)
        try:
            engine = a2sf.Engine(target, threads=1)
            n_loaded += 1
            if n_loaded % int(used_every) == 0:
                engine.generate([1, 2, 3], max_tokens=2)
                engine.detokenize(engine.tokenize("naive 12 <|x|>"))
        except a2sf.Error:
            return

    with open(target, "r+b", buffering=0) as file:
        for i in range(int(n_changes)):
            (first, last), = rng.choices(regions, weights)
            changes = []
            for _ in range(rng.choice([1, 1, 2, 8])):
                place = rng.randrange(first, last)
                if rng.random() < 0.3:
                    value = struct.pack("<Q", rng.choice(numbers))[: rng.choice([4, 8])]
                else:
                    value = bytes([rng.choice([0, 255, 127, 128, rng.randrange(256)])])
                value = value[: len(data) - place]
                changes.append((place, value.hex()))
                file.seek(place)
                file.write(value)
            attempt(f"changed {changes}")
            for place, value in changes:
                file.seek(place)
                file.write(data[place : place + len(value) // 2])
        n = int(n_truncations)
        lengths = [len(data) * i // n if i % 2 else rng.randrange(end) for i in range(n)]
        for length in sorted(lengths, reverse=True):
            file.truncate(length)
            attempt(f"truncated at {length}")
    print("done")
"""


def run_worker(name: str, folder: Path) -> str | None:
    """None, or what went wrong and with which damage."""
    arguments = [
        str(MODELS / f"{name}.gguf"),
        str(folder / f"{name}.gguf"),
        *map(str, (N_TRUNCATIONS, N_CHANGES, USED_EVERY)),
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
