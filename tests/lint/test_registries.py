"""Each registry lists exactly the files that are there: what is written is reachable, and back."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest

from .tree import code_only, read, tracked_files


def stems(folder: str, pattern: str) -> set[str]:
    """Names that the files of a folder give, as the one group of a regular expression."""
    names = (
        PurePosixPath(p).name for p in tracked_files() if str(PurePosixPath(p).parent) == folder
    )
    return {match.group(1) for name in names if (match := re.fullmatch(pattern, name))}


def listed(path: str, pattern: str) -> set[str]:
    """Names that a registry's code mentions, likewise."""
    return set(re.findall(pattern, code_only(read(path) or "", keep_strings=True)))


def difference(files: set[str], entries: set[str]) -> list[str]:
    return [f"{name}: a file, not listed" for name in sorted(files - entries)] + [
        f"{name}: listed, no file" for name in sorted(entries - files)
    ]


REGISTRIES = {
    "policies": (
        ("cpp/evict/policies", r"(\w+)\.cpp"),
        ("cpp/evict/registry.cpp", r"&(\w+)_policy\(\)"),
    ),
    "weight types": (
        ("cpp/quant/formats", r"(\w+)\.h"),
        ("cpp/quant/formats.h", r'"quant/formats/(\w+)\.h"'),
    ),
    "architectures": (
        ("cpp/model/arch", r"(\w+)\.cpp"),
        ("cpp/model/registry.cpp", r"&(\w+)_architecture\(\)"),
    ),
    "instruction sets": (
        ("cpp/backend/cpu", r"isa_(\w+)\.cpp"),
        ("cpp/backend/cpu/isa.cpp", r"\bkernels_(\w+)\}"),
    ),
    "instruction sets' flags": (
        ("cpp/backend/cpu", r"isa_(\w+)\.cpp"),
        ("cpp/backend/cpu/isa.cmake", r"set\(isa_flags_(\w+) "),
    ),
}


@pytest.mark.parametrize("registry", REGISTRIES)
def test_registry_lists_its_files(registry: str) -> None:
    files, entries = (REGISTRIES[registry][0], REGISTRIES[registry][1])
    assert stems(*files), "files expected, found none"
    assert difference(stems(*files), listed(*entries)) == []


def test_every_format_is_in_the_list() -> None:
    files = {name.upper() for name in stems("cpp/quant/formats", r"(\w+)\.h")}
    entries = listed("cpp/quant/formats.h", r"^\s+X\((\w+)\)")
    entries = entries or listed("cpp/quant/formats.h", r"\bX\((\w+)\)")
    assert difference(files, entries) == []


def test_every_device_is_in_the_list() -> None:
    folders = {
        PurePosixPath(p).parts[2]
        for p in tracked_files()
        if p.startswith("cpp/backend/") and p.count("/") > 2
    }
    assert difference(folders, listed("cpp/backend/registry.cpp", r'\{"(\w+)", \[')) == []


def test_difference_finds_both_directions() -> None:
    assert difference({"a", "b"}, {"b", "c"}) == ["a: a file, not listed", "c: listed, no file"]
