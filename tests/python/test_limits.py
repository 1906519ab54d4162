"""What fits into memory: errors under a limit of address space, and a2sf bench --limits."""

from __future__ import annotations

import json
import re
import resource
from pathlib import Path
from typing import Any

import pytest
from cli_program import a2sf
from gguf_edit import copy_with

MIB = 1 << 20
CACHE = ("--kv-type", "f32", "--batch", 64, "-t", 2)  # as large as a small model can have it
DEMO = (Path(__file__).parents[2] / "models" / "demo.txt").read_text(encoding="utf-8")


def limited(n_bytes: int) -> dict[str, Any]:
    """Options of a2sf() that run the program in so much address space."""
    return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))}


def limits(*arguments: object) -> dict[str, Any]:
    done = a2sf("bench", "--limits", "-o", "json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def rows(report: dict[str, Any], kv_type: str) -> list[dict[str, Any]]:
    return [row for row in report["limits"] if row["kv_type"] == kv_type]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with a context of 32,768 tokens, so that its cache is what takes memory."""
    source = next((Path(__file__).parents[2] / "models").glob("*.gguf"))
    target = tmp_path_factory.mktemp("limits") / "long.gguf"
    return copy_with(source, target, {"llama.context_length": 32_768})


@pytest.fixture(scope="module")
def row(model: Path) -> dict[str, Any]:
    """What fits into 40 MiB."""
    return rows(limits("-m", model, *CACHE, "--memory", "40M"), "f32")[0]


def test_a_budget_passes_where_the_full_cache_says_what_would_fit(model: Path) -> None:
    run = ("run", "-m", model, *CACHE, "-n", 2, "--json")
    failed = a2sf(*run, stdin=DEMO * 10, **limited(40 * MIB))
    assert failed.returncode == 1
    assert "KV cache: room for" in failed.stderr
    found = re.search(r"a budget of at most (\d+) with kv_type f32", failed.stderr)
    assert found is not None, failed.stderr
    for budget in (256, int(found[1])):
        done = a2sf(*run, "--budget", budget, stdin=DEMO * 10, **limited(40 * MIB))
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["stats"]["n_prompt"] > 19_000


def test_a_text_beyond_the_context_is_told_the_largest_budget(model: Path) -> None:
    run = ("run", "-m", model, *CACHE, "-n", 1)
    failed = a2sf(*run, stdin=DEMO * 20, **limited(40 * MIB))
    assert failed.returncode == 2
    assert "give a budget to read more; in the" in failed.stderr
    failed = a2sf(*run, stdin=DEMO * 20)
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[0].endswith("give a budget to read more")


def test_what_is_predicted_to_fit_fits(model: Path, row: dict[str, Any]) -> None:
    run = ("run", "-m", model, *CACHE, "-n", 1, "--budget")
    text = DEMO * 17  # more than the context: no head that gets most of a budget holds less
    for budget, status in ((row["budget"], 0), (row["budget"] * 3 // 2, 1)):
        done = a2sf(*run, budget, stdin=text, **limited(40 * MIB))
        assert done.returncode == status, done.stderr


def test_each_kv_type_and_amount_has_a_row() -> None:
    report = limits("--memory", "64M,0.25GiB", "-t", 2)
    found = [(row["memory_bytes"], row["kv_type"]) for row in report["limits"]]
    assert found == [(n * MIB, kv_type) for n in (64, 256) for kv_type in ("f32", "f16", "q8_0")]
    assert (report["policy"], report["batch"], report["threads"]) == ("a2sf", 512, 2)
    budgets = [row["budget"] for row in report["limits"]]
    assert budgets == sorted(budgets)
    for row in report["limits"]:
        assert report["process_bytes"] + row["slot_bytes"] * row["budget"] < row["memory_bytes"]
        assert row["context"] <= report["n_ctx"]
    one = limits("--memory", "64M", "-t", 2, "--kv-type", "q8_0")
    assert one["limits"] == rows(report, "q8_0")[:1]


def test_the_table_and_what_the_process_may_use() -> None:
    text = a2sf("bench", "--limits", "-t", 2, **limited(512 * MIB)).stdout
    assert "largest budget" in text
    assert text.count("|  512 MiB | ") == 3
    assert "* the model's context" in text


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--limits", "--memory", "4X"), 2, "--memory: a size such as"),
        (("--limits", "--memory", "64M,-1"), 2, "--memory: a size such as"),
        (("--memory", "4G"), 2, "--memory: --limits expected"),
        (("--limits", "-o", "csv"), 2, "md or json expected"),
        (("--limits", "-p", "5"), 2, "--limits: none of --prompts"),
        (("--limits", "--budget", "5"), 2, "--limits: none of --prompts"),
        (("--limits", "--policy", "a2sf,h2o"), 2, "one expected with --limits, found 2"),
        (("--limits", "--memory", "1M"), 1, "which the model takes without a cache, expected"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: tuple[str, ...], status: int, message: str
) -> None:
    done = a2sf("bench", *arguments)
    assert done.returncode == status
    assert message in done.stderr
