"""Keeps results apart that were measured under different settings: one table is of one setting."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Sequence

from ._jobs import Json
from ._results import Row


def split(rows: Sequence[Row], varying: Collection[str]) -> list[tuple[str, list[Row]]]:
    """Group rows of one measurement and model by everything that is on no axis of its tables.

    Parameters
    ----------
    rows
        Of one kind and one model.
    varying
        Options that a table has on an axis or takes the mean over, "eviction" among them.

    Returns
    -------
    list of (str, list of Row)
        What sets a group apart from the others, empty where there is one; and its rows. Files of
        one name are kept apart where they differ. A full cache stands in the groups of every way
        in which a prompt was evicted: it has none itself.
    """
    files = _ambiguous_files(rows)
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[json.dumps(_settings(row, varying, files), sort_keys=True)].append(row)
    found: list[tuple[dict[str, Json], list[Row]]] = []
    for text, group in groups.items():
        ways = list(dict.fromkeys(_prefill(row) for row in group if not _is_full(row)))
        for way in ways or [None]:
            own = [row for row in group if _is_full(row) or _prefill(row) == way]
            found.append(({**json.loads(text), "prefill": way}, own))
    names = dict.fromkeys(name for settings, _ in found for name in settings)
    differ = [
        name for name in names if len({json.dumps(settings.get(name)) for settings, _ in found}) > 1
    ]
    return [
        (", ".join(f"{name} {_text(settings.get(name))}" for name in differ), group)
        for settings, group in found
    ]


def _settings(row: Row, varying: Collection[str], files: Collection[str]) -> dict[str, Json]:
    settings = {name: value for name, value in row["engine"].items() if name != "threads"}
    for name, value in row["options"].items():
        if name in row["files"]:
            if name in files:
                settings[name] = f"{row['files'][name]} ({value[:8]})"
        elif name not in varying:
            settings[name] = value
    return settings


def _ambiguous_files(rows: Sequence[Row]) -> set[str]:
    """Options that are files of which two have one name: tables tell the others by their names."""
    hashes = defaultdict(set)
    for row in rows:
        for name, file in row["files"].items():
            hashes[name, file].add(row["options"].get(name))
    return {name for (name, _), found in hashes.items() if len(found) > 1}


def _is_full(row: Row) -> bool:
    return bool(row["options"].get("eviction", {}).get("policy") == "full")


def _prefill(row: Row) -> Json:
    return row["options"].get("eviction", {}).get("prefill")


def _text(value: Json) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={item}" for name, item in value.items())
    return "its policy's" if value is None else str(value)
