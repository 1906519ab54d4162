"""The three engines behind one interface, for compare_peers.py: prompt and decode speed of each.

Every engine is used as its own users use it, on the CPU, with the given number of threads:

- a2sf: `Session.feed`, float16 KV cache, chunks of 512 tokens.
- llama.cpp: `llama_decode` on batches of up to 512 tokens, float16 KV cache, logits of the last
  token only, no sampling.
- OpenVINO GenAI: ContinuousBatchingPipeline on the GGUF file, its own defaults but no prefix
  caching; times are its perf_metrics, which include greedy sampling.

At a depth, the first two read the text up to it, decode after it, then read the prompt after that.
At depth 0 the cache is empty both for decoding and for the prompt.

An engine imports its package when it is made, so that each may live in another environment.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
BATCH = 512


@dataclass(frozen=True)
class Settings:
    """What holds for a whole comparison."""

    model: str
    threads: int
    n_prompt: int
    n_decode: int
    max_depth: int
    budget: int
    flash_attention: bool
    openvino_batch: int
    openvino_cache_gb: int


@dataclass(frozen=True)
class Turn:
    """One measurement: tokens are drawn from [first_id, last_id) with the seed.

    evict: with a2sf's budget (only a2sf).
    """

    depth: int
    seed: int
    evict: bool = False
    first_id: int = 0
    last_id: int = 0

    def ids(self, n: int, part: int) -> Ids:
        """The n random tokens of a part of the text: part 0 is the same every round."""
        seed = [self.depth, part] if part == 0 else [self.depth, part, self.seed]
        rng = np.random.default_rng(seed)
        return rng.integers(self.first_id, self.last_id, n).astype(np.int32)


# Tokens per second by test: "prompt" and "decode" at the depth, "whole" for the text up to it.
Speeds = dict[str, float]


def single(ids: Ids) -> list[Ids]:
    """The tokens one at a time."""
    return [ids[i : i + 1] for i in range(len(ids))]


def tokens_per_s(read: Callable[[Ids], object], pieces: list[Ids]) -> float:
    """Speed of reading the pieces one after the other."""
    start = time.perf_counter()
    for ids in pieces:
        read(ids)
    return sum(len(ids) for ids in pieces) / (time.perf_counter() - start)


class Runner(Protocol):
    """An engine with a model loaded."""

    version: str
    n_vocab: int | None
    evicts: bool  # whether a turn may ask for eviction

    def measure(self, turn: Turn) -> Speeds: ...


class A2sfRunner:
    """This project's engine."""

    evicts = True

    def __init__(self, settings: Settings) -> None:
        import a2sf

        self.version = f"{a2sf.__version__} ({a2sf.isa()})"
        self._settings = settings
        engine = a2sf.Engine(
            settings.model, threads=settings.threads, batch=BATCH, kv_type="f16", progress=False
        )
        self.n_vocab: int | None = engine.info.n_vocab
        self._sessions = {
            False: engine.session(),
            True: engine.session(eviction=a2sf.Eviction(policy="a2sf", budget=settings.budget)),
        }

    def measure(self, turn: Turn) -> Speeds:
        session = self._sessions[turn.evict]
        session.reset()
        speeds = {}
        if turn.depth > 0:
            speeds["whole"] = tokens_per_s(session.feed, [turn.ids(turn.depth, 0)])
        ids = turn.ids(self._settings.n_decode, 1)
        speeds["decode"] = tokens_per_s(session.feed, single(ids))
        if turn.depth == 0:
            session.reset()
        speeds["prompt"] = tokens_per_s(session.feed, [turn.ids(self._settings.n_prompt, 2)])
        return speeds


