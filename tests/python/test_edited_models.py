"""The engine against the NumPy oracle on models no file on disk has: edits of llama-F32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import a2sf
import numpy as np
import pytest
from gguf import GGUFReader
from gguf_edit import copy_with
from reference.decoder import Model
from reference.policies import PRESETS

CLOSE_CALL = 1e-4  # relative rank difference below which float32 may keep another token
YARN = {
    "llama.rope.scaling.type": "yarn",
    "llama.rope.scaling.factor": 4.0,
    "llama.rope.scaling.original_context_length": 1024,
}
ROPES: dict[str, dict[str, Any]] = {
    "linear": {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0},
    "linear, old key": {"llama.rope.scale_linear": 2.0},
    "linear is the default type": {"llama.rope.scaling.factor": 2.0},
    "linear, attn_factor": {
        "llama.rope.scaling.factor": 2.0,
        "llama.rope.scaling.attn_factor": 0.9,
    },
    "none ignores the factor": {
        "llama.rope.scaling.type": "none",
        "llama.rope.scaling.factor": 2.0,
    },
    "yarn": YARN,
    "yarn, betas": YARN
    | {"llama.rope.scaling.yarn_beta_fast": 16.0, "llama.rope.scaling.yarn_beta_slow": 2.0},
    "yarn, attn_factor": YARN | {"llama.rope.scaling.attn_factor": 0.9},
    "32 of 64 dimensions": {"llama.rope.dimension_count": 32},
    "yarn of 32 dimensions": YARN | {"llama.rope.dimension_count": 32},
    "another base": {"llama.rope.freq_base": 500000.0},
}
PLAIN = "none ignores the factor"  # the only edit that must change nothing


def close(found: Any, expected: Any) -> bool:
    return bool(np.abs(found - expected).max() < 1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ROPES)
def test_rope(llama: Path, ids: list[int], tmp_path: Path, name: str) -> None:
    path = copy_with(llama, tmp_path / "rope.gguf", ROPES[name])
    found = a2sf.Engine(path, kv_type="f32").logits(ids)
    assert close(found, Model(path).logits(ids))
    plain = a2sf.Engine(llama, kv_type="f32").logits(ids)
    assert close(found, plain) == (name == PLAIN)


def with_kv_heads(llama: Path, target: Path, n_kv_heads: int, written: int | None) -> Path:
    """`llama` with other keys and values; `written` is what its metadata says of their heads."""
    rng = np.random.default_rng(n_kv_heads)
    edited = {}
    for tensor in GGUFReader(llama).tensors:
        if tensor.name.endswith(("attn_k.weight", "attn_v.weight")):
            old = tensor.data
            shape = (64 * n_kv_heads, old.shape[1])
            edited[tensor.name] = rng.normal(0.0, old.std(), shape).astype(np.float32)
    return copy_with(llama, target, {"llama.attention.head_count_kv": written}, edited)


@pytest.mark.parametrize("scope", ["head", "layer"])
@pytest.mark.parametrize(
    ("n_kv_heads", "written"), [(4, 4), (4, None), (1, 1)], ids=["mha", "mha, no key", "mqa"]
)
def test_kv_heads(
    llama: Path, ids: list[int], tmp_path: Path, n_kv_heads: int, written: int | None, scope: Any
) -> None:
    """As many KV heads as heads (said or, without the key, meant), and one KV head for all."""
    path = with_kv_heads(llama, tmp_path / "heads.gguf", n_kv_heads, written)
    truth, engine = Model(path), a2sf.Engine(path, kv_type="f32")
    assert close(engine.logits(ids), truth.logits(ids))

    policy = replace(PRESETS["a2sf"], scope=scope)
    run = truth.run(ids, policy, 40, mode="token")
    session = engine.session(
        eviction=a2sf.Eviction(budget=40, scope=scope, prefill="token", allocation="equal")
    )
    last = session.feed(ids)
    assert run.min_gap >= CLOSE_CALL, "too close to call in float32: take another case"
    cache = session.cache
    assert cache.n_kv_heads == n_kv_heads
    kept = [
        [cache.positions(layer, head).tolist() for head in range(n_kv_heads)]
        for layer in range(cache.n_layers)
    ]
    assert kept == run.kept
    assert np.abs(last - run.logits[-1]).max() < 1e-3 * np.abs(run.logits[-1]).max()
