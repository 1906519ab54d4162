"""Means with intervals."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from ._packages import require

N_RESAMPLES = 4000
CONFIDENCE = 0.95


def bootstrap_mean(values: Sequence[float], *, seed: int = 0) -> tuple[float, float, float]:
    """Mean with a bootstrap confidence interval of 95 %.

    Parameters
    ----------
    values
        Independent units: questions, or blocks of neighbouring tokens.
    seed
        The same values and seed give the same interval.

    Returns
    -------
    mean, low, high
        Percentile interval (Efron 1979) by scipy.stats.bootstrap. With one value, or equal ones,
        low and high are the mean.
    """
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if len(array) < 2 or np.ptp(array) == 0.0:
        return mean, mean, mean
    interval = (
        require("scipy.stats", "scipy")
        .bootstrap(
            (array,),
            np.mean,
            n_resamples=N_RESAMPLES,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
        .confidence_interval
    )
    return mean, float(interval.low), float(interval.high)


def bootstrap_saving(
    own: Sequence[float], other: Sequence[float], *, seed: int = 0
) -> tuple[float, float, float] | None:
    """Share of another's loss that is saved, 1 - mean(own) / mean(other), with its interval.

    Parameters
    ----------
    own, other
        Of the same units, one for one: resamples take both of a unit.

    Returns
    -------
    share, low, high, or None
        As `bootstrap_mean`; None where the other loses nothing, or might: there is no share then.
    """
    pair = np.asarray([own, other], dtype=np.float64)
    if bootstrap_mean(other, seed=seed)[1] <= 0.0:
        return None
    rng = np.random.default_rng(seed)
    n = pair.shape[1]
    resampled = pair[:, rng.integers(0, n, (N_RESAMPLES, n))].mean(axis=2)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(1 - resampled[0] / resampled[1], [tail, 100 - tail])
    return 1 - float(pair[0].mean() / pair[1].mean()), float(low), float(high)


def share_right(values: Sequence[float]) -> tuple[float, float, float]:
    """Share of ones among zeros and ones, with a confidence interval of 95 %.

    Returns
    -------
    share, low, high
        Wilson's interval (1927) by scipy.stats.binomtest: it has a width where all are right, or
        none, unlike one of resamples.
    """
    n_right = sum(value == 1.0 for value in values)
    tested = require("scipy.stats", "scipy").binomtest(n_right, len(values))
    interval = tested.proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return n_right / len(values), float(interval.low), float(interval.high)


def block_means(values: Sequence[float], size: int) -> list[float]:
    """Means of blocks of `size` neighbours; a rest shorter than half a block joins the last one.

    Neighbouring tokens share their context, so that they are no independent draws: intervals come
    from blocks.
    """
    array = np.asarray(values, dtype=np.float64)
    n_blocks = max(1, int(np.floor(len(array) / size + 0.5)))
    edges = [*range(0, n_blocks * size, size), len(array)]
    return [float(array[a:b].mean()) for a, b in itertools.pairwise(edges)]
