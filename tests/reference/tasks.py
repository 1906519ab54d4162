"""What a policy costs on real text: negative log-likelihood under an evicting cache.

Run as a script it reproduces the perplexity table of the algorithm note's section 4:

    python -m reference.tasks MODEL.gguf TEXT.txt [--skip N]        (from tests/)

The loss depends far more on the text than on the tokenizer's details: the first 1,536 tokens of
WikiText-2's test set are an article that repeats its own lead, which a short cache cannot copy.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .decoder import Model
from .policies import PRESETS, Mode, Policy, resolve_budget

Array = NDArray[Any]
ROWS = 256  # rows of logits computed at a time


def token_nll(
    model: Model,
    ids: Sequence[int],
    policy: Policy | None = None,
    budget: int | str | None = None,
    mode: Mode | None = None,
) -> Array:
    """Negative log-likelihood of ids[1:] given what came before, ids being one prompt.

    Returns
    -------
    float64 [n - 1], nats; entry i is that of ids[i + 1].
    """
    session = model.session(policy, resolve_budget(budget, len(ids)), mode=mode)
    hidden = session.feed(ids)[:-1]
    target = np.asarray(ids[1:])
    nll = np.empty(len(target))
    for start in range(0, len(target), ROWS):
        rows = slice(start, start + ROWS)
        logits = model.project(hidden[rows]).astype(np.float64)
        top = logits.max(axis=1)
        log_sum = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        nll[rows] = log_sum - logits[np.arange(len(logits)), target[rows]]
    return nll


def mean_nll(
    model: Model,
    ids: Sequence[int],
    first: int = 1,
    last: int | None = None,
    *,
    policy: Policy | None = None,
    budget: int | str | None = None,
    mode: Mode | None = None,
) -> float:
    """Mean nll of the tokens ids[first:last], nats per token."""
    nll = token_nll(model, ids, policy, budget, mode)
    return float(nll[first - 1 : None if last is None else last - 1].mean())


def perplexity(model: Model, ids: Sequence[int]) -> float:
    """exp of the mean nll of ids[1:] with the full cache."""
    return float(np.exp(mean_nll(model, ids)))


# Section 4 and 5's rows at the two budgets. "local" is streaming without its sinks.
SECTION_4: dict[str, Policy] = {
    "local": replace(PRESETS["streaming"], sinks=0),
    "streaming": PRESETS["streaming"],
    "h2o": PRESETS["h2o"],
    "a2sf 0.3 unprotected": PRESETS["a2sf-paper"],
    "a2sf 0.9 unprotected": replace(PRESETS["a2sf-paper"], forgetting_factor=0.9),
    "a2sf 0.99 unprotected": replace(PRESETS["a2sf-paper"], forgetting_factor=0.99),
    "a2sf": PRESETS["a2sf"],
    "a2sf-dual": PRESETS["a2sf-dual"],
    "a2sf-dual pooling 3": replace(PRESETS["a2sf-dual"], pooling=3),
    "keydiff": PRESETS["keydiff"],
    "tova": PRESETS["tova"],
}


def main() -> None:
    """Print nll lost against the full cache, tokens 512..1535, `token` mode."""
    from .bpe import Bpe  # needs `regex`, which nothing else here does

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--bos", action="store_true")
    parser.add_argument("--tokens", type=int, default=1536)
    parser.add_argument("--skip", type=int, default=0, help="tokens of the text to leave out")
    parser.add_argument("--first", type=int, default=512)
    parser.add_argument("--budgets", default="128,307")
    parser.add_argument("--policies", default=",".join(SECTION_4))
    args = parser.parse_args()
    with open(args.text, encoding="utf-8") as file:
        text = file.read((args.skip + args.tokens) * 16)
    bpe = Bpe(args.model)
    ids = bpe.encode(text, bos=False)[args.skip : args.skip + args.tokens]
    if args.bos:
        ids = [bpe.bos_id, *ids[:-1]]
    model = Model(args.model)
    full = mean_nll(model, ids, args.first)
    print(f"full {full:.4f} over {len(ids) - args.first} tokens", flush=True)
    for name in args.policies.split(","):
        for budget in map(int, args.budgets.split(",")):
            start = time.monotonic()
            lost = mean_nll(
                model, ids, args.first, policy=SECTION_4[name], budget=budget, mode="token"
            )
            took = time.monotonic() - start
            print(f"{name:24s} {budget:5d} {lost - full:+.4f}   {took:.0f} s", flush=True)


if __name__ == "__main__":
    main()
