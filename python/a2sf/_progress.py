"""A progress bar on standard error while a long prompt is read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module

LONG_PROMPT = 2000  # tokens; below this a prompt is read before a bar could help

Report = Callable[[int, int], object]


@contextmanager
def prompt_bar(show: bool | None, n_tokens: int) -> Iterator[Report | None]:
    """Give what to call with (tokens done, tokens in all), or None where no bar is wanted.

    Parameters
    ----------
    show
        True or False; None means only on a long prompt and when standard error is a terminal.
    n_tokens
        Length of the prompt.
    """
    if show is None:
        show = n_tokens >= LONG_PROMPT and sys.stderr is not None and sys.stderr.isatty()
    if not show:
        yield None
        return
    try:
        tqdm = import_module("tqdm").tqdm  # optional and untyped
    except ImportError:
        yield _print_percent
        print(file=sys.stderr)
        return
    with tqdm(total=n_tokens, desc="prompt", unit="token", leave=False) as bar:
        yield lambda n_done, n_total: bar.update(n_done - bar.n)


def _print_percent(n_done: int, n_total: int) -> None:
    print(f"\rprompt: {n_done}/{n_total} tokens", end="", file=sys.stderr, flush=True)
