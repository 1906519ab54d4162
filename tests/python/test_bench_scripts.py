"""The scripts of tests/bench work: models that load and compute, peers that may be missing."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import a2sf
import numpy as np
import pytest
from a2sf.eval.__main__ import make_parser
from a2sf.eval._arguments import evictions
from cli_program import program

gguf = pytest.importorskip("gguf")

BENCH = Path(__file__).resolve().parents[1] / "bench"
TYPES = ("Q4_0", "Q4_1", "Q8_0", "Q4_K_M", "F16", "BF16")
IDS = [300, 400, 65, 700, 20]


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random model in every type."""
    out = tmp_path_factory.mktemp("models")
    run("write_models.py", "--shape", "tiny", "--type", *TYPES, "--out", out)
    assert sorted(path.name for path in out.iterdir()) == sorted(f"tiny-{t}.gguf" for t in TYPES)
    return out


@pytest.mark.parametrize("name", TYPES)
def test_a_random_model_runs(written: Path, name: str) -> None:
    engine = a2sf.Engine(written / f"tiny-{name}.gguf")
    logits = engine.logits(IDS)
    assert np.isfinite(logits).all()
    assert 0.05 < logits.std() < 5
    text = "the cat, é\n"
    assert engine.detokenize(engine.tokenize(text, bos=False)) == text


def test_each_tensor_has_the_type_llama_cpp_gives_it(written: Path) -> None:
    reader = gguf.GGUFReader(written / "tiny-Q4_K_M.gguf")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["token_embd.weight"] == "Q6_K"
    assert kinds["blk.0.attn_v.weight"] == "Q4_K"
    assert kinds["blk.1.attn_v.weight"] == kinds["blk.1.ffn_down.weight"] == "Q6_K"
    assert kinds["blk.1.attn_q.weight"] == "Q4_K"
    assert kinds["blk.1.ffn_norm.weight"] == "F32"


@pytest.mark.parametrize("name", ["Q8_0", "F16", "Q4_K_M"])
def test_python_alone_writes_the_same_kind_of_model(
    written: Path, tmp_path: Path, name: str
) -> None:
    script = ["plain_models.py", "--shape", "tiny", "--type", name, "--out"]
    (tmp_path / "a").mkdir()
    run(*script, tmp_path / "a")
    run(*script, tmp_path / "b")
    path = tmp_path / "a" / f"tiny-{name}.gguf"
    assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    readers = [gguf.GGUFReader(p) for p in (path, written / path.name)]
    plain, other = ({t.name: (t.tensor_type, list(t.shape)) for t in r.tensors} for r in readers)
    assert plain == other
    plain, other = (
        {key: field.contents() for key, field in r.fields.items() if "GGUF." not in key}
        for r in readers
    )
    del other["general.description"]
    assert plain == other
    for tensor in readers[0].tensors:
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        deviation = 0 if len(tensor.shape) == 1 else 0.02
        assert weights.std() == pytest.approx(deviation, rel=0.3)
    logits = a2sf.Engine(path).logits(IDS)
    assert np.isfinite(logits).all()
    assert 0.05 < logits.std() < 5


def test_an_output_of_its_own_has_the_type_that_a_tied_one_has() -> None:
    sys.path.insert(0, str(BENCH))
    try:
        shapes = importlib.import_module("shapes")
    finally:
        sys.path.remove(str(BENCH))
    large = shapes.SHAPES["8b"]
    tensors = dict(large.tensors())
    assert tensors["output.weight"] == tensors["token_embd.weight"] == (128256, 4096)
    kinds = {
        name: shapes.tensor_kind(name, size, "Q4_K_M", large.n_layers, tied=large.tied, pure=False)
        for name, size in tensors.items()
    }
    assert (kinds["token_embd.weight"], kinds["output.weight"]) == ("Q4_K", "Q6_K")
    n_params = sum(int(np.prod(size)) for size in tensors.values())
    assert n_params == 8_030_261_248  # Llama 3.1 8B


