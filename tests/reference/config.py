"""Shape of a GGUF model as NumPy needs it, and its rotary frequencies.

GGUF key and tensor names: the GGUF specification of the ggml project. Architectures: llama, qwen2,
qwen3, gemma3, phi3, as llama.cpp computes them; divergences are stated where they are made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf import GGUFReader
from numpy.typing import NDArray

Array = NDArray[Any]
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3", "phi3")


@dataclass(frozen=True)
class RopeScaling:
    """`rope.scaling.*` metadata: how a longer context was grafted on.

    kind is "none", "linear", "yarn" or "longrope"; factor 1 is no scaling.
    """

    kind: str = "none"
    factor: float = 1.0
    original_context: int = 0
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True)
class Config:
    """Sizes and constants of a decoder.

    `windows[l]` is layer l's sliding window (a query sees pos > its own - window) or None;
    `rope_bases[l]` its rotary base; `rope_scaled[l]` whether `scaling` applies to it.
    """

    arch: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    value_dim: int
    dim: int
    hidden_dim: int
    n_vocab: int
    context: int
    norm_eps: float
    rope_dim: int
    rope_bases: tuple[float, ...]
    rope_scaled: tuple[bool, ...]
    scaling: RopeScaling
    windows: tuple[int | None, ...]
    embedding_scale: float
    attention_scale: float

    @property
    def interleaved_rope(self) -> bool:
        """Pairs (2i, 2i + 1) for llama; halves (i, i + rope_dim / 2) for the others."""
        return self.arch == "llama"

    @property
    def gelu(self) -> bool:
        """Gate of the feed-forward: GELU (tanh form) for gemma3, else SiLU."""
        return self.arch == "gemma3"


class Metadata:
    """Key-value pairs of a GGUF file, with the architecture's prefix filled in."""

    def __init__(self, reader: GGUFReader) -> None:
        self._reader = reader
        arch = self.get("general.architecture")
        if arch not in ARCHITECTURES:
            raise ValueError(
                f"general.architecture: one of {', '.join(ARCHITECTURES)} expected, found {arch}"
            )
        self.arch = str(arch)

    def get(self, key: str, default: Any = None) -> Any:
        """Value of a full key."""
        field = self._reader.get_field(key)
        return default if field is None else field.contents()

    def of(self, key: str, default: Any = None) -> Any:
        """Value of ARCH.key."""
        return self.get(f"{self.arch}.{key}", default)


def _windows(meta: Metadata, n_layers: int) -> tuple[int | None, ...]:
    """Sliding window of each layer.

    gemma3: 5 local layers, then 1 global, unless `attention.sliding_window_pattern` says
    otherwise. phi3: every layer, as the published model does; llama.cpp ignores phi3's key.
    Other architectures ignore the key, as llama.cpp does.
    """
    size = int(meta.of("attention.sliding_window", 0) or 0)
    if size == 0 or meta.arch not in ("gemma3", "phi3"):
        return (None,) * n_layers
    if meta.arch == "phi3":
        return (size,) * n_layers
    pattern = meta.of("attention.sliding_window_pattern", 6)
    if isinstance(pattern, list):
        return tuple(size if local else None for local in pattern)
    period = int(pattern)
    return tuple(size if period == 0 or i % period < period - 1 else None for i in range(n_layers))


def _scaling(meta: Metadata) -> RopeScaling:
    kind = str(meta.of("rope.scaling.type", "linear"))
    factor = float(meta.of("rope.scaling.factor", meta.of("rope.scale_linear", 0.0)) or 0.0)
    return RopeScaling(
        kind=kind,
        factor=1.0 if factor == 0.0 or kind == "none" else factor,
        original_context=int(
            meta.of("rope.scaling.original_context_length", meta.of("context_length", 0))
        ),
        attention_factor=float(meta.of("rope.scaling.attn_factor", 1.0)),
        beta_fast=float(meta.of("rope.scaling.yarn_beta_fast", 32.0)),
        beta_slow=float(meta.of("rope.scaling.yarn_beta_slow", 1.0)),
    )


def read_config(reader: GGUFReader) -> Config:
    """Config of an open GGUF file; the vocabulary size is the embedding's."""
    meta = Metadata(reader)
    n_layers = int(meta.of("block_count"))
    n_heads = int(meta.of("attention.head_count"))
    dim = int(meta.of("embedding_length"))
    head_dim = int(meta.of("attention.key_length", dim // n_heads))
    gemma = meta.arch == "gemma3"
    windows = _windows(meta, n_layers)
    base = float(meta.of("rope.freq_base", 10000.0))
    local_base = float(meta.of("rope.freq_base_swa", 10000.0))
    local = tuple(gemma and w is not None for w in windows)
    embedding = next(t for t in reader.tensors if t.name == "token_embd.weight")
    # llama.cpp: the 27B Gemma 3 (62 layers) scales by dim / n_heads instead of head_dim.
    scale_dim = dim // n_heads if gemma and n_layers == 62 else head_dim
    return Config(
        arch=meta.arch,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=int(meta.of("attention.head_count_kv", n_heads)),
        head_dim=head_dim,
        value_dim=int(meta.of("attention.value_length", head_dim)),
        dim=dim,
        hidden_dim=int(meta.of("feed_forward_length")),
        n_vocab=int(embedding.shape[1]),
        context=int(meta.of("context_length", 0)),
        norm_eps=float(meta.of("attention.layer_norm_rms_epsilon", 1e-5)),
        rope_dim=int(meta.of("rope.dimension_count", head_dim)),
        rope_bases=tuple(local_base if flag else base for flag in local),
        rope_scaled=tuple(not flag for flag in local),
        scaling=_scaling(meta),
        windows=windows,
        embedding_scale=math.sqrt(dim) if gemma else 1.0,
        attention_scale=1.0 / math.sqrt(scale_dim),
    )


def rope_frequencies(config: Config, layer: int, factors: Array | None) -> tuple[Array, float]:
    """Angle per position of each rotated pair, and the factor on cos and sin.

    RoPE: Su et al., arXiv 2104.09864: base^(-2i / rope_dim). `factors` (`rope_freqs.weight`,
    `rope_factors_long/short.weight`) divide the frequencies. Linear scaling divides by the
    factor. YaRN: Peng et al., arXiv 2309.00071, "NTK-by-parts": a pair that turns often within the
    original context keeps its frequency, one that turns seldom is divided by the factor, a ramp
    in between; cos and sin are multiplied by 1 + 0.1 ln(factor).

    Returns
    -------
    frequencies : float64 [rope_dim // 2]
    magnitude : float
    """
    i = np.arange(config.rope_dim // 2, dtype=np.float64)
    base = config.rope_bases[layer]
    plain = base ** (-2.0 * i / config.rope_dim)
    if factors is not None:
        plain = plain / factors.astype(np.float64)
    if not config.rope_scaled[layer]:
        return plain, 1.0
    s = config.scaling
    if s.kind != "yarn":
        return plain / s.factor, s.attention_factor

    def pair_turning(turns: float) -> float:
        span = s.original_context / (turns * 2.0 * math.pi)
        return config.rope_dim * math.log(span) / (2.0 * math.log(base))

    low = max(0.0, math.floor(pair_turning(s.beta_fast)))
    high = min(config.rope_dim - 1.0, math.ceil(pair_turning(s.beta_slow)))
    keep = 1.0 - np.clip((i - low) / max(0.001, high - low), 0.0, 1.0)
    frequencies = plain / s.factor * (1.0 - keep) + plain * keep
    return frequencies, s.attention_factor * (1.0 + 0.1 * math.log(s.factor))
