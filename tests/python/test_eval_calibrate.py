"""`a2sf-eval sensitivity` and `calibrate`: what one short head costs, and what is made of it."""

from __future__ import annotations

import re
from pathlib import Path

import a2sf
import numpy as np
import pytest
from a2sf.eval import read_rows
from a2sf.eval.__main__ import main
from a2sf.eval._calibrate import LEAST_SHARE, MOST_SHARE, with_shares
from a2sf.eval._sensitivity import log_softmax, matrix_of, one_short_head

DEMO = Path(__file__).parents[2] / "models" / "demo.txt"  # a note that the model can read
TEXT = DEMO.read_text(encoding="utf-8")


@pytest.fixture
def text():
    return DEMO


@pytest.fixture(scope="module")
def engine():
    return a2sf.Engine()


def test_one_head_is_short_and_the_others_keep_everything(engine):
    ids = engine.tokenize(TEXT)[:200]
    session = engine.session(eviction=one_short_head(engine, len(ids), 24, 2, 1))
    session.feed(ids)
    expected = np.full((engine.info.n_layers, engine.info.n_kv_heads), len(ids))
    expected[2, 1] = 24
    np.testing.assert_array_equal(session.cache.live, expected)


def test_the_divergence_is_that_of_its_definition(engine, text, tmp_path):
    output = tmp_path / "out.jsonl"
    command = ["sensitivity", "-q", "-f", str(text), "-o", str(output), "--ctx", "120",
               "--skip", "60", "--budget", "24"]  # fmt: skip
    assert main(command) == 0
    rows = read_rows([output])
    assert len(rows) == engine.info.n_layers * engine.info.n_kv_heads
    values = matrix_of(rows)
    assert values.shape == (engine.info.n_layers, engine.info.n_kv_heads)
    ids = engine.tokenize(TEXT, special=False)[:120]
    p = log_softmax(engine.logits(ids)[60::4]).astype(np.float64)
    eviction = one_short_head(engine, len(ids), 24, 1, 0)
    q = log_softmax(engine.logits(ids, eviction=eviction)[60::4]).astype(np.float64)
    assert values[1, 0] == pytest.approx((np.exp(p) * (p - q)).sum(axis=1).mean(), rel=1e-3)
    assert (values > -1e-6).all()


def test_shares_follow_need_within_bounds_and_have_mean_one():
    need = np.array([[1e-6, 1e-3], [1e-2, 1.0]])
    assert with_shares({"budget": 9}, need, 0.0) == {"budget": 9}
    shares = np.array(with_shares({}, need, 0.5)["allocation"])
    assert (np.diff(shares) >= 0).all()
    assert shares.mean() == pytest.approx(1.0, abs=0.01)
    assert shares.min() >= LEAST_SHARE
    assert shares.max() <= MOST_SHARE


def test_what_is_found_loses_less_on_text_it_has_not_seen(text, tmp_path, capsys):
    written = tmp_path / "found.eviction"
    command = ["calibrate", "-q", "-f", str(text), "-o", str(tmp_path / "out.jsonl"), "--ctx",
               "320", "--skip", "40", "--windows", "6", "--budget", "24", "--write", str(written),
               "--policy", "tova", "--factors", "0.97", "--recents", "10%,25%"]  # fmt: skip
    assert main(command) == 0
    printed = capsys.readouterr().out
    found = re.search(r"budget 24, evicted token by token: (\S+) nats .* (\S+) with these", printed)
    before, after = map(float, found.groups())
    assert after < before
    # In whatever order the results were written (by several workers, say).
    output = tmp_path / "out.jsonl"
    lines = output.read_text(encoding="utf-8").splitlines(keepends=True)
    output.write_text("".join(sorted(lines)), encoding="utf-8")
    assert main(command) == 0
    assert capsys.readouterr().out == printed
    eviction = a2sf.Eviction.load(written)
    assert eviction.budget == 24
    assert len(eviction.allocation) == a2sf.Engine().info.n_layers * 2
    assert "Held-out text" in written.read_text(encoding="utf-8")
    # The file is one of a sweep's evictions.
    command = ["perplexity", "-q", "-f", str(text), "-o", str(tmp_path / "more.jsonl"), "--ctx",
               "200", "--skip", "60", "--windows", "2", "--policy", "tova", "--budget", "32,64",
               "--eviction-file", str(written)]  # fmt: skip
    assert main(command) == 0
    assert "allocation=" in capsys.readouterr().out


