"""Whether a device scores texts as the CPU does; needs the native program and Python alone.

    python3 tests/bench/cuda_parity.py PROGRAM [--device cuda]

Mean nll of the bundled text under every way of storing K and V, without eviction and with budgets,
on both devices. Exits 1 where one is more than a hundredth off, without eviction two thousandths.
Says also how far greedy answers go together; rounding may part them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

MODELS = Path(__file__).resolve().parents[2] / "models"
# Of the mean nll: products are rounded differently, and so may be who leaves of two that are alike.
ALLOWED = {"full": 0.002, "evicting": 0.01}
EVICTIONS = (
    [],
    ["--policy", "a2sf", "--budget", "64"],
    ["--policy", "streaming", "--budget", "64"],
    ["--policy", "keydiff", "--budget", "64"],
)


def call(program: str, device: str, *arguments: str) -> str:
    """What the program prints."""
    model = next(MODELS.glob("*.gguf"))
    command = [program, *arguments, "-m", str(model), "--device", device, "-q"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def nll(program: str, device: str, kv_type: str, eviction: list[str]) -> float:
    """Mean negative log-likelihood of the bundled text."""
    text = str(MODELS / "demo.txt")
    options = [
        "-f",
        text,
        "--ctx",
        "256",
        "--tokens",
        "1024",
        "--batch",
        "32",
        "--kv-type",
        kv_type,
        "--json",
    ]
    return float(json.loads(call(program, device, "perplexity", *options, *eviction))["mean_nll"])


def common_start(program: str, device: str) -> int:
    """How many of 32 greedy tokens are the CPU's."""
    prompt = "Nora keeps the stone letter in the white sack."
    greedy = ["run", "-p", prompt, "-n", "32", "--temp", "0", "--ids"]
    ids = [call(program, at, *greedy).split() for at in ("cpu", device)]
    parted = (i for i, (a, b) in enumerate(zip(*ids, strict=False)) if a != b)
    return next(parted, min(map(len, ids)))


def main() -> None:
    """Compare, print, and say whether all is near enough."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("program")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    wrong = []
    for kv_type in ("f32", "f16", "q8_0"):
        for eviction in EVICTIONS:
            cpu, other = (nll(args.program, at, kv_type, eviction) for at in ("cpu", args.device))
            off = abs(other / cpu - 1) if other == other else float("inf")
            name = eviction[1] if eviction else "full"
            allowed = ALLOWED["evicting" if eviction else "full"]
            if off > allowed:
                wrong.append(
                    f"{kv_type} {name}: within {allowed:.1%} expected, found {off:.2%} off"
                )
            print(f"{kv_type} {name}: nll {cpu:.5f} on cpu, {other:.5f} on {args.device}")
    print(f"greedy tokens that are the CPU's: {common_start(args.program, args.device)} of 32")
    if wrong:
        sys.exit("mean nll against the CPU's:\n" + "\n".join(wrong))


if __name__ == "__main__":
    main()
