"""`a2sf-eval`: jobs, the file of results, and that a sweep that was stopped goes on."""

from __future__ import annotations

import json

import a2sf
import numpy as np
import pytest
from a2sf import _core
from a2sf.eval import Job, Results, read_rows
from a2sf.eval.__main__ import main
from a2sf.eval._jobs import resolved

TEXT = "Nora keeps the stone letter in the white sack. " * 20


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def command(text, output, *more):
    return [
        "perplexity", "-q", "-f", str(text), "-o", str(output), "--ctx", "96", "--skip", "32",
        "--windows", "2", "--policy", "a2sf,streaming", "--budget", "25%,50%", *more,
    ]  # fmt: skip


def test_what_is_lost_is_the_difference_of_two_scores(text, tmp_path):
    output = tmp_path / "out.jsonl"
    assert main(command(text, output)) == 0
    rows = read_rows([output])
    assert len(rows) == 2 * 2 * 2
    engine = a2sf.Engine()
    ids = engine.tokenize(TEXT, special=False)
    for row in rows:
        options = row["options"]
        window = ids[options["first"] : options["first"] + 96]
        full = engine.score(window, eviction=a2sf.Eviction(policy="full"))[31:]
        kept = engine.score(window, eviction=a2sf.Eviction(**options["eviction"]))[31:]
        result = row["result"]
        assert result["n"] == len(full) == 64
        assert result["nll_full"] == pytest.approx(-full.mean(), abs=1e-5)
        assert result["nll"] == pytest.approx(-kept.mean(), abs=1e-5)
        assert np.mean(result["blocks"]) == pytest.approx((full - kept).mean(), abs=1e-5)
        assert options["eviction"]["prefill"] == "token"
        assert row["model"]["sha256"]
        assert row["versions"]["a2sf"] == a2sf.__version__
        assert row["machine"]["isa"] == a2sf.isa()


def test_a_sweep_that_was_cut_short_continues_where_it_was(text, tmp_path, capsys):
    output = tmp_path / "out.jsonl"
    assert main(command(text, output)) == 0
    lines = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(b"".join(lines[:3]) + lines[3][:40])  # killed in the middle of a line
    assert main(command(text, output)) == 0
    again = output.read_bytes().splitlines(keepends=True)
    assert again[:3] == lines[:3]
    assert len(again) == len(lines)
    assert {json.loads(line)["key"] for line in again} == {
        json.loads(line)["key"] for line in lines
    }
    before = output.read_bytes()
    assert main(command(text, output)) == 0  # nothing left to do
    assert output.read_bytes() == before
    assert "a2sf" in capsys.readouterr().out


def test_windows_do_not_overlap(text, tmp_path, capsys):
    output = tmp_path / "out.jsonl"
    more = ["--windows", "50", "--policy", "streaming", "--budget", "50%"]
    assert main([option for option in command(text, output, *more) if option != "-q"]) == 0
    assert "instead of 50 windows" in capsys.readouterr().err
    firsts = [row["options"]["first"] for row in read_rows([output])]
    assert len(firsts) > 1
    assert min(np.diff(firsts)) >= 96


def test_another_text_is_another_job(text, tmp_path):
    output = tmp_path / "out.jsonl"
    assert main(command(text, output)) == 0
    text.write_text(TEXT + "More.", encoding="utf-8")
    assert main(command(text, output)) == 0
    assert len(read_rows([output])) == 16


def test_a_text_that_changed_is_read_again(text, tmp_path):
    output = tmp_path / "out.jsonl"
    assert main(command(text, output)) == 0
    changed = "Ines gives the old key to Paul under the pink island. " * 20
    text.write_text(changed, encoding="utf-8")
    assert main(command(text, output)) == 0
    engine = a2sf.Engine()
    ids = engine.tokenize(changed, special=False)
    row = read_rows([output])[-1]
    options = row["options"]
    window = ids[options["first"] : options["first"] + 96]
    full = engine.score(window, eviction=a2sf.Eviction(policy="full"))[31:]
    assert row["result"]["nll_full"] == pytest.approx(-full.mean(), abs=1e-5)


