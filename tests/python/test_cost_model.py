"""The cost model: fits recover known constants, bytes are the engine's, the page is up to date."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import a2sf
import numpy as np
import pytest
from cli_program import program

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

import cost_formulas as formulas
import cost_model

SCRIPT = Path(cost_model.__file__)

KNOWN = formulas.Costs(
    read=1.25, layer=12e-6, slot=3e-9, rank=2e-9, multiply=2.5e-12, multiply_float=6e-12,
    attend=5e-12, unpack=40e-12,
)  # fmt: skip


def row(name: str, kind: str, test: str, depth: int, budget: int | None) -> dict[str, Any]:
    """A row as `measure` stores it, of a machine with the KNOWN constants."""
    shape, n, gb_s = formulas.SHAPES[name], int(test[2:]), 25.0
    n_bytes = formulas.weight_bytes(shape, kind)
    made: dict[str, Any] = {
        "model": name, "weight_type": kind, "n_params": shape.n_params, "kv_type": "f16",
        "policy": "a2sf" if budget else "full", "budget": budget, "test": test, "depth": depth,
        "prefill": "chunk" if budget else None, "read_gb_s": gb_s, "batch": 512,
        "weight_bytes_per_token": n_bytes, "device": "cpu", "isa": "avx2", "threads": 2,
    }  # fmt: skip
    live = min(depth, budget or depth) + (n / 2 if budget is None or depth < budget else 0)
    kv_bytes = live * formulas.kv_bytes_per_slot(shape, "f16")
    speed = 1.0
    for _ in range(2):  # work does not depend on speed, but fraction_of_peak does
        made["tokens_per_s"] = speed
        made["fraction_of_peak"] = speed * (n_bytes + kv_bytes) / (gb_s * 1e9)
        speed = 1 / sum(formulas.time_parts(cost_model.row_work(made), KNOWN).values())
    return made


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Two shapes, quantised and float weights, depths and budgets."""
    models = [("smollm2-135m", "Q4_0"), ("smollm2-135m", "F16"), ("1b", "Q4_K_M"), ("1b", "Q8_0")]
    caches = [(0, None), (1024, None), (4096, None), (4096, 256), (4096, 1024)]
    tests = ["pp64", "pp512", "pp1024", "tg64"]
    return [row(*m, t, *c) for m, t, c in itertools.product(models, tests, caches)]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_fit_recovers_known_constants(rows: list[dict[str, Any]]) -> None:
    works = cost_model.work_of_all(rows, "rows")
    found = cost_model.fit(works, [1 / r["tokens_per_s"] for r in rows])
    assert dataclasses.asdict(found) == pytest.approx(dataclasses.asdict(KNOWN), rel=0.01)


