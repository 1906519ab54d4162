"""What comes back: tokens, generations, statistics, facts about a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from . import _core

FinishReason = Literal["length", "end", "stop", "interrupted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One generated token.

    Attributes
    ----------
    id : int
    text : str
        What became readable with it: whole characters, minus anything that may turn out to be the
        beginning of a stop string. May be empty. The texts of a stream add up to
        `Generation.text`.
    logprob : float
        Natural log of the model's own probability, before any sampling option.
    """

    id: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What a generation took. Times are wall-clock seconds.

    Attributes
    ----------
    n_prompt, n_generated : int
        Tokens read and generated.
    prompt_s, decode_s : float
    kv_bytes : int
        Allocated by the cache.
    kv_bytes_full : int
        What K and V of all tokens read would take.
    n_evicted : int
        Evictions, counted once per token and head.
    n_live : int
        Tokens held by a head at the end, in the mean over heads, rounded up.
    budget : int or None
        Most tokens a head may hold after a step, in the mean over heads; None without eviction.
    """

    n_prompt: int
    n_generated: int
    prompt_s: float
    decode_s: float
    kv_bytes: int
    kv_bytes_full: int
    n_evicted: int
    n_live: int
    budget: int | None

    @property
    def prompt_tokens_per_s(self) -> float:
        """Prompt tokens read per second; 0 if none were."""
        return self.n_prompt / self.prompt_s if self.prompt_s > 0 else 0.0

    @property
    def decode_tokens_per_s(self) -> float:
        """Tokens generated per second; 0 if none were."""
        return self.n_generated / self.decode_s if self.decode_s > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A finished generation.

    Attributes
    ----------
    text : str
        Ends before the stop string that ended it, if one did.
    ids : list of int
        Every token generated, the end token excluded.
    logprobs : list of float
        Of those, as in `Token.logprob`.
    finish_reason : str
        "length" (max_tokens, or the model's context is full), "end" (the model ended its text),
        "stop" (a stop string) or "interrupted".
    stats : Stats
    """

    text: str
    ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    stats: Stats


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a loaded model is.

    Attributes
    ----------
    path : str
        The file.
    name : str
        `general.name` of the file; may be empty.
    architecture : str
        One of `a2sf.architectures()`.
    weight_type : str
        The type most weights have, one of `a2sf.weight_types()`.
    device : str
        What it runs on, one of `a2sf.devices()`.
    n_params, weight_bytes : int
    weight_bytes_per_token : int
        Bytes of weights that decoding one token reads.
    n_layers, n_heads, n_kv_heads, head_dim, dim, hidden_dim, n_vocab : int
    n_ctx : int
        Context length the model was trained for, in tokens.
    """

    path: str
    name: str
    architecture: str
    weight_type: str
    device: str
    n_params: int
    weight_bytes: int
    weight_bytes_per_token: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    dim: int
    hidden_dim: int
    n_vocab: int
    n_ctx: int


def generation_from(native: _core.Generation) -> Generation:
    """Copy a native result."""
    return Generation(
        text=native.text,
        ids=native.ids,
        logprobs=native.logprobs,
        finish_reason=cast(FinishReason, native.finish_reason),
        stats=stats_from(native.stats),
    )


def stats_from(native: _core.Stats) -> Stats:
    """Copy native statistics."""
    return Stats(
        n_prompt=native.n_prompt,
        n_generated=native.n_generated,
        prompt_s=native.prompt_s,
        decode_s=native.decode_s,
        kv_bytes=native.kv_bytes,
        kv_bytes_full=native.kv_bytes_full,
        n_evicted=native.n_evicted,
        n_live=native.n_live,
        budget=native.budget or None,
    )


def info_from(native: _core.Engine, path: str) -> ModelInfo:
    """Copy a native engine's facts."""
    return ModelInfo(
        path=path,
        name=native.name,
        architecture=native.architecture,
        weight_type=native.weight_type,
        device=native.device,
        n_params=native.n_params,
        weight_bytes=native.weight_bytes,
        weight_bytes_per_token=native.weight_bytes_per_token,
        n_layers=native.n_layers,
        n_heads=native.n_heads,
        n_kv_heads=native.n_kv_heads,
        head_dim=native.head_dim,
        dim=native.dim,
        hidden_dim=native.hidden_dim,
        n_vocab=native.n_vocab,
        n_ctx=native.n_ctx,
    )
