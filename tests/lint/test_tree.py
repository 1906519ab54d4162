"""Every rule over every tracked file."""

from __future__ import annotations

import pytest

from .rules import RULES, Rule
from .tree import read, tracked_files


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_tree_obeys(rule: Rule) -> None:
    violations = [
        f"{path}:{violation}"
        for path in tracked_files()
        if (text := read(path)) is not None
        for violation in rule(path, text)
    ]
    assert not violations, "\n".join([rule.__name__, *violations])


def test_files_were_found() -> None:
    paths = tracked_files()
    assert "CMakeLists.txt" in paths
    assert sum(path.startswith("cpp/") for path in paths) > 20
