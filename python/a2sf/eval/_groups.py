"""Which rows of a page are the same measurement, and what the others are called to tell them apart.

Rows are only averaged where all that decides a result is the same but what the average is over:
windows, seeds, questions. The rest becomes tables and lines of their own, whose names say what
differs on the page and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ._arguments import eviction_name
from ._jobs import Json, resolved
from ._results import Row

ENGINE = {"kv_type": "f16", "batch": 512}  # what `Engine` does where a job says nothing
UNKNOWN = {"preset": "unknown"}  # of results made before rows held it


def grouped(
    rows: Sequence[Row], *, over: Iterable[str], file: str, said: Iterable[str] = ()
) -> list[tuple[str, list[Row]]]:
    """Split rows by all that decides their results, evictions aside.

    Parameters
    ----------
    rows
        Of one measurement and one model.
    over
        Options that a mean or an axis is over.
    file
        The file that is a group's name.
    said
        Options that the caller puts into the name itself.

    Returns
    -------
    list of (str, list of rows)
        Name of the file and what else differs between groups.
    """
    names = file_names(rows)
    averaged, told = set(over), {file, *said}
    groups: dict[str, list[Row]] = {}
    for row in rows:
        decides = {k: v for k, v in setting(row).items() if k not in averaged}
        groups.setdefault(json.dumps(decides, sort_keys=True), []).append(row)
    settings = [setting(group[0]) for group in groups.values()]
    differing = [name for name in different(settings) if name not in averaged | told]
    listed = []
    for own, group in zip(settings, groups.values(), strict=True):
        title = names.get(str(own.get(file)), "generated text")
        listed.append(
            (", ".join([title, *(_said(n, own.get(n), names) for n in differing)]), group)
        )
    return listed


def grouped_lines(
    rows: Sequence[Row],
    *,
    over: Iterable[str],
    file: str,
    said: Iterable[str] = (),
    name: Callable[[dict[str, Json]], str] = eviction_name,
) -> list[tuple[str, dict[str, list[Row]]]]:
    """Do as `grouped`, and split each group by the names of evictions, see `line_names`."""
    names = line_names(rows, name)
    listed = []
    for title, group in grouped(rows, over=over, file=file, said=said):
        lines: dict[str, list[Row]] = {}
        for row in group:
            lines.setdefault(names[row["key"]], []).append(row)
        listed.append((title, lines))
    return listed


def setting(row: Row) -> dict[str, Json]:
    """List all that decides a result but model and eviction, one level deep; files as hashes."""
    flat: dict[str, Json] = {**ENGINE, **row["engine"]}
    flat.pop("threads", None)
    for name, value in row["options"].items():
        if name != "eviction":
            flat |= value if isinstance(value, dict) else {name: value}
    return flat


def line_names(
    rows: Sequence[Row], name: Callable[[dict[str, Json]], str] = eviction_name
) -> dict[str, str]:
    """Name the eviction of each row, by the row's key.

    Where rows of one name differ in the preset of their policy, the name says so; where any rows do
    in what they were told of when a prompt is evicted, all names do. Budgets are no part of it.
    """
    told = {row["options"]["eviction"].get("prefill") for row in rows if _evicts(row)}
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(name(_given(row)), []).append(row)
    found = {}
    for same in by_name.values():
        whole = [_resolved(row) for row in same]
        differing = different(whole)
        if len(told) > 1 and _evicts(same[0]):
            differing.append("prefill")
        for row, own in zip(same, whole, strict=True):
            more = {k: own[k] for k in differing if k in own}
            found[row["key"]] = name({**_given(row), **more})
    return found


def _evicts(row: Row) -> bool:
    return "budget" in row["options"]["eviction"]


def _given(row: Row) -> dict[str, Json]:
    return {k: v for k, v in row["options"]["eviction"].items() if k != "prefill"}


def _resolved(row: Row) -> dict[str, Json]:
    eviction = row["options"]["eviction"]
    whole = row["resolved"] if "resolved" in row else {**resolved(eviction), **UNKNOWN}
    return {k: v for k, v in whole.items() if k not in ("policy", "budget")}


def file_names(rows: Iterable[Row]) -> dict[str, str]:
    """Name each file by its hash; files of one name get the beginning of their hashes."""
    names = {row["options"][k]: file for row in rows for k, file in row["files"].items()}
    common = list(names.values())
    return {
        digest: f"{name} ({digest[:6]})" if common.count(name) > 1 else name
        for digest, name in names.items()
    }


def different(settings: Sequence[dict[str, Any]]) -> list[str]:
    """List what is not the same in all, or not there in all."""
    known = dict.fromkeys(name for one in settings for name in one)
    return [
        name
        for name in known
        if len({json.dumps(one[name]) if name in one else "" for one in settings}) > 1
    ]


def partly(n: int, of: int, what: str) -> str:
    """Say of a cell that fewer cases are in it than in the table's others; else nothing."""
    return f" ({n} of {of} {what})" if n < of else ""


def counted(n: int, what: str) -> str:
    """Return "1 window", "2 windows"."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _said(name: str, value: Json, names: dict[str, str]) -> str:
    if value is None:
        return f"no {name}"
    plain = isinstance(value, str) and value and not set(value) & set(' ,"\n')
    return f"{name} {names.get(value, value) if plain else json.dumps(value)}"
