"""A budget bounds memory: a prompt 15 times as long needs no more of it."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SCRIPT = """
    import json, resource, sys
    import a2sf
    n_tokens, prefill = int(sys.argv[2]), sys.argv[3]
    eviction = a2sf.Eviction(budget=512, prefill=prefill)
    engine = a2sf.Engine(sys.argv[1], eviction=eviction)
    session = engine.session()
    for n in (600, n_tokens - 600):  # past the budget, then the rest
        session.feed([i * 7 % 500 for i in range(n)])
        if n == 600:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cache = session.cache
    assert cache.live.mean() == 512 and cache.n_tokens == n_tokens
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"bytes": cache.bytes, "full": cache.bytes_full, "grown": after - before}))
"""


def measure(model: Path, n_tokens: int, prefill: str) -> dict[str, int]:
    """Cache bytes, and growth of the peak RSS (kB) between 600 tokens and all of them."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(model), str(n_tokens), prefill],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    result: dict[str, int] = json.loads(done.stdout)
    return result


@pytest.mark.slow
@pytest.mark.parametrize("prefill", ["chunk", "token"])
def test_a_long_prompt_needs_no_more_memory(llama: Path, prefill: str) -> None:
    short, long = measure(llama, 2_000, prefill), measure(llama, 30_000, prefill)
    assert long["bytes"] <= short["bytes"]
    assert long["bytes"] < long["full"] / 10
    id_bytes = 30_000 * (8 + 4)  # the prompt itself: list slots and int32
    assert long["grown"] * 1024 <= short["grown"] * 1024 + 3 * id_bytes + 1_000_000
