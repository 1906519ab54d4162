"""What eval_peers.py runs: each engine answers the same token ids under a named cache policy.

- a2sf: `Session.feed` of the prompt, `Session.generate`; eviction at the prompt's end, then a token
  for a token.
- kvpress: transformers on the same GGUF file, its weights made float32; its press evicts once, at
  the end of the prompt, and the answer is added to what is left.
- OpenVINO GenAI: ContinuousBatchingPipeline on the GGUF file, the prompt read at once; evicts
  blocks of 32 tokens, the same ones for all heads of a layer.

All decode greedily. A time is that of the prompt and the answer together.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import peer_engines
from peer_process import die_with_parent, missing, open_answers

OPENVINO_BLOCK = 32  # tokens; its "start" and "recent" are whole blocks
WHOLE = 8192  # tokens: no prompt is read in pieces
# Options of an eviction: those of a2sf.Eviction, of a press, of a CacheEvictionConfig.
Options = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One policy of one engine.

    policy : name of the comparison, the same for all engines that take part in it.
    name : of the policy or class in its engine; "" is the full cache.
    """

    policy: str
    engine: str
    name: str
    options: Options


def kvpress_pair(
    policy: str, press: str, given: Options, ours: str, options: Options
) -> list[Case]:
    """A press, and the policy of ours that is closest to it."""
    full = {"prefill": "full", **options}
    return [Case(policy, "kvpress", press, given), Case(policy, "a2sf", ours, full)]


def openvino_pair(policy: str, mode: str, window: int, ours: str, options: Options) -> list[Case]:
    """Modes of OpenVINO's eviction, and the policy of ours that is closest."""
    block = OPENVINO_BLOCK
    given = {"mode": mode, "start": block, "recent": block, "window": window}
    same = {"prefill": "full", "scope": "layer", "sinks": block, "recent": block, **options}
    # A token counts as much as the best within half a block: what stays, stays with its neighbours.
    near = {**same, "pooling": block + 1}
    return [
        Case(policy, "OpenVINO", mode, given),
        Case(policy, "a2sf", ours, same),
        Case(f"{policy}, pooling {block + 1}", "a2sf", ours, near),
    ]


def cases() -> list[Case]:
    """Everything that is compared."""
    # A press evicts nothing after the prompt; ours evicts on, but not its own answer.
    none: Options = {"sinks": 0, "recent": 16}
    listed = [Case("full", engine, "", {}) for engine in ("a2sf", "kvpress", "OpenVINO")]
    listed += kvpress_pair(
        "streaming", "StreamingLLMPress", {"n_sink": 4}, "streaming", {"sinks": 4}
    )
    last = {"sinks": 0, "recent": 1, "scope": "layer"}
    listed += kvpress_pair("tova", "TOVAPress", {}, "tova", last)
    listed += kvpress_pair("keydiff", "KeyDiffPress", {}, "keydiff", none)
    window: Options = {"sinks": 0, "recent": 32, "window": 32}
    for policy, size in (("snapkv", 7), ("snapkv, not pooled", 1)):
        press = {"window_size": 32, "kernel_size": size}
        listed += kvpress_pair(policy, "SnapKVPress", press, "snapkv", {**window, "pooling": size})
    listed += kvpress_pair("h2o", "ObservedAttentionPress", {}, "h2o", none)
    listed += openvino_pair("sum", "SUM", 0, "h2o", {})
    listed += openvino_pair("sum, window 32", "SUM", 32, "snapkv", {"window": 32, "pooling": 1})
    listed += openvino_pair("mean", "NORM_SUM", 0, "h2o", {})
    listed += [Case(name, "a2sf", name, {}) for name in ("a2sf", "a2sf-dual")]
    return listed


@dataclass(frozen=True)
class Answer:
    """Ids of an answer, and seconds for prompt and answer."""

    ids: list[int]
    time_s: float


class Answerer(Protocol):
    """An engine with a model loaded."""

    version: str

    def answer(self, ids: Sequence[int], case: Case, budget: int, n_tokens: int) -> Answer: ...


class A2sfAnswerer:
    """This project's engine."""

    def __init__(self, model: str, threads: int, stop_id: int) -> None:
        import a2sf

        self._a2sf = a2sf
        self.version = f"{a2sf.__version__} ({a2sf.isa()})"
        self._engine = a2sf.Engine(model, threads=threads, progress=False)
        self._whole = a2sf.Engine(model, threads=threads, progress=False, batch=WHOLE)

    def answer(self, ids: Sequence[int], case: Case, budget: int, n_tokens: int) -> Answer:
        given = {"policy": case.name, "budget": budget, **case.options} if case.name else None
        eviction = self._a2sf.Eviction(**(given or {"policy": "full"}))
        # Read at once where the peers do: a chunk that ends in snapkv's window divides it.
        engine = self._whole if case.options.get("prefill") == "full" else self._engine
        start = time.perf_counter()
        found = engine.generate(list(ids), max_tokens=n_tokens, eviction=eviction)
        return Answer(list(found.ids), time.perf_counter() - start)


