"""The engine against llama.cpp's logits, and against the NumPy oracle in tests/reference."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import a2sf
import numpy as np
import pytest
from conftest import LOGITS, MODELS
from numpy.typing import NDArray
from reference.decoder import Model
from reference.policies import PRESETS

Array = NDArray[Any]
NAMES = sorted(path.stem for path in LOGITS.glob("*.npy"))
FLOAT = ("F32", "F16", "BF16")
# Half weights: activations and sums of float32. On AMX tiles both factors are rounded to bfloat16,
# on CUDA activations to halves.
HALF = {"amx": 5e-3}
HALF_ELSEWHERE = 2e-3
CLOSE_CALL = 1e-4  # relative rank difference below which float32 may keep another token


@pytest.fixture(params=a2sf.devices())
def device(request: pytest.FixtureRequest) -> str:
    """Everything that this machine and this build have."""
    return str(request.param)


def half_error(device: str) -> float:
    """What an engine on the device may be off with half weights."""
    return HALF_ELSEWHERE if device == "cuda" else HALF.get(a2sf.isa(), HALF_ELSEWHERE)


@lru_cache(maxsize=4)
def oracle(path: Path) -> Model:
    return Model(path)


def error(found: Array, expected: Array) -> float:
    """Mean |difference| as a share of the logits' standard deviation."""
    return float(np.abs(found - expected).mean() / expected.std())


@pytest.mark.skipif(not NAMES, reason=f"no logits in {LOGITS} (set A2SF_SHARED)")
@pytest.mark.parametrize("name", NAMES)
def test_logits(name: str, ids: list[int], device: str) -> None:
    """Within 2 % of llama.cpp's for floats; quantised, as near to the truth as llama.cpp is.

    Both round activations to 8 bits; ours chooses among steps and must not be further off.
    """
    path = MODELS / f"{name}.gguf"
    theirs = np.load(LOGITS / f"{name}.npy")
    ours = a2sf.Engine(path, device=device, kv_type="f32").logits(ids)
    assert ours.shape == theirs.shape
    truth = oracle(path).logits(ids)
    if name.endswith(FLOAT):
        assert error(ours, theirs) < 0.02
        if name.endswith("F32"):
            assert np.abs(ours - truth).max() < 1e-4 * np.abs(truth).max()
    else:
        assert error(ours, truth) <= error(theirs, truth)


ISA_WORKER = """
    import sys
    import a2sf
    import numpy as np

    target, ids, *paths = sys.argv[1:]
    try:
        isa = a2sf.isa()
        engines = [a2sf.Engine(path, device="cpu", kv_type="f32") for path in paths]
    except a2sf.OptionError as error:
        print(error)
        raise SystemExit(3)
    ids = [int(x) for x in ids.split()]
    np.savez(target, *[engine.logits(ids) for engine in engines])
    print(isa)
"""


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512", "amx", "neon"])
def test_every_isa(models: Path, ids: list[int], tmp_path: Path, isa: str) -> None:
    """Each instruction set that this machine has, in a process that A2SF_ISA makes use it."""
    names = ["llama-F32", "llama-F16", "llama-Q4_0", "llama-Q6_K"]
    paths = [models / f"{name}.gguf" for name in names]
    target = tmp_path / "logits.npz"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(ISA_WORKER),
            target,
            " ".join(map(str, ids)),
            *paths,
        ],
        env=os.environ | {"A2SF_ISA": isa},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    found = done.stdout.strip()
    if done.returncode == 3 and found.startswith("A2SF_ISA: one of scalar"):
        assert isa != "scalar"
        usable = found.partition(" one of ")[2].partition(" expected")[0].split(", ")
        assert isa not in usable
        pytest.skip(found)
    assert done.returncode == 0, done.stderr
    assert found == isa
    with np.load(target) as file:
        logits = [file[key] for key in file.files]
    for name, path, ours in zip(names, paths, logits, strict=True):
        truth = oracle(path).logits(ids)
        if name.endswith("F32"):
            assert np.abs(ours - truth).max() < 1e-4 * np.abs(truth).max()
        elif name.endswith("F16"):
            assert error(ours, truth) < HALF.get(isa, HALF_ELSEWHERE)
        else:
            theirs = np.load(models.parent / "logits" / f"{name}.npy")
            assert error(ours, truth) <= error(theirs, truth)


@pytest.mark.parametrize("batch", [1, 7, 96])
@pytest.mark.parametrize("name", ["llama-F32", "qwen3-F16", "gemma3-F16", "phi3-F16"])
def test_batches_agree(models: Path, ids: list[int], name: str, batch: int, device: str) -> None:
    path = models / f"{name}.gguf"
    ours = a2sf.Engine(path, device=device, kv_type="f32", batch=batch).logits(ids)
    assert error(ours, oracle(path).logits(ids)) < half_error(device)


