"""The command line of `a2sf serve`. Options of model and cache are those of `a2sf run`."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from typing import Any

from .._core import VERSION, OptionError, parse_ranges, policies, policy_evicts
from .._engine import Engine
from .._options import Eviction, factor_or_auto
from ._hosts import default_allowed
from ._options import ServerOptions

EVICTION = (
    "policy", "budget", "forgetting_factor", "sinks", "recent", "window", "scope", "pooling",
    "prefill", "positions", "pinned", "allocation", "guard",
)  # fmt: skip
KEYS_VARIABLE = "A2SF_API_KEY"


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all options."""
    parser = argparse.ArgumentParser(
        prog="a2sf serve",
        usage="a2sf serve [options]",
        description="Serve a model over HTTP with OpenAI's interface.",
        epilog="Exit status: 0 done, 1 run-time error, 2 bad usage.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--version", action="version", version=f"a2sf {VERSION}")
    _add_server(parser)
    _add_limits(parser)
    _add_engine(parser)
    _add_cache(parser)
    return parser


def _add_server(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("Server")
    add = group.add_argument
    add("--host", default="127.0.0.1", metavar="NAME", help="address to listen at")
    add("--port", default=8080, type=int, metavar="N", help="port; 0 is any free one")
    add("--served-model-name", metavar="NAME", help="the model's name for clients; its file's name")
    add(
        "--api-key", action="append", metavar="KEY",
        help=f"a key that clients must bring; may be given several times; ${KEYS_VARIABLE} "
        "holds one or more, with commas between them, and other users of the machine cannot see it",
    )  # fmt: skip
    add(
        "--allowed-host", action="append", metavar="NAME",
        help="what clients may call the server, without port; repeatable; * is anything (without "
        "keys and at a local address: this machine's own names)",
    )  # fmt: skip
    add("--cors-origin", action="append", metavar="ORIGIN", help="whose pages may call; repeatable")
    add("--temperature", type=float, metavar="T", help="for requests that name none (1)")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    defaults = ServerOptions()
    group = parser.add_argument_group("Limits")

    def add(name: str, default: float, text: str) -> None:
        group.add_argument(name, default=default, type=type(default), metavar="N", help=text)

    add("--parallel", defaults.parallel, "sequences computed together")
    add("--queue", defaults.queue, "sequences that may wait beside them")
    add("--timeout", defaults.timeout_s, "seconds for an answer, waiting included; 0 is no limit")
    add("--grace", defaults.grace_s, "seconds for running answers when the server ends")
    add("--max-request-bytes", defaults.max_request_bytes, "largest body of a request")
    add("--max-tokens-limit", defaults.max_tokens_limit, "most tokens of an answer")


def _add_engine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("Model and machine")
    add = group.add_argument
    add(
        "-m", "--model", default=None, metavar="PATH",
        help="GGUF file, or hf:owner/repo/file.gguf; none is $A2SF_MODEL, else the bundled model",
    )  # fmt: skip
    add("-t", "--threads", default=None, type=int, metavar="N", help="threads that compute")
    add("--device", default="auto", metavar="NAME", help="what to run on")
    add("--batch", default=512, type=int, metavar="N", help="prompt tokens computed together")
    add("--kv-type", default="f16", metavar="TYPE", help="how K and V are stored: f32, f16, q8_0")


def _add_cache(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("KV cache (without any of these, nothing is evicted)")
    add = group.add_argument
    add("--policy", metavar="NAME", help="what is evicted: " + ", ".join(policies()))
    add("--eviction-file", metavar="FILE",
        help="options from a file of a2sf-eval calibrate; the others here override it")  # fmt: skip
    add("--budget", metavar="N|R%", help="most tokens kept per head, or a share of the prompt")
    add("--forgetting-factor", type=factor_or_auto, metavar="F",
        help="weight of each older query, 0 to 1, or auto")  # fmt: skip
    add("--sinks", type=int, metavar="N", help="first tokens of the text that always stay")
    add("--recent", metavar="N|R%", help="newest tokens that always stay, or a share of the budget")
    add("--window", type=int, metavar="N", help="newest queries that vote (snapkv)")
    add("--scope", metavar="WHICH", help="head: each KV head keeps its own tokens; layer: the same")
    add("--pooling", type=int, metavar="N", help="a token keeps neighbours within N/2 alive; odd")
    add("--prefill", metavar="MODE", help="evict after every prompt token, chunk, or the full one")
    add(
        "--positions",
        metavar="WHICH",
        help="original, or compact (the default): kept tokens in a row",
    )
    add(
        "--pinned",
        type=ranges,
        metavar="RANGES",
        help="positions that always stay: N for the first N, FIRST-END, several with commas",
    )
    add("--allocation", metavar="HOW", help="of the budget to heads: equal, or auto by their need")
    add("--guard", type=float, metavar="SHARE",
        help="of what a chunk leaves, kept because its keys are unlike the others")  # fmt: skip


def ranges(text: str) -> list[tuple[int, int]]:
    """Read --pinned as the native program does."""
    try:
        return parse_ranges(text)
    except OptionError as error:
        raise argparse.ArgumentTypeError(f"invalid ranges value: {text!r}; {error}") from None


def eviction_from(given: dict[str, Any]) -> Eviction | None:
    """Return how the cache is kept; None without any option of it.

    Positions are compact where none are asked for: a prompt may be longer than what the model was
    trained for.
    """
    values = {name: given[name] for name in EVICTION if name in given}
    for name in ("budget", "recent"):
        if name in values and values[name].isdecimal():
            values[name] = int(values[name])
    path = given.get("eviction_file")
    if not values and path is None:
        return None
    base = None if path is None else Eviction.load(path)
    if policy_evicts(values.get("policy", (base or Eviction()).policy)):
        values.setdefault("positions", (base and base.positions) or "compact")
    return Eviction(**values) if base is None else replace(base, **values)


def engine_from(given: dict[str, Any], eviction: Eviction | None) -> Engine:
    """Load the model."""
    return Engine(
        given["model"],
        eviction=eviction,
        kv_type=given["kv_type"],
        device=given["device"],
        threads=given["threads"],
        batch=given["batch"],
        progress=False,
    )


def options_from(given: dict[str, Any]) -> ServerOptions:
    """Return the server's options; keys also come from the environment."""
    keys = list(given.get("api_key", ()))
    from_environment = os.environ.get(KEYS_VARIABLE, "")
    keys += [key.strip() for key in from_environment.split(",") if key.strip()]
    if not 0 <= given["port"] <= 65535:
        raise OptionError(f"port: 0 to 65535 expected, found {given['port']}")
    hosts = tuple(given.get("allowed_host", ()))
    return ServerOptions(
        model_name=given.get("served_model_name"),
        api_keys=tuple(keys),
        parallel=given["parallel"],
        queue=given["queue"],
        timeout_s=given["timeout"],
        grace_s=given["grace"],
        max_request_bytes=given["max_request_bytes"],
        max_tokens_limit=given["max_tokens_limit"],
        temperature=given.get("temperature", 1.0),
        cors_origins=tuple(given.get("cors_origin", ())),
        allowed_hosts=hosts or default_allowed(given["host"], tuple(keys)),
    )
