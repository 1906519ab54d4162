"""How much of what a full cache attends to an evicting one still holds, per layer and head."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._core import OptionError
from .._engine import Engine
from .._options import Eviction, fix_budget
from .._session import Session
from . import _figures
from ._arguments import (
    add_eviction_arguments,
    budget_text,
    budgets_of,
    evictions,
)
from ._groups import grouped_lines, partly
from ._jobs import Job, Json, eviction_from
from ._kinds import Table
from ._results import Row
from ._statistics import bootstrap_mean
from ._texts import add_text_arguments, text_windows, window_job, window_of

N_WORST = 3  # layers and heads that a table names
MEASURES = ("cosine", "mass", "top")
Cells = dict[tuple[str, str], list[Row]]  # by eviction and budget
TITLES = {
    "cosine": "cosine to the ideal mask",
    "mass": "attention mass kept",
    "top": "share of the top-B kept",
}


class Recall:
    """`a2sf-eval recall`: a job is one window of a text under one eviction."""

    name = "recall"
    summary = "what an evicting cache still holds of the attention of a full one beside it"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add texts, windows and how often to look."""
        group = add_text_arguments(parser, windows=2)
        group.add_argument("--every", type=int, default=64, metavar="N",
            help="tokens from one comparison to the next (%(default)s)")  # fmt: skip
        add_eviction_arguments(parser, prefill="token")

    def jobs(self, arguments: argparse.Namespace) -> list[Job]:
        """One for each window and eviction; a share of a window is that of its tokens."""
        if arguments.every < 1:
            raise OptionError(f"every: at least 1 token expected, found {arguments.every}")
        listed = [e for e in evictions(arguments) if e["policy"] != "full"]
        if not listed:
            raise OptionError("policy: one that evicts expected, found full, which loses nothing")
        windows = text_windows(arguments)
        return [
            window_job(
                arguments,
                self.name,
                path,
                {**window, "every": arguments.every, "eviction": eviction},
            )
            for path, window in windows
            for eviction in listed
        ]

    def run(self, engine: Engine, job: Job) -> dict[str, Json]:
        """Read a window into both caches and compare them at every n-th token.

        The first is past the budget: until then nothing was evicted and every figure is 1. A token
        where they are compared is fed alone, to both.

        Returns
        -------
        dict
            For each of `MEASURES` the mean over the comparisons, [n_layers, n_kv_heads], and under
            queries the mean over heads of each comparison, [n].
        """
        options = job.options
        ids = window_of(engine, job.files["text"], options)
        eviction = fix_budget(eviction_from(options["eviction"]), len(ids))
        ours, full = engine.session(eviction=eviction), engine.session(eviction=watcher(len(ids)))
        found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in MEASURES}
        done, budget = 0, int(eviction.budget or 0)
        first = min(max(options["skip"], budget, 1), len(ids) - 1)
        for at in range(first, len(ids), options["every"]):
            if at > done:
                ours.feed(ids[done:at])
                full.feed(ids[done:at])
            ours.feed(ids[at : at + 1])
            full.feed(ids[at : at + 1])
            done = at + 1
            for name, value in zip(MEASURES, compare(ours, full), strict=True):
                found[name].append(value)
        return {
            "n": len(found["mass"]),
            **{name: np.mean(found[name], axis=0).round(4).tolist() for name in MEASURES},
            "queries": {
                name: [round(float(one.mean()), 5) for one in found[name]] for name in MEASURES
            },
        }

    def tables(self, rows: Sequence[Row]) -> list[Table]:
        """For each text and setting: means of each eviction, and what loses most."""
        return [make(title, cells) for title, cells in _settings(rows) for make in (_means, _worst)]

    def figures(self, rows: Sequence[Row]) -> list[Any]:
        """Draw the mass kept by each head, a map for each eviction and text."""
        drawn = []
        low = min(float(np.min(row["result"]["mass"])) for row in rows)
        for title, cells in _settings(rows):
            for (name, budget), cell in cells.items():
                mass = _matrix(cell, "mass").T
                drawn.append(
                    _figures.heat_map(
                        mass,
                        title=f"attention mass kept: {name}, budget {budget}, {title}",
                        x="layer",
                        y="KV head",
                        columns=[str(layer) for layer in range(mass.shape[1])],
                        rows=[str(head) for head in range(mass.shape[0])],
                        low=min(0.9, np.floor(low * 10) / 10),  # one scale for all maps
                    )
                )
        return drawn


