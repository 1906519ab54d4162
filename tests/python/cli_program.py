"""Find and run the native a2sf program."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TIMEOUT_S = 120


def program() -> str:
    """Path of the program: $A2SF_CLI, else the one installed beside the interpreter."""
    beside = str(Path(sys.executable).parent)
    found = os.environ.get("A2SF_CLI") or shutil.which("a2sf", path=beside) or shutil.which("a2sf")
    if found is None:
        pytest.skip("no a2sf program (install the wheel, or set A2SF_CLI)")
    return found


def a2sf(
    *arguments: object, stdin: str | bytes = b"", **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the program to its end; stdout and stderr as text."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    if "stdin_file" in options:
        options["stdin"] = options.pop("stdin_file")
    else:
        options["input"] = data
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("stderr", subprocess.PIPE)
    done = subprocess.run(
        [program(), *map(str, arguments)], timeout=TIMEOUT_S, check=False, **options
    )
    return subprocess.CompletedProcess(
        done.args,
        done.returncode,
        (done.stdout or b"").decode(),
        (done.stderr or b"").decode(),
    )


def catches_interrupt(pid: int) -> bool:
    """Whether a process has a handler for SIGINT: the program's comes when all is loaded."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    masks = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(masks) and bool(int(masks[0], 16) & (1 << (signal.SIGINT - 1)))


def option_names(help_text: str) -> list[str]:
    """Long options that a --help lists."""
    return re.findall(r"^ {2}(?:-\w, | {4})(--[a-z0-9-]+)", help_text, flags=re.MULTILINE)
