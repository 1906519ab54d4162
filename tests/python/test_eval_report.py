"""`a2sf-eval report`: one page that needs nothing else."""

from __future__ import annotations

import hashlib
import html.parser
import json
import os
import subprocess
import sys

import pytest
from a2sf.eval.__main__ import main
from a2sf.eval._groups import counted
from a2sf.eval._statistics import bootstrap_saving

TEXT = "Nora keeps the stone letter in the white sack. " * 30


class Page(html.parser.HTMLParser):
    """Cells of tables, headings, and whatever a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            own = ("#", "data:")
            if name in ("src", "href", "xlink:href") and not value.startswith(own):
                self.fetched.append(value)

    def handle_data(self, data):
        if self.tags and self.tags[-1] in ("td", "th", "h2", "h3", "h1", "dd"):
            self.cells.append(data.strip())


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    text = folder / "<b>text & more.txt"
    text.write_text(TEXT, encoding="utf-8")
    output = folder / "out.jsonl"
    shared = ["-q", "-f", str(text), "-o", str(output), "--ctx", "96", "--skip", "32",
              "--windows", "2", "--policy", "a2sf,streaming"]  # fmt: skip
    assert main(["perplexity", *shared, "--budget", "25%,50%"]) == 0
    assert main(["recall", *shared, "--budget", "25%"]) == 0
    return output


def test_the_page_has_every_table_and_picture_and_fetches_nothing(results, tmp_path):
    page = tmp_path / "page.html"
    assert main(["report", str(results), "-o", str(page), "--title", "Losses & more"]) == 0
    content = page.read_text(encoding="utf-8")
    parsed = Page()
    parsed.feed(content)
    assert parsed.fetched == []
    assert "@import" not in content
    assert "url(http" not in content
    assert {"perplexity", "recall", "a2sf", "streaming", "25%", "50%"} <= set(parsed.cells)
    assert "nll lost to the full cache: <b>text & more.txt" in parsed.cells
    assert "Losses & more" in parsed.cells
    assert parsed.tags.count("svg") == 1 + 2
    assert "b" not in parsed.tags  # a file's name is text, not markup
    rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    assert rows[0]["model"]["sha256"] in content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html"]


def test_a_reader_that_has_seen_enough_gets_no_traceback(results):
    command = [sys.executable, "-m", "a2sf.eval", "report", str(results), "-o", "-"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=120
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_one_is_counted_as_one():
    assert (counted(1, "window"), counted(2, "window")) == ("1 window", "2 windows")


def test_markdown_has_the_same_tables(results, tmp_path, capsys):
    assert main(["report", str(results), "-o", "-"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# ")
    assert "## perplexity" in printed
    assert "| a2sf " in printed
    page = tmp_path / "page.md"
    assert main(["report", str(results), "-o", str(page)]) == 0
    assert page.read_text(encoding="utf-8").strip() == printed.strip()


def test_what_cannot_be_shown_is_an_error(results, tmp_path, capsys):
    assert main(["report", str(tmp_path / "nothing.jsonl")]) == 1
    assert "a file of results expected" in capsys.readouterr().err
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    assert main(["report", str(empty)]) == 2
    other = tmp_path / "other.jsonl"
    row = json.loads(results.read_text(encoding="utf-8").splitlines()[0])
    other.write_text(json.dumps({**row, "kind": "dance"}) + "\n", encoding="utf-8")
    assert main(["report", str(other)]) == 1
    assert "found dance" in capsys.readouterr().err
    assert main(["report", str(results), "-o", str(tmp_path / "no" / "page.html")]) == 1
    assert "a file that can be written expected" in capsys.readouterr().err


def test_results_of_another_version_are_left_out(results, tmp_path, capsys):
    """They have other keys under the same options: a mean over both would be of neither."""
    rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    old = [{**row, "key": f"old {row['key']}", "format": row["format"] - 1} for row in rows]
    del old[0]["format"]  # written before there was one
    mixed, gone = tmp_path / "mixed.jsonl", tmp_path / "gone.jsonl"
    for path, lines in ((mixed, old + rows), (gone, old)):
        path.write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    assert main(["report", str(results), "-o", "-"]) == 0
    expected = capsys.readouterr().out
    assert main(["report", str(mixed), "-o", "-"]) == 0
    found = capsys.readouterr()
    assert found.out == expected
    assert f"{len(old)} results of other versions are left out" in found.err
    assert main(["report", str(gone), "-o", "-"]) == 2
    assert f"found 0 of this version, and {len(old)} of others" in capsys.readouterr().err


def rows_of(paths):
    return [json.loads(line) for path in paths for line in path.read_text("utf-8").splitlines()]


def table_lines(markdown, title):
    """Cells of the one table with this title."""
    assert f"\n{title}\n" in markdown, markdown
    body = markdown.split(f"\n{title}\n")[1].strip().split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines()]


SHORT = [
    "--ctx",
    "96",
    "--skip",
    "32",
    "--windows",
    "2",
    "--policy",
    "streaming",
    "--budget",
    "50%",
]
ROOT = "nll lost to the full cache: text.txt"
# What differs, and the titles of the two tables.
DIFFERENT = {
    "ctx": (["--ctx", "80"], [f"{ROOT}, ctx 96", f"{ROOT}, ctx 80"]),
    "skip": (["--skip", "16"], [f"{ROOT}, skip 32", f"{ROOT}, skip 16"]),
    "batch": (["--batch", "16"], [f"{ROOT}, batch 512", f"{ROOT}, batch 16"]),
    "kv_type": (["--kv-type", "q8_0"], [f"{ROOT}, kv_type f16", f"{ROOT}, kv_type q8_0"]),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_rows_of_another_setting_are_another_table(tmp_path, capsys, what):
    more, titles = DIFFERENT[what]
    text, output = tmp_path / "text.txt", tmp_path / "out.jsonl"
    text.write_text(TEXT, encoding="utf-8")
    command = ["perplexity", "-q", "-f", str(text), "-o", str(output), *SHORT]
    alone = []
    for options in ([], more):
        capsys.readouterr()
        assert main([*command, *options]) == 0
        printed = "\n" + capsys.readouterr().out
        assert table_lines(printed, ROOT)  # nothing differs in it
        alone.append(table_lines(printed, ROOT))
    assert main(["report", str(output), "-o", "-"]) == 0
    page = capsys.readouterr().out
    assert [table_lines(page, title) for title in titles] == alone
    assert page.count(ROOT) == 2


def test_lines_of_one_policy_say_what_differs_between_them(tmp_path, capsys):
    text, output = tmp_path / "text.txt", tmp_path / "out.jsonl"
    text.write_text(TEXT, encoding="utf-8")
    command = ["perplexity", "-q", "-f", str(text), "-o", str(output), *SHORT]
    assert main([*command, "--policy", "streaming,h2o"]) == 0
    assert main([*command, "--prefill", "full"]) == 0
    # A result under another preset, and one of a version that did not say under which.
    rows = rows_of([output])
    token = [row for row in rows if row["options"]["eviction"]["prefill"] == "token"]
    other = tmp_path / "other.jsonl"
    lines = []
    for row in token:
        if row["options"]["eviction"]["policy"] == "streaming":
            sinks = {**row["resolved"], "sinks": 9}
            lines.append({**row, "key": "9" + row["key"], "resolved": sinks})
            lines.append(
                {k: v for k, v in row.items() if k != "resolved"} | {"key": row["key"][1:]}
            )
    other.write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    capsys.readouterr()
    assert main(["report", str(output), "-o", "-"]) == 0
    found = [line[0] for line in table_lines(capsys.readouterr().out, ROOT)[2:]]
    h2o = "h2o (prefill=token)"  # or it could not be told with which it compares
    assert found == ["streaming (prefill=token)", h2o, "streaming (prefill=full)"]
    assert main(["report", str(output), str(other), "-o", "-"]) == 0
    found = [line[0] for line in table_lines(capsys.readouterr().out, ROOT)[2:]]
    assert found == [
        "streaming (sinks=4, prefill=token)",
        h2o,
        "streaming (sinks=4, prefill=full)",
        "streaming (sinks=9, prefill=token)",
        "streaming (sinks=4, prefill=token, preset=unknown)",
    ]


def test_two_texts_of_one_name_are_two_tables(tmp_path, capsys):
    titles, output = [], tmp_path / "out.jsonl"
    for folder, content in (("a", TEXT), ("b", TEXT[9:])):
        (tmp_path / folder).mkdir()
        text = tmp_path / folder / "text.txt"
        text.write_text(content, encoding="utf-8")
        assert main(["perplexity", "-q", "-f", str(text), "-o", str(output), *SHORT]) == 0
        titles.append(f"{ROOT} ({hashlib.sha256(content.encode()).hexdigest()[:6]})")
    capsys.readouterr()
    assert main(["report", str(output), "-o", "-"]) == 0
    page = capsys.readouterr().out
    assert all(table_lines(page, title) for title in titles)


def test_a_cell_of_fewer_windows_says_so(tmp_path, capsys):
    text, output = tmp_path / "text.txt", tmp_path / "out.jsonl"
    text.write_text(TEXT, encoding="utf-8")
    command = ["perplexity", "-q", "-f", str(text), "-o", str(output), *SHORT]
    assert main([*command, "--policy", "streaming,h2o"]) == 0
    assert main([*command, "--windows", "3"]) == 0
    capsys.readouterr()
    assert main(["report", str(output), "-o", "-"]) == 0
    cells = {line[0]: line[1] for line in table_lines(capsys.readouterr().out, ROOT)}
    assert cells["h2o"].endswith("] (2 of 3 windows)")
    assert cells["streaming"].endswith("]")


@pytest.mark.parametrize(
    ("command", "settings", "titles"),
    [
        (
            ["sensitivity", "--ctx", "80", "--skip", "40", "--windows", "1"],
            [["--budget", "16"], ["--budget", "24"]],
            [f"divergence when one head alone has {n} tokens: text.txt" for n in (16, 24)],
        ),
        (
            ["recall", *SHORT],
            [[], ["--every", "32"]],
            [f"what is held of a full cache's attention: text.txt, every {n}" for n in (64, 32)],
        ),
        (
            ["needle", "--length", "150", "--depth", "50", "--trials", "1", "--policy", "streaming",
             "--budget", "64"],
            [[], ["--kv-type", "f32"]],
            [f"answers right: text.txt, kv_type {kind}" for kind in ("f16", "f32")],
        ),
    ],
)  # fmt: skip
def test_every_measurement_keeps_settings_apart(tmp_path, capsys, command, settings, titles):
    text, output = tmp_path / "text.txt", tmp_path / "out.jsonl"
    text.write_text(TEXT, encoding="utf-8")
    for more in settings:
        assert main([*command, "-q", "-f", str(text), "-o", str(output), *more]) == 0
    capsys.readouterr()
    page = tmp_path / "page.html"
    assert main(["report", str(output), "-o", str(page)]) == 0
    assert main(["report", str(output), "-o", "-"]) == 0
    printed = capsys.readouterr().out
    assert all(len(table_lines(printed, title)) > 2 for title in titles)
    assert page.read_text(encoding="utf-8").count("<figure>") == (4 if "needle" in command else 2)


def test_tasks_of_two_templates_say_which(tmp_path, capsys):
    items, output = tmp_path / "items.jsonl", tmp_path / "out.jsonl"
    item = {"question": "Who?", "choices": ["Nora.", "Paul."], "answer": 0}
    items.write_text(json.dumps(item) + "\n", encoding="utf-8")
    command = ["tasks", "-q", "-f", str(items), "-o", str(output), "--policy", "h2o"]
    for more in ([], ["--template", "{question}"]):
        assert main([*command, "--budget", "8", *more]) == 0
    capsys.readouterr()
    assert main(["report", str(output), "-o", "-"]) == 0
    page = capsys.readouterr().out
    assert table_lines(page, "accuracy: items.jsonl, template {question}, 0-shot")


def test_a_saving_is_a_share_of_the_same_tokens_loss():
    other = [0.3, 0.1, 0.4, 0.2]
    share, low, high = bootstrap_saving([value / 4 for value in other], other)
    assert (share, low, high) == pytest.approx((0.75, 0.75, 0.75))
    share, low, high = bootstrap_saving([0.1, 0.1, 0.1, 0.1], other)
    assert share == pytest.approx(0.6)
    assert low < share < high
    assert bootstrap_saving([0.0, 0.0], [-0.1, 0.1]) is None


def test_the_saving_of_a2sf_is_told_where_others_are(results, capsys):
    assert main(["report", str(results), "-o", "-"]) == 0
    printed = capsys.readouterr().out
    table = printed[printed.index("what a2sf saves of the loss: <b>text & more.txt") :]
    rows = [line.split("|")[1].strip() for line in table.split("\n\n")[1].split("\n")]
    assert [rows[0], *rows[2:]] == ["policy", "streaming"]  # a2sf is not set against itself
