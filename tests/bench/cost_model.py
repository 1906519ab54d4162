"""The cost model of docs/cost-model.md: measure, fit its constants, predict speeds and bytes.

A row of `a2sf bench` is a time per token; the model says which amounts of work it consists of. The
constants are what one unit of each takes: non-negative least squares of the relative errors. The
formulas, and what is left out, are in docs/cost-model.md, which also holds the constants in use.

    python tests/bench/cost_model.py measure MODEL.gguf ... --out rows.jsonl
    python tests/bench/cost_model.py fit rows.jsonl --page docs/cost-model.md
    python tests/bench/cost_model.py predict --shape 7b --type Q4_K_M --bandwidth 25 --budget 1024
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from cost_formulas import (
    FILE_TYPES,
    KV_BITS,
    LANES,
    PLAIN,
    SHAPES,
    Costs,
    Shape,
    Work,
    cache_bytes,
    capacity,
    decode_work,
    kv_bytes_per_slot,
    prompt_work,
    time_parts,
    token_work,
    weight_bytes,
)
from numpy.typing import NDArray

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cost-model.md"
Floats = NDArray[np.float64]
PARTS = {
    "read": "reading", "layer": "layers", "slot": "slots", "rank": "eviction",
    "multiply": "matrices", "multiply_float": "matrices", "attend": "attention",
    "unpack": "unpacking",
}  # fmt: skip


# Name on the page, unit there, that unit in units of Costs, and how to say it as a rate.
LABELS: dict[str, tuple[str, str, float, str]] = {
    "read": ("`efficiency`", "of the read bandwidth", 1.0, ""),
    "layer": ("`t_layer`", "us", 1e-6, ""),
    "slot": ("`t_slot`", "ns", 1e-9, ""),
    "rank": ("`t_rank`", "ns", 1e-9, ""),
    "multiply": ("`1 / r_matmul`, quantised", "ps per operation", 1e-12, "GOPS"),
    "multiply_float": ("`1 / r_matmul`, float", "ps per operation", 1e-12, "GFLOPS"),
    "attend": ("`1 / r_attention`", "ps per operation", 1e-12, "GFLOPS"),
    "unpack": ("`t_unpack`", "ps per weight", 1e-12, "G weights/s"),
}


# Rows of a2sf bench.


def shape_of(row: dict[str, Any]) -> Shape:
    """A row's shape: what `measure` wrote, else the known one with as many parameters."""
    if "shape" in row:
        return Shape(**row["shape"])
    for shape in SHAPES.values():
        if shape.n_params == row["n_params"]:
            return shape
    known = ", ".join(f"{shape.n_params:,} ({name})" for name, shape in SHAPES.items())
    raise ValueError(
        f"n_params: a shape, or the parameters of a known one ({known}) expected, "
        f"found {row['n_params']:,}; `measure` writes shapes"
    )


def mean_live(row: dict[str, Any], shape: Shape, n: int) -> float:
    """Slots that a decode row read per token, on average.

    Repetitions may start deeper than `depth`; the bytes in fraction_of_peak say where they were.
    """
    moved = float(row["fraction_of_peak"] * row["read_gb_s"] * 1e9 / row["tokens_per_s"])
    kv_bytes = moved - int(row["weight_bytes_per_token"])
    live = kv_bytes / kv_bytes_per_slot(shape, row["kv_type"])
    most = 1.25 * (row["depth"] + n)
    if not -0.5 <= live <= most:
        raise ValueError(f"fraction_of_peak: 0 to {most:,.0f} slots expected, found {live:,.1f}")
    return max(live, 0.0)


