"""Options that measurements share: the model, the file of results, the grid of evictions."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from .. import _core
from .._core import OptionError
from .._engine import Engine
from .._hub import bundled_path, local_path
from .._options import Eviction, given_options
from ._jobs import Json
from ._results import Row
from ._run import Executor, engine_of, run_here

DEFAULT_POLICIES = "a2sf,h2o,streaming"
# Options of an eviction that are the same for all policies of a sweep that have them.
COMMON = (
    "sinks", "recent", "scope", "pooling", "prefill", "positions", "allocation", "guard",
)  # fmt: skip


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add model, results and how to run."""
    group = parser.add_argument_group("Model and results")
    add = group.add_argument
    add("-m", "--model", metavar="PATH", help="GGUF file or hf:owner/repo/file (bundled model)")
    add("-o", "--output", default="a2sf-eval.jsonl", metavar="FILE",
        help="results, a JSON line each; what is there is not run again (%(default)s)")  # fmt: skip
    add("-t", "--threads", type=int, metavar="N", help="threads of the engine (all cores)")
    add("--kv-type", choices=("f16", "f32", "q8_0"), default="f16", help="(%(default)s)")
    add("--batch", type=int, default=512, metavar="N", help="tokens per chunk (%(default)s)")
    add("--ray", metavar="ADDRESS", help="run the jobs on this Ray cluster (extra `ray`); "
        "local starts one here")  # fmt: skip
    add("--json", action="store_true", help="print the results as JSON lines, not as a table")
    add("-q", "--quiet", action="store_true", help="no progress bar")


def add_eviction_arguments(
    parser: argparse.ArgumentParser,
    *,
    policy: str | None = DEFAULT_POLICIES,
    budget: str = "20%",
    prefill: str | None = None,
) -> None:
    """Add the grid: policy x budget x forgetting factor, and what all of them share.

    With `policy` None the measurement itself decides which policies are the default.
    """
    group = parser.add_argument_group(
        "Cache", "Lists with commas are crossed; a policy that has no use for an option runs once."
    )
    add = group.add_argument
    known = ", ".join(_core.policies())
    add("--policy", default=policy, metavar="LIST",
        help=f"of {known}; or all ({policy or 'as --protocol says'})")  # fmt: skip
    add("--budget", default=budget, metavar="LIST", help="tokens, or shares as 20%% (%(default)s)")
    add("--forgetting-factor", metavar="LIST", help="0 to 1, or auto (each policy's own)")
    add("--sinks", type=int, metavar="N", help="first tokens never evicted (each policy's own)")
    add("--recent", metavar="N|R%", help="newest tokens never evicted (each policy's own)")
    add("--scope", choices=("head", "layer"))
    add("--pooling", type=int, metavar="N")
    add("--prefill", choices=("token", "chunk", "full"), default=prefill,
        help=f"when a prompt's tokens are evicted ({prefill or 'the policy decides'})")  # fmt: skip
    add("--positions", choices=("original", "compact"))
    add(
        "--allocation", choices=("auto", "equal"), help="of the budget to heads (each policy's own)"
    )
    add("--guard", type=float, metavar="SHARE",
        help="of a chunk's survivors, kept for their keys (each policy's own)")  # fmt: skip
    add("--eviction-file", action="append", default=[], metavar="FILE",
        help="also this file of a2sf-eval calibrate, at every budget; repeatable")  # fmt: skip


