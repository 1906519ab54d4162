"""`a2sf-eval report`: one page that needs nothing else."""

from __future__ import annotations

import html.parser
import json

import pytest
from a2sf.eval.__main__ import main

TEXT = "Nora keeps the stone letter in the white sack. " * 12


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


def test_what_was_measured_otherwise_is_shown_apart(tmp_path, capsys):
    texts = [tmp_path / name / "text.txt" for name in ("a", "b")]
    for text, sentence in zip(texts, (TEXT, TEXT.replace("Nora", "Jonas")), strict=True):
        text.parent.mkdir()
        text.write_text(sentence, encoding="utf-8")
    output = tmp_path / "out.jsonl"
    shared = ["perplexity", "-q", "-o", str(output), "--skip", "32", "--windows", "1",
              "--budget", "50%", "--policy", "full,streaming"]  # fmt: skip

    def measure(text, ctx, *more):
        return main([*shared, "-f", str(text), "--ctx", str(ctx), *more])

    assert measure(texts[0], 96) == 0
    assert main(["report", str(output), "-o", "-"]) == 0
    assert "## perplexity\n" in capsys.readouterr().out
    assert [measure(texts[0], 80), measure(texts[1], 96)] == [0, 0]
    assert measure(texts[0], 96, "--kv-type", "q8_0") == 0
    assert measure(texts[0], 96, "--prefill", "chunk") == 0
    capsys.readouterr()
    assert main(["report", str(output), "-o", "-"]) == 0
    printed = capsys.readouterr().out
    headings = [line for line in printed.splitlines() if line.startswith("## ")]
    assert len(headings) == len(set(headings)) == 5
    for what in ("ctx 80", "ctx 96", "kv_type q8_0", "prefill token", "prefill chunk"):
        assert any(what in heading for heading in headings), what
    assert sum("text text.txt (" in heading for heading in headings) == 5
    assert printed.count("| full") == 5
    assert printed.count("| streaming") == 5
    assert "]*" not in printed


def test_fewer_windows_are_marked(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    output = tmp_path / "out.jsonl"
    shared = ["perplexity", "-q", "-f", str(text), "-o", str(output), "--ctx", "96",
              "--skip", "32", "--budget", "50%"]  # fmt: skip
    assert main([*shared, "--policy", "h2o", "--windows", "2"]) == 0
    assert main([*shared, "--policy", "streaming", "--windows", "1"]) == 0
    capsys.readouterr()
    assert main(["report", str(output), "-o", "-"]) == 0
    lines = capsys.readouterr().out.splitlines()
    marked = {line.split()[1]: "]*" in line for line in lines if line.startswith("| ")}
    assert marked["streaming"]
    assert not marked["h2o"]