def row_work(row: dict[str, Any]) -> Work:
    """The work of one token of a row."""
    shape, budget, depth = shape_of(row), row["budget"], row["depth"]
    match = re.fullmatch(r"(pp|tg)(\d+)", row["test"])
    if match is None:
        raise ValueError(f"test: ppN or tgN expected, found {row['test']!r}")
    n, n_bytes, gb_s = int(match.group(2)), row["weight_bytes_per_token"], row["read_gb_s"]
    if match.group(1) == "tg":
        live = mean_live(row, shape, n)
        ranked = live + 1 if budget is not None and depth >= budget else 0.0
        return decode_work(shape, n_bytes, row["kv_type"], live + 1, ranked, gb_s)
    if row["prefill"] not in (None, "chunk"):
        raise ValueError(f"prefill: chunk expected in a prompt's row, found {row['prefill']!r}")
    plain = row["weight_type"] in PLAIN
    chunk = row.get("batch", 512)
    return prompt_work(shape, n, depth, budget, chunk, n_bytes=n_bytes, plain=plain, gb_s=gb_s)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON array (a2sf bench) or of JSON lines (measure)."""
    text = path.read_text()
    lines = [text] if text.lstrip().startswith("[") else text.splitlines()
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line) if line.strip() else []
        except ValueError as error:
            raise ValueError(f"{path}:{number}: JSON expected, found {error}") from None
        rows += value if isinstance(value, list) else [value]
    if not rows:
        raise ValueError(f"{path}: at least one row expected, found none")
    return rows


def work_of_all(rows: Sequence[dict[str, Any]], where: str) -> list[Work]:
    """The work of every row; an error says which row of which file."""
    works = []
    for number, row in enumerate(rows, 1):
        try:
            works.append(row_work(row))
        except KeyError as error:
            raise ValueError(f"{where}, row {number}: {error} expected, found none") from None
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}, row {number}: {error}") from None
    return works


def nonnegative_least_squares(a: Floats, b: Floats) -> Floats:
    """The x >= 0 of least |a x - b|: Lawson and Hanson, Solving Least Squares Problems, 23.3."""
    x = np.zeros(a.shape[1])
    free = np.zeros(a.shape[1], bool)
    for _ in range(10 * a.shape[1]):
        gradient = a.T @ (b - a @ x)
        gradient[free] = -np.inf
        if free.all() or gradient.max() <= 1e-12:
            break
        free[np.argmax(gradient)] = True
        while True:
            wanted = np.zeros_like(x)
            wanted[free] = np.linalg.lstsq(a[:, free], b, rcond=None)[0]
            if (wanted[free] > 0).all():
                x = wanted
                break
            # As far towards it as all stay positive; what reaches 0 is held there.
            low = free & (wanted <= 0)
            step = (x[low] / (x[low] - wanted[low])).min()
            x = x + step * (wanted - x)
            free &= x > 1e-15
            x[~free] = 0
    return x


def fit(works: Sequence[Work], times_s: Sequence[float]) -> Costs:
    """Constants with the least sum of squared relative errors."""
    names = [f.name for f in fields(Costs) if any(w.get(f.name, 0) > 0 for w in works)]
    if len(works) < len(names):
        raise ValueError(f"rows: at least {len(names)} expected, found {len(works)}")
    amounts = np.array([[work.get(name, 0.0) for name in names] for work in works])
    a = amounts / np.array(times_s)[:, None]
    scale = np.linalg.norm(a, axis=0)
    x = nonnegative_least_squares(a / scale, np.ones(len(works))) / scale
    return Costs(**{name: float(value) for name, value in zip(names, x, strict=True)})


# What goes into the page.


def block(name: str, lines: Sequence[str]) -> str:
    """Lines between the markers by which they are found again."""
    return "\n".join([f"<!-- {name}: begin -->", *lines, f"<!-- {name}: end -->"])


def constants_block(costs: Costs, fitted_on: str) -> str:
    head = ["| constant | value | unit | that is |", "|---|---:|---|---:|"]
    lines = [f"Fitted on: {fitted_on}", "", *head]
    for name, (label, unit, size, rate) in LABELS.items():
        cost = getattr(costs, name)
        if name == "read" and cost is not None:
            cost = 1 / cost if cost > 0 else math.inf
        value = "-" if cost is None else f"{cost / size:.5g}"
        that_is = f"{1e-9 / cost:,.4g} {rate}" if rate and cost else ""
        lines.append(f"| {label} | {value} | {unit} | {that_is} |")
    return block("constants", lines)


def read_constants(text: str, where: object) -> Costs:
    """The constants of a page's table; `where` is named in errors."""
    costs: dict[str, float] = {}
    for name, (label, _, size, _) in LABELS.items():
        match = re.search(rf"^\| {re.escape(label)} \| ([-+.\w]+) \|", text, re.MULTILINE)
        if match is None:
            raise ValueError(f"{where}: a row '| {label} | value |' expected, found none")
        if match.group(1) == "-":
            continue
        value = float(match.group(1))
        costs[name] = 1 / value if name == "read" else value * size
    return Costs(**costs)


