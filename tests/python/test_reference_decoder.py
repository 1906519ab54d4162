"""The NumPy decoder against llama.cpp's logits, and against itself fed in other ways."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from reference.config import RopeScaling, rope_frequencies
from reference.decoder import Model, gelu_tanh, silu
from reference.policies import PRESETS
from reference.tasks import mean_nll, token_nll

SHARED = Path(os.environ.get("A2SF_SHARED", Path(__file__).resolve().parents[3] / "shared"))
MODELS = sorted((SHARED / "reference" / "models").glob("*.gguf"))
needs_shared = pytest.mark.skipif(
    not MODELS, reason=f"no reference models under {SHARED} (set A2SF_SHARED)"
)

# Mean |difference| over the logits' standard deviation. F32 is rounding; the others are
# llama.cpp's own error: it rounds activations to the weights' 16-bit type, or to 8 bits.
TOLERANCE = {"F32": 2e-6, "F16": 5e-4, "BF16": 3.5e-3}
QUANTISED_TOLERANCE = 0.015


def read_ids() -> list[int]:
    return [int(x) for x in (SHARED / "reference" / "ids.txt").read_text().split()]


def shared_model(name: str) -> Path:
    return SHARED / "reference" / "models" / f"{name}.gguf"


@pytest.fixture(scope="module")
def llama() -> Model:
    return Model(shared_model("llama-F32"))


@needs_shared
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_reproduces_llama_cpp(path: Path) -> None:
    expected = np.load(SHARED / "reference" / "logits" / f"{path.stem}.npy")
    found = Model(path).logits(read_ids())
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    error = np.abs(found - expected).mean() / expected.std()
    assert error < TOLERANCE.get(path.stem.split("-", 1)[1], QUANTISED_TOLERANCE)


@needs_shared
def test_every_architecture_is_covered() -> None:
    archs = {Model(p).config.arch for p in MODELS if p.stem.endswith("F16")}
    assert archs == {"llama", "qwen2", "qwen3", "gemma3", "phi3"}


@needs_shared
@pytest.mark.parametrize("name", ["llama-F32", "gemma3-F16", "phi3-F16"])
@pytest.mark.parametrize("chunks", [[96], [50, 46], [1] * 96, [95, 1]])
def test_pieces_do_not_matter_without_eviction(name: str, chunks: list[int]) -> None:
    model = Model(shared_model(name))
    ids = read_ids()
    expected = model.logits(ids)
    error = np.abs(model.logits(ids, chunks=chunks) - expected).max()
    assert error < 5e-6 * expected.std()


@needs_shared
def test_float64_confirms_float32(llama: Model) -> None:
    ids = read_ids()
    exact = Model(shared_model("llama-F32"), dtype=np.float64)
    np.testing.assert_allclose(llama.logits(ids), exact.logits(ids), atol=1e-5)


@needs_shared
def test_decoding_equals_prompting_without_eviction(llama: Model) -> None:
    ids = read_ids()
    run = llama.run(ids, n_prompt=60)
    np.testing.assert_allclose(run.logits, llama.logits(ids), atol=1e-5)
    assert run.kept[0][0] == list(range(len(ids)))


@needs_shared
def test_gemma3_looks_no_further_than_its_window() -> None:
    """Both layers are local: what lies two windows back cannot reach the last logits."""
    model, ids = Model(shared_model("gemma3-F16")), read_ids()
    window = model.config.windows[0]
    assert model.config.windows == (window, window)
    assert window is not None
    far = len(ids) - 1 - 2 * (window - 1)  # the oldest token that two layers can reach
    changed = [ids[0] ^ 1 if i < far else token for i, token in enumerate(ids)]
    np.testing.assert_array_equal(model.logits(ids)[-1], model.logits(changed)[-1])
    changed = [(token + 1) % 512 if i <= far else token for i, token in enumerate(ids)]
    assert np.abs(model.logits(ids)[-1] - model.logits(changed)[-1]).max() > 0


@needs_shared
def test_streaming_equals_masked_attention(llama: Model) -> None:
    """Query q sees the sinks, itself, and what the cache held after q - 1."""
    ids, budget, sinks = read_ids(), 20, 4
    q, s = np.arange(len(ids))[:, None], np.arange(len(ids))[None, :]
    visible = (s <= q) & ((s < sinks) | (s > q - 1 - (budget - sinks)))
    found = llama.logits(ids, PRESETS["streaming"], budget, mode="token")
    np.testing.assert_allclose(found, masked_logits(llama, ids, visible), atol=2e-5)


def masked_logits(model: Model, ids: list[int], visible: NDArray[Any]) -> NDArray[Any]:
    """Logits of a llama with one explicit mask for all heads; no cache. visible: bool [n, n]."""
    c = model.config
    x = model.weights["token_embd.weight"][np.asarray(ids)]
    for layer in range(c.n_layers):
        blk = f"blk.{layer}."
        q, k, v = model.qkv(model.norm(x, f"{blk}attn_norm"), layer, 0)
        heads = []
        for h in range(c.n_heads):
            kv = h // (c.n_heads // c.n_kv_heads)
            logits = np.where(visible, q[h] @ k[kv].T * c.attention_scale, -np.inf)
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            heads.append(p / p.sum(axis=1, keepdims=True) @ v[kv])
        x = x + model.linear(np.concatenate(heads, axis=1), f"{blk}attn_output")
        x = x + model.feed_forward(model.norm(x, f"{blk}ffn_norm"), layer)
    return model.project(model.norm(x, "output_norm"))


@needs_shared
def test_nll_is_that_of_the_logits(llama: Model) -> None:
    ids = read_ids()
    logits = llama.logits(ids).astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = [-math.log(p[i, ids[i + 1]]) for i in range(len(ids) - 1)]
    np.testing.assert_allclose(token_nll(llama, ids), expected, rtol=1e-6)
    assert mean_nll(llama, ids, 10, 20) == pytest.approx(np.mean(expected[9:19]), rel=1e-6)


@needs_shared
def test_rope_scaling(llama: Model) -> None:
    c = llama.config
    plain, one = rope_frequencies(c, 0, None)
    assert plain[0] == 1.0
    assert one == 1.0
    linear, _ = rope_frequencies(replace(c, scaling=RopeScaling("linear", 4.0)), 0, None)
    np.testing.assert_allclose(linear, plain / 4)
    yarn = replace(c, scaling=RopeScaling("yarn", 4.0, original_context=4096))
    mixed, magnitude = rope_frequencies(yarn, 0, None)
    assert mixed[0] == plain[0]
    assert mixed[-1] == pytest.approx(plain[-1] / 4)
    assert np.all(mixed <= plain)
    assert np.all(mixed >= plain / 4)
    assert magnitude == pytest.approx(1 + 0.1 * math.log(4))
    local = replace(yarn, rope_scaled=(False,) * c.n_layers)
    np.testing.assert_array_equal(rope_frequencies(local, 0, None)[0], plain)
    np.testing.assert_allclose(rope_frequencies(c, 0, np.full(32, 8.0))[0], plain / 8)


def test_activations() -> None:
    x = np.linspace(-6, 6, 25)
    np.testing.assert_allclose(silu(x), x / (1 + np.exp(-x)), rtol=1e-9)
    exact = np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x])
    np.testing.assert_allclose(gelu_tanh(x), exact, atol=1e-3)


def test_split_keeps_every_character() -> None:
    pytest.importorskip("regex")
    from reference.bpe import split

    text = "It's 2024:\n\n  tabs\t and caf\u00e9s"
    assert split("a12b", r"\p{N}") == ["a", "1", "2", "b"]
    assert "".join(split(text, r"\p{L}+")) == text


@pytest.mark.skipif(
    not (SHARED / "vocab").is_dir(), reason=f"no vocabularies under {SHARED} (set A2SF_SHARED)"
)
def test_bpe_matches_llama_cpp() -> None:
    pytest.importorskip("regex")
    from reference.bpe import Bpe

    path = SHARED / "vocab" / "ggml-vocab-gpt-2.gguf"
    bpe = Bpe(path)
    texts = Path(f"{path}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    lines = Path(f"{path}.out").read_text().split("\n")
    assert len(texts) > 40
    for text, line in zip(texts, lines, strict=True):
        assert bpe.encode(text) == [int(x) for x in line.split()], repr(text)
