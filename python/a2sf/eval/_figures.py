"""The pictures of reports, by matplotlib, without a screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._packages import require

MOST_WRITTEN = 14  # columns of a map whose cells have room for a figure
Point = tuple[float, float, float, float]  # x, mean, low, high


def new_figure(title: str, *, width: float = 7.0, height: float = 4.5) -> tuple[Any, Any]:
    """Make a figure with one pair of axes; sizes in inches."""
    figure = require("matplotlib.figure", "matplotlib").Figure(
        figsize=(width, height), layout="constrained"
    )
    axes = figure.add_subplot()
    axes.set_title(title)
    return figure, axes


def lines(series: Mapping[str, Sequence[Point]], *, title: str, x: str, y: str) -> Any:
    """Draw a line for each name, with intervals as shades; x is logarithmic.

    Parameters
    ----------
    series
        Points (x, mean, low, high) of each line.
    title, x, y
        Words on it, with units.
    """
    figure, axes = new_figure(title)
    for number, (name, points) in enumerate(series.items()):
        array = np.array(sorted(points), dtype=np.float64)
        style = "-" if name.startswith("a2sf") else "--"
        axes.plot(array[:, 0], array[:, 1], style, marker=".", label=name, color=f"C{number}")
        axes.fill_between(array[:, 0], array[:, 2], array[:, 3], alpha=0.15, color=f"C{number}")
    axes.set_xscale("log", base=2)
    # Whole tokens: 5 % of 1,536 and 77 are one tick.
    ticks = sorted({round(point[0]) for points in series.values() for point in points})
    axes.set_xticks(ticks, [f"{tick}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def heat_map(
    values: NDArray[np.float64],
    *,
    title: str,
    x: str,
    y: str,
    columns: Sequence[str],
    rows: Sequence[str],
    low: float = 0.0,
    high: float = 1.0,
) -> Any:
    """Draw a matrix, red for `low` to green for `high`.

    Each cell has its figure, unless there are more than `MOST_WRITTEN` columns.

    Parameters
    ----------
    values : float64 [rows, columns]
        NaN is left empty.
    """
    written = len(columns) <= MOST_WRITTEN
    width = 1.6 + 0.75 * len(columns) if written else max(7.0, 1.6 + 0.14 * len(columns))
    figure, axes = new_figure(title, width=width, height=1.6 + 0.4 * len(rows))
    image = axes.imshow(values, cmap="RdYlGn", vmin=low, vmax=high, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if written and not np.isnan(value):
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize="small")
    apart = 1 if written else -(-len(columns) // MOST_WRITTEN)
    axes.set_xticks(range(0, len(columns), apart), columns[::apart])
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    figure.colorbar(image, ax=axes)
    return figure


def bars(
    series: Mapping[str, Sequence[tuple[float, float, float] | None]],
    *,
    title: str,
    groups: Sequence[str],
    y: str,
    line: float | None = None,
) -> Any:
    """Draw a group of bars for each budget or task, with intervals.

    Parameters
    ----------
    series
        For each name its (mean, low, high) in each group; None is left empty.
    line
        A height to compare with, as the full cache's.
    """
    figure, axes = new_figure(title, width=max(7.0, 2.0 + 0.35 * len(groups) * len(series)))
    width = 0.8 / max(1, len(series))
    for number, (name, cells) in enumerate(series.items()):
        drawn = [(place, cell) for place, cell in enumerate(cells) if cell is not None]
        means = np.array([cell[0] for _, cell in drawn], dtype=np.float64)
        ends = np.array([cell[1:] for _, cell in drawn], dtype=np.float64).reshape(-1, 2).T
        at = [place + (number - (len(series) - 1) / 2) * width for place, _ in drawn]
        errors = np.abs(ends - means)
        axes.bar(at, means, width, yerr=errors, capsize=2, label=name, color=f"C{number}")
    if line is not None:
        axes.axhline(line, color="black", linewidth=1.0, linestyle="--", label="full")
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3, axis="y")
    axes.legend(fontsize="small")
    return figure