def errors_block(rows: Sequence[dict[str, Any]], works: Sequence[Work], costs: Costs) -> str:
    lines = [
        "| model | weights | policy | budget | test | depth | measured | model says | error |",
        "|---|---|---|---:|---|---:|---:|---:|---:|",
    ]
    errors: dict[str, list[float]] = {"tg": [], "pp": []}
    for row, work in zip(rows, works, strict=True):
        found, said = row["tokens_per_s"], 1 / sum(time_parts(work, costs).values())
        error = said / found - 1
        errors[row["test"][:2]].append(abs(error))
        budget = "" if row["budget"] is None else f"{row['budget']:,}"
        cells = [row["model"], row["weight_type"], row["policy"], budget, row["test"]]
        cells += [f"{row['depth']:,}", f"{found:,.1f}", f"{said:,.1f}", f"{100 * error:+.1f} %"]
        lines.append(f"| {' | '.join(cells)} |")
    both = errors["tg"] + errors["pp"]
    named = (("decode", errors["tg"]), ("prompt", errors["pp"]), ("all", both))
    medians = [f"{what} {100 * statistics.median(e):.1f} %" for what, e in named if e]
    return block("rows", [*lines, "", f"Median error: {', '.join(medians)} ({len(both)} rows)."])


BANDWIDTHS = (10, 25, 50, 100)
CACHES = ((4096, None), (32768, None), (32768, 1024))  # depth, budget


def lanes_of(budget: int | None) -> int:
    """Scores a slot of policy a2sf, or of a full cache."""
    return LANES["full"] if budget is None else LANES["a2sf"]


def predictions_block(costs: Costs, file_type: str = "Q4_K_M") -> str:
    machines = [f"{gb_s} GB/s" for gb_s in BANDWIDTHS]
    head = ["model", "cache", "weights, GB", "KV read, GB", "cache, GB", *machines]
    lines = [f"| {' | '.join(head)} |", "|---|---|" + "---:|" * (len(head) - 2)]
    for name, shape in SHAPES.items():
        for depth, budget in CACHES:
            kv = ((budget or depth) + 1) * kv_bytes_per_slot(shape, "f16")
            memory = cache_bytes(shape, "f16", capacity(depth + 1, budget, 512), lanes_of(budget))
            what = f"full, depth {depth:,}" if budget is None else f"budget {budget:,}, any depth"
            numbers = [weight_bytes(shape, file_type) / 1e9, kv / 1e9, memory / 1e9]
            cells = [name, what, *(f"{n:.3f}" for n in numbers)]
            for gb_s in BANDWIDTHS:
                work = token_work(shape, file_type, "f16", depth, budget, gb_s)
                cells.append(f"{1 / sum(time_parts(work, costs).values()):,.1f}")
            lines.append(f"| {' | '.join(cells)} |")
    return block("predictions", lines)


def replace_blocks(page: Path, blocks: Sequence[str]) -> None:
    """Put new blocks in the places of the old ones."""
    text = page.read_text()
    for new in blocks:
        first, last = new.splitlines()[0], new.splitlines()[-1]
        begin, end = text.find(first), text.find(last)
        if not 0 <= begin < end:
            raise ValueError(f"{page}: '{first}' and '{last}' expected, not found in this order")
        text = text[:begin] + new + text[end + len(last) :]
    page.write_text(text)