def test_what_may_be_chance_is_not_written(text, tmp_path, capsys):
    written = tmp_path / "found.eviction"
    command = ["calibrate", "-q", "-f", str(text), "-o", str(tmp_path / "out.jsonl"), "--ctx",
               "150", "--skip", "40", "--windows", "6", "--budget", "24", "--write", str(written),
               "--policy", "h2o", "--factors", "0.97,0.99", "--recents", "10%"]  # fmt: skip
    assert main(command) == 1
    printed = capsys.readouterr().out
    assert " saved [95 % interval -" in printed
    assert "Nothing is written: that may be chance; more --windows tell." in printed
    assert not written.exists()


def test_a_calibration_without_text_to_prove_it_is_refused(text, tmp_path, capsys):
    command = ["calibrate", "-q", "-f", str(text), "-o", str(tmp_path / "o.jsonl"), "--ctx", "200",
               "--windows", "1", "--skip", "20"]  # fmt: skip
    assert main(command) == 2
    assert "windows: at least 2" in capsys.readouterr().err


def calibrate(text, tmp_path, *more):
    return ["calibrate", "-q", "-f", str(text), "-o", str(tmp_path / "o.jsonl"), "--ctx", "200",
            "--skip", "60", "--windows", "2", "--budget", "32",
            "--write", str(tmp_path / "found.eviction"), *more]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--write", "/dev/null/found"], "/dev/null/found: a file to write expected"),
        (["--policy", "full"], "policy: one that evicts expected, found full"),
        (
            ["--policy", "streaming", "--factors", "0.9"],
            "factors: none expected for policy streaming",
        ),
        (
            ["--policy", "streaming", "--recents", "10%"],
            "recents: none expected for policy streaming",
        ),
        (["--policy", "snapkv", "--factors", "0.9"], "factors: none expected for policy snapkv"),
        (["--sinks-tried", "4,x"], "sinks-tried: numbers with commas expected"),
        (["--policy", "dance"], "policy: one of"),
        (["--factors", "0.9,many"], "factors: numbers"),
        (["--factors", "0.9,1.5"], "forgetting_factor: a number from 0 to 1"),
        (["--recents", "10%,abc"], "recents: numbers"),
        (["--recents", "10%,"], "recents: a list"),
        (["--ctx", "0"], "ctx: at least 2 tokens"),
        (["--ctx", "9000"], "ctx: at most 2048 tokens"),
    ],
)
def test_what_cannot_be_calibrated_is_said_before_the_work(text, tmp_path, capsys, more, message):
    assert main(calibrate(text, tmp_path, *more)) == (1 if "--write" in more else 2)
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("budget", ["32", "100%"])
def test_what_gains_nothing_on_text_it_has_not_seen_is_not_written(text, tmp_path, capsys, budget):
    more = ["--policy", "streaming", "--budget", budget]
    assert main(calibrate(text, tmp_path, *more)) == 1
    assert "Nothing is written" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["o.jsonl"]


@pytest.mark.parametrize("policy", ["streaming", "keydiff"])
def test_a_policy_is_calibrated_by_the_options_that_it_has(text, tmp_path, policy):
    more = ["--policy", policy, "--ctx", "120", "--skip", "30", "--windows", "6", "--budget", "24"]
    assert main(calibrate(text, tmp_path, *more)) == 0
    eviction = a2sf.Eviction.load(tmp_path / "found.eviction")
    assert eviction.policy == policy
    assert eviction.forgetting_factor is None