def schedule(rng: random.Random, n: int) -> list[int]:
    """Random lengths that add up to n."""
    cuts = sorted(rng.sample(range(1, n), rng.randint(0, 6)))
    return [b - a for a, b in zip([0, *cuts], [*cuts, n], strict=True)]


def evicting(**options: Any) -> a2sf.Eviction:
    """All heads the same budget, as the oracle has it."""
    return a2sf.Eviction(**options, allocation="equal")


def kept(session: a2sf.Session) -> list[list[list[int]]]:
    cache = session.cache
    return [
        [cache.positions(layer, head).tolist() for head in range(cache.n_kv_heads)]
        for layer in range(cache.n_layers)
    ]


def check_scores(session: a2sf.Session, expected: list[list[Array]]) -> None:
    for layer, heads in enumerate(expected):
        for head, scores in enumerate(heads):
            found = session.cache.scores(layer, head)
            np.testing.assert_allclose(found, scores, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("seed", [0, 2, 3])
@pytest.mark.parametrize("mode", ["token", "chunk", "full"])
@pytest.mark.parametrize("policy", [name for name in a2sf.policies() if name != "full"])
def test_kept_positions(
    llama: Path, ids: list[int], policy: str, mode: Any, seed: int, device: str
) -> None:
    """Feed by feed the engine holds what the oracle holds: every policy, mode, chunk length.

    In "full" mode a prompt is one feed and the rest is decoded; in the others the schedule mixes
    several feeds with a batch that cuts them further.
    """
    rng = random.Random(f"{policy} {mode} {seed}")
    budget = rng.randint(36, 60)
    batch = rng.choice([5, 16, 512])
    n_prompt = rng.randint(64, 90)
    feeds = [n_prompt] if mode == "full" else schedule(rng, n_prompt)
    feeds += [1] * (96 - n_prompt)
    truth = oracle(llama).session(PRESETS[policy], budget, mode=mode, chunk=batch)
    engine = a2sf.Engine(llama, device=device, kv_type="f32", batch=batch)
    session = engine.session(eviction=evicting(policy=policy, budget=budget, prefill=mode))
    start = 0
    for n in feeds:
        expected = truth.model.project(truth.feed(ids[start : start + n])[-1:])[0]
        found = session.feed(ids[start : start + n])
        start += n
        assert truth.min_gap >= CLOSE_CALL, "too close to call in float32: take another seed"
        assert kept(session) == truth.kept, f"after {start} tokens, feeds {feeds}, batch {batch}"
        assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    check_scores(session, truth.scores)


@pytest.mark.parametrize("policy", ["full", "a2sf", "streaming"])
def test_one_seed_is_one_stream_of_tokens(
    llama: Path, ids: list[int], policy: str, device: str
) -> None:
    """Whatever the device, and however the prompt is cut."""
    eviction = a2sf.Eviction(policy="full")
    if policy != "full":
        eviction = evicting(policy=policy, budget=40, prefill="token")

    def stream(batch: int, where: str, seed: int) -> list[int]:
        engine = a2sf.Engine(llama, device=where, kv_type="f32", batch=batch)
        sampling = a2sf.Sampling(temperature=1.0, top_p=0.95, seed=seed)
        return engine.generate(ids[:60], max_tokens=24, sampling=sampling, eviction=eviction).ids

    expected = stream(7, "cpu", seed=5)
    assert stream(512, device, seed=5) == expected
    assert stream(512, device, seed=6) != expected


@pytest.mark.parametrize("batch", [32, 40, 64])
def test_the_window_of_snapkv_does_not_depend_on_chunks(
    llama: Path, ids: list[int], batch: int, device: str
) -> None:
    """Its last queries are all in the last chunk, however the prompt is cut."""
    sessions = []
    for size in (512, batch):
        engine = a2sf.Engine(llama, device=device, kv_type="f32", batch=size)
        sessions.append(engine.session(eviction=evicting(policy="snapkv", budget=40)))
        sessions[-1].feed(ids[:90])
    whole, cut = sessions
    assert kept(whole) == kept(cut)
    for layer in range(whole.cache.n_layers):
        for head in range(whole.cache.n_kv_heads):
            found, expected = cut.cache.scores(layer, head), whole.cache.scores(layer, head)
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mode", ["token", "chunk", "full"])
@pytest.mark.parametrize("policy", [name for name in a2sf.policies() if name != "full"])
def test_compact_positions(
    llama: Path, ids: list[int], policy: str, mode: Any, device: str
) -> None:
    """Every head's live tokens stand one after the other, whatever was evicted between them."""
    n_prompt, budget = 80, 48
    truth = oracle(llama).session(PRESETS[policy], budget, mode=mode, chunk=16, compact=True)
    engine = a2sf.Engine(llama, device=device, kv_type="f32", batch=16)
    session = engine.session(
        eviction=evicting(policy=policy, budget=budget, prefill=mode, positions="compact")
    )
    for piece in [ids[:n_prompt], *([token] for token in ids[n_prompt:])]:
        expected = truth.model.project(truth.feed(piece)[-1:])[0]
        found = session.feed(piece)
        assert truth.min_gap >= CLOSE_CALL, "too close to call in float32: take another case"
        assert kept(session) == truth.kept
        assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    check_scores(session, truth.scores)
    # Not what original positions give: the test can tell the two apart.
    original = engine.session(eviction=evicting(policy=policy, budget=budget, prefill=mode))
    assert np.abs(original.feed(ids) - found).max() > 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize("options", [{"scope": "layer"}, {"pooling": 7}, {"forgetting_factor": 0.0},
                                     {"forgetting_factor": 1.0}, {"sinks": 0, "recent": 0},
                                     {"sinks": 9, "recent": "50%"}], ids=str)  # fmt: skip
def test_options_against_the_oracle(
    llama: Path, ids: list[int], options: dict[str, Any], device: str
) -> None:
    run = oracle(llama).run(ids, replace(PRESETS["a2sf"], **options), 40, mode="token")
    engine = a2sf.Engine(llama, device=device, kv_type="f32")
    session = engine.session(eviction=evicting(budget=40, prefill="token", **options))
    session.feed(ids)
    assert run.min_gap >= CLOSE_CALL, "too close to call in float32: take another case"
    assert kept(session) == run.kept


@pytest.mark.parametrize("mode", ["token", "chunk", "full"])
@pytest.mark.parametrize("scope", ["head", "layer"])
@pytest.mark.parametrize("policy", [name for name in a2sf.policies() if name != "full"])
def test_pinned(
    llama: Path, ids: list[int], policy: str, scope: Any, mode: Any, device: str
) -> None:
    """Pinned positions stay in every head, and the others go as the oracle says."""
    n_prompt, budget = 80, 60
    pinned = ((0, 7), (17, 23), (30, 31))
    options: dict[str, Any] = {} if policy == "streaming" else {"scope": scope}
    preset = replace(PRESETS[policy], pinned=pinned, **options)
    truth = oracle(llama).session(preset, budget, mode=mode, chunk=16)
    engine = a2sf.Engine(llama, device=device, kv_type="f32", batch=16)
    session = engine.session(
        eviction=evicting(policy=policy, budget=budget, prefill=mode, pinned=pinned, **options)
    )
    must = {p for pair in pinned for p in range(*pair)}
    for piece in [ids[:n_prompt], *([token] for token in ids[n_prompt:])]:
        truth.feed(piece)
        session.feed(piece)
        assert truth.min_gap >= CLOSE_CALL, "too close to call in float32: take another case"
        assert kept(session) == truth.kept
        assert all(must <= set(head) for heads in kept(session) for head in heads)
    assert session.cache.live.max() == budget


@pytest.mark.parametrize("mode", ["token", "chunk", "full"])
@pytest.mark.parametrize(
    ("policy", "options"),
    [
        ("a2sf", {"scope": "layer"}),
        ("a2sf", {"pooling": 7}),
        ("a2sf", {"scope": "layer", "pooling": 7}),
        ("a2sf-dual", {"scope": "layer"}),
        ("a2sf-dual", {"scope": "layer", "pooling": 3}),
        ("h2o", {"scope": "layer", "pooling": 5}),
        ("tova", {"scope": "layer"}),
        ("keydiff", {"scope": "layer"}),
        ("keydiff", {"pooling": 3}),
        ("snapkv", {"scope": "layer"}),
        ("snapkv", {"window": 8, "recent": 8, "pooling": 1, "scope": "layer"}),
    ],
    ids=str,
)
def test_scope_and_pooling(
    llama: Path, ids: list[int], policy: str, options: dict[str, Any], mode: Any, device: str
) -> None:
    """Heads that keep the same tokens and pooled ranks, the prompt in chunks of 16, then decoding.

    The oracle's heads are read off one by one: in scope "layer" they agree with each other too.
    """
    n_prompt, budget = 80, 54
    truth = oracle(llama).session(replace(PRESETS[policy], **options), budget, mode=mode, chunk=16)
    engine = a2sf.Engine(llama, device=device, kv_type="f32", batch=16)
    session = engine.session(
        eviction=evicting(policy=policy, budget=budget, prefill=mode, **options)
    )
    for piece in [ids[:n_prompt], *([token] for token in ids[n_prompt:])]:
        truth.feed(piece)
        session.feed(piece)
        assert truth.min_gap >= CLOSE_CALL, "too close to call in float32: take another case"
        assert kept(session) == truth.kept
    if options.get("scope") == "layer":
        assert all(head == heads[0] for heads in kept(session) for head in heads)
    check_scores(session, truth.scores)