# Commands.


def run_program(command: list[str]) -> Any:
    """JSON that a command of a2sf prints; its messages and progress pass through."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        raise ValueError(f"{command[0]}: a program expected, found {error.strerror}") from None
    if done.returncode != 0:
        raise ValueError(f"{' '.join(command)}: ended with {done.returncode}")
    return json.loads(done.stdout)


def command_measure(args: argparse.Namespace) -> None:
    names = [f.name for f in fields(Shape) if f.name != "tied"]
    with args.out.open("a") as out:
        for number, model in enumerate(args.models, 1):
            print(f"{number} of {len(args.models)}: {model}", file=sys.stderr)
            facts = run_program([args.program, "inspect", str(model), "--json"])
            shape = {name: facts[name] for name in names}
            command = [args.program, "bench", "-m", str(model), "-o", "json"]
            command += ["-r", args.repetitions, "-d", args.depths]
            command += ["-p", args.prompts, "-n", args.generate]
            command += ["--policy", args.policies, "--batch", str(args.batch)]
            command += ["--budget", args.budgets] if args.policies != "full" else []
            command += ["-t", args.threads] if args.threads else []
            for row in run_program(command):
                row |= {"model": model.stem, "batch": args.batch, "shape": shape}
                print(json.dumps(row), file=out, flush=True)


def describe(rows: Sequence[dict[str, Any]]) -> str:
    """The machine of the rows, as far as they say."""
    isas = sorted({f"{row['device']} {row['isa']}, {row['threads']} threads" for row in rows})
    gb_s = [f"{row['read_gb_s']:.1f}" for row in sorted(rows, key=lambda row: row["read_gb_s"])]
    span = gb_s[0] if gb_s[0] == gb_s[-1] else f"{gb_s[0]} to {gb_s[-1]}"
    return f"{'; '.join(isas)}, {span} GB/s read; {len(rows)} rows"


def command_fit(args: argparse.Namespace) -> None:
    rows: list[dict[str, Any]] = []
    works: list[Work] = []
    for path in args.files:
        found = read_rows(path)
        works += work_of_all(found, str(path))
        rows += found
    costs = fit(works, [1 / row["tokens_per_s"] for row in rows])
    fitted_on = f"{args.machine}, {describe(rows)}" if args.machine else describe(rows)
    constants = constants_block(costs, f"{fitted_on}.")
    costs = read_constants(constants, "constants")  # rounded, as whoever reads the page has them
    blocks = [constants, errors_block(rows, works, costs)]
    try:
        blocks.append(predictions_block(costs))
    except ValueError as error:
        print(f"no predictions: {error}", file=sys.stderr)
    print("\n\n".join(blocks))
    if args.page:
        replace_blocks(args.page, blocks)


def command_table(args: argparse.Namespace) -> None:
    print(predictions_block(read_constants(args.page.read_text(), args.page)))


def command_predict(args: argparse.Namespace) -> None:
    """One decoding speed, and what it consists of; a prompt's with --prompt."""
    costs = read_constants(args.constants.read_text(), args.constants)
    shape, budget = SHAPES[args.shape], args.budget
    n_bytes = weight_bytes(shape, args.type)
    work = token_work(shape, args.type, args.kv_type, args.depth, budget, args.bandwidth)
    live = (args.depth if budget is None else min(args.depth, budget)) + 1
    kv_bytes = live * kv_bytes_per_slot(shape, args.kv_type)
    n_slots = capacity(args.depth + 1, budget, args.chunk)
    memory = cache_bytes(shape, args.kv_type, n_slots, lanes_of(budget))
    cache = "full cache" if budget is None else f"budget {budget:,}"
    print(f"{args.shape} {args.type}, {cache}, depth {args.depth:,}, {args.bandwidth:g} GB/s")
    print(f"weights read   {n_bytes:16,.0f} bytes per token")
    print(f"K and V read   {kv_bytes:16,.0f} bytes per token, {live:,} slots per head")
    print(f"KV cache       {memory:16,.0f} bytes allocated, room for {n_slots:,} slots")
    show_speed("decode", work, costs)
    if args.prompt:
        work = prompt_work(
            shape, args.prompt, args.depth, budget, args.chunk,
            n_bytes=n_bytes, plain=args.type in PLAIN, gb_s=args.bandwidth,
        )  # fmt: skip
        show_speed(f"prompt of {args.prompt:,}", work, costs)