def _settings(rows: Sequence[Row]) -> list[tuple[str, Cells]]:
    return [
        (
            title,
            {
                (name, budget): [row for row in line if budget_text(row) == budget]
                for name, line in lines.items()
                for budget in budgets_of(line)
            },
        )
        for title, lines in grouped_lines(rows, over=["first"], file="text")
    ]


def _means(title: str, cells: Cells) -> Table:
    table = Table(
        title=f"what is held of a full cache's attention: {title}",
        header=["policy", "budget", *TITLES.values()],
        note="Means over layers, KV heads and queries [95 % bootstrap interval over queries]. "
        "Ideal: the B tokens that the query attends to most, B being how many the head holds.",
    )
    n_windows = len({row["options"]["first"] for cell in cells.values() for row in cell})
    for (name, budget), cell in cells.items():
        line = [name, budget + partly(len(cell), n_windows, "windows")]
        for measure in MEASURES:
            values = [v for row in cell for v in row["result"]["queries"][measure]]
            mean, low, high = bootstrap_mean(values)
            line.append(f"{mean:.4f} [{low:.4f}, {high:.4f}]")
        table.rows.append(line)
    return table


def _worst(title: str, cells: Cells) -> Table:
    table = Table(
        title=f"where least attention mass is kept: {title}",
        header=["policy", "budget", "layer (mean of its heads)", "layer.head"],
        note=f"Attention mass kept, the {N_WORST} lowest, means over queries.",
    )
    for (name, budget), cell in cells.items():
        mass = _matrix(cell, "mass")
        layers = mass.mean(axis=1)
        worst = [f"{i}: {layers[i]:.3f}" for i in layers.argsort(kind="stable")[:N_WORST]]
        order = mass.ravel().argsort(kind="stable")[:N_WORST]
        at = zip(*np.unravel_index(order, mass.shape), strict=True)
        heads = [f"{layer}.{head}: {mass[layer, head]:.3f}" for layer, head in at]
        table.rows.append([name, budget, ", ".join(worst), ", ".join(heads)])
    return table


def watcher(n_tokens: int) -> Eviction:
    """Return the eviction whose scores are the newest query's attention, and that evicts nothing.

    With forgetting factor 0 a score is the attention of the newest query alone, summed over the
    query heads of its group; with room for all tokens nothing leaves.
    """
    return Eviction(
        policy="a2sf", forgetting_factor=0.0, budget=n_tokens, sinks=0, recent=0, prefill="token"
    )


def compare(ours: Session, full: Session) -> tuple[NDArray[np.float64], ...]:
    """Compare what is held after a step with the attention of that step's query.

    Let p be the full cache's attention over all tokens, K what the evicting head holds, B = |K|
    and T the B tokens with the highest p.

    Returns
    -------
    cosine, mass, top : float64 [n_layers, n_kv_heads]
        cosine of p restricted to K and p restricted to T (as in Table 2 of arXiv 2407.20485);
        sum of p over K; |K and T| / B, where a token of K that ties with the last of T counts.
    """
    shape = (full.cache.n_layers, full.cache.n_kv_heads)
    cosine, mass, top = np.empty(shape), np.empty(shape), np.empty(shape)
    for layer, head in np.ndindex(*shape):
        p = full.cache.scores(layer, head).astype(np.float64)
        p /= p.sum()
        held = ours.cache.positions(layer, head)
        best = np.argpartition(-p, len(held) - 1)[: len(held)]
        both = np.intersect1d(held, best, assume_unique=True)
        norms = np.sqrt((p[held] ** 2).sum() * (p[best] ** 2).sum())
        cosine[layer, head] = (p[both] ** 2).sum() / norms if norms > 0 else 0.0
        mass[layer, head] = p[held].sum()
        # A sliding window gives old tokens exactly 0: which of them are in T is chance.
        top[layer, head] = (p[held] >= p[best].min()).mean()
    return cosine, mass, top


def _matrix(rows: Sequence[Row], measure: str) -> NDArray[np.float64]:
    return np.asarray(np.mean([row["result"][measure] for row in rows], axis=0))