def test_fit_is_the_best_that_is_not_negative() -> None:
    """Against every choice of the columns that may be used."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        a, b = rng.standard_normal((12, 4)), rng.standard_normal(12)
        best = np.linalg.norm(b)
        for use in itertools.product((False, True), repeat=4):
            part = np.linalg.lstsq(a[:, use], b, rcond=None)[0]
            if any(use) and (part >= 0).all():
                best = min(best, np.linalg.norm(a[:, use] @ part - b))
        x = cost_model.nonnegative_least_squares(a, b)
        assert (x >= 0).all()
        assert np.linalg.norm(a @ x - b) == pytest.approx(best)


@pytest.mark.parametrize("kv_type", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("policy", a2sf.policies())
def test_cache_bytes_are_the_engines(bundled: Path, policy: str, kv_type: str) -> None:
    budget = None if policy == "full" else 48
    equal = None if budget is None else "equal"
    eviction = a2sf.Eviction(policy=policy, budget=budget, allocation=equal)
    engine = a2sf.Engine(bundled, eviction=eviction, kv_type=kv_type, batch=32)
    for n_tokens in (20, 60, 200):
        session = engine.session()
        session.feed([7] * n_tokens)
        # These two evict token by token, and once at the end.
        chunk = {"a2sf-paper": 1, "snapkv": n_tokens}.get(policy, 32)
        n_slots = formulas.capacity(n_tokens, budget, chunk)
        lanes = formulas.LANES.get(policy, 1)
        expected = formulas.cache_bytes(shape_of(engine), kv_type, n_slots, lanes)
        assert session.cache.bytes == expected


def shape_of(engine: a2sf.Engine) -> formulas.Shape:
    names = [field.name for field in dataclasses.fields(formulas.Shape) if field.name != "tied"]
    return formulas.Shape(**{name: getattr(engine.info, name) for name in names})


@pytest.mark.parametrize("name", ["1b", "3b"])
def test_weight_bytes_are_the_files(name: str) -> None:
    pytest.importorskip("gguf")
    import write_models

    for file_type in write_models.TYPES:
        tensors = write_models.random_tensors(write_models.SHAPES[name], file_type, 0, pure=False)
        n_bytes = sum(tensor.n_bytes for tensor in tensors if len(tensor.shape) == 2)
        assert formulas.weight_bytes(formulas.SHAPES[name], file_type) == n_bytes


def test_prompt_slots_are_what_the_chunks_see() -> None:
    assert formulas.prompt_slots(4, 0, None, 2) == (1 + 2 + 3 + 4, 0)
    assert formulas.prompt_slots(4, 10, None, 512) == (11 + 12 + 13 + 14, 0)
    # A full budget: 8 and the chunk's 2, twice; both times all 10 are ranked.
    assert formulas.prompt_slots(4, 100, 8, 2) == (4 * 9.5, 2 * 10)
    # Nothing is evicted before the budget is full, and order is lost with the first eviction.
    assert formulas.prompt_slots(4, 0, 2, 2) == (1 + 2 + 3 + 4, 4)


def test_fit_fills_a_page_that_predict_reads(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    lines, array = tmp_path / "rows.jsonl", tmp_path / "rows.json"
    lines.write_text("".join(json.dumps(r) + "\n" for r in rows[:40]))
    array.write_text(json.dumps(rows[40:]))
    page = tmp_path / "page.md"
    page.write_text(cost_model.PAGE.read_text())
    done = run("fit", lines, array, "--machine", "a test", "--page", page)
    assert (done.returncode, done.stderr) == (0, "")
    text = page.read_text()
    assert f"Fitted on: a test, cpu avx2, 2 threads, 25.0 GB/s read; {len(rows)} rows." in text
    assert "| `efficiency` | 0.8 | of the read bandwidth |" in text
    assert "| `1 / r_matmul`, quantised | 2.5 | ps per operation | 400 GOPS |" in text
    assert "Median error: decode 0.0 %, prompt 0.0 %, all 0.0 %" in text
    assert all(printed in text for printed in done.stdout.split("\n\n<!--")[1:])

    speeds = [
        decode_speed("--bandwidth", gb_s, *cache, "--constants", page)
        for gb_s in ("25", "50")
        for cache in ([], ["--depth", "32768"], ["--depth", "32768", "--budget", "1024"])
    ]
    # 6.15 GB at 20 GB/s, 32 layers, 4,097 slots in 32 x 32 heads of 128.
    assert speeds[0] == pytest.approx(1 / (0.3077 + 32 * 12e-6 + 4097 * 2048 * 3e-9), rel=0.01)
    assert speeds[1] < speeds[0] < speeds[2] < 5
    assert all(slow < fast < 2 * slow for slow, fast in zip(speeds[:3], speeds[3:], strict=True))


def decode_speed(*arguments: str | Path) -> float:
    done = run("predict", "--shape", "7b", "--type", "Q4_K_M", *arguments, "--prompt", "512")
    assert done.returncode == 0, done.stderr
    assert "4,005,470,208 bytes per token" in done.stdout
    assert re.search(r"^prompt of 512, +\d+\.\d+ tokens/s", done.stdout, re.MULTILINE)
    found = re.search(r"^decode, +([\d.]+) tokens/s", done.stdout, re.MULTILINE)
    assert found is not None
    return float(found.group(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bandwidth", "0"], "GB/s above 0 expected, found '0'"),
        (["--depth", "-1"], "a whole number from 0 expected, found '-1'"),
        (["--budget", "0"], "a whole number from 1 expected, found '0'"),
        (["--shape", "70b"], "invalid choice: '70b'"),
    ],
)
def test_bad_usage(arguments: list[str], message: str) -> None:
    done = run("predict", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_the_page_has_the_predictions_of_its_constants() -> None:
    text = cost_model.PAGE.read_text()
    costs = cost_model.read_constants(text, cost_model.PAGE)
    assert cost_model.predictions_block(costs) in text
    assert run("table").stdout.strip() in text


def test_measure_stores_rows_that_fit_reads(bundled: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    arguments = [
        "--depths",
        "0,40",
        "--policies",
        "full,h2o",
        "--budgets",
        "32",
        "--prompts",
        "16",
        "--generate",
        "4",
    ]
    done = run(
        "measure", bundled, "--program", program(), "--out", out, *arguments, "--repetitions", "1"
    )
    assert done.returncode == 0, done.stderr
    assert f"1 of 1: {bundled}" in done.stderr
    rows = cost_model.read_rows(out)
    assert [r["test"] for r in rows] == ["pp16", "tg4"] * 4
    works = cost_model.work_of_all(rows, "rows")
    # Tokens 41 to 44 see 41 to 44 slots; with a full budget of 32 it is 33.
    shape = cost_model.shape_of(rows[0])
    slots = [
        w["slot"] * 64 / (shape.n_layers * shape.n_heads * shape.head_dim) for w in works[1::2]
    ]
    assert slots == pytest.approx([3, 43, 3, 33])
    assert run("fit", out).returncode == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "rows.json: at least one row expected, found none"),
        ("[{]", "rows.json:1: JSON expected, found "),
        ('{"test": "pp8"}\nx', "rows.json:2: JSON expected, found "),
        ('{"test": "pp8"}', "rows.json, row 1: 'n_params' expected, found none"),
        (json.dumps(row("1b", "Q8_0", "tg8", 64, 8)), "rows: at least 4 expected, found 1"),
        (
            '{"n_params": 5}',
            "row 1: n_params: a shape, or the parameters of a known one (134,515,0",
        ),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    done = run("fit", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr


def test_bad_pages_and_programs_are_named(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing")
    assert (
        "a row '| `efficiency` | value |' expected, found none"
        in run("predict", "--constants", page).stderr
    )
    done = run("measure", "x.gguf", "--program", tmp_path / "none", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "none: a program expected, found No such file" in done.stderr
