"""`a2sf-eval needle`: the prompts, what counts as right, the table."""

from __future__ import annotations

import json
from pathlib import Path

import a2sf
import pytest
from a2sf.eval import read_rows
from a2sf.eval.__main__ import main
from a2sf.eval._haystack import make_prompt
from a2sf.eval._statistics import share_right


@pytest.fixture(scope="module")
def tokenizer(models):
    path = models.parents[1] / "vocab" / "ggml-vocab-qwen2.gguf"
    if not path.is_file():
        pytest.skip(f"no {path}")
    return a2sf.Tokenizer(path)


@pytest.mark.parametrize("length", [300, 700])
@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_a_prompt_is_as_long_as_asked_and_holds_the_fact_at_its_depth(tokenizer, length, depth):
    prompt = make_prompt(tokenizer, length, depth, seed=3)
    assert length - 40 < len(prompt.ids) <= length
    text = tokenizer.decode(prompt.ids)
    story = text[: text.index("Question:")]
    assert text.count(prompt.number) == 1
    hay = story[story.index("\n\n") :]
    assert hay.index(prompt.number) / len(hay) == pytest.approx(depth, abs=0.1)


def test_the_same_seed_gives_the_same_prompt_and_another_seed_another(tokenizer):
    one, same, other = (make_prompt(tokenizer, 400, 0.5, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.number != other.number


def test_the_haystack_can_be_the_users_text(tokenizer):
    prompt = make_prompt(
        tokenizer, 400, 0.5, seed=1, text="Nora keeps the letter. The sack is white."
    )
    text = tokenizer.decode(prompt.ids)
    assert text.count("Nora keeps the letter.") > 3


def test_a_length_below_the_question_is_refused(tokenizer):
    with pytest.raises(a2sf.OptionError, match="length: at least"):
        make_prompt(tokenizer, 20, 0.5, seed=1)


def test_questions_of_a_file_are_asked_under_every_eviction(tmp_path, capsys):
    prompt = (Path(__file__).parents[2] / "models" / "demo.txt").read_text(encoding="utf-8")
    path = tmp_path / "questions.jsonl"
    items = [
        {"prompt": prompt.rstrip(), "answer": "Nora keeps the stone letter in the white sack."},
        {"prompt": prompt.rstrip(), "answer": "Nora keeps the stone letter in the green box."},
    ]
    path.write_text("\n\n".join(json.dumps(item) for item in items), encoding="utf-8")
    output = tmp_path / "out.jsonl"
    status = main(
        ["needle", "-q", "--questions", str(path), "-o", str(output),
         "--policy", "a2sf,streaming", "--budget", "25%"]
    )  # fmt: skip
    assert status == 0
    found = {
        (row["options"]["eviction"]["policy"], row["options"]["question"]): row["result"]["right"]
        for row in read_rows([output])
    }
    assert found == {
        ("full", 0): True, ("full", 1): False,
        ("a2sf", 0): True, ("a2sf", 1): False,
        ("streaming", 0): False, ("streaming", 1): False,
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "| full" in printed
    assert "50% [9%, 91%]" in printed


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--depth", "120"], "depth: 0 to 100"),
        (["--length", "0"], "length: at least "),
        (["--length", "300,20"], "tokens expected, found 20"),
        (["--length", "300,2025"], "length: at most 2024 tokens (the model's context"),
        (["--trials", "0"], "trials: at least 1"),
        (["--length", "long"], "length: numbers"),
        (["-f", "nowhere.txt"], "no file nowhere.txt"),
        (["--questions", __file__], '"prompt": ...'),
    ],
)
def test_what_makes_no_sense_is_bad_usage(tmp_path, capsys, more, message):
    output = tmp_path / "out.jsonl"
    assert main(["needle", "-q", "-o", str(output), "--length", "300", *more]) in (1, 2)
    assert message in capsys.readouterr().err


def test_a_text_without_sentences_is_refused_before_the_work(tmp_path, capsys):
    text, output = tmp_path / "empty.txt", tmp_path / "out.jsonl"
    text.write_text(" \n", encoding="utf-8")
    assert main(["needle", "-q", "-f", str(text), "-o", str(output), "--length", "300"]) == 2
    assert "file: a text with sentences expected" in capsys.readouterr().err
    assert not output.exists()


def test_a_share_of_right_answers_has_an_interval_with_a_width():
    assert share_right([1.0] * 10) == (1.0, pytest.approx(0.722, abs=1e-3), 1.0)
    share, low, high = share_right([1.0, 0.0, 0.0, 0.0])
    assert share == 0.25
    assert (low, high) == pytest.approx((0.0456, 0.6994), abs=1e-3)  # Wilson's formula by hand


def test_the_default_lengths_are_those_that_the_model_reads(tmp_path, capsys):
    output = tmp_path / "out.jsonl"
    command = ["needle", "-o", str(output), "--depth", "50", "--trials", "1", "--policy",
               "streaming", "--budget", "64"]  # fmt: skip
    assert main(command) == 0
    errors = capsys.readouterr().err
    assert "lengths 1000, 2000, without 4000, 7000: the model's context is 2048 tokens" in errors
    assert {row["options"]["length"] for row in read_rows([output])} == {1000, 2000}


def test_a_question_longer_than_the_context_is_refused_before_any_is_asked(tmp_path, capsys):
    path, output = tmp_path / "questions.jsonl", tmp_path / "out.jsonl"
    items = [{"prompt": "Nora walks. " * n, "answer": "Nora"} for n in (3, 3000)]
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    assert (
        main(["needle", "-q", "--questions", str(path), "-o", str(output), "--budget", "64"]) == 2
    )
    errors = capsys.readouterr().err
    assert "question 1: at most 2024 tokens (the model's context" in errors
    assert "give a budget" not in errors
    assert not output.exists()


@pytest.mark.parametrize("answer", ["", " ", None, 5])
def test_an_answer_that_any_text_begins_with_is_refused(tmp_path, capsys, answer):
    path, output = tmp_path / "questions.jsonl", tmp_path / "out.jsonl"
    path.write_text(json.dumps({"prompt": "Nora walks.", "answer": answer}), encoding="utf-8")
    assert (
        main(["needle", "-q", "--questions", str(path), "-o", str(output), "--budget", "64"]) == 2
    )
    assert '{"prompt": ..., "answer": ...} expected' in capsys.readouterr().err


def test_a_policy_asked_less_than_others_is_set_beside_the_full_cache_of_the_same(tmp_path, capsys):
    command = ["needle", "-q", "-o", str(tmp_path / "o.jsonl"), "--length", "300", "--budget", "64"]
    assert main([*command, "--depth", "20,80", "--policy", "a2sf"]) == 0
    assert main([*command, "--depth", "20", "--trials", "1", "--policy", "streaming"]) == 0
    capsys.readouterr()
    assert main(["report", str(tmp_path / "o.jsonl"), "-o", "-"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (asked_less,) = (line for line in lines if line.startswith("| streaming"))
    assert "(1 of 4 prompts, full cache 0%)" in asked_less
    assert not any("full cache" in line for line in lines if line.startswith("| a2sf"))
