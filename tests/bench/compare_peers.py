"""Compare speed with llama.cpp and OpenVINO GenAI on one GGUF file.

The engines take turns (A B C A B C ...), each in its own process, only one working at a time. The
ratio of ours to a peer is taken per round; its median is what counts, since both had the same
neighbours. A peer that is not installed is named and skipped.

    python tests/bench/compare_peers.py MODEL.gguf --json results.json

What each engine does exactly: peer_engines.py. Peers may live in other environments:
--python-llama and --python-openvino name their interpreters (which need NumPy).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from peer_engines import RUNNERS, Settings, Speeds, Turn
from peer_process import Peer, PeerError, work

OURS, PEERS = "a2sf", ("llama.cpp", "OpenVINO")
TESTS = {"prompt": "prompt", "whole": "whole prompt", "decode": "decode"}


@dataclass(frozen=True)
class Result:
    """One engine's turn."""

    round: int
    depth: int
    engine: str
    cache: str  # "full", or the budget of ours
    speeds: Speeds


def available_bytes() -> int:
    """Memory that can be had without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def keep_alive(model: Path) -> bool:
    """Whether the engines fit beside each other: the file, two copies of it, caches."""
    return available_bytes() > 4 * model.stat().st_size + (3 << 30)


def cpu_model() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.lower().startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"


def machine_peaks(
    program: str | None, model: Path, threads: int, *, no_amx: bool
) -> dict[str, float]:
    """Read bandwidth and int8 rate as `a2sf bench` measures them; empty without it."""
    found = shutil.which(program or "a2sf")
    if found is None:
        return {}
    small = ["-p", "32", "-n", "4", "-d", "0", "-r", "1", "-t", str(threads), "-o", "json"]
    command = [found, "bench", "-m", str(model), *small]
    # The program would ask for AMX again: a refusal does not outlive exec.
    environment = {**os.environ, "A2SF_ISA": "avx512"} if no_amx else None
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    try:
        rows = json.loads(done.stdout)
        row = rows[0] if isinstance(rows, list) else rows
        return {key: float(row[key]) for key in ("read_gb_s", "int8_gops")}
    except (ValueError, LookupError, TypeError):
        return {}


def describe_machine(peaks: dict[str, float], threads: int, no_amx: Sequence[str]) -> str:
    """One line: processor, threads, peaks."""
    parts = [cpu_model(), f"{threads} threads"]
    if peaks:
        parts.append(f"{peaks['read_gb_s']:.1f} GB/s read, {peaks['int8_gops']:.0f} GOPS int8")
    if no_amx:
        parts.append(f"no AMX for {', '.join(no_amx)}")
    return ", ".join(parts)


def start_peers(peers: Sequence[Peer], *, keep: bool) -> tuple[list[Peer], list[str]]:
    """Start each engine once; returns those that work and what is to be said of the others."""
    working, messages = [], []
    for peer in peers:
        try:
            peer.start()
            working.append(peer)
        except PeerError as error:
            messages.append(str(error))
            print(error, file=sys.stderr)
            peer.close()
        if not keep:
            peer.close()
    return working, messages


class Comparison:
    """Who takes part, and what was measured."""

    def __init__(self, peers: list[Peer], settings: Settings, *, keep: bool) -> None:
        self.peers = peers
        self.results: list[Result] = []
        self.messages: list[str] = []
        self._settings = settings
        self._keep = keep

    def run(self, depths: Sequence[int], n_rounds: int) -> None:
        """All depths, all rounds; a peer that fails leaves."""
        n_vocab = self.peers[0].n_vocab or 0
        # Past the control tokens that some vocabularies begin with, short of those at the end.
        low, high = n_vocab // 4, n_vocab - n_vocab // 4
        for depth in depths:
            for i in range(n_rounds):
                turn = Turn(depth, i + 1, first_id=low, last_id=high)
                self._turn(i, self.peers, turn)
        for peer in self.peers:
            peer.close()

    def _turn(self, number: int, peers: Sequence[Peer], turn: Turn) -> None:
        """Each engine once; one that fails leaves."""
        for peer in list(peers):
            try:
                for evict in (False, True) if peer.name == OURS and turn.depth > 0 else (False,):
                    speeds = peer.measure(replace(turn, evict=evict))
                    cache = f"{self._settings.budget}" if evict else "full"
                    self.results.append(Result(number, turn.depth, peer.name, cache, speeds))
                    found = ", ".join(f"{TESTS[k]} {v:.1f}" for k, v in speeds.items())
                    place = f"depth {turn.depth} round {number + 1} {peer.name} ({cache})"
                    print(f"{place}: {found}", file=sys.stderr)
            except PeerError as error:
                message = f"{error} (depth {turn.depth})"
                print(message, file=sys.stderr)
                self.messages.append(message)
                peer.close()
                self.peers.remove(peer)
            if not self._keep:
                peer.close()


def speeds_of(
    results: Sequence[Result], engine: str, cache: str, depth: int, test: str
) -> dict[int, float]:
    """Tokens per second by round."""
    return {
        r.round: r.speeds[test]
        for r in results
        if (r.engine, r.cache, r.depth) == (engine, cache, depth) and test in r.speeds
    }


def ratio_text(ours: dict[int, float], theirs: dict[int, float]) -> str:
    """Median, minimum and maximum of the ratios of the rounds that both have."""
    ratios = [ours[i] / theirs[i] for i in ours if i in theirs]
    if not ratios:
        return "-"
    if len(ratios) == 1:
        return f"{ratios[0]:.2f} (one round)"
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def speed_text(speeds: dict[int, float]) -> str:
    return f"{statistics.median(speeds.values()):,.1f}" if speeds else "-"


def table(results: Sequence[Result], depths: Sequence[int], settings: Settings) -> Iterator[str]:
    """Lines of the Markdown table: medians in tokens/s, ratios ours / peer."""
    head = ["test", "depth", "a2sf's cache", OURS, *PEERS, *(f"a2sf / {p}" for p in PEERS)]
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for test, title in TESTS.items():
        size = {"prompt": f" {settings.n_prompt}", "decode": f" {settings.n_decode}"}.get(test, "")
        for depth in depths:
            theirs = [speeds_of(results, peer, "full", depth, test) for peer in PEERS]
            for cache in ("full", str(settings.budget)):
                ours = speeds_of(results, OURS, cache, depth, test)
                if not ours:
                    continue
                cells = [title + size, f"{depth:,}", cache, speed_text(ours)]
                cells += [speed_text(s) for s in theirs] + [ratio_text(ours, s) for s in theirs]
                yield f"| {' | '.join(cells)} |"


def report(comparison: Comparison, depths: Sequence[int], settings: Settings, machine: str) -> str:
    """The Markdown that is printed."""
    versions = ", ".join(f"{p.name} {p.version}" for p in comparison.peers)
    flash = "on" if settings.flash_attention else "off"
    lines = [
        f"{Path(settings.model).name} on {machine}; {versions}.",
        "Tokens/s, medians of the rounds; ratios: median (minimum-maximum) of the rounds' ratios.",
        f"llama.cpp: KV cache f16, flash attention {flash}, mmap; whole prompts read once.",
        "OpenVINO at a depth: a whole prompt of that length, then decoding.",
        "",
        *table(comparison.results, depths, settings),
        *(f"\n{message}." for message in comparison.messages),
    ]
    return "\n".join(lines)


def depth_list(text: str) -> list[int]:
    """Depths of a list with commas, ascending."""
    depths = sorted({int(part) for part in text.split(",")})
    if depths[0] < 0:
        raise ValueError(f"depth: at least 0 expected, found {depths[0]}")
    return depths


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path, nargs="?", metavar="MODEL.gguf")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512, metavar="TOKENS")
    parser.add_argument("--decode", type=int, default=64, metavar="TOKENS")
    parser.add_argument("--depths", type=depth_list, default=[0, 2048, 7168], metavar="N,N")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--budget", type=int, default=1024, help="of policy a2sf, at depths above 0"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="every round, and the settings")
    parser.add_argument("--log", type=Path, metavar="FILE", help="what the engines print")
    parser.add_argument("--program", help="the a2sf program, whose `bench` measures the peaks")
    parser.add_argument("--python-llama", default=sys.executable, metavar="PATH")
    parser.add_argument("--python-openvino", default=sys.executable, metavar="PATH")
    parser.add_argument("--flash-attention", action="store_true", help="in llama.cpp")
    parser.add_argument("--openvino-batch", type=int, default=256, help="default: its own, 256")
    parser.add_argument("--openvino-cache-gb", type=int, default=2)
    parser.add_argument(
        "--no-amx",
        nargs="*",
        choices=[OURS, *PEERS],
        metavar="ENGINE",
        help="keep these engines off AMX (without names: all of them)",
    )
    parser.add_argument("--worker", choices=RUNNERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.no_amx = [OURS, *PEERS] if args.no_amx == [] else args.no_amx or []
    if args.worker is None:
        if args.model is None or not args.model.is_file():
            parser.error(f"MODEL.gguf: an existing file expected, found {args.model}")
        if min(args.rounds, args.prompt, args.decode, args.threads, args.budget) < 1:
            parser.error("numbers above 0 expected")
    return args


def write_json(path: Path, comparison: Comparison, machine: dict[str, Any], s: Settings) -> None:
    """Everything measured."""
    values = {
        "settings": asdict(s),
        "machine": machine,
        "versions": {peer.name: peer.version for peer in comparison.peers},
        "messages": comparison.messages,
        "results": [asdict(result) for result in comparison.results],
    }
    path.write_text(json.dumps(values, indent=1) + "\n")


def main() -> int:
    """Compare; 1 if our own engine did not take part."""
    args = parse_arguments()
    if args.worker:
        work(args.worker)
        return 0
    settings = Settings(
        model=str(args.model.resolve()),
        threads=args.threads,
        n_prompt=args.prompt,
        n_decode=args.decode,
        max_depth=max(args.depths),
        budget=args.budget,
        flash_attention=args.flash_attention,
        openvino_batch=args.openvino_batch,
        openvino_cache_gb=args.openvino_cache_gb,
    )
    pythons = (sys.executable, args.python_llama, args.python_openvino)
    peers = [
        Peer(name, python, settings, no_amx=name in args.no_amx, log=args.log)
        for name, python in zip((OURS, *PEERS), pythons, strict=True)
    ]
    keep = keep_alive(args.model)
    working, messages = start_peers(peers, keep=keep)
    if not working or working[0].name != OURS:
        return 1
    comparison = Comparison(working, settings, keep=keep)
    comparison.messages += messages
    try:
        comparison.run(args.depths, args.rounds)
    finally:
        for peer in peers:
            peer.close()
    peaks = machine_peaks(args.program, args.model, args.threads, no_amx=OURS in args.no_amx)
    machine = {"cpu": cpu_model(), "threads": args.threads, "no_amx": args.no_amx, **peaks}
    if args.json:
        write_json(args.json, comparison, machine, settings)
    line = describe_machine(peaks, args.threads, args.no_amx)
    print(report(comparison, args.depths, settings, line))
    return 0 if any(peer.name == OURS for peer in comparison.peers) else 1


if __name__ == "__main__":
    sys.exit(main())