class LlamaRunner:
    """llama.cpp through llama-cpp-python's bindings of its C interface.

    The text up to the depth is read once and kept: later turns cut the cache back to it. Its speed
    is reported by the turn that read it.
    """

    evicts = False

    def __init__(self, settings: Settings) -> None:
        import llama_cpp

        self._lib: Any = llama_cpp.llama_cpp
        self.version = str(llama_cpp.__version__)
        self._settings = settings
        self._quiet = self._lib.llama_log_callback(lambda level, text, data: None)
        self._lib.llama_log_set(self._quiet, ctypes.c_void_p())
        self._lib.llama_backend_init()
        parameters = self._lib.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self._model = self._lib.llama_model_load_from_file(settings.model.encode(), parameters)
        if not self._model:
            raise RuntimeError("the model cannot be loaded")
        self.n_vocab: int | None = self._lib.llama_vocab_n_tokens(
            self._lib.llama_model_get_vocab(self._model)
        )
        self._context = self._lib.llama_init_from_model(self._model, self._context_parameters())
        if not self._context:
            raise RuntimeError("no context can be made")
        self._memory = self._lib.llama_get_memory(self._context)
        self._depth = 0

    def _context_parameters(self) -> Any:
        s = self._settings
        parameters = self._lib.llama_context_default_params()
        parameters.n_ctx = 256 * math.ceil((s.max_depth + s.n_prompt + s.n_decode) / 256)
        parameters.n_batch = parameters.n_ubatch = BATCH
        parameters.n_threads = parameters.n_threads_batch = s.threads
        parameters.flash_attn_type = (
            1 if s.flash_attention else 0
        )  # the library's default is -1, auto
        return parameters

    def _read(self, ids: Ids) -> None:
        """Append tokens."""
        array = (ctypes.c_int32 * len(ids))(*ids.tolist())
        for first in range(0, len(ids), BATCH):
            n = min(BATCH, len(ids) - first)
            part = ctypes.cast(ctypes.byref(array, 4 * first), ctypes.POINTER(ctypes.c_int32))
            status = self._lib.llama_decode(self._context, self._lib.llama_batch_get_one(part, n))
            if status != 0:
                raise RuntimeError(f"llama_decode returned {status}")
            self._lib.llama_synchronize(self._context)

    def _cut(self, n_tokens: int) -> None:
        if not self._lib.llama_memory_seq_rm(self._memory, 0, n_tokens, -1):
            raise RuntimeError(f"the cache cannot be cut to {n_tokens} tokens")

    def measure(self, turn: Turn) -> Speeds:
        speeds = {}
        if turn.depth == self._depth:
            self._cut(turn.depth)
        else:
            self._cut(0)
            self._depth = turn.depth
            if turn.depth > 0:
                speeds["whole"] = tokens_per_s(self._read, [turn.ids(turn.depth, 0)])
        ids = turn.ids(self._settings.n_decode, 1)
        speeds["decode"] = tokens_per_s(self._read, single(ids))
        if turn.depth == 0:
            self._cut(0)
        speeds["prompt"] = tokens_per_s(self._read, [turn.ids(self._settings.n_prompt, 2)])
        return speeds


class OpenVinoRunner:
    """OpenVINO GenAI.

    It cannot keep a cache between calls: at a depth it reads a whole text of that length, a new one
    each round, and decodes after it. At depth 0 it decodes after a text of one token.
    """

    n_vocab: int | None = None
    evicts = False

    def __init__(self, settings: Settings) -> None:
        import openvino
        import openvino_genai

        self._tensor: Any = openvino.Tensor
        self._configuration: Any = openvino_genai.GenerationConfig
        self.version = str(openvino_genai.__version__).partition("-")[0]
        self._settings = settings
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        scheduler.max_num_batched_tokens = settings.openvino_batch
        scheduler.cache_size = settings.openvino_cache_gb
        properties = {"INFERENCE_NUM_THREADS": settings.threads}
        self._pipeline: Any = openvino_genai.ContinuousBatchingPipeline(
            settings.model, scheduler, "CPU", properties
        )

    def _generate(self, ids: Ids, n_tokens: int) -> Any:
        configuration = self._configuration()
        configuration.max_new_tokens = n_tokens
        configuration.ignore_eos = True
        configuration.do_sample = False
        tensor = self._tensor(ids.astype(np.int64).reshape(1, -1))
        metrics = self._pipeline.generate([tensor], [configuration])[0].perf_metrics
        found = (metrics.get_num_input_tokens(), metrics.get_num_generated_tokens())
        if found != (len(ids), n_tokens):
            raise RuntimeError(f"tokens: expected {(len(ids), n_tokens)}, found {found}")
        return metrics

    def measure(self, turn: Turn) -> Speeds:
        n_tokens = self._settings.n_decode + 1
        if turn.depth > 0:
            # Part 1: unlike the part 0 of the others, another text each round.
            metrics = self._generate(turn.ids(turn.depth, 1), n_tokens)
            name, n_read = "whole", turn.depth
            decode_s = metrics.get_tpot().mean / 1000
        else:
            decode_s = self._generate(turn.ids(1, 1), n_tokens).get_tpot().mean / 1000
            name, n_read = "prompt", self._settings.n_prompt
            metrics = self._generate(turn.ids(n_read, 2), 1)
        return {name: n_read / (metrics.get_ttft().mean / 1000), "decode": 1 / decode_s}


RUNNERS: dict[str, type[A2sfRunner] | type[LlamaRunner] | type[OpenVinoRunner]] = {
    "a2sf": A2sfRunner,
    "llama.cpp": LlamaRunner,
    "OpenVINO": OpenVinoRunner,
}
# Module to import, and the package that brings it.
PACKAGES = {
    "a2sf": ("a2sf", "a2sf"),
    "llama.cpp": ("llama_cpp", "llama-cpp-python"),
    "OpenVINO": ("openvino_genai", "openvino-genai"),
}


class _SignalStack(ctypes.Structure):
    """stack_t of sigaltstack(2)."""

    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("n_bytes", ctypes.c_size_t)]


_small_stack = ctypes.create_string_buffer(8192)


def forbid_amx() -> None:
    """Make the kernel refuse AMX to this process, so that libraries take their AVX-512 code.

    Linux grants AMX to a process that asks for it (ARCH_REQ_XCOMP_PERM) unless one of its threads
    has a signal stack that is too small for the tiles: arch/x86/xstate in the kernel's manual.
    """
    stack = _SignalStack(ctypes.addressof(_small_stack), 0, len(_small_stack))
    if ctypes.CDLL(None, use_errno=True).sigaltstack(ctypes.byref(stack), None) != 0:
        raise OSError(ctypes.get_errno(), "sigaltstack")
