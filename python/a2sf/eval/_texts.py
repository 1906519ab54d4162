"""Windows of the user's texts, which several measurements read."""

from __future__ import annotations

import argparse
import os
import sys
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .._core import OptionError
from .._engine import Engine
from ._arguments import check_fits, engine_arguments, model_path, open_engine
from ._jobs import Job, Json, file_hash, read_text


def add_text_arguments(
    parser: argparse.ArgumentParser, *, windows: int, ctx: int = 1536
) -> argparse._ArgumentGroup:
    """Add texts and windows; return the group."""
    group = parser.add_argument_group("Texts")
    add = group.add_argument
    add("-f", "--file", action="append", required=True, metavar="FILE",
        help="a text, UTF-8; may be given several times")  # fmt: skip
    add("--ctx", type=int, default=ctx, metavar="N", help="tokens of a window (%(default)s)")
    add("--skip", type=int, default=512, metavar="N",
        help="tokens at its beginning that are read but not measured (%(default)s)")  # fmt: skip
    add("--windows", type=int, default=windows, metavar="N",
        help="windows, spread evenly over each text; fewer of one that is too short for as many "
        "side by side (%(default)s)")  # fmt: skip
    return group


def text_windows(arguments: argparse.Namespace) -> list[tuple[str, dict[str, Json]]]:
    """List (path, options of a job) for every window of every text.

    Raises
    ------
    OptionError
        A file that is not there, a text shorter than a window, or windows that make no sense.
    """
    ctx, skip, n_windows = arguments.ctx, arguments.skip, arguments.windows
    if ctx < 2:
        raise OptionError(f"ctx: at least 2 tokens expected, found {ctx}")
    if not 0 <= skip < ctx - 1:
        raise OptionError(f"skip: 0 to ctx - 2 = {ctx - 2} expected, found {skip}")
    if n_windows < 1:
        raise OptionError(f"windows: at least 1 expected, found {n_windows}")
    for path in arguments.file:
        if not os.path.isfile(path):
            raise OptionError(f"file: a text expected, found no file {path}")
    engine = open_engine(arguments)
    check_fits(engine, ctx, "ctx")
    listed: list[tuple[str, dict[str, Json]]] = []
    for path in arguments.file:
        n_tokens = len(_ids(engine, read_text(path)))
        if n_tokens < ctx:
            raise OptionError(f"{path}: {ctx} tokens (--ctx) expected, found {n_tokens}")
        last, n_apart = n_tokens - ctx, min(n_windows, n_tokens // ctx)
        if n_apart < n_windows and not arguments.quiet:
            print(
                f"a2sf-eval: {path}: {n_apart} instead of {n_windows} windows, more of {ctx} "
                f"tokens would overlap in its {n_tokens}",
                file=sys.stderr,
            )
        firsts = [round(i * last / max(1, n_apart - 1)) for i in range(n_apart)]
        listed += [
            (path, {"text": file_hash(path), "first": first, "ctx": ctx, "skip": skip})
            for first in firsts
        ]
    return listed


def window_of(engine: Engine, path: str, options: dict[str, Json]) -> NDArray[np.int32]:
    """Tokens of a job's window."""
    first = options["first"]
    return np.array(_ids(engine, read_text(path))[first : first + options["ctx"]], dtype=np.int32)


@lru_cache(maxsize=4)
def _ids(engine: Engine, text: str) -> list[int]:
    return engine.tokenize(text, special=False)


def window_job(
    arguments: argparse.Namespace, kind: str, path: str, options: dict[str, Json]
) -> Job:
    """Make a job of a window, whose options are among `options`."""
    return Job(
        kind=kind,
        model=model_path(arguments),
        options=options,
        files={"text": os.path.abspath(path)},
        engine=engine_arguments(arguments),
    )
