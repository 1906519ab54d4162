"""Pictures of recordings and caches, by matplotlib, without a screen."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._core import Cache, OptionError
from .._packages import require
from ._recording import Recording, _index

MOST_CELLS = 1000  # of a picture along each side: more than its pixels only cost time
QUANTILES = (5, 25, 50, 75, 95)
N_BINS = 40


def kept_over_time(recording: Recording, layer: int, head: int) -> Any:
    """Draw what one head held, from the first look to the last.

    Parameters
    ----------
    recording : Recording
    layer, head : int

    Returns
    -------
    matplotlib.figure.Figure
        Tokens read across, a column ending at each look; positions upwards; dark is held. In a
        long text a row is several
        positions and its shade the share of them that is held.

    Raises
    ------
    OptionError
        There is no such layer or head.
    Error
        matplotlib is not installed.
    """
    gone = recording.gone[recording._layer(layer), recording._head(head)]
    steps = _spread(recording.n_steps)
    size = -(-len(gone) // MOST_CELLS)
    starts = np.arange(0, len(gone), size)
    counts = np.diff(starts, append=len(gone))
    position = np.arange(len(gone))
    share = np.empty((len(starts), len(steps)))
    for column, step in enumerate(steps):
        held = (gone > step) & (position < recording.steps[step])
        share[:, column] = np.add.reduceat(held, starts, dtype=np.int64) / counts
    figure = _figure(7.0, 5.0)
    axes = figure.add_subplot()
    mesh = axes.pcolormesh(
        _edges(recording.steps[steps]), np.append(starts, len(gone)), share,
        cmap="Blues", vmin=0, vmax=1, rasterized=True,
    )  # fmt: skip
    axes.set_title(f"What layer {layer}, head {head} holds")
    axes.set_xlabel("tokens read")
    axes.set_ylabel("position in the text")
    figure.colorbar(mesh, ax=axes, label="share held")
    return figure


def kept_overview(recording: Recording) -> Any:
    """Draw how many tokens every head held over time, and how old they were.

    Parameters
    ----------
    recording : Recording

    Returns
    -------
    matplotlib.figure.Figure
        Two maps, tokens read across, heads downwards (layer by layer): tokens held, and the mean
        distance of what is held from the newest token, in tokens.

    Raises
    ------
    Error
        matplotlib is not installed.
    """
    steps = _spread(recording.n_steps)
    n_rows = recording.n_layers * recording.n_kv_heads
    gone = recording.gone.reshape(n_rows, -1)
    position = np.arange(recording.n_tokens)
    live, age = np.empty((n_rows, len(steps))), np.empty((n_rows, len(steps)))
    for column, step in enumerate(steps):
        n = int(recording.steps[step])
        held = gone[:, :n] > step
        live[:, column] = held.sum(axis=1)
        mean = held @ position[:n].astype(np.float64) / np.maximum(live[:, column], 1)
        age[:, column] = n - 1 - mean
    figure = _figure(11.0, max(3.5, min(9.0, 1.5 + 0.12 * n_rows)))
    for axes, values, title in zip(
        figure.subplots(1, 2, sharey=True),
        (live, age),
        ("tokens held", "mean age of what is held (tokens)"),
        strict=True,
    ):
        mesh = axes.pcolormesh(
            _edges(recording.steps[steps]), np.arange(n_rows + 1) / recording.n_kv_heads, values,
            cmap="viridis", vmin=0, rasterized=True,
        )  # fmt: skip
        axes.set_title(title)
        axes.set_xlabel("tokens read")
        figure.colorbar(mesh, ax=axes)
    axes.set_ylim(recording.n_layers, 0)
    figure.axes[0].set_ylabel(f"layer ({recording.n_kv_heads} KV heads each)")
    return figure


def score_distribution(cache: Cache, *, layer: int | None = None, head: int | None = None) -> Any:
    """Draw how the scores of the tokens held are spread.

    Parameters
    ----------
    cache : Cache
        Of a session whose policy looks at attention.
    layer : int or None, default None
        None draws quantiles of every layer, over its heads or over `head`; a number a histogram of
        that layer with a line for each of its heads, or for `head` alone.
    head : int or None, default None

    Returns
    -------
    matplotlib.figure.Figure
        Scores on a logarithmic axis. Those that are 0 are left out and counted in the title.

    Raises
    ------
    OptionError
        There is no such layer or head, or all scores are 0: the policy does not look at attention,
        or nothing was read.
    Error
        matplotlib is not installed.
    """
    heads = range(cache.n_kv_heads) if head is None else [_index("head", head, cache.n_kv_heads)]
    layers = range(cache.n_layers) if layer is None else [_index("layer", layer, cache.n_layers)]
    found = {at: _positive(cache, *at) for at in ((i, j) for i in layers for j in heads)}
    if not any(len(values) for values in found.values()):
        raise OptionError("scores: attention accumulated by a policy expected, found zeros only")
    n_zero = sum(len(cache.scores(*at)) - len(values) for at, values in found.items())
    which = "all heads" if head is None else f"head {head}"
    zeros = f" ({n_zero} of 0 left out)" if n_zero else ""
    figure = _figure(7.0, 4.5)
    axes = figure.add_subplot()
    if layer is None:
        _draw_quantiles(axes, [np.concatenate([found[i, j] for j in heads]) for i in layers])
        axes.set_title(f"Scores of what is held, {which}{zeros}")
    else:
        _draw_histograms(axes, {f"head {j}": found[layers[0], j] for j in heads})
        axes.set_title(f"Scores of what layer {layer} holds, {which}{zeros}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def _positive(cache: Cache, layer: int, head: int) -> NDArray[np.float64]:
    scores = cache.scores(layer, head).astype(np.float64)
    return np.asarray(scores[scores > 0])


def _draw_quantiles(axes: Any, by_layer: list[NDArray[np.float64]]) -> None:
    nothing = [np.nan] * len(QUANTILES)
    lines = np.array([np.percentile(v, QUANTILES) if len(v) else nothing for v in by_layer])
    x = np.arange(len(by_layer))
    low, lower, middle, upper, high = lines.T
    axes.fill_between(x, low, high, alpha=0.15, color="C0", label="5 to 95 %")
    axes.fill_between(x, lower, upper, alpha=0.3, color="C0", label="25 to 75 %")
    axes.plot(x, middle, marker=".", color="C0", label="median")
    axes.set_yscale("log")
    axes.set_xlabel("layer")
    axes.set_ylabel("score")
    axes.xaxis.get_major_locator().set_params(integer=True)


def _draw_histograms(axes: Any, by_head: dict[str, NDArray[np.float64]]) -> None:
    everything = np.concatenate(list(by_head.values()))
    low, high = everything.min(), everything.max()
    bins = np.geomspace(low, high if high > low else low * 2, N_BINS + 1)
    for name, values in by_head.items():
        axes.hist(values.clip(bins[0], bins[-1]), bins=bins, histtype="step", label=name)
    axes.set_xscale("log")
    axes.set_xlabel("score")
    axes.set_ylabel("tokens held")


def _figure(width: float, height: float) -> Any:
    """Make an empty figure; sizes in inches."""
    module = require("matplotlib.figure", "matplotlib", extra="plot", user="a2sf.plot")
    return module.Figure(figsize=(width, height), layout="constrained")


def _spread(n: int) -> NDArray[np.intp]:
    """Up to `MOST_CELLS` of n looks, the last one among them."""
    return np.unique(np.linspace(0, n - 1, min(n, MOST_CELLS)).round().astype(np.intp))


def _edges(steps: NDArray[np.int32]) -> NDArray[np.float64]:
    """Where the column of each look begins, at the look before it, and where the last ends."""
    first = steps[0] - (steps[1] - steps[0]) if len(steps) > 1 else 0
    return np.append(max(0.0, float(first)), steps).astype(np.float64)
