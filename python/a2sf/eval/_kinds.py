"""THE list of measurements. One is a module with a class like `Kind`, and its line in `KINDS`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .._engine import Engine
from ._jobs import Job, Json
from ._results import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table for people.

    Attributes
    ----------
    title : str
    header : sequence of str
    rows : list of sequence of str
        Cells, already formatted.
    note : str
        What the figures are: unit, interval, number of cases.
    """

    title: str
    header: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    note: str = ""


class Kind(Protocol):
    """A measurement.

    `name` is its subcommand, `summary` a line for --help. `add_arguments` adds its own options
    (`_arguments` adds those that all have). `jobs` splits what was asked into independent jobs.
    `run` measures one: it may keep what it needs again with `_memory`. `tables` and `figures` show
    rows of this kind; figures are matplotlib's, each with a title.
    """

    name: str
    summary: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...
    def jobs(self, arguments: argparse.Namespace) -> list[Job]: ...
    def run(self, engine: Engine, job: Job) -> dict[str, Json]: ...
    def tables(self, rows: Sequence[Row]) -> list[Table]: ...
    def figures(self, rows: Sequence[Row]) -> list[Any]: ...


def kinds() -> dict[str, Kind]:
    """Every measurement by name."""
    from ._needle import Needle
    from ._perplexity import Perplexity
    from ._recall import Recall
    from ._sensitivity import Sensitivity
    from ._tasks import Tasks

    listed: list[Kind] = [
        Perplexity(),
        Needle(),
        Tasks(),
        Recall(),
        Sensitivity(),
    ]
    return {kind.name: kind for kind in listed}


def find_kind(name: str) -> Kind:
    """Return the measurement of a job."""
    return kinds()[name]
