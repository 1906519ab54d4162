"""a2sf bench: rows, their numbers, the three forms, and how it ends. Speeds are never compared."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cli_program import TIMEOUT_S, a2sf, program

gguf = pytest.importorskip("gguf")

TEXT = ("model", "weight_type", "policy", "kv_type", "device", "isa", "test")
COUNTS = (
    "n_params", "threads", "depth", "kv_bytes", "kv_bytes_full", "peak_rss_bytes",
    "weight_bytes_per_token",
)  # fmt: skip
NUMBERS = (
    "tokens_per_s", "tokens_per_s_min", "tokens_per_s_max", "read_gb_s", "int8_gops",
    "float_gflops", "fraction_of_peak",
)  # fmt: skip
EVICTION = ("budget", "prefill")  # null when nothing is evicted
OWN_MEMORY = ("device_bytes", "copy_gb_s")  # null where the device uses the host's
MATRICES = re.compile(r"blk\.\d+\.(attn_(q|k|v|output)|ffn_(gate|up|down))\.weight")


@pytest.fixture(scope="module")
def shipped() -> Path:
    """The model in this repository: F16, 4 layers, context 2048."""
    return next((Path(__file__).parents[2] / "models").glob("*.gguf"))


def bench(model: Path, *arguments: object) -> list[dict[str, Any]]:
    done = a2sf("bench", "-m", model, "-o", "json", "-q", "-r", "2", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def multiplied(model: Path) -> dict[str, list[tuple[int, int, bool]]]:
    """(weights, bytes, whether quantised) of each matrix in the layers and of the output."""
    tensors = {t.name: t for t in gguf.GGUFReader(model).tensors}
    output = tensors.get("output.weight", tensors["token_embd.weight"])
    plain = (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)

    def facts(tensor: Any) -> tuple[int, int, bool]:
        return int(tensor.n_elements), int(tensor.n_bytes), tensor.tensor_type not in plain

    layers = [facts(t) for name, t in tensors.items() if MATRICES.fullmatch(name)]
    return {"layers": layers, "output": [facts(output)]}


def test_every_column_has_its_type(shipped: Path) -> None:
    rows = bench(shipped, "-p", 16, "-n", 4, "-t", 1)
    assert [row["test"] for row in rows] == ["pp16", "tg4"]
    for row in rows:
        columns = [*TEXT, *COUNTS, *NUMBERS, *EVICTION, *OWN_MEMORY, "bfloat16_gflops"]
        assert sorted(row) == sorted(columns)
        assert [row[name] for name in OWN_MEMORY] == [None, None]
        assert all(isinstance(row[name], str) and row[name] for name in TEXT)
        assert all(isinstance(row[name], int) and row[name] >= 0 for name in COUNTS)
        assert all(isinstance(row[name], (int, float)) and row[name] > 0 for name in NUMBERS)
        assert row["bfloat16_gflops"] >= 0  # 0 on a machine without tiles
        assert row["tokens_per_s_min"] <= row["tokens_per_s"] <= row["tokens_per_s_max"]
        assert (row["policy"], row["budget"], row["prefill"]) == ("full", None, None)
        assert (row["weight_type"], row["kv_type"], row["device"]) == ("F16", "f16", "cpu")
        assert (row["threads"], row["depth"]) == (1, 0)
        assert row["peak_rss_bytes"] > row["weight_bytes_per_token"]
        # The memory whose reading is measured is no part of a row's.
        assert row["peak_rss_bytes"] < 2**28


def test_rows_are_the_product_of_the_lists(shipped: Path) -> None:
    rows = bench(
        shipped, "-p", "8,16", "-n", "4", "-d", "0,40",
        "--policy", "full,a2sf,tova", "--budget", "32,64",
    )  # fmt: skip
    tests = [(depth, test) for depth in (0, 40) for test in ("pp8", "pp16", "tg4")]
    settings = [("full", None)] + [(p, b) for p in ("a2sf", "tova") for b in (32, 64)]
    expected = [(*setting, *test) for setting in settings for test in tests]
    assert [(r["policy"], r["budget"], r["depth"], r["test"]) for r in rows] == expected
    assert {r["prefill"] for r in rows if r["policy"] != "full"} == {"chunk"}


def test_zero_leaves_out_a_kind_of_test(shipped: Path) -> None:
    assert [row["test"] for row in bench(shipped, "-p", 0, "-n", "2,3")] == ["tg2", "tg3"]


def test_a_budget_bounds_the_cache(shipped: Path) -> None:
    full, small = bench(
        shipped, "-p", 0, "-n", 4, "-d", 400, "--policy", "full,a2sf", "--budget", 32,
        "--batch", 16, "--kv-type", "f32", "-t", 2,
    )  # fmt: skip
    assert full["kv_bytes"] >= full["kv_bytes_full"] > 4 * small["kv_bytes"]
    assert small["kv_bytes_full"] == full["kv_bytes_full"]
    assert full["kv_type"] == small["kv_type"] == "f32"
    assert full["threads"] == small["threads"] == 2


def test_a_share_is_one_of_the_row(shipped: Path) -> None:
    rows = bench(shipped, "-p", "36,136", "-n", 0, "-d", "64", "--budget", "50%")
    assert [row["budget"] for row in rows] == [50, 100]


@pytest.mark.parametrize("name", ["llama-F16", "llama-Q4_0", "llama-Q4_K", "qwen2-F16"])
def test_fractions_follow_their_formulas(models: Path, name: str) -> None:
    model = models / f"{name}.gguf"
    prompt, decode = bench(model, "-p", 32, "-n", 8)
    work = multiplied(model)
    n_bytes = sum(n for part in work.values() for _, n, _ in part)
    assert prompt["weight_bytes_per_token"] == decode["weight_bytes_per_token"] == n_bytes
    # From an empty cache, a token reads half of what is there after the last, on average.
    moved = n_bytes + decode["kv_bytes_full"] / 2
    share = decode["tokens_per_s"] * moved / (decode["read_gb_s"] * 1e9)
    assert decode["fraction_of_peak"] == pytest.approx(share)
    least_s = 0.0
    for part, times in (("layers", 32), ("output", 1)):
        for n_weights, _, quantised in work[part]:
            on_vectors = prompt["int8_gops"] if quantised else prompt["float_gflops"]
            peak = prompt["bfloat16_gflops"] or on_vectors  # none of the models is F32
            least_s += times * 2 * n_weights / (peak * 1e9)
    assert prompt["fraction_of_peak"] == pytest.approx(prompt["tokens_per_s"] * least_s / 32)


def test_csv_has_the_columns_of_json(shipped: Path) -> None:
    arguments = ["-p", 8, "-n", 2, "-r", 1, "--policy", "full,a2sf", "--budget", 16]
    done = a2sf("bench", "-m", shipped, "-o", "csv", "-q", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    table = list(csv.DictReader(io.StringIO(done.stdout)))
    rows = bench(shipped, *arguments)
    assert len(table) == len(rows) == 4
    for line, row in zip(table, rows, strict=True):
        assert list(line) == list(row)
        assert line["budget"] == ("" if row["budget"] is None else str(row["budget"]))
        assert [line[name] for name in OWN_MEMORY] == ["", ""]
        assert (line["test"], line["model"]) == (row["test"], row["model"])
        assert float(line["tokens_per_s"]) > 0


def test_table(shipped: Path) -> None:
    done = a2sf("bench", "-m", shipped, "-p", "8", "-n", "2", "-r", "1", "-d", "0,1024")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) == 2 + 4
    assert len({len(line) for line in lines}) == 1
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[0][:6] == ["model", "weights", "policy", "budget", "test", "depth"]
    assert set("".join(cells[1])) == {"-", ":"}
    assert {row[cells[0].index("device MiB")] for row in cells[2:]} == {"-"}
    assert [row[4:6] for row in cells[2:]] == [
        ["pp8", "0"], ["tg2", "0"], ["pp8", "1,024"], ["tg2", "1,024"],
    ]  # fmt: skip
    # The machine's line.
    for word in ("cpu", "GB/s", "GOPS", "GFLOPS"):
        assert word in done.stderr


def test_json_switch_is_the_same_as_output_json(shipped: Path) -> None:
    done = a2sf("bench", "-m", shipped, "-p", 4, "-n", 0, "-r", 1, "-q", "--json")
    assert [row["test"] for row in json.loads(done.stdout)] == ["pp4"]


def test_beyond_the_context(shipped: Path) -> None:
    """Without eviction there is no such row; it is named, or an error when it was the only one."""
    deep = ["-p", 8, "-n", 2, "-r", 1, "-d", 4096]
    done = a2sf("bench", "-m", shipped, *deep)
    assert (done.returncode, done.stdout) == (2, "")
    assert "a2sf: --depth: at most 2,048 tokens" in done.stderr
    assert "give a budget" in done.stderr
    done = a2sf("bench", "-m", shipped, *deep, "--policy", "full,streaming", "-o", "json")
    assert done.returncode == 0
    assert [row["policy"] for row in json.loads(done.stdout)] == ["streaming"] * 2
    for test in ("pp8", "tg2"):
        assert f"no row for {test} at depth 4,096 with policy full" in done.stderr


def test_repetitions_stay_within_the_context(shipped: Path) -> None:
    """The second one would end beyond it, so it starts at the depth again."""
    (row,) = bench(shipped, "-p", 0, "-n", 100, "-d", 1900, "-r", 3)
    assert row["depth"] == 1900


def test_interrupt_leaves_the_rows_so_far(shipped: Path) -> None:
    process = subprocess.Popen(
        [program(), "bench", "-m", shipped, "-p", "8,2000,2000,2000", "-r", "100", "-n", "0",
         "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    start = b""
    while b"}" not in start:
        start += process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, err
    rows = json.loads(start + out)
    assert rows[0]["test"] == "pp8"
    assert len(rows) < 4
    assert f"interrupted after {len(rows)} of 4 rows".encode() in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "xml"], "--output: md, json or csv expected, found"),
        (["-p", "512,"], "--prompts: a whole number from 0"),
        (["-p", "x"], "--prompts: a whole number from 0"),
        (["-n", "1,-1"], "--generate: a whole number from 0"),
        (["-d", "1 2"], "--depth: a whole number from 0"),
        (["-r", "0"], "--repetitions: a whole number from 1"),
        (["-p", "0", "-n", "0"], "--prompts, --generate: at least one test expected"),
        (["--policy", "full,lru"], "--policy: "),
        (["--policy", "a2sf,"], "--policy: "),
        (["--budget", "64,x"], "--budget: "),
        (["--budget", "2"], "--budget: at least 4 tokens"),
        (["--policy", "full", "--budget", "64"], "--budget: "),
        (["--policy", "full,tova", "--window", "4"], "--window: "),
        (["model.gguf"], "the model is given with -m"),
    ],
)
def test_bad_usage(arguments: list[str], message: str) -> None:
    done = a2sf("bench", *(["-m", "/no/model"] if "-m" not in arguments else []), *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Try 'a2sf bench --help'" in done.stderr


def test_a_share_too_small_for_the_policy(shipped: Path) -> None:
    done = a2sf("bench", "-m", shipped, "-p", "8", "-n", "0", "--budget", "10%")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--budget: " in done.stderr
