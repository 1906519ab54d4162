"""Finds the cache's options that lose least on a text, without training: `a2sf-eval calibrate`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._core import Error, OptionError, policy_evicts
from .._options import Eviction, given_options
from ._arguments import (
    add_run_arguments,
    budget_of,
    executor_of,
    has_option,
    items,
    model_path,
    numbers,
    open_engine,
    tokens_of,
)
from ._groups import counted
from ._jobs import Job, Json
from ._perplexity import Perplexity
from ._results import Results, Row
from ._run import sweep
from ._sensitivity import head_jobs, matrix_of
from ._statistics import bootstrap_mean
from ._texts import add_text_arguments, text_windows, window_job

NAME = "calibrate"
SUMMARY = "find the options that lose least on a text, and write an eviction file"
FACTORS = "0.97,0.99,0.995,0.999"
RECENTS = "10%,25%,40%"
SINKS = "0,4,8"
POWERS = (0.0, 0.25, 0.35, 0.5)
LEAST_SHARE, MOST_SHARE = 0.3, 4.0


def add_command(commands: Any) -> None:
    """Add the subcommand."""
    command = commands.add_parser(
        NAME,
        allow_abbrev=False,
        help=SUMMARY,
        description=f"{SUMMARY}. Measures how much each KV head needs its tokens and divides the "
        "budget accordingly, if that loses less than the policy's own division; then tries "
        "forgetting factors and protections one after the other. The last third of the windows "
        "decides nothing: it shows what the result is worth, and unless the whole interval is a "
        "gain there no file is written and the exit status is 1.",
    )
    add_run_arguments(command)
    add_text_arguments(command, windows=6)
    add = command.add_argument
    add("--budget", default="10%", metavar="N|R%", help="what the cache will have (%(default)s)")
    add("--policy", default="a2sf", metavar="NAME", help="(%(default)s)")
    add("--factors", metavar="LIST", help=f"forgetting factors to try ({FACTORS} if the policy "
        "has one)")  # fmt: skip
    add("--recents", metavar="LIST", help=f"protected newest tokens to try ({RECENTS} if the "
        "policy has them)".replace("%", "%%"))  # fmt: skip
    add("--sinks-tried", metavar="LIST", help=f"protected first tokens to try ({SINKS} if the "
        "policy has them)")  # fmt: skip
    add("--no-allocation", action="store_true", help="all heads keep the same budget")
    add("--write", default="calibrated.eviction", metavar="FILE",
        help="where the result goes (%(default)s)")  # fmt: skip
    command.set_defaults(run=run)


@dataclass
class Search:
    """What is tried, on which windows, and where the results are."""

    given: argparse.Namespace
    results: Results
    windows: list[tuple[str, dict[str, Json]]]

    def measure(self, jobs: Sequence[Job]) -> list[Row]:
        """Run what has no result yet; return the results of all, in the order of the jobs."""
        execute = executor_of(self.given)
        sweep(jobs, self.results, execute, quiet=self.given.quiet)
        return self.results.of(jobs)

    def losses(self, tried: dict[str, Json]) -> list[float]:
        """Nats per token lost to the full cache, means of blocks."""
        eviction = given_options(Eviction(**tried))
        options = {"eviction": {**eviction, "prefill": "token"}}
        jobs = [
            window_job(self.given, Perplexity.name, path, {**window, **options})
            for path, window in self.windows
        ]
        rows = self.measure(jobs)
        return [value for row in rows for value in row["result"]["blocks"]]

    def best(self, what: str, tried: Sequence[dict[str, Json]]) -> dict[str, Json]:
        """Return the options that lose least; the first of equals."""
        found = [(float(np.mean(self.losses(options))), i) for i, options in enumerate(tried)]
        loss, index = min(found)
        if not self.given.quiet:
            listed = ", ".join(f"{value:.4f}" for value, _ in found)
            print(f"a2sf-eval: {what}: lost {listed}; best {loss:.4f}", file=sys.stderr)
        return tried[index]


def run(given: argparse.Namespace) -> int:
    """Search, prove on held-out windows, write the file; return the exit status."""
    budget = budget_of(given.budget)
    plain: dict[str, Json] = {"policy": given.policy, "budget": budget}
    steps = _steps(given, plain)
    windows = text_windows(given)
    held_out = windows[-max(1, len(windows) // 3) :]
    if len(windows) < 2:
        raise OptionError("windows: at least 2 expected, one of them to prove the result, found 1")
    _try_to_write(given.write)
    with Results(given.output) as results:
        search = Search(given, results, windows[: -len(held_out)])
        chosen: dict[str, Json] = dict(plain)
        if given.no_allocation:
            chosen["allocation"] = "equal"
        else:
            need = _need(search, budget)
            chosen = search.best("shares", [with_shares(chosen, need, power) for power in POWERS])
        for name, values in steps.items():
            tried = [chosen, *({**chosen, name: value} for value in values)]
            chosen = search.best(name.replace("_", " "), tried)
        proof = Search(given, results, held_out)
        before, after = proof.losses(plain), proof.losses(chosen)
    saved = [a - b for a, b in zip(before, after, strict=True)]
    mean, low, high = bootstrap_mean(saved)
    text = (
        f"Held-out text, {counted(len(held_out), 'window')} of {given.ctx} tokens, "
        f"budget {given.budget}, evicted token by token: "
        f"{np.mean(before):.4f} nats per token lost to the full cache with the policy's own "
        f"options, {np.mean(after):.4f} with these; {mean:.4f} saved "
        f"[95 % interval {low:.4f} to {high:.4f}]"
    )
    if low <= 0:
        why = (
            "the policy's own options lose no more"
            if mean <= 0
            else "that may be chance; more --windows tell"
        )
        print(f"{text}\nNothing is written: {why}.")
        return 1
    note = f"{open_engine(given).info.name or Path(model_path(given)).name}\n{text}"
    Eviction(**chosen).save(given.write, note=note)
    print(text)
    print(f"Written to {given.write}: a2sf run --eviction-file {given.write}")
    return 0


def _steps(given: argparse.Namespace, plain: dict[str, Json]) -> dict[str, list[Json]]:
    """List what is tried after the shares, by option; of defaults only what the policy has.

    Raises
    ------
    OptionError
        Values that make no sense, a policy that evicts nothing or has no such option.
    """
    if not policy_evicts(given.policy):
        raise OptionError(f"policy: one that evicts expected, found {given.policy}")
    Eviction(**plain)
    factors = items(FACTORS if given.factors is None else given.factors, "factors")
    recents = items(RECENTS if given.recents is None else given.recents, "recents")
    sinks = SINKS if given.sinks_tried is None else given.sinks_tried
    steps: dict[str, list[Json]] = {
        "forgetting_factor": [numbers(text, "factors", float)[0] for text in factors],
        "recent": [budget_of(text, "recents") for text in recents],
        "sinks": list(numbers(sinks, "sinks-tried")),
    }
    for option, name, asked in (
        ("factors", "forgetting_factor", given.factors),
        ("recents", "recent", given.recents),
        ("sinks-tried", "sinks", given.sinks_tried),
    ):
        if not has_option(given.policy, name, steps[name][0]):
            if asked is not None:
                raise OptionError(
                    f"{option}: none expected for policy {given.policy}, which has no {name}, "
                    f"found {asked}"
                )
            del steps[name]
        for value in steps.get(name, []):
            Eviction(**plain, **{name: value})
    if not steps and given.no_allocation:
        raise OptionError(
            f"policy: one with options to try expected with --no-allocation, found {given.policy}"
        )
    return steps


def _try_to_write(path: str) -> None:
    """Raise Error if the result could not be written: the search takes minutes."""
    there = os.path.exists(path)
    try:
        with open(path, "ab"):
            pass
        if not there:
            os.unlink(path)
    except OSError as error:
        raise Error(f"{path}: a file to write expected, found: {error}") from error


def _need(search: Search, budget: int | str) -> NDArray[np.float64]:
    """How much each head needs its tokens, [n_layers, n_kv_heads]: see `Sensitivity`."""
    given = search.given
    number = max(8, tokens_of(budget, given.ctx)) if isinstance(budget, str) else budget
    # Small chunks: what is short is to be short for most queries.
    jobs = [
        replace(job, engine={**job.engine, "batch": min(64, given.batch)})
        for job in head_jobs(given, search.windows[:1], number)
    ]
    return matrix_of(search.measure(jobs))


def with_shares(
    options: dict[str, Json], need: NDArray[np.float64], power: float
) -> dict[str, Json]:
    """Divide the budget in proportion to need to some power; 0 leaves it as it is.

    Power 0 is the policy's own division, and so is any where no head needs anything. If a head with
    budget b lost need / b^a, the division that loses least in sum would have power 1 / (1 + a); a
    is not known and differs between heads, so powers are tried.
    """
    if power == 0.0 or need.max() <= 0.0:
        return options
    shares = np.maximum(need, need.max() * 1e-9) ** power
    for _ in range(64):  # clipping moves the mean
        shares = np.clip(shares / shares.mean(), LEAST_SHARE, MOST_SHARE)
    return {**options, "allocation": [round(float(share), 3) for share in shares.ravel()]}
