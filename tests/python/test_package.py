"""What the package ships: its version, types that check, a stub that matches."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import a2sf
import pytest
from conftest import ROOT


def test_version_is_cmakes() -> None:
    assert f"project(a2sf VERSION {a2sf.__version__} " in (ROOT / "CMakeLists.txt").read_text()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="no mypy installed")
def test_mypy_strict(tmp_path: Path) -> None:
    """The sources and the generated stub, put together as in a wheel."""
    package = tmp_path / "a2sf"
    package.mkdir()
    sources = ROOT / "python" / "a2sf"
    for source in sources.rglob("*.py*"):
        copy = package / source.relative_to(sources)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(source.read_bytes())
    folders = [Path(str(a2sf._core.__file__)).parent, *map(Path, a2sf.__path__)]
    stub = next(f / "_core.pyi" for f in folders if (f / "_core.pyi").is_file())
    (package / "_core.pyi").write_bytes(stub.read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "a2sf"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