def test_a_seed_gives_the_same_file(written: Path, tmp_path: Path) -> None:
    run("write_models.py", "--shape", "tiny", "--type", "Q4_K_M", "--out", tmp_path)
    name = "tiny-Q4_K_M.gguf"
    assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


@pytest.mark.parametrize(("name", "error"), [("Q8_0", 0.05), ("Q4_K_M", 0.4)])
def test_a_model_quantised_again_is_the_same_model(
    written: Path, tmp_path: Path, name: str, error: float
) -> None:
    source = written / "tiny-BF16.gguf"
    run("write_models.py", "--from", source, "--type", name, "--out", tmp_path)
    engines = [a2sf.Engine(path) for path in (source, tmp_path / f"tiny-{name}.gguf")]
    expected, found = (engine.logits(IDS) for engine in engines)
    assert np.sqrt(np.mean((found - expected) ** 2)) < error * expected.std()
    assert engines[0].tokenize("the cat") == engines[1].tokenize("the cat")


def test_missing_peers_are_named_and_skipped(written: Path, tmp_path: Path) -> None:
    results = tmp_path / "rounds.json"
    done = run(
        "compare_peers.py",
        written / "tiny-Q8_0.gguf",
        *("--rounds", "2", "--prompt", "16", "--decode", "2", "--depths", "0,64", "--budget", "32"),
        *("--python-llama", tmp_path / "none", "--json", results),
    )
    assert "llama.cpp skipped: " in done.stdout
    assert "No such file" in done.stderr
    if importlib.util.find_spec("openvino_genai") is None:
        assert "OpenVINO skipped: openvino-genai is not installed for " in done.stderr
    rounds = [r for r in json.loads(results.read_text())["results"] if r["engine"] == "a2sf"]
    assert [(r["depth"], r["round"], r["cache"]) for r in rounds] == [
        *((0, i, "full") for i in range(2)),
        *((64, i, cache) for i in range(2) for cache in ("full", "32")),
    ]
    assert all(speed > 0 for r in rounds for speed in r["speeds"].values())
    assert "| whole prompt | 64 | 32 | " in done.stdout


def test_long_chat_runs(bundled: Path) -> None:
    done = run("long_chat.py", bundled, "--turns", "22", "--budget", "128", "--answer", "6")
    lines = done.stdout.splitlines()
    assert len([line for line in lines if line.startswith("|")]) == 13
    assert "| 128 |" in lines[-3]
    assert lines[-2].startswith("writing a token, last half, old / young: ")
    assert lines[-1].startswith("cache bytes after turn 20: ")


@pytest.fixture(scope="module")
def eval_peers() -> Iterator[ModuleType]:
    """The script, whose neighbours it imports by name."""
    sys.path.insert(0, str(BENCH))
    try:
        yield importlib.import_module("eval_peers")
    finally:
        sys.path.remove(str(BENCH))


def test_a_question_hides_its_number_where_it_says(eval_peers: ModuleType) -> None:
    for depth in (0.0, 0.5, 1.0):
        text, number = eval_peers.question(random.Random(3), 40, depth)
        assert (text, number) == eval_peers.question(random.Random(3), 40, depth)
        assert text.count(number) == 1
        before = text[: text.index("The code of the vault is")].count(".") - 1
        assert before == 40 * depth


def test_mcnemar_counts_what_one_alone_got_right(eval_peers: ModuleType) -> None:
    same = [True, False] * 10
    assert eval_peers.p_value(same, same) == 1.0
    # 5 against 0: 2 * (1/2) ** 5; 5 against 1: 2 * (1 + 6) / 2 ** 6
    assert eval_peers.p_value([True] * 5 + same, [False] * 5 + same) == pytest.approx(0.0625)
    ours, theirs = [True] * 5 + [False], [False] * 5 + [True]
    assert eval_peers.p_value(ours, theirs) == pytest.approx(14 / 64)


