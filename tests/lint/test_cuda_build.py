"""What CMake makes of A2SF_CUDA: all of the backend or none of it, and clear words without nvcc."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .tree import ROOT, read, tracked_files

needs_cmake = pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("g++") is None, reason="no cmake or no g++"
)


def configure(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["cmake", "-S", str(ROOT), "-B", str(folder), *options]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
    )


@needs_cmake
def test_without_the_option_nothing_of_cuda_is_looked_for_or_built(tmp_path: Path) -> None:
    done = configure(tmp_path, CUDACXX="/nonexistent/nvcc")
    assert done.returncode == 0, done.stderr
    assert "cuda" not in (done.stdout + done.stderr).lower()
    commands = json.loads((tmp_path / "compile_commands.json").read_text(encoding="utf-8"))
    built = {Path(command["file"]).name for command in commands if "/cuda/" in command["file"]}
    assert built == {"cuda_missing.cpp"}


@needs_cmake
def test_with_the_option_and_no_nvcc_the_compiler_is_named(tmp_path: Path) -> None:
    done = configure(tmp_path, "-DA2SF_CUDA=ON", CUDACXX="/nonexistent/nvcc")
    assert done.returncode != 0
    words = " ".join(done.stderr.split())
    assert "A2SF_CUDA: nvcc of the CUDA toolkit expected" in words
    assert "is built for the CPU alone" in words


@needs_cmake
def test_an_nvcc_that_is_too_old_is_named_with_what_was_expected(tmp_path: Path) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 11.8, V11.8.89'\n")
    nvcc.chmod(0o755)
    done = configure(tmp_path / "build", "-DA2SF_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={nvcc}")
    assert done.returncode != 0
    words = " ".join(done.stderr.split())
    assert f"A2SF_CUDA: nvcc 12.0 or later expected, for C++20, found '11.8' ({nvcc})" in words


def test_the_report_of_registers_has_every_kernel_and_no_other() -> None:
    page = read("docs/cuda.md") or ""
    table = page.partition("<!-- cuda_report.py -->")[2].partition("<!-- end -->")[0]
    reported = set(re.findall(r"^\| `(\w+)", table, re.MULTILINE))
    kernels = {
        name
        for path in tracked_files()
        if path.startswith("cpp/backend/cuda/") and path.endswith((".cu", ".cuh"))
        for name in re.findall(r"__global__[^;{]*?\b(\w+)\([^()]*\) \{", read(path) or "")
    }
    assert len(kernels) > 30
    assert reported == kernels, "python tests/bench/cuda_report.py FOLDER --write docs/cuda.md"


def test_the_commands_of_the_documentation_name_what_there_is() -> None:
    presets = json.loads(read("CMakePresets.json") or "")
    (workflow,) = [one for one in presets["workflowPresets"] if one["name"] == "cuda"]
    assert [step["type"] for step in workflow["steps"]] == ["configure", "build"]
    (preset,) = [one for one in presets["configurePresets"] if one["name"] == "cuda"]
    assert preset["cacheVariables"]["A2SF_CUDA"] == "ON"
    for page in ("README.md", "docs/cuda.md"):
        text = read(page) or ""
        assert "cmake --workflow --preset cuda" in text
        assert "pip install . -C cmake.define.A2SF_CUDA=ON" in text
