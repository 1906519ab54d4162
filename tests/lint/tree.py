"""The files that the lints read, and C++ text without what is no code."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

CPP_SUFFIXES = {".h", ".cpp", ".inl", ".inc", ".cu", ".cuh"}
# Folders that no checkout holds, for a tree without git.
SKIPPED = re.compile(r"^(\.(?!ci$|clang|git|pre)|build|dist$|__pycache__$|node_modules$)")


@cache
def tracked_files() -> tuple[str, ...]:
    """Paths relative to the root of all files that are, or could be, committed.

    Asks git; a tree unpacked from an archive has none and is walked instead.
    """
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-co", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        paths = [p for p in listed.stdout.splitlines() if (ROOT / p).is_file()]
    except (OSError, subprocess.CalledProcessError):
        paths = []
    return tuple(sorted(paths or walk(ROOT, "")))


def walk(folder: Path, prefix: str) -> list[str]:
    paths: list[str] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            if not SKIPPED.match(entry.name) and entry.name != ".git":
                paths += walk(entry, f"{prefix}{entry.name}/")
        elif entry.suffix not in {".pyc", ".so"}:
            paths.append(prefix + entry.name)
    return paths


@cache
def read(path: str) -> str | None:
    """The text of a tracked file, or None if it is binary."""
    data = (ROOT / path).read_bytes()
    if b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def is_cpp(path: str) -> bool:
    return Path(path).suffix in CPP_SUFFIXES


TOKEN = re.compile(
    r"""R"(?P<delimiter>[^()\\\s]{0,16})\(.*?\)(?P=delimiter)"   # raw string
      | "(?:\\.|[^"\\\n])*"                                      # string
      | (?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'                      # character, not a digit separator
      | //(?:[^\n\\]|\\.)*                                       # comment
      | /\*.*?\*/""",
    re.VERBOSE | re.DOTALL,
)


def code_only(text: str, *, keep_strings: bool = False) -> str:
    """C++ source with comments blanked, and unless kept, strings emptied. Lines stay in place."""

    def blank(match: re.Match[str]) -> str:
        token = match.group()
        newlines = "\n" * token.count("\n")
        if token.startswith("/"):
            return " " + newlines
        return token if keep_strings else '""' + newlines

    return TOKEN.sub(blank, text)


def without_preprocessor(code: str) -> str:
    """Code with directives and their continuation lines blanked. Lines stay in place."""
    return re.sub(
        r"^[ \t]*#(?:[^\n\\]|\\.)*",
        lambda match: "\n" * match.group().count("\n"),
        code,
        flags=re.MULTILINE | re.DOTALL,
    )


def line_of(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1
