"""What eviction costs in log-likelihood, token by token against the full cache."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._core import OptionError
from .._engine import Engine
from .._options import Eviction
from . import _figures
from ._arguments import (
    add_eviction_arguments,
    engine_arguments,
    eviction_name,
    evictions,
    model_path,
    open_engine,
)
from ._jobs import Job, Json, eviction_from, file_hash, read_text
from ._kinds import Table
from ._results import Row
from ._statistics import block_means, bootstrap_mean

BLOCK = 64  # tokens that count as one draw


class Perplexity:
    """`a2sf-eval perplexity`: a job is one window of a text under one eviction."""

    name = "perplexity"
    summary = "log-likelihood lost to the full cache, on the same tokens"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add texts and windows."""
        group = parser.add_argument_group("Texts")
        add = group.add_argument
        add("-f", "--file", action="append", required=True, metavar="FILE",
            help="a text, UTF-8; may be given several times")  # fmt: skip
        add("--ctx", type=int, default=1536, metavar="N", help="tokens of a window (%(default)s)")
        add("--skip", type=int, default=512, metavar="N",
            help="tokens at its beginning that are read but not scored (%(default)s)")  # fmt: skip
        add("--windows", type=int, default=8, metavar="N",
            help="windows, spread evenly over each text (%(default)s)")  # fmt: skip
        add_eviction_arguments(parser, budget="5%,10%,20%,50%", prefill="token")

    def jobs(self, arguments: argparse.Namespace) -> list[Job]:
        """One for each text, window and eviction; a share of a window is that of its tokens."""
        ctx, skip, n_windows = arguments.ctx, arguments.skip, arguments.windows
        if not 0 <= skip < ctx - 1:
            raise OptionError(f"skip: 0 to ctx - 2 = {ctx - 2} expected, found {skip}")
        if n_windows < 1:
            raise OptionError(f"windows: at least 1 expected, found {n_windows}")
        listed = evictions(arguments)
        tokenizer = open_engine(arguments).tokenizer
        jobs = []
        for path in arguments.file:
            if not os.path.isfile(path):
                raise OptionError(f"file: a text expected, found no file {path}")
            n_tokens = len(tokenizer.encode(read_text(path), special=False))
            if n_tokens < ctx:
                raise OptionError(f"{path}: {ctx} tokens (--ctx) expected, found {n_tokens}")
            last = n_tokens - ctx
            firsts = {round(i * last / max(1, n_windows - 1)) for i in range(n_windows)}
            for eviction in listed:
                for first in sorted(firsts):
                    options: dict[str, Json] = {
                        "text": file_hash(path),
                        "first": first,
                        "ctx": ctx,
                        "skip": skip,
                        "eviction": eviction,
                    }
                    jobs.append(
                        Job(
                            kind=self.name,
                            model=model_path(arguments),
                            options=options,
                            files={"text": os.path.abspath(path)},
                            engine=engine_arguments(arguments),
                        )
                    )
        return jobs

    def run(self, engine: Engine, job: Job) -> dict[str, Json]:
        """Score a window with the full cache and with the job's.

        Returns
        -------
        dict
            n: tokens scored; nll and nll_full: their means, in nats; blocks: nll - nll_full, means
            of `BLOCK` neighbours.
        """
        options = job.options
        ids = _window(engine, job.files["text"], options["first"], options["ctx"])
        skip = max(options["skip"], 1) - 1  # score()[i] is that of token i + 1
        full = _full(engine, ids)[skip:]
        kept = engine.score(np.array(ids), eviction=eviction_from(options["eviction"]))[skip:]
        lost = full.astype(np.float64) - kept
        return {
            "n": len(lost),
            "nll": -float(kept.mean(dtype=np.float64)),
            "nll_full": -float(full.mean(dtype=np.float64)),
            "blocks": [round(value, 6) for value in block_means(lost.tolist(), BLOCK)],
        }

    def tables(self, rows: Sequence[Row]) -> list[Table]:
        """One table for each text: evictions down, budgets across."""
        tables = []
        for text in _texts(rows):
            budgets = budgets_of(r for r in rows if _text(r) == text)
            table = Table(
                title=f"nll lost to the full cache: {text}",
                header=["policy", *budgets],
                note=f"Nats per token, mean [95 % bootstrap interval over blocks of {BLOCK} "
                f"tokens]; {_scale(r for r in rows if _text(r) == text)}.",
            )
            for name in dict.fromkeys(eviction_name(r["options"]["eviction"]) for r in rows):
                cells = [_cell(losses(rows, text, name, budget)) for budget in budgets]
                table.rows.append([name, *cells])
            tables.append(table)
        return tables

    def figures(self, rows: Sequence[Row]) -> list[Any]:
        """One for each text: what each policy loses, over the budget."""
        drawn = []
        for text in _texts(rows):
            series: dict[str, list[tuple[float, float, float, float]]] = {}
            for name in dict.fromkeys(eviction_name(r["options"]["eviction"]) for r in rows):
                for budget in budgets_of(r for r in rows if _text(r) == text):
                    blocks = losses(rows, text, name, budget)
                    if blocks:
                        share = _tokens(budget, rows)
                        series.setdefault(name, []).append((share, *bootstrap_mean(blocks)))
            drawn.append(
                _figures.lines(
                    series,
                    title=f"nll lost to the full cache: {text}",
                    x="budget (tokens)",
                    y="nats per token",
                )
            )
        return drawn


