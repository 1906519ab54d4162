"""`python -m a2sf.plot`: a page that shows what a cache holds of a text."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import _core
from .._core import Error, OptionError
from .._engine import Engine
from .._options import Eviction, factor_or_auto, fix_budget, given_options
from . import record, text_view

N_STEPS = 64  # looks, unless --every says otherwise
BUDGET, PREFILL = "20%", "token"  # of a policy that evicts, unless given
GIVEN = (
    "forgetting_factor", "sinks", "window", "scope", "pooling", "positions", "allocation", "guard",
)  # fmt: skip


def make_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        prog="python -m a2sf.plot",
        description="Read a text into a KV cache with a budget and write a page that shows which "
        "tokens each layer and head still holds, over time.",
        epilog="Exit status: 0 done, 1 run-time error, 2 bad usage, 130 interrupted.",
    )
    add = parser.add_argument
    add("--version", action="version", version=f"a2sf {_core.VERSION}")
    add("-m", "--model", metavar="PATH", help="GGUF file or hf:owner/repo/file (bundled model)")
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("-f", "--file", metavar="FILE", help="the text, UTF-8")
    text.add_argument("-p", "--prompt", metavar="TEXT", help="the text itself")
    add("-o", "--output", default="page.html", metavar="FILE", help="the page (%(default)s)")
    add("--ctx", type=int, metavar="N", help="only the first N tokens (all)")
    add("--every", type=int, metavar="N",
        help=f"tokens from one look at the cache to the next (for {N_STEPS} looks)")  # fmt: skip
    add("--title", metavar="TEXT", help="heading of the page (the policy and its budget)")
    add("-t", "--threads", type=int, metavar="N", help="threads (all cores)")
    add("--kv-type", choices=("f16", "f32", "q8_0"), default="f16", help="(%(default)s)")
    cache = parser.add_argument_group("Cache", "What is left out is the policy's own.").add_argument
    cache("--policy", metavar="NAME", help=f"one of {', '.join(_core.policies())} (a2sf)")
    cache("--eviction-file", metavar="FILE",
          help="options of this file of a2sf-eval calibrate, where no other is given")  # fmt: skip
    share = BUDGET.replace("%", "%%")
    cache("--budget", metavar="N|R%", help=f"tokens, or share of the text ({share}, or the file's)")
    cache("--forgetting-factor", type=factor_or_auto, metavar="F")
    cache("--sinks", type=int, metavar="N")
    cache("--recent", metavar="N|R%")
    cache("--window", type=int, metavar="N")
    cache("--scope", choices=("head", "layer"))
    cache("--pooling", type=int, metavar="N")
    cache("--prefill", choices=("token", "chunk", "full"),
          help="when tokens are evicted; chunk: at each look, full: at the end, the only look "
          f"({PREFILL})")  # fmt: skip
    cache("--positions", choices=("original", "compact"))
    cache("--allocation", choices=("auto", "equal"))
    cache("--guard", type=float, metavar="SHARE")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; return the exit status."""
    given = make_parser().parse_args(arguments)
    try:
        _write(given)
    except OptionError as error:
        print(f"a2sf.plot: {error}\nTry 'python -m a2sf.plot --help'.", file=sys.stderr)
        return 2
    except Error as error:
        print(f"a2sf.plot: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("a2sf.plot: interrupted", file=sys.stderr)
        return 130
    return 0


def _write(given: argparse.Namespace) -> None:
    if given.every is not None and given.every < 1:
        raise OptionError(f"every: at least 1 token expected, found {given.every}")
    if given.ctx is not None and given.ctx < 1:
        raise OptionError(f"ctx: at least 1 token expected, found {given.ctx}")
    if given.prefill == "full" and given.every is not None:
        raise OptionError("every: none expected with prefill full, which evicts at the end only")
    options = _options(given)
    fix_budget(Eviction(**options), 1 << 20)  # bad options, before any work
    text = given.prompt if given.file is None else _read(given.file)
    if not text:
        raise OptionError("text: at least 1 token expected, found 0")
    engine = Engine(given.model, kv_type=given.kv_type, threads=given.threads)
    ids = engine.tokenize(text, special=given.file is None)[: given.ctx]
    if not ids:
        raise OptionError("text: at least 1 token expected, found 0")
    eviction = fix_budget(Eviction(**options), len(ids))
    every = given.every or max(1, -(-len(ids) // N_STEPS))
    if given.prefill == "full":
        every = len(ids)
    recording = record(engine.session(eviction=eviction), ids, every=every)
    name, budget = eviction.policy, options.get("budget")
    if isinstance(budget, float):  # as files have a share
        budget = f"{budget * 100:g}%"
    if budget is not None:
        name += f", budget {budget}"
    source = "" if given.file is None else f": {Path(given.file).name}"
    text_view(engine, ids, recording, given.output, title=given.title or f"{name}{source}")
    print(f"a2sf.plot: {len(ids)} tokens in {given.output}", file=sys.stderr)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise OptionError(f"file: a text expected, found: {error}") from error


def _options(given: argparse.Namespace) -> dict[str, Any]:
    """Options of the eviction: those given, then the file's, then this command's."""
    options: dict[str, Any] = {name: getattr(given, name) for name in ("policy", *GIVEN)}
    options["prefill"] = given.prefill
    for name in ("budget", "recent"):
        if getattr(given, name) is not None:
            options[name] = _amount(name, getattr(given, name))
    of_file = (
        {} if given.eviction_file is None else given_options(Eviction.load(given.eviction_file))
    )
    options = of_file | {k: v for k, v in options.items() if v is not None}
    if _core.policy_evicts(options.setdefault("policy", "a2sf")):
        options = {"budget": BUDGET, "prefill": PREFILL} | options
    return options


def _amount(what: str, text: str) -> int | str:
    """Read "20%", which stays, or "256", a number."""
    if text.endswith("%"):
        return text
    try:
        return int(text)
    except ValueError as error:
        raise OptionError(f"{what}: tokens or a share as 20% expected, found {text!r}") from error


if __name__ == "__main__":
    sys.exit(main())
