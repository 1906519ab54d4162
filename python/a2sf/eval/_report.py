"""One page with all tables and pictures of a sweep: HTML that needs nothing else, or Markdown."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._core import VERSION, Error, OptionError
from ._jobs import FORMAT
from ._kinds import Table, kinds
from ._packages import require
from ._results import Row, read_rows
from ._show import as_markdown

NAME = "report"
SUMMARY = "one page with all tables and pictures of a sweep"
TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --ink: #1d2330; --faint: #667; --line: #d8dce4; --back: #fff; --soft: #f5f6f9 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ee; --faint: #9aa3b2; --line: #343b49; --back: #161a22; --soft: #1e2430 }
}
body { margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 70rem; color: var(--ink); background: var(--back);
  font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.6rem; margin: 0 0 .3rem } h2 { margin: 2.6rem 0 .4rem; border-bottom: 1px solid var(--line) }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .4rem }
p, caption { color: var(--faint); font-size: .9rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .7rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap }
th { background: var(--soft) }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem }
figure { margin: 0; padding: .5rem; background: #fff; border: 1px solid var(--line); border-radius: 6px }
figure svg { width: 100%; height: auto; display: block }
figure svg text { font-family: inherit }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .9rem }
dt { color: var(--faint) } dd { margin: 0; overflow-wrap: anywhere }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<dl>{% for name, value in facts %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
{% for section in sections %}
<h2>{{ section.name }}</h2>
<p>{{ section.summary }}: {{ section.n_jobs }} jobs, {{ section.time }}.</p>
{% for table in section.tables %}
<h3>{{ table.title }}</h3>
<div class="scroll"><table>
<thead><tr>{% for cell in table.header %}<th scope="col">{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in table.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}
</tbody></table></div>
<p>{{ table.note }}</p>
{% endfor %}
<div class="figures">{% for figure in section.figures %}
<figure>{{ figure }}</figure>{% endfor %}
</div>
{% endfor %}
</body>
</html>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What one measurement has to show of one model."""

    name: str
    summary: str
    n_jobs: int
    time: str
    tables: list[Table]
    figures: list[Any]  # matplotlib figures


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    command = commands.add_parser(NAME, help=SUMMARY, description=SUMMARY, allow_abbrev=False)
    command.add_argument("results", nargs="+", metavar="RESULTS", help="files of a2sf-eval")
    command.add_argument("-o", "--output", default="report.html", metavar="FILE",
        help="a page, or Markdown without pictures if it ends in .md; - is Markdown on standard "
        "output (%(default)s)")  # fmt: skip
    command.add_argument("--title", default="What a bounded KV cache loses", metavar="TEXT")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the page; return the exit status."""
    found = read_rows(arguments.results)
    # Under the same options those of another format measured something else.
    rows = [row for row in found if row.get("format") == FORMAT]
    if not rows:
        others = f" of this version, and {len(found)} of others" if found else ""
        raise OptionError(f"results: at least 1 result expected, found 0{others}")
    if len(rows) < len(found):
        print(
            f"a2sf-eval: {len(found) - len(rows)} results of other versions are left out",
            file=sys.stderr,
        )
    if arguments.output == "-" or arguments.output.endswith(".md"):
        text = markdown(rows, arguments.title)
    else:
        text = html(rows, arguments.title)
    if arguments.output == "-":
        print(text)
        return 0
    write_whole(arguments.output, text)
    print(f"a2sf-eval: {len(rows)} results in {arguments.output}", file=sys.stderr)
    return 0


def html(rows: Sequence[Row], title: str) -> str:
    """Make a page that needs no other file and no network."""
    jinja2 = require("jinja2", "jinja2")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    sections = [
        {
            "name": section.name,
            "summary": section.summary,
            "n_jobs": section.n_jobs,
            "time": section.time,
            "tables": section.tables,
            "figures": [require("markupsafe", "jinja2").Markup(svg(f)) for f in section.figures],
        }
        for section in sections_of(rows, pictures=True)
    ]
    template = environment.from_string(TEMPLATE)
    return str(template.render(title=title, facts=facts_of(rows), sections=sections))


def markdown(rows: Sequence[Row], title: str) -> str:
    """Make the same without pictures."""
    parts = [f"# {title}", "\n".join(f"- {name}: {value}" for name, value in facts_of(rows))]
    for section in sections_of(rows, pictures=False):
        parts.append(f"## {section.name}\n\n{section.summary}: {section.n_jobs} jobs.")
        parts += [as_markdown(table) for table in section.tables]
    return "\n\n".join(parts) + "\n"


def sections_of(rows: Sequence[Row], *, pictures: bool) -> list[Section]:
    """Split results by measurement and model; kinds this version does not know are an error.

    Raises
    ------
    Error
        Results of a measurement that is not in the list.
    """
    known = kinds()
    unknown = {row["kind"] for row in rows} - known.keys()
    if unknown:
        raise Error(f"results: one of {', '.join(known)} expected, found {', '.join(unknown)}")
    models = {row["model"]["sha256"]: row["model"]["file"] for row in rows}
    files = list(models.values())
    sections = []
    for kind in known.values():
        for digest, file in models.items():
            own = [r for r in rows if r["kind"] == kind.name and r["model"]["sha256"] == digest]
            model = f"{file} ({digest[:6]})" if files.count(file) > 1 else file
            if own:
                sections.append(
                    Section(
                        name=f"{kind.name}: {model}" if len(models) > 1 else kind.name,
                        summary=kind.summary,
                        n_jobs=len(own),
                        time=_duration(sum(row["time_s"] for row in own)),
                        tables=kind.tables(own),
                        figures=kind.figures(own) if pictures else [],
                    )
                )
    return sections


def facts_of(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Say what the results were made with, each once; counts where it differs."""

    def each(values: Sequence[str]) -> str:
        counted = Counter(values)
        if len(counted) == 1:
            return values[0]
        return "; ".join(f"{value} ({n} jobs)" for value, n in counted.most_common())

    model = [f"{row['model']['file']}, SHA-256 {row['model']['sha256']}" for row in rows]
    machine = [f"{r['machine']['processor']}, {r['machine']['cores']} cores, "
               f"{r['machine']['isa']}, {r['machine']['system']}" for r in rows]  # fmt: skip
    versions = [", ".join(f"{k} {v}" for k, v in row["versions"].items()) for row in rows]
    engine = [", ".join(f"{k} {v}" for k, v in row["engine"].items()) for row in rows]
    finished = sorted(row["finished"] for row in rows)
    return [
        ("Model", each(model)),
        ("Engine", each(engine)),
        ("Machine", each(machine)),
        ("Versions", each(versions)),
        ("Measured", f"{finished[0]} to {finished[-1]}"),
        ("Jobs", f"{len(rows)}, {_duration(sum(row['time_s'] for row in rows))} in all"),
        ("Page", f"a2sf-eval report, version {VERSION}"),
    ]


def svg(figure: Any) -> str:
    """Draw a figure as an element of a page."""
    out = io.StringIO()
    # Words stay text, which takes less than their outlines. Without a date and random names the
    # same results give the same page.
    options = {"svg.fonttype": "none", "svg.hashsalt": "a2sf"}
    with require("matplotlib", "matplotlib").rc_context(options):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Write a file that takes its name only when it is whole.

    Raises
    ------
    Error
        It cannot be written.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        found = error.strerror or str(error)  # not the name of the partial file
        raise Error(f"{path}: a file that can be written expected, found: {found}") from error


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
