"""What the model's output loses when one KV head alone has to live within a budget."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._core import OptionError
from .._engine import Engine
from .._options import Eviction
from . import _figures
from ._arguments import budget_of, open_engine, tokens_of
from ._groups import grouped
from ._jobs import Job, Json, eviction_from
from ._kinds import Table
from ._results import Row
from ._texts import add_text_arguments, text_windows, window_job, window_of

EVERY = 4  # tokens from one comparison to the next: neighbours say much the same


class Sensitivity:
    """`a2sf-eval sensitivity`: a job is one head on one window of a text."""

    name = "sensitivity"
    summary = "how much each head needs its tokens: the others keep all of theirs"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add texts and the head's budget."""
        add_text_arguments(parser, windows=1, ctx=1024)
        parser.add_argument("--budget", default="128", metavar="N|R%",
            help="tokens of the one head, or a share of --ctx (%(default)s)")  # fmt: skip

    def jobs(self, arguments: argparse.Namespace) -> list[Job]:
        """One for each window, layer and KV head."""
        budget = tokens_of(budget_of(arguments.budget), arguments.ctx)
        if not 8 <= budget < arguments.ctx:
            raise OptionError(
                f"budget: 8 to ctx - 1 = {arguments.ctx - 1} expected, found {arguments.budget}"
            )
        return head_jobs(arguments, text_windows(arguments), budget)

    def run(self, engine: Engine, job: Job) -> dict[str, Json]:
        """Compare predictions with the full cache's.

        Returns
        -------
        dict
            kl: mean over every n-th token of the Kullback-Leibler divergence sum p log(p / q), in
            nats, p being the full cache's prediction and q that of the cache with one short head.
        """
        options = job.options
        ids = window_of(engine, job.files["text"], options)
        eviction = one_short_head(
            engine, len(ids), options["budget"], options["layer"], options["head"]
        )
        skip, every = options["skip"], options["every"]
        full = _full(engine, tuple(ids.tolist()), skip, every)
        short = log_softmax(engine.logits(ids, eviction=eviction)[skip::every])
        kl = (np.exp(full) * (full - short)).sum(axis=1, dtype=np.float64)
        return {"kl": float(kl.mean())}

    def tables(self, rows: Sequence[Row]) -> list[Table]:
        """One table for each text, budget and setting: layers down, heads across."""
        tables = []
        for title, group in _settings(rows):
            values = matrix_of(group)
            tables.append(
                Table(
                    title=title,
                    header=["layer", *(f"head {head}" for head in range(values.shape[1]))],
                    rows=[
                        [str(layer), *(f"{value:.2e}" for value in heads)]
                        for layer, heads in enumerate(values)
                    ],
                    note="Mean Kullback-Leibler divergence from the full cache's prediction, in "
                    "nats.",
                )
            )
        return tables

    def figures(self, rows: Sequence[Row]) -> list[Any]:
        """Draw a map of layers and heads for each table, in powers of ten."""
        drawn = []
        for title, group in _settings(rows):
            values = np.log10(np.maximum(matrix_of(group), 1e-9)).T
            drawn.append(
                _figures.heat_map(
                    -values,
                    title=f"{title} (-log10, red is much)",
                    x="layer",
                    y="KV head",
                    columns=[str(layer) for layer in range(values.shape[1])],
                    rows=[str(head) for head in range(values.shape[0])],
                    low=float(-np.nanmax(values)),
                    high=float(-np.nanmin(values)),
                )
            )
        return drawn


def _settings(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    over = ["first", "layer", "head"]
    return [
        (f"divergence when one head alone has {group[0]['options']['budget']} tokens: {title}",
         group)
        for title, group in grouped(rows, over=over, file="text", said=["budget"])
    ]  # fmt: skip


def head_jobs(
    arguments: argparse.Namespace, windows: Sequence[tuple[str, dict[str, Json]]], budget: int
) -> list[Job]:
    """One for each window, layer and KV head, which has `budget` tokens."""
    info = open_engine(arguments).info
    return [
        window_job(
            arguments,
            Sensitivity.name,
            path,
            {**window, "budget": budget, "layer": layer, "head": head, "every": EVERY},
        )
        for path, window in windows
        for layer, head in np.ndindex(info.n_layers, info.n_kv_heads)
    ]


def one_short_head(engine: Engine, n_tokens: int, budget: int, layer: int, head: int) -> Eviction:
    """Return an eviction in which one head holds `budget` tokens and the others all of a text."""
    n_heads = engine.info.n_layers * engine.info.n_kv_heads
    if n_heads == 1:
        return Eviction(budget=budget)
    # The mean over heads is to be a whole number, so that rounding moves nothing.
    others = n_tokens + (budget - n_tokens) % n_heads
    shares = np.full(n_heads, others, dtype=np.float32)
    shares[layer * engine.info.n_kv_heads + head] = budget
    mean = ((n_heads - 1) * others + budget) // n_heads
    return Eviction(budget=mean, allocation=shares)


def matrix_of(rows: Sequence[Row]) -> NDArray[np.float64]:
    """Means over windows, [n_layers, n_kv_heads]; NaN where there is no result."""
    at = [(row["options"]["layer"], row["options"]["head"]) for row in rows]
    total = np.zeros((max(a for a, _ in at) + 1, max(b for _, b in at) + 1))
    count = np.zeros_like(total)
    for place, row in zip(at, rows, strict=True):
        total[place] += row["result"]["kl"]
        count[place] += 1
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Natural log of the softmax over the last axis; a copy."""
    shifted: NDArray[np.float32] = logits - logits.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


@lru_cache(maxsize=1)
def _full(engine: Engine, ids: tuple[int, ...], skip: int, every: int) -> NDArray[np.float32]:
    logits = engine.logits(np.array(ids), eviction=eviction_from({"policy": "full"}))
    return log_softmax(logits[skip::every])