def test_the_table_sets_peers_beside_ours(eval_peers: ModuleType) -> None:
    def found(policy: str, engine: str, budget: int, prompt: int, right: bool) -> object:
        return eval_peers.Found(policy, engine, 100, budget, prompt, "", right, 0.5)

    rows = [found("tova", "kvpress", 64, i, i < 1) for i in range(8)]
    rows += [found("tova", "a2sf", 64, i, True) for i in range(8)]
    rows += [found("full", "a2sf", 0, i, True) for i in range(2)]
    lines = list(eval_peers.table(rows, [100], [64, 128]))
    assert lines[2] == "| full | a2sf | - | 2/2, 0.50 s | 2/2, 0.50 s |  |"
    assert lines[3] == "| tova | kvpress | TOVAPress | 1/8, 0.50 s | - | 0.02 |"
    assert lines[4] == "| tova | a2sf | tova | 8/8, 0.50 s | - |  |"
    assert len(lines) == 5


def test_every_policy_of_ours_that_peers_meet_is_valid(eval_peers: ModuleType) -> None:
    ours = [case for case in eval_peers.cases() if case.engine == "a2sf"]
    for case in ours:
        a2sf.Eviction(policy=case.name or "full", **case.options)
    assert {case.policy for case in ours} == {case.policy for case in eval_peers.cases()}


def test_quality_is_measured_without_the_peers(tmp_path: Path, bundled: Path) -> None:
    results = tmp_path / "answers.json"
    done = run(
        "eval_peers.py",
        bundled,
        *("--sizes", "200", "--budgets", "96", "--prompts", "1", "--answer", "2"),
        *("--python-kvpress", tmp_path / "none", "--python-openvino", tmp_path / "none"),
        *("--json", results),
    )
    assert "kvpress skipped: " in done.stdout
    assert "OpenVINO skipped: " in done.stderr
    values = json.loads(results.read_text())
    assert len(values["answers"]) == len([c for c in values["cases"] if c["engine"] == "a2sf"])
    assert 100 < len(values["prompts"][0]["ids"]) <= 200
    assert all(answer["time_s"] > 0 for answer in values["answers"])


def test_the_evidence_is_made_by_commands_that_there_are(tmp_path: Path) -> None:
    stub, asked = tmp_path / "bin" / "a2sf-eval", tmp_path / "asked.jsonl"
    stub.parent.mkdir()
    stub.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"open({str(asked)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
        "open(sys.argv[sys.argv.index('-o') + 1], 'a').write('x')\n",
        encoding="utf-8",
    )
    stub.chmod(0o755)
    texts = [tmp_path / "wiki.txt", tmp_path / "shakespeare.txt"]
    for text in texts:
        text.write_text("\n".join(map(str, range(90_000))), encoding="utf-8")
    parts = "policies factors needles other chunk recall tasks bundled calibrate"
    path = f"{stub.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [BENCH / "evidence.sh", "model.gguf", *texts, tmp_path / "out"],
        env={**os.environ, "PATH": path, "A2SF_PARTS": parts},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    commands = [json.loads(line) for line in asked.read_text(encoding="utf-8").splitlines()]
    kinds = {"perplexity", "needle", "recall", "tasks", "calibrate", "report"}
    assert {command[0] for command in commands} == kinds
    for command in commands:
        given = make_parser().parse_args(command)
        files = getattr(given, "file", None) or getattr(given, "results", [])
        assert all(Path(file).stat().st_size > 0 for file in files)
        if hasattr(given, "scope"):
            assert evictions(argparse.Namespace(**{**vars(given), "eviction_file": [], "policy":
                             given.policy.replace("local", "streaming")}))  # fmt: skip


