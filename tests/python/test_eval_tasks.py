"""`a2sf-eval tasks` and the log-likelihoods below it."""

from __future__ import annotations

import itertools
import json
import random

import a2sf
import numpy as np
import pytest
from a2sf._options import fix_budget
from a2sf.eval import read_rows
from a2sf.eval.__main__ import main
from a2sf.eval._answers import exact_match, token_f1
from a2sf.eval._items import Layout, read_items, write_out
from a2sf.eval._kinds import find_kind
from a2sf.eval._likelihood import (
    PART,
    Request,
    Writing,
    encode_pair,
    log_likelihoods,
    read_contexts,
    write_answers,
)
from eval_items import choice_items, save, written_items


@pytest.fixture(scope="module")
def engine():
    return a2sf.Engine(threads=1)


@pytest.fixture(scope="module")
def contexts(engine):
    """Texts that begin alike for 0, 70, 140, 199 and 200 tokens, one inside another among them."""
    one, other = (engine.tokenize(item["context"]) for item in choice_items(2, n_tokens=280))
    return [
        tuple(part)
        for part in (
            one[:200], one[:200] + other[5:45], one[:199] + other[7:9], one[:140] + other[5:75],
            one[:140] + other[6:66], one[:70] + other[9:109], other[:80], one[:201], one[:30],
        )
    ]  # fmt: skip


def evictions():
    """Every policy token by token, where reading is shared; and where it is not."""
    for policy in a2sf.policies():
        if policy == "full":
            yield a2sf.Eviction(policy=policy)
        else:
            yield a2sf.Eviction(policy=policy, budget=48, prefill="token")
    for prefill in ("chunk", "full"):
        yield a2sf.Eviction(budget=48, prefill=prefill)


def test_what_else_is_asked_for_changes_no_bit(engine, contexts):
    tails = [(7, 9, 301), (7,)]
    for eviction in evictions():
        requests = [
            Request(context=context, continuation=tail, eviction=eviction)
            for context, tail in itertools.product(contexts, tails)
        ]
        random.Random(0).shuffle(requests)
        together = log_likelihoods(engine, requests)
        assert together == [log_likelihoods(engine, [one])[0] for one in requests], eviction


def test_several_evictions_at_once_are_kept_apart(engine, contexts):
    requests = [
        Request(context=contexts[0], continuation=(7, 9), eviction=eviction)
        for eviction in evictions()
    ]
    assert log_likelihoods(engine, requests) == [
        log_likelihoods(engine, [one])[0] for one in requests
    ]


def test_log_likelihoods_are_those_of_the_whole_text(engine, contexts):
    """Up to rounding: `score` multiplies many tokens at once, a continuation comes one by one."""
    tail = (7, 9, 301)
    for eviction in (a2sf.Eviction(policy="full"), a2sf.Eviction(budget=48, prefill="token")):
        requests = [Request(context=c, continuation=tail, eviction=eviction) for c in contexts]
        for context, score in zip(contexts, log_likelihoods(engine, requests), strict=True):
            whole = engine.score([*context, *tail], eviction=eviction)[-len(tail) :]
            assert score.log_prob == pytest.approx(float(whole.sum()), abs=0.2)
            assert not score.greedy
            taken = tuple(engine.generate(context, max_tokens=3, eviction=eviction).ids)
            request = Request(context=context, continuation=taken, eviction=eviction)
            assert log_likelihoods(engine, [request])[0].greedy


def test_beginnings_that_contexts_share_are_read_once(engine, contexts, monkeypatch):
    parts = []
    feed = a2sf.Session.feed

    def note(session, ids):
        parts.append((session.n_tokens, tuple(ids)))
        return feed(session, ids)

    monkeypatch.setattr(a2sf.Session, "feed", note)
    list(read_contexts(engine, contexts, a2sf.Eviction(budget=48, prefill="token")))
    ends = [first + len(ids) for first, ids in parts]
    of_first = [ids for first, ids in parts if first == 0 and len(ids) == PART]
    assert len(of_first) == len(set(of_first)) == 1  # six contexts begin with it
    assert sorted(end for end in ends if end <= 2 * PART and end % PART == 0) == [PART, 2 * PART]
    assert sum(len(ids) for _, ids in parts) < 0.7 * sum(len(context) for context in contexts)