def test_another_preset_is_another_job(text, tmp_path, monkeypatch):
    output = tmp_path / "out.jsonl"
    assert main(command(text, output)) == 0
    preset = _core.policy_preset

    def changed(policy):
        return {**preset(policy), **({"sinks": 7} if policy == "streaming" else {})}

    monkeypatch.setattr(_core, "policy_preset", changed)
    assert main(command(text, output)) == 0
    rows = read_rows([output])
    again = rows[8:]
    assert [row["options"]["eviction"]["policy"] for row in again] == ["streaming"] * 4
    assert {row["resolved"]["sinks"] for row in again} == {7}
    # What is given takes the place of the preset.
    given = {"policy": "streaming", "budget": "25%", "prefill": "token", "sinks": 4}
    keys = set()
    for what in (preset, changed):
        monkeypatch.setattr(_core, "policy_preset", what)
        keys.add(Job(kind="perplexity", model=text, options={"eviction": given}).key)
    assert len(keys) == 1


def test_a_preset_gives_way_to_what_was_given():
    assert resolved({}) == {}
    found = resolved({"policy": "snapkv", "budget": 64, "recent": "10%"})
    assert found["recent"] == "10%"
    assert not {"recent_tokens", "recent_share"} & found.keys()
    assert found["window"] == _core.policy_preset("snapkv")["window"]


@pytest.mark.parametrize("notes", ["my notes\nand more", "notes", '{"key": "x"}\n', "{\n}"])
def test_a_file_of_something_else_is_refused_and_left_alone(text, tmp_path, capsys, notes):
    output = tmp_path / "notes.txt"
    output.write_text(notes, encoding="utf-8")
    assert main(command(text, output)) == 1
    assert "a result of a2sf-eval expected" in capsys.readouterr().err
    assert output.read_text(encoding="utf-8") == notes


def test_two_sweeps_cannot_write_to_one_file(text, tmp_path, capsys):
    output = tmp_path / "out.jsonl"
    with Results(output):
        assert main(command(text, output)) == 1
    assert "in use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--policy", "h3o"], "policy: one of"),
        (["--budget", "many"], "budget: numbers"),
        (["--recent", "many"], "recent: numbers"),
        (["--skip", "95"], "skip: 0 to ctx - 2"),
        (["--windows", "0"], "windows: at least 1"),
        (["--ctx", "2000"], "2000 tokens (--ctx) expected"),
        (["--ctx", "9000"], "ctx: at most 2048 tokens (the model's context"),
        (["--ctx", "0"], "ctx: at least 2 tokens expected, found 0"),
        (["-f", "nowhere.txt"], "no file nowhere.txt"),
        (["--policy", "streaming", "--forgetting-factor", "0.5"], "a policy that has it"),
        (["--sinks", "90", "--budget", "50"], "budget: at least"),
    ],
)
def test_what_makes_no_sense_is_bad_usage(text, tmp_path, capsys, more, message):
    assert main(command(text, tmp_path / "out.jsonl", *more)) == 2
    assert message in capsys.readouterr().err


def test_an_option_is_not_taken_for_a_longer_one(text, tmp_path, capsys):
    """snapkv's --window is not --windows."""
    with pytest.raises(SystemExit) as ended:
        main(command(text, tmp_path / "out.jsonl", "--window", "16"))
    assert ended.value.code == 2
    assert "--window" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["perplexity", "recall", "sensitivity", "calibrate", "tasks"])
def test_a_model_that_is_not_there_is_one_line(text, tmp_path, capsys, kind):
    output = ["-o", str(tmp_path / "out.jsonl")]
    assert main([kind, "-q", "-m", "missing.gguf", "-f", str(text), *output]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("a2sf-eval: missing.gguf: a file that can be read expected")
    assert printed.count("\n") == 1


def test_factors_go_to_the_policies_that_have_them(text, tmp_path):
    output = tmp_path / "out.jsonl"
    assert main(command(text, output, "--forgetting-factor", "0.5,0.9")) == 0
    found = {
        (r["options"]["eviction"]["policy"], r["options"]["eviction"].get("forgetting_factor"))
        for r in read_rows([output])
    }
    assert found == {("a2sf", 0.5), ("a2sf", 0.9), ("streaming", None)}