def show_speed(what: str, work: Work, costs: Costs) -> None:
    """Speed, and the milliseconds of each part."""
    parts = time_parts(work, costs)
    texts = ", ".join(f"{PARTS[name]} {1e3 * part:.3g}" for name, part in parts.items())
    print(f"{what + ',':15}{1 / sum(parts.values()):16,.2f} tokens/s; ms per token: {texts}")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 expected, found {text!r}")
    return int(text)


def natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a whole number from 0 expected, found {text!r}")
    return int(text)


def bandwidth(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"GB/s above 0 expected, found {text!r}")
    return value


def add_measure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("models", nargs="+", type=Path, metavar="MODEL.gguf")
    add("--out", type=Path, required=True, help="JSON lines, appended to")
    add("--program", default="a2sf", help="default: %(default)s")
    add("--depths", default="0,1024,4096", metavar="N,...", help="default: %(default)s")
    add("--budgets", default="256,1024", metavar="N,...", help="default: %(default)s")
    add("--policies", default="full,a2sf", metavar="NAME,...", help="default: %(default)s")
    add("--prompts", default="64,512", metavar="N,...", help="default: %(default)s")
    add("--generate", default="64", metavar="N,...", help="default: %(default)s")
    add("--repetitions", default="5", metavar="N", help="default: %(default)s")
    add("--batch", type=positive, default=512, metavar="N", help="chunk; default: %(default)s")
    add("--threads", metavar="N", help="default: the program's")


def add_predict(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--shape", choices=SHAPES, default="7b", help="default: %(default)s")
    add("--type", choices=FILE_TYPES, default="Q4_K_M", metavar="TYPE", help="default: %(default)s")
    add("--bandwidth", type=bandwidth, default=25.0, metavar="GB/s", help="default: %(default)s")
    add("--budget", type=positive, metavar="N", help="default: nothing is evicted")
    add(
        "--depth",
        type=natural,
        default=4096,
        metavar="N",
        help="tokens before; default: %(default)s",
    )
    add("--chunk", type=positive, default=512, metavar="N", help="default: %(default)s")
    add("--prompt", type=positive, metavar="N", help="also the speed of reading N tokens")
    add("--kv-type", choices=KV_BITS, default="f16", help="default: %(default)s")
    add("--constants", type=Path, default=PAGE, metavar="PAGE.md", help="default: %(default)s")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    measure = commands.add_parser("measure", help="run a2sf bench over models, store its rows")
    add_measure(measure)
    measure.set_defaults(run=command_measure)
    fitting = commands.add_parser("fit", help="fit the constants to rows, print tables")
    fitting.add_argument("files", nargs="+", type=Path, metavar="ROWS.jsonl")
    fitting.add_argument("--machine", default="", help="words for the table's 'Fitted on:'")
    fitting.add_argument("--page", type=Path, help="put the tables into this page")
    fitting.set_defaults(run=command_fit)
    predict = commands.add_parser("predict", help="speeds and bytes from the page's constants")
    add_predict(predict)
    predict.set_defaults(run=command_predict)
    table = commands.add_parser("table", help="print the predictions of a page's constants")
    table.add_argument("page", nargs="?", type=Path, default=PAGE, help="default: %(default)s")
    table.set_defaults(run=command_table)
    args = parser.parse_args()
    try:
        args.run(args)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{parser.prog}: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