def test_written_answers_are_those_of_generate(engine, contexts):
    for eviction in (a2sf.Eviction(policy="full"), a2sf.Eviction(budget=48, prefill="chunk")):
        tasks = [
            Writing(context=context, eviction=eviction, max_tokens=n, stop=(".",))
            for context in contexts
            for n in (4, 12)
        ]
        assert write_answers(engine, tasks) == [
            engine.generate(t.context, max_tokens=t.max_tokens, stop=".", eviction=eviction).text
            for t in tasks
        ]


def test_space_before_a_continuation_is_its_own(engine):
    one = encode_pair(engine.tokenizer, "Nora keeps the key ", "in the jar")
    other = encode_pair(engine.tokenizer, "Nora keeps the key", " in the jar")
    assert one == other
    assert engine.detokenize(one[1]) == " in the jar"
    empty = encode_pair(engine.tokenizer, "", "Nora")
    assert empty[0] == (engine.tokenizer.bos,)
    assert engine.detokenize(empty[1]) == "Nora"


@pytest.mark.parametrize(("share", "n", "tokens"), [("20%", 12, 2), (0.2, 13, 3), ("1%", 9, 1)])
def test_shares_are_rounded_as_the_engine_does(engine, share, n, tokens):
    eviction = a2sf.Eviction(policy="a2sf-paper", budget=share)
    session = engine.session(eviction=eviction)
    session.feed(range(n))
    assert fix_budget(eviction, n).budget == session.cache.budget == tokens


@pytest.mark.parametrize(
    ("answer", "matches", "f1"),
    [
        ("The green jar!", 1.0, 1.0),
        ("a Green, jar", 1.0, 1.0),
        ("jar green", 0.0, 1.0),
        ("green green box", 0.0, 0.4),
        ("", 0.0, 0.0),
        ("under the rug", 0.0, 0.0),
    ],
)
def test_answers_are_compared_as_squad_does(answer, matches, f1):
    right = ["something else", "green jar"]
    assert exact_match(answer, right) == matches
    assert token_f1(answer, right) == pytest.approx(f1)


def command(items, output, *more):
    return ["tasks", "-q", "-f", str(items), "-o", str(output), *more]


def test_choices_are_scored_by_their_likelihood(engine, tmp_path, capsys):
    items = choice_items(17)
    path, output = save(tmp_path / "items.jsonl", items), tmp_path / "out.jsonl"
    assert main(command(path, output, "--policy", "local", "--budget", "48")) == 0
    assert "difference to the full cache" in capsys.readouterr().out
    rows = read_rows([output])
    assert [row["options"]["n"] for row in rows] == [16, 1, 16, 1]
    for row in rows:
        eviction = a2sf.Eviction(**row["options"]["eviction"])
        assert eviction.policy in ("full", "streaming")
        for i, scores in enumerate(row["result"]["scores"]):
            item = items[row["options"]["first"] + i]
            context = engine.tokenize(item["context"])
            found = []
            for choice in item["choices"]:
                whole = engine.tokenize(f"{item['context']} {choice}")
                assert whole[: len(context)] == context
                found.append(engine.score(whole, eviction=eviction)[len(context) - 1 :].sum())
            assert row["result"]["log_probs"][i] == pytest.approx(found, rel=0.05)
            found = np.array(row["result"]["log_probs"][i])
            lengths = [len(choice) for choice in item["choices"]]
            assert scores["acc"] == float(np.argmax(found) == item["answer"])
            assert scores["acc_norm"] == float(
                np.argmax(found / np.array(lengths)) == item["answer"]
            )
    full = [s["acc"] for row in rows[:2] for s in row["result"]["scores"]]
    assert np.mean(full) > 0.8  # by chance: 0.25
    for figure in find_kind("tasks").figures(rows):
        figure.savefig(tmp_path / "figure.png")


