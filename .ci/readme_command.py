"""Print the shell command that README tells a reader to run, so that CI runs the same one.

It is the first code fence after the line `<!-- ci:NAME -->`.
Usage: readme_command.py README.md NAME
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def extract(text: str, name: str) -> str:
    """Return the code fence's contents; ValueError unless one marker stands before it."""
    marker = f"<!-- ci:{name} -->"
    parts = text.split(marker)
    if len(parts) != 2:
        raise ValueError(f"{marker}: once expected, found {len(parts) - 1} times")
    fence = re.match(r"\s*^```(?:sh|bash|console)?\n(.*?)^```$", parts[1], re.DOTALL | re.MULTILINE)
    if fence is None:
        raise ValueError(f"{marker}: a shell code fence right after it expected, found none")
    command = "\n".join(line.removeprefix("$ ") for line in fence[1].splitlines()).strip()
    if not command:
        raise ValueError(f"{marker}: a command expected, found an empty code fence")
    return command


if __name__ == "__main__":
    print(extract(Path(sys.argv[1]).read_text(), sys.argv[2]))
