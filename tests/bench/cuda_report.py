"""Registers, spills and shared memory of every CUDA kernel, as a table for docs/cuda.md.

    python tests/bench/cuda_report.py BUILD_FOLDER [--write docs/cuda.md] [--jobs 2]

Configures and builds the CUDA backend in BUILD_FOLDER for all targets, with nvcc's warnings as
errors and what ptxas says of each kernel, and prints the table; --write puts it between the marks
in a page. Needs cmake, ninja, nvcc and c++filt; no GPU.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- cuda_report.py -->", "<!-- end -->"
FLAGS = "-Xptxas=-v -Werror all-warnings"


@dataclass
class Usage:
    """What ptxas says of one kernel on one target."""

    registers: int
    stack: int
    spilled: int
    shared: int


def build(folder: Path, jobs: int) -> str:
    """Build from nothing, so that the compiler says everything once more; its output."""
    configure = ["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", "--fresh"]
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DA2SF_CUDA=ON", f"-DCMAKE_CUDA_FLAGS={FLAGS}"]
    subprocess.run([*configure, *options], check=True, capture_output=True)
    command = ["cmake", "--build", str(folder), "--clean-first", "-j", str(jobs)]
    built = subprocess.run(
        [*command, "--target", "a2sf_backend"], check=False, capture_output=True, text=True
    )
    output = built.stdout + built.stderr
    if built.returncode != 0:
        sys.exit(f"the build failed:\n{output[-4000:]}")
    return output


ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for '(?P<target>sm_\w+)'"
    r".*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes"
    r".*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


def parse(output: str) -> dict[str, dict[str, Usage]]:
    """Mangled kernel name to target to usage."""
    kernels: dict[str, dict[str, Usage]] = defaultdict(dict)
    for match in ENTRY.finditer(output):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        kernels[match["name"]][match["target"]] = Usage(
            int(match["registers"]),
            int(match["stack"]),
            int(match["stores"]) + int(match["loads"]),
            int(shared.group(1)) if shared else 0,
        )
    return kernels


def readable(names: list[str]) -> list[str]:
    """Demangled, without namespaces, parameters and the names of enums."""
    filtered = subprocess.run(
        ["c++filt"], input="\n".join(names), check=True, capture_output=True, text=True
    ).stdout.splitlines()
    kv_types = ("f32", "f16", "q8_0")
    short = []
    for name in filtered:
        name = re.sub(r"\(a2sf::KvType\)(\d)", lambda m: kv_types[int(m.group(1))], name)
        name = re.sub(r"a2sf::|\(anonymous namespace\)::|\(int\)|^void ", "", name)
        short.append(re.sub(r"\(.*", "", name))
    return short


def table(kernels: dict[str, dict[str, Usage]]) -> str:
    """One row per kernel, the registers of each target in turn."""
    targets = sorted({t for uses in kernels.values() for t in uses}, key=lambda t: int(t[3:]))
    names = dict(zip(kernels, readable(list(kernels)), strict=True))
    lines = [
        f"| kernel | registers ({', '.join(targets)}) | spilled bytes | stack bytes "
        "| shared bytes |",
        "|---|---|---|---|---|",
    ]
    for mangled in sorted(kernels, key=lambda mangled: names[mangled].lower()):
        uses = [kernels[mangled][target] for target in targets]
        registers = ", ".join(str(use.registers) for use in uses)
        most = [max(getattr(use, what) for use in uses) for what in ("spilled", "stack", "shared")]
        lines.append(f"| `{names[mangled]}` | {registers} | " + " | ".join(map(str, most)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Build, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    kernels = parse(build(args.folder, args.jobs))
    if not kernels:
        sys.exit("ptxas said nothing of any kernel")
    found = table(kernels)
    print(found)
    if args.write is None:
        return
    page = args.write.read_text()
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{args.write}: {BEGIN} and {END} expected")
    args.write.write_text(f"{before}{BEGIN}\n{found}\n{END}{after}")


if __name__ == "__main__":
    main()