def cuda_all(out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """cuda_all.sh where it times the CPU and a tiny model."""
    common = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "A2SF_DEVICE": "cpu", "A2SF_PROGRAM": program(), "A2SF_SHAPES": "tiny",
    }  # fmt: skip
    return subprocess.run(
        [BENCH / "cuda_all.sh", out],
        env={**os.environ, **common, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What it leaves and prints."""
    out = tmp_path_factory.mktemp("cuda-all")
    done = cuda_all(out, A2SF_PIP="0", A2SF_TYPES="F16 Q8_0", A2SF_DEPTHS="64,96", A2SF_BUDGET="32")
    assert done.returncode in (0, 1), done.stderr
    assert done.stderr == ""
    assert "failed:" not in done.stdout, done.stdout
    return out, done.stdout


@pytest.mark.slow
def test_the_script_for_a_gpu_does_without_a_package_index(tmp_path: Path) -> None:
    index = {
        "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": "",
    }  # fmt: skip
    done = cuda_all(tmp_path, A2SF_TYPES="F16", A2SF_SECONDS="0", **index)
    assert "no package index: without the Python tests" in done.stdout, done.stdout
    assert "failed:" not in done.stdout, done.stdout


@pytest.mark.slow
def test_the_script_for_a_gpu_times_and_compares(dry_run: tuple[Path, str]) -> None:
    out, printed = dry_run
    names = [
        f"{kind}-tiny-{name}" for kind in ("decode", "depth", "score") for name in ("F16", "Q8_0")
    ]
    assert sorted(path.stem for path in out.glob("*.json")) == ["apart-tiny-F16", *names]
    tests = [row["test"] for row in json.loads((out / f"{names[0]}.json").read_text())]
    assert tests == ["pp512", "pp2048", "tg128"]
    rows = json.loads((out / f"{names[2]}.json").read_text())
    found = [(row["policy"], row["depth"], row["budget"]) for row in rows]
    assert found == [("a2sf", 64, 32), ("a2sf", 96, 32)]
    rows = json.loads((out / f"{names[4]}.json").read_text())
    found = [(row["policy"], row["depth"], row["budget"]) for row in rows]
    assert found == [("a2sf", 64, 32), ("streaming", 64, 32)]
    assert "greedy tokens that are the CPU's: 32 of 32" in printed
    lines = [line.split("|")[1:-1] for line in printed.splitlines() if line.startswith("| ")]
    whats = [cells[0].strip() for cells in lines[1:]]
    assert whats == [
        "decode, tiny F16", "decode, tiny Q8_0", "prompt, tiny F16",
        "flat in depth, tiny F16", "cost of scoring, tiny F16",
        "flat in depth, tiny Q8_0", "cost of scoring, tiny Q8_0",
    ]  # fmt: skip
    assert all(cells[3].strip() in ("met", "not met") for cells in lines[1:])
    assert "without overlapping launches, tiny F16: " in printed
    assert not list(out.glob("*.gguf"))


@pytest.mark.slow
def test_what_a_gpu_did_not_reach_is_said(dry_run: tuple[Path, str], tmp_path: Path) -> None:
    """The table of rows that are far from, or beyond, what was asked, and of none."""
    for kind in ("depth", "score"):
        rows = json.loads((dry_run[0] / f"{kind}-tiny-F16.json").read_text())
        for row in rows:  # a token of a2sf takes a tenth longer, and all are flat
            row["tokens_per_s"] = 100 if row["policy"] == "streaming" else 90
        (tmp_path / f"{kind}-tiny-F16.json").write_text(json.dumps(rows))
    # Ended before the last depth, and before anything.
    (tmp_path / "depth-tiny-Q8_0.json").write_text(json.dumps(rows[:1]))
    (tmp_path / "score-tiny-Q8_0.json").write_text("")
    rows = json.loads((dry_run[0] / "decode-tiny-F16.json").read_text())
    for row in rows:
        row["fraction_of_peak"], row["copy_gb_s"], row["device_bytes"] = 0.6, 4000, 2**31
    (tmp_path / "decode-tiny-F16.json").write_text(json.dumps(rows))
    command = [sys.executable, BENCH / "cuda_table.py", tmp_path, "--shapes", "tiny"]
    done = subprocess.run(
        [*command, "--types", "F16", "Q8_0", "--last-depth", "96"], capture_output=True, text=True
    )
    assert done.returncode == 1
    verdicts = [line.rsplit("|", 2)[1].strip() for line in done.stdout.splitlines()[2:9]]
    expected = ["not met", "not measured", "met", "met", "not met", "not measured", "not measured"]
    assert verdicts == expected
    assert "| 64: 10.0% | not met |" in done.stdout
    assert "60.0%: " in done.stdout
    assert "4,000 GB/s, 2.0 GiB" in done.stdout
    assert "2 of 7 met" in done.stdout