def items(text: str, what: str) -> list[str]:
    """Split a list with commas.

    Raises
    ------
    OptionError
        An empty item.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise OptionError(f"{what}: a list with commas expected, found {text!r}")
    return parts


def numbers(text: str, what: str, kind: type[int] | type[float] = int) -> list[Any]:
    """Split a list of numbers with commas.

    Raises
    ------
    OptionError
        Something else in it.
    """
    try:
        return [kind(part) for part in items(text, what)]
    except ValueError as error:
        raise OptionError(f"{what}: numbers with commas expected, found {text!r}") from error


def budget_of(text: str, what: str = "budget") -> int | str:
    """Read a budget: "20%" stays, "256" is a number. `what` is its name in a message."""
    return text if text.endswith("%") else numbers(text, what)[0]


def tokens_of(budget: int | str, n: int) -> int:
    """Return the tokens of a budget that is a number, or a share of n tokens."""
    return budget if isinstance(budget, int) else int(float(budget.removesuffix("%")) * n / 100)


def evictions(arguments: argparse.Namespace) -> list[dict[str, Json]]:
    """Cross the grid.

    Returns
    -------
    list of dict
        Options of `a2sf.Eviction`, without those that the policy refuses; each once.

    Raises
    ------
    OptionError
        Options that no policy of the list takes, or that cannot be met.
    """
    names = items(arguments.policy, "policy")
    if names == ["all"]:
        names = list(_core.policies())
    factors: list[Json] = [None]
    if arguments.forgetting_factor is not None:
        factors = [factor_of(text) for text in items(arguments.forgetting_factor, "factor")]
    budgets = [budget_of(text) for text in items(arguments.budget, "budget")]
    common = {name: getattr(arguments, name) for name in COMMON}
    if common["recent"] is not None:
        common["recent"] = budget_of(common["recent"], "recent")
    listed: list[dict[str, Json]] = []
    used: set[str] = set()
    for name, budget, factor in itertools.product(names, budgets, factors):
        given = {"budget": budget, "forgetting_factor": factor, **common}
        taken = _accepted(name, {k: v for k, v in given.items() if v is not None})
        used |= taken.keys()
        options = given_options(Eviction(**taken))
        if options not in listed:
            listed.append(options)
    for path, budget in itertools.product(arguments.eviction_file, budgets):
        loaded = given_options(Eviction.load(path))
        prefill = {} if arguments.prefill is None else {"prefill": arguments.prefill}
        listed.append(given_options(Eviction(**{**loaded, **prefill, "budget": budget})))
    for name in ("forgetting_factor", *COMMON):
        if getattr(arguments, name) is not None and name not in used and names != ["full"]:
            raise OptionError(f"{name}: a policy that has it expected, found {', '.join(names)}")
    return listed


def factor_of(text: str) -> float | None:
    """Read a forgetting factor; None is "auto"."""
    if text == "auto":
        return None
    return float(numbers(text, "forgetting_factor", float)[0])


def _accepted(policy: str, given: dict[str, Json]) -> dict[str, Json]:
    """Keep the options that the policy has a use for; the library knows which."""
    Eviction(policy=policy)  # an unknown name
    return {"policy": policy, **{k: v for k, v in given.items() if has_option(policy, k, v)}}


def has_option(policy: str, name: str, value: Json) -> bool:
    """Whether a policy has a use for an option; raises where the value makes no sense."""
    try:
        Eviction(policy=policy, **{name: value})
    except OptionError as error:
        if f"no such option expected for policy {policy}" in str(error):
            return False
        if "budget: at least" not in str(error):  # to be judged with all options
            raise
    return True


def model_path(arguments: argparse.Namespace) -> str:
    """Find the model's file, downloading it if it has to be."""
    return bundled_path() if arguments.model is None else _local(arguments.model)


@lru_cache(maxsize=8)
def _local(model: str) -> str:
    return local_path(model)  # a hub is asked once, not for each job


def engine_arguments(arguments: argparse.Namespace) -> dict[str, Json]:
    """List what `Engine` is given beside the model."""
    given = {"kv_type": arguments.kv_type, "batch": arguments.batch, "threads": arguments.threads}
    return {name: value for name, value in given.items() if value is not None}


def open_engine(arguments: argparse.Namespace) -> Engine:
    """Load the model, to look at it before jobs are made."""
    return engine_of(model_path(arguments), engine_arguments(arguments))


def check_fits(engine: Engine, n_tokens: int, what: str, *, n_answer: int = 0) -> None:
    """Refuse what the full cache cannot hold, which everything is compared to.

    Raises
    ------
    OptionError
        More tokens than the model's context has beside an answer of `n_answer`.
    """
    most = engine.info.n_ctx - n_answer
    if n_tokens > most:
        less = f" less {n_answer} for the answer" if n_answer else ""
        raise OptionError(
            f"{what}: at most {most} tokens (the model's context{less}, which the full cache has "
            f"to fit into) expected, found {n_tokens}"
        )


def with_full(listed: list[dict[str, Json]]) -> list[dict[str, Json]]:
    """Put the full cache first, which everything is compared to."""
    full = given_options(Eviction(policy="full"))
    return [full, *(eviction for eviction in listed if eviction["policy"] != "full")]


def executor_of(arguments: argparse.Namespace) -> Executor:
    """Return what runs the jobs: this process, or a Ray cluster."""
    if arguments.ray is None:
        return run_here
    from ._ray import run_on

    return run_on(arguments.ray)


def eviction_name(options: dict[str, Json]) -> str:
    """Name an eviction in tables: the policy, and the options that were given; no budget."""
    rest = {k: v for k, v in options.items() if k not in ("policy", "budget")}
    if not isinstance(rest.get("allocation", ""), str):  # too long for a table
        text = json.dumps(rest["allocation"]).encode()
        rest["allocation"] = hashlib.sha256(text).hexdigest()[:6]
    detail = ", ".join(
        f"{name}={f'{value:g}' if isinstance(value, float) else value}"
        for name, value in rest.items()
    )
    return f"{options['policy']} ({detail})" if detail else str(options["policy"])


def budget_text(row: Row) -> str:
    """Budget of a row, as a heading; "-" for the full cache."""
    return str(row["options"]["eviction"].get("budget", "-"))


def budgets_of(rows: Iterable[Row]) -> list[str]:
    """Budgets in the rows: shares first, small ones before large ones."""
    return sorted(
        {budget_text(row) for row in rows}, key=lambda text: (text[-1] != "%", budget_number(text))
    )


def budget_number(budget: str) -> float:
    """Tokens, or per cent."""
    return 0.0 if budget == "-" else float(budget.removesuffix("%"))
