"""`a2sf.plot`: recordings against the cache, pictures, and the page as a browser shows it."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import a2sf
import numpy as np
import pytest
from a2sf import plot
from a2sf.plot import __main__ as command
from a2sf.plot._text_view import _page, text_units

STORY = "Nora keeps the stone letter in the white sack. " * 8
# What a page, its script and a decoder could trip over.
ODD = (
    'Wörld — naïve \u65e5\u672c\U0001f999\U0001f999 </script><b id="x">&amp; "q" \'s\' \\u003c '
    "{{data}} <!-- \n\n\tend"
)
TOKEN = a2sf.Eviction(budget=24, prefill="token")


@pytest.fixture(scope="module")
def engine():
    return a2sf.Engine(progress=False)


@pytest.fixture(scope="module")
def ids(engine):
    return engine.tokenize(STORY + ODD, special=False)


@pytest.fixture(scope="module")
def recording(engine, ids):
    return plot.record(engine.session(eviction=TOKEN), ids, every=20)


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
    if found is None:
        assert "CI" not in os.environ, "chromium expected on this machine (CI is set), found none"
        pytest.skip("no chromium to run the page's script")
    return found


@pytest.fixture(scope="module")
def shown(browser, tmp_path_factory):
    """Return the elements of a page after its script has run."""
    profile = tmp_path_factory.mktemp("profile")

    def dump(page: Path, address: str = "") -> str:
        run = subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
             f"--user-data-dir={profile}", "--dump-dom", f"file://{quote(str(page))}{address}"],
            capture_output=True, check=False, timeout=120,
        )  # fmt: skip
        text = run.stdout.decode()
        assert 'data-ready="yes"' in text, run.stderr.decode()[-2000:]
        return text

    return dump


def counts(dom: str) -> list[int]:
    """Heads that hold each token, as the page says."""
    return [int(n) for held in re.findall(r' data-held="([\d ]*)"', dom) for n in held.split()]


def text_of(dom: str) -> str:
    body = re.search(r'<main id="text"[^>]*>(.*?)</main>', dom, re.DOTALL)
    assert body
    return html.unescape(re.sub(r"<[^>]*>", "", body.group(1)))


def expected(positions, n_tokens: int) -> list[int]:
    return np.bincount(np.concatenate(positions), minlength=n_tokens).tolist()


@pytest.mark.parametrize("policy", [p for p in a2sf.policies() if p != "full"])
def test_a_recording_is_what_the_cache_held_at_each_look(engine, ids, policy):
    eviction = a2sf.Eviction(policy=policy, budget=40, prefill="token")
    found = plot.record(engine.session(eviction=eviction), ids, every=32)
    session = engine.session(eviction=eviction)
    shape = (found.n_steps, found.n_layers, found.n_kv_heads)
    assert found.n_tokens == len(ids)
    assert found.steps.tolist() == [*range(32, len(ids), 32), len(ids)]
    assert found.live().shape == shape
    for step, n in enumerate(found.steps):
        session.feed(ids[session.n_tokens : n])
        assert found.live()[step].tolist() == session.cache.live.tolist()
        for layer, head in np.ndindex(*shape[1:]):
            held = session.cache.positions(layer, head)
            assert found.positions(step, layer, head).tolist() == held.tolist()
    assert found.live().min() < len(ids)


def test_looking_after_every_token_changes_nothing(engine, ids):
    session = engine.session(eviction=TOKEN)
    found = plot.record(session, ids[:60])
    assert found.steps.tolist() == list(range(1, 61))
    whole = engine.session(eviction=TOKEN)
    whole.feed(ids[:60])
    assert found.positions(-1, 1, 0).tolist() == whole.cache.positions(1, 0).tolist()
    one = plot.snapshot(whole.cache)
    assert one.steps.tolist() == [60]
    assert one.positions(0, 1, 0).tolist() == whole.cache.positions(1, 0).tolist()


def test_a_session_that_has_read_something_is_recorded_from_there(engine, ids):
    session = engine.session(eviction=TOKEN)
    session.feed(ids[:50])
    before = session.cache.positions(0, 0).tolist()
    found = plot.record(session, ids[50:51])
    assert found.n_tokens == 51
    assert found.positions(0, 0, 0).tolist() == session.cache.positions(0, 0).tolist()
    assert set(found.positions(0, 0, 0).tolist()) <= {*before, 50}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e, i, r: plot.record(e.session(), i, every=0), "every: at least 1"),
        (lambda e, i, r: plot.record(e.session(), []), "ids: at least 1"),
        (lambda e, i, r: plot.snapshot(e.session().cache), "found 0 tokens"),
        (lambda e, i, r: r.positions(99, 0, 0), "step: 0 to"),
        (lambda e, i, r: r.positions(0, 99, 0), "layer: 0 to"),
        (lambda e, i, r: plot.kept_over_time(r, 0, 9), "head: 0 to"),
        (lambda e, i, r: plot.text_view(e, i[:-1], r, "page.html"), r"ids: the \d+ tokens"),
        (lambda e, i, r: plot.score_distribution(e.session().cache, layer=99), "layer: 0 to"),
        (lambda e, i, r: plot.score_distribution(e.session().cache), "found zeros only"),
    ],
)
def test_what_makes_no_sense_is_refused(engine, ids, recording, call, message):
    with pytest.raises(a2sf.OptionError, match=message):
        call(engine, ids, recording)


def test_the_picture_of_a_head_shows_what_it_held(engine, ids, recording, tmp_path):
    figure = plot.kept_over_time(recording, 1, 1)
    mesh = figure.axes[0].collections[0]
    shown = np.asarray(mesh.get_array()).reshape(len(ids), recording.n_steps)
    for step in range(recording.n_steps):
        held = np.flatnonzero(shown[:, step]).tolist()
        assert held == recording.positions(step, 1, 1).tolist()
    figure.savefig(tmp_path / "kept.png")
    assert (tmp_path / "kept.png").stat().st_size > 1000


def test_a_long_text_is_drawn_by_shares(recording):
    n = 2500
    gone = np.full((1, 1, n), 1, np.int32)
    gone[0, 0, : n // 2] = 0
    long = plot.Recording(steps=np.array([n], np.int32), gone=gone)
    shown = np.asarray(plot.kept_over_time(long, 0, 0).axes[0].collections[0].get_array()).ravel()
    assert len(shown) == 834  # rows of 3 positions
    assert shown[:416].max() == 0
    assert shown[417:].min() == 1


def test_the_overview_has_a_row_for_each_head(recording):
    figure = plot.kept_overview(recording)
    live, age = (np.asarray(axes.collections[0].get_array()) for axes in figure.axes[:2])
    flat = recording.live().reshape(recording.n_steps, -1).T
    assert live.reshape(flat.shape).tolist() == flat.tolist()
    layer, head = 2, 1
    row = age.reshape(flat.shape)[layer * recording.n_kv_heads + head]
    held = recording.positions(-1, layer, head)
    assert row[-1] == pytest.approx(recording.n_tokens - 1 - held.mean())


def test_scores_are_drawn_by_layer_or_by_head(engine, ids):
    session = engine.session(eviction=TOKEN)
    session.feed(ids)
    cache = session.cache
    line = plot.score_distribution(cache).axes[0].lines[0]
    scores = np.concatenate([cache.scores(2, head) for head in range(cache.n_kv_heads)])
    assert line.get_xdata().tolist() == list(range(cache.n_layers))
    assert line.get_ydata()[2] == pytest.approx(np.median(scores[scores > 0]))
    one = plot.score_distribution(cache, layer=1, head=0)
    assert "layer 1" in one.axes[0].get_title()
    assert len(one.axes[0].patches) == 1
    both = plot.score_distribution(cache, layer=1)
    assert len(both.axes[0].patches) == cache.n_kv_heads


def test_tokens_that_split_a_character_are_one_unit(engine, ids):
    units = text_units(engine.tokenizer, ids)
    assert sum(size for _, size in units) == len(ids)
    assert "".join(text for text, _ in units) == engine.tokenizer.decode(ids, special=True)
    assert {"ö": 2, "—": 3}.items() <= dict(units).items()
    assert all("\ufffd" not in text for text, _ in units)


@pytest.mark.parametrize("name", ["llama-spm", "llama-bpe", "qwen2"])
def test_units_of_other_tokenizers_are_the_text(models, name):
    path = models.parents[1] / "vocab" / f"ggml-vocab-{name}.gguf"
    if not path.is_file():
        pytest.skip(f"no {path}")
    tokenizer = a2sf.Tokenizer(path)
    ids = tokenizer.encode(ODD, special=False, bos=False)
    units = text_units(tokenizer, ids)
    assert sum(size for _, size in units) == len(ids)
    assert all(text for text, _ in units)
    begins = " " if name == "llama-spm" else ""  # part of its first token
    assert "".join(text for text, _ in units) == begins + ODD


def test_bytes_that_are_no_character_stay_alone(engine):
    ids = engine.tokenize("\U0001f999", special=False)
    part = ids[-1:]  # a continuation byte
    found = text_units(engine.tokenizer, [*part, *engine.tokenize("ab", special=False, bos=False)])
    assert found[0] == ("\ufffd", 1)
    assert "".join(text for text, _ in found[1:]) == "ab"


def test_the_page_has_the_text_and_nothing_of_it_is_markup(engine, ids, recording, shown, tmp_path):
    page = tmp_path / "a page.html"
    plot.text_view(engine, ids, recording, page, title="<i>T</i> & {{data}}")
    source = page.read_text(encoding="utf-8")
    assert source.count("</script>") == 2
    assert not re.search(r"(?:src|href)\s*=|url\(|https?:", source)
    dom = shown(page)
    assert text_of(dom) == engine.tokenizer.decode(ids, special=True)
    assert 'id="x"' not in dom[dom.index("<main") :].partition("</main>")[0]
    assert "<h1>&lt;i&gt;T&lt;/i&gt; &amp; {{data}}</h1>" in dom


def test_no_token_is_markup(shown, tmp_path):
    units = ["</script>", "<script>", "<!--", "</SCRIPT \n>", '"\\', "\u2028", "<b>&lt;"]
    n = len(units)
    data = {"n_layers": 1, "n_kv_heads": 1, "steps": [n], "bits": 1, "gone": "fw==",
            "units": units, "sizes": [1] * n}  # fmt: skip
    page = _page("title", data)
    inside = re.search(r'<script type="application/json" id="data">(.*?)</script', page, re.DOTALL)
    assert inside
    assert "<" not in inside.group(1)
    assert json.loads(inside.group(1)) == data
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    dom = shown(tmp_path / "page.html")
    assert text_of(dom) == "".join(units)
    assert counts(dom) == [1] * n


def test_the_page_shows_the_cache_as_it_is(engine, ids, shown, tmp_path):
    session = engine.session(eviction=TOKEN)
    session.feed(ids)
    page = tmp_path / "page.html"
    plot.text_view(engine.tokenizer, ids, session.cache, page)
    cache = session.cache
    grid = list(np.ndindex(cache.n_layers, cache.n_kv_heads))
    dom = shown(page)
    assert counts(dom) == expected([cache.positions(*at) for at in grid], len(ids))
    assert re.search(r'<label id="time" hidden', dom)
    one = shown(page, "#layer=3&head=1")
    assert counts(one) == expected([cache.positions(3, 1)], len(ids))
    assert f"a head holds {cache.live[3, 1]};" in one
    layer = shown(page, "#layer=2")
    positions = [cache.positions(2, head) for head in range(cache.n_kv_heads)]
    assert counts(layer) == expected(positions, len(ids))
    wrong = shown(page, "#layer=77&head=x&step=-1")
    assert counts(wrong) == counts(dom)


@pytest.mark.parametrize("every", [20, 1])
def test_the_page_goes_back_in_time(engine, ids, shown, tmp_path, every):
    more = (ids * 3)[:280]  # with every=1 more looks than a byte counts
    recording = plot.record(engine.session(eviction=TOKEN), more, every=every)
    page = tmp_path / "page.html"
    plot.text_view(engine, more, recording, page)
    for step in (2, recording.n_steps - 2):
        dom = shown(page, f"#layer=1&head=0&step={step}")
        assert counts(dom) == expected([recording.positions(step, 1, 0)], len(more))
        read = recording.steps[step]
        assert f">{read}</output>" in dom
        assert dom.count('class="t unread"') > 1


def test_the_page_is_worked_with_the_keyboard(engine, ids, recording, shown, tmp_path):
    page = tmp_path / "page.html"
    plot.text_view(engine, ids, recording, page)
    keys = """<script>addEventListener("load", () => {
      const press = (key) => document.getElementById("text").dispatchEvent(
        new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
      ["Home", "ArrowRight", "ArrowRight", "ArrowLeft"].forEach(press);
      const layer = document.getElementById("layer");
      layer.value = "2";
      layer.dispatchEvent(new Event("input"));
    });</script></body>"""
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", keys), encoding="utf-8")
    dom = shown(page)
    held = sum(1 in recording.positions(-1, 2, head) for head in range(recording.n_kv_heads))
    assert f"position 1: held by {held} of {recording.n_kv_heads} heads" in dom
    assert not re.search(r'<aside id="note" hidden', dom)
    positions = [recording.positions(-1, 2, head) for head in range(recording.n_kv_heads)]
    assert counts(dom) == expected(positions, len(ids))


def test_the_command_writes_the_page(engine, tmp_path, shown):
    text = tmp_path / "text.txt"
    text.write_text(STORY, encoding="utf-8")
    page = tmp_path / "page.html"
    assert command.main(["-f", str(text), "-o", str(page), "--budget", "25%", "--every", "30"]) == 0
    ids = engine.tokenize(STORY, special=False)
    session = engine.session(
        eviction=a2sf.Eviction(budget=int(len(ids) / 4 + 0.5), prefill="token")
    )
    session.feed(ids)
    cache = session.cache
    grid = np.ndindex(cache.n_layers, cache.n_kv_heads)
    assert counts(shown(page)) == expected([cache.positions(*at) for at in grid], len(ids))


@pytest.mark.parametrize("policy", a2sf.policies())
def test_the_command_takes_every_policy(tmp_path, policy):
    page = tmp_path / "page.html"
    budget = [] if policy == "full" else ["--budget", "60"]
    assert command.main(["-p", STORY, "--policy", policy, "-o", str(page), *budget]) == 0
    data = re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert data
    found = json.loads(data.group(1))
    assert sum(found["sizes"]) == found["steps"][-1]


def test_the_command_takes_an_eviction_file(tmp_path, capsys):
    file, page = tmp_path / "found.eviction", tmp_path / "page.html"
    a2sf.Eviction(policy="h2o", budget="40%", recent=3).save(file)
    options = ["-p", STORY, "--eviction-file", str(file), "-o", str(page)]
    assert command.main(options) == 0
    assert "h2o, budget 40%" in page.read_text(encoding="utf-8")
    assert command.main([*options, "--budget", "30%"]) == 0
    assert "h2o, budget 30%" in page.read_text(encoding="utf-8")
    assert command.main([*options, "--eviction-file", str(page)]) == 2
    capsys.readouterr()


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (["--budget", "many"], 2, "budget: tokens or a share"),
        (["--budget", "200%"], 2, "budget"),
        (["--every", "0"], 2, "every: at least 1"),
        (["--ctx", "0"], 2, "ctx: at least 1"),
        (["--policy", "h3o"], 2, "policy"),
        (["--policy", "full", "--budget", "60"], 2, "budget: no such option expected"),
        (["--policy", "streaming", "--forgetting-factor", "0.5"], 2, "forgetting_factor"),
        (["--prefill", "full", "--every", "5"], 2, "every: none expected"),
        (["--budget", ""], 2, "budget: tokens or a share"),
        (["-m", "nowhere.gguf"], 1, "nowhere.gguf"),
        (["-o", "no/such/folder.html"], 1, "a file that can be written"),
    ],
)
def test_the_command_says_what_is_wrong(capsys, monkeypatch, tmp_path, more, status, message):
    monkeypatch.chdir(tmp_path)
    assert command.main(["-p", STORY, *more]) == status
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