def test_written_answers_are_scored(engine, tmp_path):
    items = written_items(6)
    path, output = save(tmp_path / "items.jsonl", items), tmp_path / "out.jsonl"
    assert main(command(path, output, "--policy", "streaming", "--budget", "50%")) == 0
    full, streaming = read_rows([output])
    for item, answer, scores in zip(
        items, full["result"]["answers"], full["result"]["scores"], strict=True
    ):
        assert answer == engine.generate(item["prompt"], max_tokens=24, stop=".").text
        assert scores["exact_match"] == exact_match(answer, [item["answer"]])
        assert scores["exact_match"] <= scores["rouge_l"] <= 1.0
    assert np.mean([s["exact_match"] for s in full["result"]["scores"]]) > 0.5
    n_context = [len(engine.tokenize(item["prompt"])) for item in items]
    assert streaming["result"]["budgets"] == [[int(n / 2 + 0.5)] for n in n_context]


def test_the_papers_protocol(engine, tmp_path):
    """Budget floor(0.2 * all + 0.5) of context and continuation, evicting token by token."""
    items = choice_items(3)
    path, output = save(tmp_path / "items.jsonl", items), tmp_path / "out.jsonl"
    assert main(command(path, output, "--protocol", "paper", "--shots", "1")) == 0
    rows = read_rows([output])
    given = [row["options"]["eviction"] for row in rows]
    assert given == [
        {"policy": "full"},
        {"policy": "streaming", "budget": "20%", "prefill": "token", "sinks": 0},
        {"policy": "h2o", "budget": "20%", "prefill": "token"},
        {"policy": "a2sf-paper", "budget": "20%", "prefill": "token"},
    ]
    asked = write_out(read_items(str(path), "{question}"), None, Layout(shots=1))
    for i, item in enumerate(asked):
        n_tokens = [
            len(engine.tokenize(context + choice))
            for context, choice in zip(item.contexts, item.continuations, strict=True)
        ]
        budgets = [int(0.2 * n + 0.5) for n in n_tokens]
        assert rows[0]["result"]["budgets"][i] == [None] * 4
        for row in rows[1:]:
            assert row["result"]["budgets"][i] == budgets
        for j, n in enumerate(n_tokens):  # what h2o protects: the recent half, and no sinks
            h2o = fix_budget(a2sf.Eviction(**given[2]), n)
            session = engine.session(eviction=h2o)
            session.feed(engine.tokenize(item.contexts[j]))
            newest = np.sort(session.cache.positions(0, 0))[-(budgets[j] // 2) :]
            assert newest.tolist() == list(range(session.n_tokens - len(newest), session.n_tokens))
            assert session.cache.budget == budgets[j]


@pytest.mark.parametrize(
    ("policies", "more", "found"),
    [
        ("local", (), [("full", None), ("streaming", 0)]),
        ("streaming,local", (), [("full", None), ("streaming", None), ("streaming", 0)]),
        ("full", (), [("full", None)]),
        ("local,a2sf", ("--forgetting-factor", "0.5"), [
            ("full", None), ("streaming", 0), ("a2sf", None),
        ]),
    ],
)  # fmt: skip
def test_local_is_streaming_without_sinks(tmp_path, policies, more, found):
    path, output = save(tmp_path / "items.jsonl", choice_items(1)), tmp_path / "out.jsonl"
    assert main(command(path, output, "--policy", policies, "--budget", "40", *more)) == 0
    given = [row["options"]["eviction"] for row in read_rows([output])]
    assert [(options["policy"], options.get("sinks")) for options in given] == found


def test_examples_come_before_the_item_and_are_never_the_item(tmp_path):
    lines = [
        {"question": f"Number {i}?", "choices": ["no", f"yes {i}"], "answer": 1} for i in range(6)
    ]
    items = read_items(str(save(tmp_path / "items.jsonl", lines)), "Q: {question}\nA:")
    written = write_out(items, None, Layout(description="Count.\n", shots=2, seed=3))
    for i, item in enumerate(written):
        start, *solved, last = item.contexts[0].replace("Count.\n", "Count.\n\n\n").split("\n\n")
        assert (start, last) == ("Count.", f"Q: Number {i}?\nA:")
        assert len(set(solved)) == 2
        for example in solved:
            number = example[len("\nQ: Number " if example[0] == "\n" else "Q: Number ")]
            assert number != str(i)
            assert example.endswith(f"\nA: yes {number}")
    assert written == write_out(items, None, Layout(description="Count.\n", shots=2, seed=3))
    assert written != write_out(items, None, Layout(description="Count.\n", shots=2, seed=4))
    others = write_out(items, items[:2], Layout(shots=2))
    assert len({item.contexts[0].rpartition("\n\n")[0] for item in others}) == 1


def test_one_text_after_several_contexts(tmp_path):
    line = {"contexts": ["The cat", "The dog"], "continuation": "sat.", "answer": 1}
    (item,) = read_items(str(save(tmp_path / "items.jsonl", [line])), "{question}")
    (written,) = write_out([item], None, Layout())
    assert written.contexts == ("The cat", "The dog")
    assert written.continuations == (" sat.", " sat.")
    assert written.solved == ("The dog", "sat.")


GOOD = {"context": "A", "choices": ["b", "c"], "answer": 1}


@pytest.mark.parametrize(
    ("line", "more", "message"),
    [
        ("[1]", [], ":2: a JSON object expected"),
        ("{", [], ":2: a JSON object expected"),
        ({"choices": ["a"], "answer": 0}, [], "one of context, prompt"),
        ({**GOOD, "question": "B"}, [], "found context and question"),
        ({**GOOD, "answer": 2}, [], "an answer from 0 to 1 expected, found 2"),
        ({**GOOD, "answer": True}, [], "an answer from 0 to 1"),
        ({**GOOD, "choices": []}, [], "at least 1 text under 'choices'"),
        ({**GOOD, "choices": ["", "b"]}, [], "a list of texts under 'choices'"),
        ({"prompt": "A"}, [], "text under 'answer'"),
        ({"prompt": "A", "answer": "b", "max_tokens": 0}, [], "max_tokens of at least 1"),
        ({"prompt": "A", "answer": "b", "max_tokens": True}, [], "max_tokens of at least 1"),
        ({"question": "A", "answer": "b"}, ["--template", "{q}"], "the fields of the template"),
        (
            {"prompt": "A " * 3000, "answer": "b"},
            ["--policy", "full"],
            "item 1: at most 2048 tokens",
        ),
        (GOOD, ["--shots", "2"], "shots: 0 to 1 expected, found 2"),
        (GOOD, ["--shots-file", "nowhere", "--shots", "1"], "found no file nowhere"),
        (GOOD, ["--policy", "a2sf"], "item 0: budget: at least"),
        (GOOD, ["--protocol", "paper", "--prefill", "chunk"], "prefill: token expected"),
        (GOOD, ["--limit", "0"], "limit: at least 1"),
        (GOOD, ["--policy", "locale"], "policy: one of"),
    ],
)
def test_what_makes_no_sense_is_bad_usage(tmp_path, capsys, line, more, message):
    path = tmp_path / "items.jsonl"
    text = line if isinstance(line, str) else json.dumps(line)
    path.write_text(json.dumps(GOOD) + "\n" + text + "\n", encoding="utf-8")
    assert main(command(path, tmp_path / "out.jsonl", *more)) == 2
    assert message in capsys.readouterr().err
