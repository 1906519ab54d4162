"""What a sweep is made of: independent jobs, each known by what decides its result."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from .. import _core
from .._core import Error, OptionError
from .._options import Eviction

Json = Any  # what json.dumps takes
FORMAT = 3  # part of every key: raised when results of the same options would no longer compare

# Options that a preset has under other names.
GIVEN_AS = {"recent_tokens": "recent", "recent_share": "recent"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One measurement.

    Attributes
    ----------
    kind : str
        Name of a measurement in `a2sf.eval._kinds.KINDS`.
    model : str
        Path of the GGUF file.
    options : dict
        Everything else that decides the result, as JSON; files are in it as hashes.
    files : dict
        Name to path of the files whose hashes are in `options`.
    engine : dict
        Arguments of `a2sf.Engine`, as JSON.
    """

    kind: str
    model: str
    options: dict[str, Json]
    files: dict[str, str] = field(default_factory=dict)
    engine: dict[str, Json] = field(default_factory=dict)

    @property
    def resolved(self) -> dict[str, Json]:
        """The eviction with its policy's preset where nothing was given; empty without one."""
        return resolved(self.options.get("eviction", {}))

    @property
    def key(self) -> str:
        """Hash of what decides the result: two jobs with the same key are the same measurement."""
        decides = {
            "format": FORMAT,
            "kind": self.kind,
            "model": file_hash(self.model),
            "options": self.options,
            "resolved": self.resolved,
            "engine": {k: v for k, v in self.engine.items() if k != "threads"},
        }
        text = json.dumps(decides, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal; remembered while size and time of change stay.

    Raises
    ------
    Error
        It cannot be read.
    """
    return _read(_hash_of, path)


def read_text(path: str | os.PathLike[str]) -> str:
    """Text of a file, UTF-8; what is not becomes U+FFFD. Remembered, and raises, as `file_hash`."""
    return _read(_text_of, path)


def _read(read: Callable[[str, int, int], str], path: str | os.PathLike[str]) -> str:
    try:
        state = os.stat(path)
        return read(os.path.abspath(path), state.st_size, state.st_mtime_ns)
    except OSError as error:
        found = error.strerror or str(error)
        raise Error(f"{path}: a file that can be read expected, found: {found}") from error


@lru_cache(maxsize=64)
def _hash_of(path: str, _size: int, _changed: int) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


@lru_cache(maxsize=16)
def _text_of(path: str, _size: int, _changed: int) -> str:
    return Path(path).read_text(encoding="utf-8", errors="replace")


def resolved(options: dict[str, Json]) -> dict[str, Json]:
    """Put a policy's preset behind the options that were given.

    Presets change from one version to the next, and with them the result of the same options.
    """
    try:
        preset = _core.policy_preset(options["policy"])
    except (KeyError, OptionError):
        return options  # no eviction, or one that its job will refuse
    given = {option for option in preset if GIVEN_AS.get(option, option) in options}
    return {**{k: v for k, v in preset.items() if k not in given}, **options}


def eviction_from(options: dict[str, Json]) -> Eviction:
    """Make the eviction of a job: the inverse of `given_options`."""
    return Eviction(**options)
