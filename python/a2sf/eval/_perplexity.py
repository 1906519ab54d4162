"""What eviction costs in log-likelihood, token by token against the full cache."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._engine import Engine
from .._options import Eviction
from . import _figures
from ._arguments import (
    add_eviction_arguments,
    budget_number,
    budget_text,
    budgets_of,
    evictions,
)
from ._groups import counted, grouped_lines, partly
from ._jobs import Job, Json, eviction_from
from ._kinds import Table
from ._results import Row
from ._statistics import block_means, bootstrap_mean, bootstrap_saving
from ._texts import add_text_arguments, text_windows, window_job, window_of

BLOCK = 64  # tokens that count as one draw
OURS = "a2sf"


class Perplexity:
    """`a2sf-eval perplexity`: a job is one window of a text under one eviction."""

    name = "perplexity"
    summary = "log-likelihood lost to the full cache, on the same tokens"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add texts and windows."""
        add_text_arguments(parser, windows=8)
        add_eviction_arguments(parser, budget="5%,10%,20%,50%", prefill="token")

    def jobs(self, arguments: argparse.Namespace) -> list[Job]:
        """One for each text, window and eviction; a share of a window is that of its tokens."""
        listed = evictions(arguments)
        return [
            window_job(arguments, self.name, path, {**window, "eviction": eviction})
            for path, window in text_windows(arguments)
            for eviction in listed
        ]

    def run(self, engine: Engine, job: Job) -> dict[str, Json]:
        """Score a window with the full cache and with the job's.

        Returns
        -------
        dict
            n: tokens scored; nll and nll_full: their means, in nats; blocks: nll - nll_full, means
            of `BLOCK` neighbours.
        """
        options = job.options
        ids = window_of(engine, job.files["text"], options)
        skip = max(options["skip"], 1) - 1  # score()[i] is that of token i + 1
        full = _full(engine, tuple(ids.tolist()))[skip:]
        kept = engine.score(ids, eviction=eviction_from(options["eviction"]))[skip:]
        lost = full.astype(np.float64) - kept
        return {
            "n": len(lost),
            "nll": -float(kept.mean(dtype=np.float64)),
            "nll_full": -float(full.mean(dtype=np.float64)),
            "blocks": [round(value, 6) for value in block_means(lost.tolist(), BLOCK)],
        }

    def tables(self, rows: Sequence[Row]) -> list[Table]:
        """One table for each text and setting: evictions down, budgets across.

        The full cache loses nothing, and is only in a table of its own.
        """
        tables = []
        for title, lines in _settings(_evicted(rows) or rows):
            windows = {_window(row) for own in lines.values() for row in own}
            budgets = budgets_of(row for own in lines.values() for row in own)
            table = Table(
                title=f"nll lost to the full cache: {title}",
                header=["policy", *budgets],
                note=f"Nats per token, mean [95 % bootstrap interval over blocks of {BLOCK} "
                f"tokens]; {_scale(row for own in lines.values() for row in own)}.",
            )
            for name, own in lines.items():
                table.rows.append([name, *(_cell(own, budget, len(windows)) for budget in budgets)])
            tables.append(table)
            tables.extend(_savings(title, lines, budgets))
        return tables

    def figures(self, rows: Sequence[Row]) -> list[Any]:
        """One for each text and setting: what each policy loses, over the budget.

        The full cache has no budget and loses nothing: it is in none.
        """
        return [
            _figures.lines(
                {
                    name: [
                        (_tokens(budget, own), *bootstrap_mean(losses(own, budget)))
                        for budget in budgets_of(own)
                    ]
                    for name, own in lines.items()
                },
                title=f"nll lost to the full cache: {title}",
                x="budget (tokens)",
                y="nats per token",
            )
            for title, lines in _settings(_evicted(rows))
        ]


def _evicted(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if budget_text(row) != "-"]


def _savings(title: str, lines: dict[str, list[Row]], budgets: Sequence[str]) -> Iterator[Table]:
    """How much less a2sf as it comes loses than each of the others, if both are there."""
    if OURS not in lines or len(lines) == 1:
        return
    table = Table(
        title=f"what {OURS} saves of the loss: {title}",
        header=["policy", *budgets],
        note=f"Share of the policy's loss that {OURS} does not have, on the same tokens [95 % "
        f"interval, paired bootstrap over blocks of {BLOCK} tokens]; - where the policy may lose "
        "nothing.",
    )
    for name, others in lines.items():
        if name != OURS:
            table.rows.append([name, *(_saving(lines[OURS], others, b) for b in budgets)])
    yield table


def _saving(own: Sequence[Row], others: Sequence[Row], budget: str) -> str:
    of_own, of_others = (
        {_window(row): row["result"]["blocks"] for row in rows if budget_text(row) == budget}
        for rows in (own, others)
    )
    windows = sorted(of_own.keys() & of_others.keys())
    pairs = [pair for w in windows for pair in zip(of_own[w], of_others[w], strict=True)]
    saving = bootstrap_saving(*zip(*pairs, strict=True)) if pairs else None
    if saving is None:
        return "-"
    share, low, high = saving
    return f"{share:.0%} [{low:.0%}, {high:.0%}]"


def losses(rows: Iterable[Row], budget: str) -> list[float]:
    """Block means of all windows at a budget."""
    return [v for row in rows if budget_text(row) == budget for v in row["result"]["blocks"]]


def _settings(rows: Sequence[Row]) -> list[tuple[str, dict[str, list[Row]]]]:
    return grouped_lines(rows, over=["first"], file="text")


def _tokens(budget: str, rows: Sequence[Row]) -> float:
    """Return tokens of a budget given as a share, of the window they were measured on."""
    number = budget_number(budget)
    return number * rows[0]["options"]["ctx"] / 100 if budget.endswith("%") else number


def _window(row: Row) -> int:
    return int(row["options"]["first"])


def _cell(rows: Sequence[Row], budget: str, n_windows: int) -> str:
    blocks = losses(rows, budget)
    if not blocks:
        return "-"
    mean, low, high = bootstrap_mean(blocks)
    n = len({_window(row) for row in rows if budget_text(row) == budget})
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]{partly(n, n_windows, 'windows')}"


def _scale(rows: Iterable[Row]) -> str:
    windows = {_window(row): row["result"] for row in rows}
    n = sum(result["n"] for result in windows.values())
    full = sum(result["n"] * result["nll_full"] for result in windows.values()) / n
    return f"{n} tokens in {counted(len(windows), 'window')}, {full:.3f} with the full cache"


@lru_cache(maxsize=64)
def _full(engine: Engine, ids: tuple[int, ...]) -> NDArray[np.float32]:
    """Log-probabilities with the full cache, remembered: every eviction is compared to them."""
    return engine.score(np.array(ids), eviction=Eviction(policy="full"))
