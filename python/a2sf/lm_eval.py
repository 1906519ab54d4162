"""The model `a2sf` of lm-evaluation-harness (extra `lm-eval`).

Importing this module registers it, for `lm_eval.simple_evaluate(model="a2sf", ...)`. The harness
(0.4.13) looks for no models in other packages, so that its command has to be started from here:
`python -m a2sf.lm_eval`, or `a2sf-lm-eval`, takes what `lm_eval` takes.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
from typing import Any, Literal

from ._chat import render
from ._core import Error, OptionError
from ._dialogue import special_texts
from ._engine import Engine
from ._options import Eviction, KvType, Sampling, fix_budget
from .eval._likelihood import (
    Context,
    Request,
    Writing,
    encode_context,
    encode_pair,
    log_likelihoods,
    write_answers,
)
from .eval._packages import require

DEFAULT_MAX_TOKENS = 256  # of an answer, unless a task says otherwise: the harness's own
SAMPLING = ("temperature", "top_k", "top_p", "min_p")  # what a task may ask of a generation
MAX_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")

_log = logging.getLogger(__name__)

# The harness adds its own models when it knows none at all, which is over once this one is there.
require("lm_eval.models", "lm-eval", "lm-eval")
LM: Any = require("lm_eval.api.model", "lm-eval", "lm-eval").LM
register_model: Any = require("lm_eval.api.registry", "lm-eval", "lm-eval").register_model


@register_model("a2sf")
class A2sfLM(LM):  # type: ignore[misc]  # the harness has no types
    """A GGUF model under an eviction.

    Parameters are the harness's `--model_args`.

    Parameters
    ----------
    model : str or None, default None
        As `a2sf.Engine`'s path: a file, "hf:owner/repo/file.gguf", None for the bundled model.
    policy : str, default "full"
    budget, forgetting_factor, sinks, recent, window, scope, pooling, prefill, positions
    allocation, guard
        As in `a2sf.Eviction`; allocation is "auto" or "equal". A share is one of the context that
        a request has.
    protocol : {"own", "paper"}, default "own"
        "paper" is that of A2SF (arXiv 2407.20485): a share is one of context and continuation (the
        longest one, where an answer is written), and tokens are evicted one by one.
    kv_type, threads, batch
        As in `a2sf.Engine`.
    max_length : int or None, default None
        Most tokens of context and continuation together; longer contexts lose their beginning.
        None is the model's context length.
    batch_size : int or str, default 1
        What the harness passes on; requests run one by one, so 1 or "auto".
    max_batch_size : int or None, default None
        As batch_size.
    device : {"auto", "cpu", "cuda", "cuda:0"} or None, default None
        None is "auto"; so is "cuda:0", which the harness's command passes on when nothing is said.

    Raises
    ------
    TypeError
        An argument that is not listed here.
    OptionError, GgufError, UnsupportedError, DeviceError, Error
        As `a2sf.Engine` and `a2sf.Eviction`.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        policy: str = "full",
        budget: int | float | str | None = None,
        forgetting_factor: float | Literal["auto"] | None = None,
        sinks: int | None = None,
        recent: int | float | str | None = None,
        window: int | None = None,
        scope: Literal["head", "layer"] | None = None,
        pooling: int | None = None,
        prefill: Literal["token", "chunk", "full"] | None = None,
        positions: Literal["original", "compact"] | None = None,
        allocation: Literal["auto", "equal"] | None = None,
        guard: float | None = None,
        protocol: Literal["own", "paper"] = "own",
        kv_type: KvType = "f16",
        threads: int | None = None,
        batch: int = 512,
        max_length: int | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: Literal["auto", "cpu", "cuda", "cuda:0"] | None = None,
    ) -> None:
        super().__init__()
        if protocol not in ("own", "paper"):
            raise OptionError(f"protocol: own or paper expected, found {protocol!r}")
        _check_batch(batch_size, max_batch_size)
        self._paper = protocol == "paper"
        if self._paper and prefill not in (None, "token"):
            raise OptionError(f"prefill: token expected with the paper's protocol, found {prefill}")
        if self._paper and policy != "full":
            prefill = "token"
        self._eviction = Eviction(
            policy=policy,
            budget=budget,
            forgetting_factor=forgetting_factor,
            sinks=sinks,
            recent=recent,
            window=window,
            scope=scope,
            pooling=pooling,
            prefill=prefill,
            positions=positions,
            allocation=allocation,
            guard=guard,
        )
        self._engine = Engine(
            model,
            kv_type=kv_type,
            device="auto" if device is None or device == "cuda:0" else device,
            threads=threads,
            batch=batch,
            progress=False,
        )
        n_ctx = self._engine.info.n_ctx
        if max_length is not None and not 2 <= max_length <= n_ctx:
            raise OptionError(f"max_length: 2 to {n_ctx} tokens expected, found {max_length}")
        self._max_length = n_ctx if max_length is None else max_length

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: Any = None) -> A2sfLM:
        """As the harness's, which calls one of the two."""
        parse = require("lm_eval.utils", "lm-eval", "lm-eval").simple_parse_args_string
        return cls.create_from_arg_obj(parse(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: Any = None) -> A2sfLM:
        """As the harness's; an unknown argument is an OptionError that lists the known ones."""
        known = list(inspect.signature(cls.__init__).parameters)[1:]
        for name in arg_dict:
            if name not in known:
                raise OptionError(f"model_args: of {', '.join(known)} expected, found {name}")
        made: A2sfLM = super().create_from_arg_obj(arg_dict, additional_config)
        return made

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        """Score continuations.

        Parameters
        ----------
        requests : list of lm_eval.api.instance.Instance
            `args` is (context, continuation).
        disable_tqdm : bool, default False
            No progress bar.

        Returns
        -------
        list of (float, bool)
            Natural log of the probability, and whether it is what the model would write itself.
        """
        tokenizer = self._engine.tokenizer
        pairs = [encode_pair(tokenizer, *request.args) for request in requests]
        asked = [self._request(*pair) for pair in pairs]
        found = [
            (score.log_prob, score.greedy)
            for score in log_likelihoods(self._engine, asked, quiet=disable_tqdm)
        ]
        for request, result in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, result)
        return found

    def _request(self, context: Context, continuation: Context) -> Request:
        context = self._cut(context, len(continuation))
        n_tokens = len(context) + self._paper * len(continuation)
        eviction = fix_budget(self._eviction, n_tokens)
        return Request(context=context, continuation=continuation, eviction=eviction)

    def _cut(self, context: Context, n_more: int) -> Context:
        """Cut the beginning off a context so that `n_more` tokens fit behind it."""
        room = self._max_length - n_more
        if room < 1:
            raise OptionError(
                f"max_length: at least {n_more + 1} tokens for a context and what follows it "
                f"expected, found {self._max_length}"
            )
        if len(context) > room:
            _log.warning(
                "context of %d tokens cut to its last %d (max_length %d)",
                len(context), room, self._max_length,
            )  # fmt: skip
        return context[-room:]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Score whole texts, in the harness's windows of `max_length` tokens.

        A window is read as one prompt. With prefill "chunk" and "full" tokens are evicted at the
        ends of chunks only, so that a budget costs little or nothing: prefill "token" is what
        measures an eviction.

        Parameters
        ----------
        requests : list of lm_eval.api.instance.Instance
            `args` is (text,).
        disable_tqdm : bool, default False
            No progress bar.

        Returns
        -------
        list of float
            Natural logs of the probabilities, given the token that begins texts.
        """
        found = []
        for request in require("tqdm", "tqdm").tqdm(requests, disable=disable_tqdm):
            (text,) = request.args
            total = sum(self._score_window(*pair) for pair in self._windows(text))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
            found.append(total)
        return found

    def _windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        utils = require("lm_eval.utils", "lm-eval", "lm-eval")
        tokenizer = self._engine.tokenizer
        return [
            utils.make_disjoint_window(window)
            for window in utils.get_rolling_token_windows(
                token_list=tokenizer.encode(text, bos=False),
                prefix_token=encode_context(tokenizer, "")[0],
                max_seq_len=self._max_length - 1,  # and the token before them
                context_len=1,
            )
        ]

    def _score_window(self, context: list[int], continuation: list[int]) -> float:
        eviction = fix_budget(self._eviction, len(context) + len(continuation))
        scores = self._engine.score([*context, *continuation], eviction=eviction)
        return float(scores[len(context) - 1 :].sum(dtype="float64"))

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Let the model write.

        Parameters
        ----------
        requests : list of lm_eval.api.instance.Instance
            `args` is (context, options): until, max_gen_toks, do_sample, temperature, top_k, top_p,
            min_p, seed.
        disable_tqdm : bool, default False
            No progress bar.

        Returns
        -------
        list of str
            Up to the first of `until`.

        Raises
        ------
        OptionError
            Another option.
        """
        asked = [self._writing(*request.args) for request in requests]
        found = write_answers(self._engine, asked, quiet=disable_tqdm)
        for request, text in zip(requests, found, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return found

    def _writing(self, text: str, options: dict[str, Any]) -> Writing:
        stop, max_tokens, sampling = _generation(options)
        context = self._cut(encode_context(self._engine.tokenizer, text), max_tokens)
        eviction = fix_budget(self._eviction, len(context) + self._paper * max_tokens)
        return Writing(
            context=context, eviction=eviction, max_tokens=max_tokens, stop=stop, sampling=sampling
        )

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Write a conversation out by the model's own template.

        Without `add_generation_prompt` the last message is the beginning of the answer.
        """
        bos_token, eos_token = special_texts(self._engine.tokenizer)
        said = chat_history if add_generation_prompt else chat_history[:-1]
        text = render(self.chat_template(True), said, bos_token=bos_token, eos_token=eos_token)
        return text if add_generation_prompt else text + chat_history[-1]["content"]

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Return the model's template, which has no other names than "default"."""
        if chat_template not in (True, False, "default"):
            raise OptionError(f"chat template: default expected, found {chat_template!r}")
        return self._engine.tokenizer.chat_template if chat_template else ""

    @property
    def tokenizer_name(self) -> str:
        """Name of the model's file, for the harness's cache of requests."""
        return os.path.basename(self._engine.info.path)


def _generation(options: dict[str, Any]) -> tuple[tuple[str, ...], int, Sampling]:
    """Read a task's generation options: stop strings, most tokens, sampling."""
    left = dict(options)
    until = left.pop("until", None) or []
    stop = (until,) if isinstance(until, str) else tuple(until)
    counts = [int(left.pop(name)) for name in MAX_TOKENS if left.get(name) is not None]
    do_sample = left.pop("do_sample", None)
    chosen = {name: left.pop(name) for name in SAMPLING if name in left}
    seed = int(left.pop("seed", 0))
    if left:
        known = ", ".join(("until", *MAX_TOKENS, "do_sample", *SAMPLING, "seed"))
        raise OptionError(f"generation: of {known} expected, found {', '.join(left)}")
    if do_sample:
        chosen.setdefault("temperature", 1.0)
    elif do_sample is not None or not chosen.get("temperature"):
        chosen = {}
    sampling = Sampling(
        temperature=float(chosen.get("temperature", 0.0)),
        top_k=int(chosen.get("top_k", 0)),
        top_p=float(chosen.get("top_p", 1.0)),
        min_p=float(chosen.get("min_p", 0.0)),
        seed=seed,
    )
    return stop, counts[0] if counts else DEFAULT_MAX_TOKENS, sampling


def _check_batch(batch_size: int | str, max_batch_size: int | None) -> None:
    if str(batch_size) not in ("1", "auto") or max_batch_size not in (None, 1):
        raise OptionError(
            f"batch_size: 1 expected (requests run one by one), found {batch_size}"
            + (f" and max_batch_size {max_batch_size}" if max_batch_size else "")
        )


def main() -> None:
    """Run the harness's command with the model `a2sf` known to it."""
    command = require("lm_eval.__main__", "lm-eval", "lm-eval").cli_evaluate
    try:
        command()
    except Error as error:
        print(f"a2sf-lm-eval: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, OptionError) else 1)


if __name__ == "__main__":
    main()
