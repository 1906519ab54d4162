"""One function per rule: the path and text of a file in, its violations out.

A violation is "line: what is wrong". The rules know paths, not the file system, so that
test_rules.py can show each of them a bad example.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import PurePosixPath

from .tree import code_only, is_cpp, line_of, without_preprocessor

# Lowest first; an include may only point down.
LAYERS = ("base", "quant", "gguf", "evict", "backend", "kv", "model", "token", "sample", "engine")
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
# The forward pass is read in order, so it may be long.
LONG_FUNCTIONS_ALLOWED = {"cpp/model/decoder.cpp"}

Rule = Callable[[str, str], list[str]]


def layer(path: str) -> str | None:
    """The library layer that a file belongs to, or None."""
    parts = PurePosixPath(path).parts
    return parts[1] if len(parts) > 2 and parts[0] == "cpp" and parts[1] in LAYERS else None


def find(pattern: str, text: str, message: str) -> list[str]:
    return [
        f"{line_of(text, match.start())}: {message}: {match.group().strip()}"
        for match in re.finditer(pattern, text, re.MULTILINE)
    ]


def is_generated(text: str) -> bool:
    return "generated" in text.partition("\n")[0].lower()


def includes_point_down(path: str, text: str) -> list[str]:
    own = layer(path)
    if not is_cpp(path) or not (own or path.startswith(("cpp/cli/", "python/src/"))):
        return []
    rank = LAYERS.index(own) if own else len(LAYERS)
    found = []
    code = code_only(text, keep_strings=True)
    for match in re.finditer(r'^\s*#\s*include\s*["<]([^">]+)[">]', code, re.MULTILINE):
        target = match.group(1)
        first, _, rest = target.partition("/")
        line = line_of(code, match.start(1))
        higher = (*LAYERS[rank + 1 :], *(("cli", "python") if own else ()))
        if first == "..":
            found.append(f"{line}: include by layer, not by relative path: {target}")
        elif rest and first in higher:
            found.append(f"{line}: {own} may not include the higher layer {first}: {target}")
    return found


def library_is_quiet(path: str, text: str) -> list[str]:
    """The library throws; it does not abort, exit, assert or print."""
    if not is_cpp(path) or not (layer(path) or path.startswith("python/src/")):
        return []
    code = code_only(text)
    calls = (
        "abort|_?_?exit|quick_exit|terminate|v?f?printf|puts|fputs|putchar|fputc|perror|assert"
        "|__builtin_trap|std::raise"
    )
    return (
        find(rf"\b(?:{calls})\s*\(", code, "the library throws instead")
        + find(r"\bstd::(?:cout|cerr|clog)\b|\b(?:stdout|stderr)\b", code, "the library is silent")
        + find(r"#\s*include\s*<(?:iostream|cassert|assert\.h)>", code, "no use for it here")
    )


# Compiled into the kernels of every instruction set, and may look which one it is.
PER_ISA_HEADERS = re.compile(r"cpp/(?:base/half|quant/(?:format|nibbles|formats/\w+))\.h")


def backends_stay_apart(path: str, text: str) -> list[str]:
    """Instruction sets and devices appear below cpp/backend and not in its shared headers."""
    inside = re.match(r"cpp/backend/(?:\w+/|\w+\.cpp)", path)
    if not is_cpp(path) or not path.startswith(("cpp/", "python/src/")) or inside:
        return []
    # Waiting in a loop is the one thing the thread pool asks of the processor.
    if path == "cpp/base/thread_pool.cpp":
        return []
    code = code_only(text, keep_strings=True)
    headers = r"\w*intrin\.h|arm_neon\.h|arm_sve\.h|cuda[\w./]*|cublas\w*\.h|nvToolsExt\.h"
    found = find(rf"#\s*include\s*[<\"](?:{headers})[>\"]", code, "only cpp/backend may include")
    machines = "__x86_64|__aarch64__|__CUDA|A2SF_CUDA"
    if not PER_ISA_HEADERS.fullmatch(path):
        machines += "|__AVX|__SSE|__FMA__|__F16C__|__ARM_"
    return found + find(
        rf"#\s*(?:el)?if.*(?:{machines})", code, "only cpp/backend may choose between machines"
    )


def nanobind_only_in_bindings(path: str, text: str) -> list[str]:
    if not is_cpp(path) or path.startswith("python/src/"):
        return []
    code = code_only(text, keep_strings=True)
    return find(r"#\s*include\s*[<\"](?:nanobind|pybind11|Python\.h).*", code, "only in python/src")


def file_is_short(path: str, text: str) -> list[str]:
    if not (is_cpp(path) or path.endswith(".py")) or is_generated(text):
        return []
    n_lines = text.count("\n")
    return [f"{n_lines}: lines, at most {MAX_FILE_LINES}"] if n_lines > MAX_FILE_LINES else []


FUNCTION_HEAD = re.compile(
    r"\)(?:\s*(?:const|noexcept(?:\([^()]*\))?|override|final|mutable|try|&&?))*"
    r"\s*(?:->[^(){};]*|:[^:].*)?\s*$",
    re.DOTALL,
)
CONTROL = re.compile(r"^(?:\}?\s*else\s+)?(?:if|for|while|switch|catch|do)\b")


def cpp_functions(text: str) -> list[tuple[int, int]]:
    """(first line, number of lines) of each outermost function, found by its braces.

    A heuristic: a brace opens a function if what stands between it and the last ';', '{' or '}'
    ends like a parameter list and does not begin like a control statement.
    """
    code = without_preprocessor(code_only(text))
    functions = []
    depth = 0
    outer: tuple[int, int] | None = None  # depth and start of the function we are in
    start = 0
    for match in re.finditer(r"[;{}]", code):
        head = code[start : match.start()]
        if match.group() == "{":
            is_function = FUNCTION_HEAD.search(head) and not CONTROL.match(head.strip())
            if outer is None and is_function:
                outer = (depth, start + len(head) - len(head.lstrip()))
            depth += 1
        elif match.group() == "}":
            depth -= 1
            if outer is not None and depth == outer[0]:
                first = line_of(code, outer[1])
                functions.append((first, line_of(code, match.start()) - first + 1))
                outer = None
        start = match.end()
    return functions


def functions_are_short(path: str, text: str) -> list[str]:
    if path in LONG_FUNCTIONS_ALLOWED or is_generated(text):
        return []
    if path.endswith(".py"):
        functions = [
            (node.lineno, python_lines(node))
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
    elif is_cpp(path):
        functions = cpp_functions(text)
    else:
        return []
    return [
        f"{line}: function of {n_lines} lines, at most {MAX_FUNCTION_LINES}"
        for line, n_lines in functions
        if n_lines > MAX_FUNCTION_LINES
    ]


def python_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    n_lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node, clean=False) is not None:
        n_lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return n_lines


def architecture_keys_in_arch(path: str, text: str) -> list[str]:
    """GGUF keys that depend on the architecture are named in cpp/model/arch and nowhere else."""
    if not is_cpp(path) or not path.startswith(("cpp/", "python/src/")):
        return []
    if path.startswith("cpp/model/arch/"):
        return []
    return find(
        r'"(?:[a-z0-9]+(?:\.))?(?:llama|qwen\d\w*|gemma\d?|phi\d?|mistral|smollm\d?)\.[^"]*"'
        r'|"[^"\s]*\.?(?:block_count|embedding_length|feed_forward_length|context_length'
        r'|attention\.[a-z_]+|rope\.[a-z_.]+)"',
        without_preprocessor(code_only(text, keep_strings=True)),
        "architecture keys belong in cpp/model/arch",
    )


def opens_with_comment(path: str, text: str) -> list[str]:
    """A file says what it does; a source that starts with its own header has said it there."""
    own_header = str(PurePosixPath(path).relative_to(PurePosixPath(path).parts[0])).rpartition(".")[
        0
    ]
    if not is_cpp(path) or text.startswith(("//", "/*", f'#include "{own_header}.h"')):
        return []
    return ["1: a comment that says what the file does, before anything else, expected"]


def headers_guarded(path: str, text: str) -> list[str]:
    if not path.endswith((".h", ".cuh")) or re.search(r"^#pragma once$", text, re.MULTILINE):
        return []
    return ["1: #pragma once expected"]


# The lints name what they forbid.
OWN = "tests/lint/"


def no_loose_ends(path: str, text: str) -> list[str]:
    if path.startswith(OWN) or not (is_cpp(path) or path.endswith((".py", ".cmake", ".txt"))):
        return []
    return find(r"\b(?:TODO|FIXME|XXX|HACK)\b", text, "finish it or open an issue")


def names_no_host(path: str, text: str) -> list[str]:
    """Package registries come from the machine's settings, never from this tree."""
    hosts = (
        r"pypi\.org|pythonhosted\.org|anaconda\.org|registry\.npmjs|crates\.io"
        r"|(?:deb|security)\.debian\.org|archive\.ubuntu\.com|\bghcr\.io|docker\.io"
    )
    return find(hosts, text, "names a registry host")


