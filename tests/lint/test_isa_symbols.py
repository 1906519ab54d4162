"""Objects of one instruction set define nothing that another could share.

An inline function or template with external linkage that two of them define would be kept once by
the linker, compiled for whichever came first; a processor without that instruction set then stops.
Unoptimised objects are examined, because optimised ones hide what was inlined everywhere.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .tree import ROOT, read, tracked_files

CPU = "cpp/backend/cpu"
X86 = ["scalar", "avx2", "avx512", "amx"]
ARM = ["scalar", "neon"]
COMPILERS = {
    "x86_64": ("g++", "nm", X86),
    "aarch64": ("g++", "nm", ARM),
    "cross": ("aarch64-linux-gnu-g++", "aarch64-linux-gnu-nm", ARM),
}
# A pointer to the C++ runtime, the same whoever defines it.
PERSONALITY = "DW.ref.__gxx_personality_v0"


def flags(isa: str) -> list[str]:
    """The compiler options that isa.cmake gives an instruction set."""
    match = re.search(rf"set\(isa_flags_{isa} ([^)]*)\)", read(f"{CPU}/isa.cmake") or "")
    assert match, f"isa.cmake: isa_flags_{isa} expected, found none"
    return match.group(1).replace('""', "").split()


def shared_symbols(nm_output: str, getter: str) -> list[str]:
    """Defined symbols that other objects can see, except the table's getter.

    `nm` shows local symbols in lower case, but weak ones (w, v) and unique ones (u) likewise.
    """
    shared = []
    for line in nm_output.splitlines():
        _, kind, name = line.split(maxsplit=2)
        if (kind.isupper() or kind in "uvw") and name not in (getter, PERSONALITY):
            shared.append(f"{kind} {name}")
    return shared


def symbols_of(source: Path, options: list[str], compiler: str, nm: str, folder: Path) -> str:
    output = folder / "object.o"
    command = [compiler, "-std=c++20", "-O0", "-g", "-fPIC", *options]
    subprocess.run([*command, f"-I{ROOT / 'cpp'}", "-c", source, "-o", output], check=True)
    listing = [nm, "-C", "--defined-only", output]
    return subprocess.run(listing, check=True, capture_output=True, text=True).stdout


def cases() -> list[tuple[str, str, str]]:
    machine = platform.machine()
    machines = [machine] if machine == "aarch64" else [machine, "cross"]
    return [
        (compiler, nm, isa)
        for name in machines
        if name in COMPILERS
        for compiler, nm, isas in [COMPILERS[name]]
        for isa in isas
    ]


@pytest.mark.parametrize(("compiler", "nm", "isa"), cases())
def test_isa_shares_no_symbol(compiler: str, nm: str, isa: str, tmp_path: Path) -> None:
    if not shutil.which(compiler) or not shutil.which(nm):
        pytest.skip(f"{compiler} or {nm} is not installed")
    getter = f"a2sf::kernels_{isa}()"
    listing = symbols_of(ROOT / CPU / f"isa_{isa}.cpp", flags(isa), compiler, nm, tmp_path)
    assert getter in listing
    assert shared_symbols(listing, getter) == []


def test_every_isa_file_is_examined() -> None:
    known = {f"{CPU}/isa_{isa}.cpp" for isa in X86 + ARM}
    assert {p for p in tracked_files() if re.fullmatch(rf"{CPU}/isa_\w+\.cpp", p)} == known


def test_a_shared_function_is_found(tmp_path: Path) -> None:
    if not shutil.which("g++"):
        pytest.skip("g++ is not installed")
    source = tmp_path / "bad.cpp"
    source.write_text(
        "template <typename T> inline T twice(T x) { return x + x; }\n"
        "inline int counter = 0;\n"
        "static int fine(int x) { return x; }\n"
        "int helper(int x) { static int n; return fine(x) + n; }\n"
        "namespace a2sf { int kernels_bad() { return twice(2) + helper(1) + counter; } }\n"
    )
    listing = symbols_of(source, [], "g++", "nm", tmp_path)
    found = shared_symbols(listing, "a2sf::kernels_bad()")
    assert sorted(name.split()[-1] for name in found) == [
        "counter",
        "helper(int)",
        "twice<int>(int)",
    ]