def losses(rows: Sequence[Row], text: str, name: str, budget: str) -> list[float]:
    """Block means of all windows of one cell."""
    return [
        value
        for row in rows
        if _text(row) == text
        and eviction_name(row["options"]["eviction"]) == name
        and budget_text(row) == budget
        for value in row["result"]["blocks"]
    ]


def budget_text(row: Row) -> str:
    """Budget of a row, as a heading."""
    return str(row["options"]["eviction"].get("budget", "-"))


def budgets_of(rows: Iterable[Row]) -> list[str]:
    """Budgets in the rows, small ones first, shares as given."""
    return sorted(
        {budget_text(row) for row in rows}, key=lambda text: (text[-1] != "%", _number(text))
    )


def _number(budget: str) -> float:
    return 0.0 if budget == "-" else float(budget.removesuffix("%"))


def _tokens(budget: str, rows: Sequence[Row]) -> float:
    """Return tokens of a budget given as a share, of the window they were measured on."""
    number = _number(budget)
    return number * rows[0]["options"]["ctx"] / 100 if budget.endswith("%") else number


def _text(row: Row) -> str:
    return str(row["files"]["text"])


def _texts(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(_text(row) for row in rows))


def _cell(blocks: list[float]) -> str:
    if not blocks:
        return "-"
    mean, low, high = bootstrap_mean(blocks)
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _scale(rows: Iterable[Row]) -> str:
    windows = {(r["options"]["first"], r["options"]["ctx"]): r["result"] for r in rows}
    n = sum(result["n"] for result in windows.values())
    full = sum(result["n"] * result["nll_full"] for result in windows.values()) / n
    return f"{n} tokens in {len(windows)} windows, {full:.3f} with the full cache"


@lru_cache(maxsize=4)
def _ids(engine: Engine, path: str) -> list[int]:
    return engine.tokenize(read_text(path), special=False)


def _window(engine: Engine, path: str, first: int, ctx: int) -> tuple[int, ...]:
    return tuple(_ids(engine, path)[first : first + ctx])


@lru_cache(maxsize=64)
def _full(engine: Engine, ids: tuple[int, ...]) -> NDArray[np.float32]:
    """Log-probabilities with the full cache, remembered: every eviction is compared to them."""
    return engine.score(np.array(ids), eviction=Eviction(policy="full"))