def names_no_private_path(path: str, text: str) -> list[str]:
    """A path of one machine means nothing on another."""
    if path.startswith(OWN):
        return []
    return find(
        r"(?<![\w.$}*~/-])/(?:work|tmp|root|home)/[\w.$*{-]*", text, "a path of one machine"
    )


def no_fast_math(path: str, text: str) -> list[str]:
    if not path.endswith(("CMakeLists.txt", ".cmake", "CMakePresets.json", "pyproject.toml")):
        return []
    return find(r"-ffast-math|-Ofast|-funsafe-math\S*", text, "results must not depend on it")


def oracles_stand_alone(path: str, text: str) -> list[str]:
    """What tests compare the library with must not be the library."""
    if not path.startswith("tests/reference/") or not path.endswith(".py"):
        return []
    return find(r"^\s*(?:import|from)\s+a2sf\b.*", text, "a reference imports nothing from a2sf")


RULES: tuple[Rule, ...] = (
    includes_point_down,
    library_is_quiet,
    backends_stay_apart,
    nanobind_only_in_bindings,
    file_is_short,
    functions_are_short,
    architecture_keys_in_arch,
    opens_with_comment,
    headers_guarded,
    no_loose_ends,
    names_no_host,
    names_no_private_path,
    no_fast_math,
    oracles_stand_alone,
)
