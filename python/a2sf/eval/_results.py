"""The results of a sweep: one JSON object a line, appended as jobs end, never rewritten."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import platform
import sys
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from .. import _core
from .._core import Error
from ._jobs import FORMAT, Job, Json, file_hash

Row = dict[str, Any]

COLUMNS = {
    "key", "kind", "options", "result", "time_s", "model", "engine", "files", "versions",
    "machine", "finished",
}  # fmt: skip

LINE_START = b'{"key": "'  # of every line that `Results.append` writes


class Results:
    """A file of results, locked while it is open so that two sweeps cannot write to it at once.

    A line is written whole or not at all: one that a killed process or a full disk cut short is
    cut off when the file is opened again, and the job it was of runs again.

    Parameters
    ----------
    path
        Made if it is not there.

    Raises
    ------
    Error
        The file cannot be written, is in use, or holds something else.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._file = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise Error(f"{path}: a file that can be written expected, found: {error}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise Error(f"{path}: a file of no other sweep expected, found it in use") from error
        try:
            self._file.seek(0)
            self.rows, whole = _parse(self._file.read(), self.path)
            if whole < self._file.seek(0, os.SEEK_END):
                self._file.truncate(whole)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    @property
    def done(self) -> set[str]:
        """Keys of the jobs that have a result."""
        return {row["key"] for row in self.rows}

    def of(self, jobs: Iterable[Job]) -> list[Row]:
        """Results of jobs, each once, in the order of the jobs; of those that have one."""
        by_key = {row["key"]: row for row in self.rows}
        keys = dict.fromkeys(job.key for job in jobs)
        return [by_key[key] for key in keys if key in by_key]

    def append(self, row: Row) -> None:
        """Add a result; it is on disk when this returns.

        Raises
        ------
        Error
            The disk is full, for one. The file then ends with the result before.
        """
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        end = self._file.seek(0, os.SEEK_END)
        written = 0
        try:
            while written < len(line):
                written += self._file.write(line[written:]) or 0
            os.fsync(self._file.fileno())
        except OSError as error:
            written = 0
            self._file.truncate(end)
            raise Error(f"{self.path}: room for a result expected, found: {error}") from error
        finally:  # an interrupt may come once the line is there
            if written == len(line):
                self.rows.append(row)


def _parse(content: bytes, path: Path) -> tuple[list[Row], int]:
    """Rows, and how many bytes they take: a last line without an end is not one."""
    whole = content.rfind(b"\n") + 1
    torn = content[whole:]
    if torn[: len(LINE_START)] != LINE_START[: len(torn)]:
        raise Error(f"{path}: a result of a2sf-eval expected at its end, found {torn[:60]!r}")
    rows = []
    for number, line in enumerate(content[:whole].splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or COLUMNS - row.keys():
            raise Error(f"{path}:{number}: a result of a2sf-eval expected, found {line[:60]!r}")
        rows.append(row)
    return rows, whole


def read_rows(paths: Iterable[str | os.PathLike[str]]) -> list[Row]:
    """Rows of several files, one for each key (the last one).

    Raises
    ------
    Error
        A file cannot be read or holds something else.
    """
    by_key: dict[str, Row] = {}
    for path in paths:
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise Error(f"{path}: a file of results expected, found: {error}") from error
        for row in _parse(content, Path(path))[0]:
            by_key[row["key"]] = row
    return list(by_key.values())


def make_row(job: Job, result: dict[str, Json], time_s: float) -> Row:
    """Put a result together with all that is needed to understand or repeat it."""
    return {
        "key": job.key,
        "format": FORMAT,
        "kind": job.kind,
        "options": job.options,
        "resolved": job.resolved,
        "result": result,
        "time_s": round(time_s, 3),
        "model": {"file": os.path.basename(job.model), "sha256": file_hash(job.model)},
        "engine": job.engine,
        "files": {name: os.path.basename(path) for name, path in job.files.items()},
        "versions": versions(),
        "machine": machine(),
        "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


@cache
def versions() -> dict[str, str]:
    """Versions of what the result depends on."""
    build = file_hash(_core.__file__)[:12]  # of the library: two of one version may differ
    found = {
        "a2sf": _core.VERSION,
        "build": build,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    for name in ("scipy", "rouge-score", "lm-eval"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def machine() -> dict[str, Json]:
    """Say what the result was made on; no names of hosts or users."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "isa": _core.isa(),
        "byte_order": sys.byteorder,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