class KvpressAnswerer:
    """NVIDIA's kvpress on transformers."""

    def __init__(self, model: str, threads: int, stop_id: int) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        from importlib.metadata import version

        import kvpress
        import torch
        import transformers

        transformers.utils.logging.disable_progress_bar()
        torch.set_num_threads(threads)
        names = ("kvpress", "transformers", "torch")
        self.version = ", ".join(f"{name} {version(name)}" for name in names)[len("kvpress ") :]
        self._torch: Any = torch
        self._presses: Any = kvpress
        self._cache: Any = transformers.DynamicCache
        folder, file = os.path.split(model)
        self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=file, dtype=torch.float32
        ).eval()
        self._stop_id = stop_id

    def answer(self, ids: Sequence[int], case: Case, budget: int, n_tokens: int) -> Answer:
        # Half a token more, against rounding: a press keeps int(n * (1 - ratio)).
        ratio = max(0.0, 1 - (budget + 0.5) / len(ids)) if case.name else 0.0
        eager = case.name == "ObservedAttentionPress"  # which wants to see the probabilities
        self._model.set_attn_implementation("eager" if eager else "sdpa")
        cache = self._cache()
        start = time.perf_counter()
        with self._torch.inference_mode():
            text = self._torch.tensor([list(ids)])
            if case.name:
                press = getattr(self._presses, case.name)(compression_ratio=ratio, **case.options)
                with press(self._model):
                    found = self._next(text, cache, 0)
                kept = cache.layers[0].keys.shape[2]
                if kept != min(budget, len(ids)):
                    raise RuntimeError(f"{case.name}: {budget} tokens expected, found {kept}")
            else:
                found = self._next(text, cache, 0)
            written = [found]
            while found != self._stop_id and len(written) < n_tokens:
                text = self._torch.tensor([[found]])
                found = self._next(text, cache, len(ids) + len(written) - 1)
                written.append(found)
        return Answer(written, time.perf_counter() - start)

    def _next(self, text: Any, cache: Any, first: int) -> int:
        """Read tokens at the positions that they have in the text; return the likeliest next."""
        pos = self._torch.arange(first, first + text.shape[1])
        logits = self._model(
            text,
            past_key_values=cache,
            position_ids=pos[None],
            cache_position=pos,
            logits_to_keep=1,
        ).logits
        return int(logits[0, -1].argmax())


class OpenVinoAnswerer:
    """OpenVINO GenAI; a pipeline for each budget and policy, the last one kept."""

    def __init__(self, model: str, threads: int, stop_id: int) -> None:
        import openvino
        import openvino_genai

        self._tensor: Any = openvino.Tensor
        self._genai: Any = openvino_genai
        self.version = str(openvino_genai.__version__).partition("-")[0]
        self._model, self._threads, self._stop_id = model, threads, stop_id
        self._made: tuple[Case, int] | None = None
        self._pipeline: Any = None

    def answer(self, ids: Sequence[int], case: Case, budget: int, n_tokens: int) -> Answer:
        import numpy as np

        if self._made != (case, budget):
            self._pipeline = None
            self._pipeline, self._made = self._make(case, budget), (case, budget)
            self._generate(np.array([list(ids)[:64]]), 2)  # a warm-up
        start = time.perf_counter()
        found = self._generate(np.array([list(ids)]), n_tokens)
        return Answer(found, time.perf_counter() - start)

    def _make(self, case: Case, budget: int) -> Any:
        scheduler = self._genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        scheduler.max_num_batched_tokens = WHOLE
        scheduler.cache_size = 1
        if case.name:
            given = case.options
            scheduler.use_cache_eviction = True
            scheduler.cache_eviction_config = self._genai.CacheEvictionConfig(
                given["start"],
                given["recent"],
                budget,
                getattr(self._genai.AggregationMode, given["mode"]),
                snapkv_window_size=given["window"],
            )
        properties = {"INFERENCE_NUM_THREADS": self._threads}
        return self._genai.ContinuousBatchingPipeline(self._model, scheduler, "CPU", properties)

    def _generate(self, ids: Any, n_tokens: int) -> list[int]:
        configuration = self._genai.GenerationConfig()
        configuration.max_new_tokens = n_tokens
        configuration.do_sample = False
        configuration.stop_token_ids = {self._stop_id}
        result = self._pipeline.generate([self._tensor(ids)], [configuration])[0]
        return [int(i) for i in result.m_generation_ids[0]]


ANSWERERS: dict[str, type[A2sfAnswerer] | type[KvpressAnswerer] | type[OpenVinoAnswerer]] = {
    "a2sf": A2sfAnswerer,
    "kvpress": KvpressAnswerer,
    "OpenVINO": OpenVinoAnswerer,
}
PACKAGES = {**peer_engines.PACKAGES, "kvpress": ("kvpress", "kvpress")}


def work(name: str) -> None:
    """Serve one engine: what to do comes as a line of JSON, a line goes out for each answer."""
    die_with_parent()
    say = open_answers()
    given = json.loads(sys.stdin.readline())
    if lacks := missing(*PACKAGES[name]):
        say(problem=f"{name} skipped: {lacks}")
        return
    try:
        engine = ANSWERERS[name](given["model"], given["threads"], given["stop_id"])
        say(version=engine.version)
        mine = [case for case in cases() if case.engine == name]
        for i, case in enumerate(mine):
            for budget in given["budgets"] if case.name else [0]:
                for number, ids in enumerate(given["prompts"]):
                    if number == 0 and i == 0:
                        engine.answer(ids, case, budget, 2)  # a warm-up
                    found = engine.answer(ids, case, budget, given["n_tokens"])
                    say(policy=case.policy, budget=budget, prompt=number, ids=found.ids,
                        time_s=round(found.time_s, 4))  # fmt: skip
    except Exception as error:
        traceback.print_exc()
        say(problem=f"{name} failed: {type(error).__name__}: {str(error).strip()}")
