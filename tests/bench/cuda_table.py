"""What was asked of the CUDA backend beside what cuda_all.sh measured; needs Python alone.

    python3 tests/bench/cuda_table.py FOLDER

Reads FOLDER/{decode,apart,score,depth}-SHAPE-TYPE.json, rows of `a2sf bench -o json`; what has no
rows is "not measured". Exits 1 where something was not met or not measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]
DECODE = {"Q8_0": 0.70, "F16": 0.70, "Q4_K_M": 0.60}  # of the copy bandwidth
PROMPT = 0.40  # of the measured matrix rate, 8B in F16
FLAT = 0.95  # of the speed at the first depth
SCORING = 0.05  # of the speed without scores


@dataclass
class Line:
    """One thing asked."""

    what: str
    asked: str
    measured: str = ""
    met: bool = False
    whole: bool = True  # all of it was measured

    def cells(self) -> str:
        found = self.measured and self.whole
        verdict = "not measured" if not found else "met" if self.met else "not met"
        return f"| {self.what} | {self.asked} | {self.measured or '-'} | {verdict} |"


def rows_of(folder: Path, name: str) -> Rows:
    try:
        rows: Rows = json.loads((folder / f"{name}.json").read_text())
    except (OSError, ValueError):
        return []
    return rows


def peak_gb_s(row: dict[str, Any]) -> float:
    """A CPU has no copies within memory of its own; what it reads at most is set against."""
    return float(row["copy_gb_s"] or row["read_gb_s"])


def decode(folder: Path, shape: str, file_type: str) -> Line:
    line = Line(f"decode, {shape} {file_type}", f">= {DECODE[file_type]:.0%} of copy bandwidth")
    for row in rows_of(folder, f"decode-{shape}-{file_type}"):
        if row["test"].startswith("tg"):
            share = row["fraction_of_peak"]
            line.measured = f"{share:.1%}: {row['tokens_per_s']:.1f} tokens/s, " + (
                f"{peak_gb_s(row):,.0f} GB/s"
            )
            if row["device_bytes"]:
                line.measured += f", {row['device_bytes'] / 2**30:.1f} GiB"
            line.met = share >= DECODE[file_type]
    return line


def apart(folder: Path, shapes: list[str], types: list[str]) -> Iterator[str]:
    """What decoding takes where no kernel begins before the last one ends."""
    for shape in shapes:
        for file_type in types:
            for row in rows_of(folder, f"apart-{shape}-{file_type}"):
                yield f"without overlapping launches, {shape} {file_type}: " + (
                    f"{row['fraction_of_peak']:.1%}, {row['tokens_per_s']:.1f} tokens/s"
                )


def prompt(folder: Path, shape: str) -> Line:
    line = Line(f"prompt, {shape} F16", f">= {PROMPT:.0%} of measured matrix rate")
    rows = [r for r in rows_of(folder, f"decode-{shape}-F16") if r["test"].startswith("pp")]
    if rows:
        best = max(rows, key=lambda row: row["fraction_of_peak"])
        line.measured = f"{best['fraction_of_peak']:.1%}: {best['test']}, " + (
            f"{best['tokens_per_s']:,.0f} tokens/s"
        )
        if best["bfloat16_gflops"]:
            line.measured += f", {best['bfloat16_gflops']:,.0f} GFLOPS"
        line.met = best["fraction_of_peak"] >= PROMPT
    return line


def flat(folder: Path, shape: str, file_type: str, last: int) -> Line:
    line = Line(f"flat in depth, {shape} {file_type}", f">= {FLAT:.0%} of the first at {last:,}")
    rows = rows_of(folder, f"depth-{shape}-{file_type}")
    if rows:
        least = min(row["tokens_per_s"] for row in rows) / rows[0]["tokens_per_s"]
        line.measured = ", ".join(f"{r['depth']:,}: {r['tokens_per_s']:.1f}" for r in rows)
        line.measured = f"{least:.1%}: {line.measured} tokens/s"
        line.whole = rows[-1]["depth"] >= last
        line.met = line.whole and least >= FLAT
    return line


def scoring(folder: Path, shape: str, file_type: str) -> Line:
    line = Line(f"cost of scoring, {shape} {file_type}", f"<= {SCORING:.0%} against streaming")
    speeds: dict[int, dict[str, float]] = {}
    for row in rows_of(folder, f"score-{shape}-{file_type}"):
        speeds.setdefault(row["depth"], {})[row["policy"]] = row["tokens_per_s"]
    costs = {
        depth: 1 - by["a2sf"] / by["streaming"]
        for depth, by in speeds.items()
        if {"a2sf", "streaming"} <= set(by)
    }
    if costs:
        line.measured = ", ".join(f"{depth:,}: {cost:.1%}" for depth, cost in costs.items())
        line.met = max(costs.values()) <= SCORING
    return line


def lines(folder: Path, shapes: list[str], types: list[str], last: int) -> Iterator[Line]:
    for shape in shapes:
        for file_type in types:
            yield decode(folder, shape, file_type)
    if "F16" in types:
        yield prompt(folder, shapes[0])
    for shape in shapes:
        for file_type in types:
            yield flat(folder, shape, file_type, last)
            yield scoring(folder, shape, file_type)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shapes", nargs="+", default=["8b", "1b"])
    parser.add_argument("--types", nargs="+", default=list(DECODE), choices=DECODE)
    parser.add_argument("--last-depth", type=int, default=100_000)
    args = parser.parse_args()
    card = args.folder / "card.log"
    if card.is_file():
        print(card.read_text().strip(), end="\n\n")
    table = list(lines(args.folder, args.shapes, args.types, args.last_depth))
    print("| what | asked | measured | |\n|---|---|---|---|")
    print("\n".join(line.cells() for line in table), end="\n\n")
    for line_apart in apart(args.folder, args.shapes, args.types):
        print(line_apart)
    n_met = sum(line.met for line in table)
    print(f"{n_met} of {len(table)} met")
    if n_met < len(table):
        sys.exit(1)


if __name__ == "__main__":
    main()
