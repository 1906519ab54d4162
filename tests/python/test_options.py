"""Bad options and bad input: each refused before any work, with where, expected, found."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import a2sf
import numpy as np
import pytest

Options = dict[str, Any]
BAD_EVICTION: list[tuple[Options, str]] = [
    ({"policy": "lru"}, "policy"),
    ({"budget": 0}, "budget"),
    ({"budget": -1}, "budget"),
    ({"budget": 2**70}, "budget"),
    ({"budget": "abc"}, "budget"),
    ({"budget": ""}, "budget"),
    ({"budget": "%"}, "budget"),
    ({"budget": "101%"}, "budget"),
    ({"budget": "-5%"}, "budget"),
    ({"budget": 0.0}, "budget"),
    ({"budget": 1.5}, "budget"),
    ({"budget": math.nan}, "budget"),
    ({"budget": "nan%"}, "budget"),
    ({"budget": math.inf}, "budget"),
    ({"budget": "20%\ud800"}, "budget"),
    ({"forgetting_factor": -0.1}, "forgetting_factor"),
    ({"forgetting_factor": 1.1}, "forgetting_factor"),
    ({"forgetting_factor": math.nan}, "forgetting_factor"),
    ({"sinks": -1}, "sinks"),
    ({"recent": -1}, "recent"),
    ({"recent": "120%"}, "recent"),
    ({"recent": -0.5}, "recent"),
    ({"budget": 10, "sinks": 8, "recent": 8}, "budget"),
    ({"budget": 10, "sinks": 2**31 - 1, "recent": 2**31 - 1}, "budget"),
    ({"scope": "token"}, "scope"),
    ({"pooling": 0}, "pooling"),
    ({"pooling": 4}, "pooling"),
    ({"pooling": -3}, "pooling"),
    ({"prefill": "late"}, "prefill"),
    ({"window": 16}, "window"),
    ({"policy": "snapkv", "window": 0}, "window"),
    ({"policy": "full", "budget": 64}, "budget"),
    ({"policy": "full", "sinks": 1}, "sinks"),
    ({"policy": "full", "pinned": 1}, "pinned"),
    ({"pinned": -1}, "pinned"),
    ({"pinned": 2**31}, "pinned"),
    ({"pinned": (7, 3)}, "pinned"),
    ({"pinned": range(0, 9, 2)}, "pinned"),
    ({"pinned": range(9, 0, -1)}, "pinned"),
    ({"pinned": [(0, 3), (-1, 4)]}, "pinned"),
    ({"budget": 40, "pinned": 31}, "budget"),
    ({"policy": "full", "pooling": 3}, "pooling"),
    ({"policy": "streaming", "pooling": 3}, "pooling"),
    ({"policy": "streaming", "scope": "layer"}, "scope"),
    ({"policy": "streaming", "recent": 3}, "recent"),
]
BAD_TYPES: list[Options] = [
    {"policy": None},
    {"policy": 3},
    {"budget": True},
    {"budget": [1]},
    {"budget": b"20%"},
    {"forgetting_factor": "0.5"},
    {"forgetting_factor": False},
    {"sinks": 1.0},
    {"sinks": True},
    {"recent": ()},
    {"scope": 1},
    {"pooling": 1.5},
    {"prefill": 0},
    {"pinned": 1.5},
    {"pinned": True},
    {"pinned": "0-57"},
    {"pinned": [1, 2, "3"]},
    {"pinned": [(1, 2.0)]},
    {"pinned": [[(1, 2)]]},
    {"pinned": {3}},
]
BAD_SAMPLING: list[Options] = [
    {"temperature": -1.0},
    {"temperature": math.nan},
    {"temperature": math.inf},
    {"temperature": 1e300},
    {"top_k": -1},
    {"top_k": 2**64},
    {"top_p": 0.0},
    {"top_p": 1.5},
    {"top_p": math.nan},
    {"min_p": -0.1},
    {"min_p": 2.0},
    {"min_p": math.nan},
    {"repeat_penalty": 0.0},
    {"repeat_penalty": math.nan},
    {"repeat_penalty": math.inf},
    {"repeat_window": -1},
    {"repeat_window": 2**62},
    {"seed": -1},
    {"seed": 2**64},
]


@pytest.mark.parametrize(("options", "where"), BAD_EVICTION, ids=str)
def test_bad_eviction(options: Options, where: str) -> None:
    with pytest.raises(a2sf.OptionError, match=rf"^{where}: .* expected.*found"):
        a2sf.Eviction(**options)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, None),
        (0, None),
        ([], None),
        (57, ((0, 57),)),
        (np.int64(57), ((0, 57),)),
        (range(3, 9), ((3, 9),)),
        ((3, 9), ((3, 9),)),
        ([3, 9], ((3, 9),)),
        ([57, (100, 120), range(110, 130)], ((0, 57), (100, 130))),
        (((9, 12), (3, 9)), ((3, 12),)),
    ],
    ids=str,
)
def test_pinned_is_kept_as_ordered_pairs(given: Any, kept: Any) -> None:
    eviction = a2sf.Eviction(pinned=given)
    assert eviction.pinned == kept
    assert hash(eviction) == hash(a2sf.Eviction(pinned=kept))


@pytest.mark.parametrize("tokens", [2**31, 2**62, 2**63 - 1, 2**64 - 1])
@pytest.mark.parametrize("name", ["budget", "sinks", "recent", "pooling", "window"])
def test_absurd_numbers_of_tokens(name: str, tokens: int) -> None:
    """Positions are 32-bit: more is refused by name, before anything is added to it."""
    options: Options = {"policy": "snapkv", "budget": 64, name: tokens | (name == "pooling")}
    with pytest.raises(a2sf.OptionError, match=rf"^{name}: .* expected.*found"):
        a2sf.Eviction(**options)


@pytest.mark.parametrize("name", ["budget", "window"])
def test_the_largest_numbers_of_tokens(engine: a2sf.Engine, name: str) -> None:
    """2**31 - 1 is allowed and costs nothing until tokens come."""
    options: Options = {"policy": "snapkv", "budget": 64, name: 2**31 - 1}
    eviction = a2sf.Eviction(**options)
    assert len(engine.generate([1, 2, 3], max_tokens=2, eviction=eviction).ids) == 2


@pytest.mark.parametrize("options", BAD_TYPES, ids=str)
def test_bad_types(options: Options) -> None:
    (name,) = options
    with pytest.raises(TypeError, match=rf"^{name}: .* expected, found"):
        a2sf.Eviction(**options)


@pytest.mark.parametrize("options", BAD_SAMPLING, ids=str)
def test_bad_sampling(options: Options) -> None:
    (name,) = options
    with pytest.raises(a2sf.OptionError, match=rf"^{name}: .* expected, found"):
        a2sf.Sampling(**options)


@pytest.mark.parametrize("options", [{"temperature": "1"}, {"top_k": 1.0}, {"seed": None}], ids=str)
def test_bad_sampling_types(options: Options) -> None:
    with pytest.raises(TypeError, match="expected, found"):
        a2sf.Sampling(**options)


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(a2sf.OptionError) as caught:
        a2sf.Eviction(policy="lru")
    assert all(name in str(caught.value) for name in a2sf.policies())
    with pytest.raises(a2sf.OptionError, match="f32, f16 or q8_0"):
        a2sf.Engine("none.gguf", kv_type="f8")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unexpected keyword"):
        a2sf.Eviction(bugdet=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("policy", a2sf.policies())
def test_every_policy_builds_with_its_presets(policy: str) -> None:
    a2sf.Eviction(policy=policy)
    if policy != "full":
        scope: Options = {} if policy == "streaming" else {"scope": "layer"}
        a2sf.Eviction(policy=policy, budget=256, prefill="token", **scope)
        a2sf.Eviction(policy=policy, budget="50%")
        a2sf.Eviction(policy=policy, budget=np.int64(128))  # type: ignore[arg-type]
        a2sf.Eviction(policy=policy, budget=np.float32(0.5))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{"threads": 0}, {"threads": -1}, {"threads": 1025}, {"threads": 10**6}, {"threads": 2**62},
     {"batch": 0}, {"batch": -1}, {"batch": 2**40},
     {"device": "abacus"}, {"kv_type": ""}],
    ids=str,
)  # fmt: skip
def test_bad_engine_options(llama: Path, options: Options) -> None:
    (name,) = options
    with pytest.raises(a2sf.OptionError, match=f"^{name}: .* expected.*found"):
        a2sf.Engine(llama, **options)


@pytest.mark.parametrize(
    "options",
    [{"threads": 1.5}, {"batch": "8"}, {"device": 0}, {"kv_type": None}, {"eviction": "a2sf"},
     {"progress": 1}],
    ids=str,
)  # fmt: skip
def test_bad_engine_types(llama: Path, options: Options) -> None:
    with pytest.raises(TypeError, match="expected, found"):
        a2sf.Engine(llama, **options)


def test_a_device_that_is_not_there(llama: Path) -> None:
    if "cuda" in a2sf.devices():
        pytest.skip("there is a CUDA device")
    with pytest.raises(a2sf.DeviceError, match=r"^device 'cuda': a usable one expected \(cpu\)"):
        a2sf.Engine(llama, device="cuda")


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(a2sf.Error, match=r"nothing\.gguf"):
        a2sf.Engine(tmp_path / "nothing.gguf")
    with pytest.raises(a2sf.Error):
        a2sf.Engine(tmp_path)
    empty = tmp_path / "empty.gguf"
    empty.touch()
    with pytest.raises(a2sf.GgufError):
        a2sf.Engine(empty)
    empty.write_bytes(b"GGML" * 100)
    with pytest.raises(a2sf.GgufError):
        a2sf.Tokenizer(empty)
    with pytest.raises(TypeError):
        a2sf.Engine(3)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def engine(llama: Path) -> a2sf.Engine:
    return a2sf.Engine(llama, threads=2)


BAD_IDS: list[tuple[Any, type[Exception]]] = [
    ([], a2sf.OptionError),
    ([512], a2sf.OptionError),
    ([-1], a2sf.OptionError),
    ([1, 2**31], a2sf.OptionError),
    ([2**70], a2sf.OptionError),
    ([[1, 2]], a2sf.OptionError),
    ([[1], [2, 3]], a2sf.OptionError),
    (5, a2sf.OptionError),
    (np.array([1, 2**40]), a2sf.OptionError),
    (np.ones((2, 2), np.int32), a2sf.OptionError),
    (np.array([1.0, 2.0]), TypeError),
    (np.array([1.0], np.float32), TypeError),
    ([1.5], TypeError),
    ([math.nan], TypeError),
    ([True], TypeError),
    (["a"], TypeError),
    ([None], TypeError),
    (b"abc", TypeError),
]


@pytest.mark.parametrize(("bad", "error"), BAD_IDS, ids=repr)
def test_bad_ids(engine: a2sf.Engine, bad: Any, error: type[Exception]) -> None:
    session = engine.session()
    for call in (engine.generate, engine.stream, engine.logits, engine.score, session.feed):
        with pytest.raises(error, match=r"expected.*found"):
            call(bad)
    if not isinstance(bad, list) or bad:
        with pytest.raises(error, match=r"expected.*found"):
            engine.detokenize(bad)


def test_ids_of_any_integer_type(engine: a2sf.Engine) -> None:
    expected = engine.logits([1, 2, 3])
    for dtype in (np.int8, np.uint8, np.int32, np.int64, np.uint64):
        np.testing.assert_array_equal(engine.logits(np.array([1, 2, 3], dtype)), expected)
    strided = np.array([1, 0, 2, 0, 3])[::2]
    np.testing.assert_array_equal(engine.logits(strided), expected)
    np.testing.assert_array_equal(engine.logits((1, 2, 3)), expected)


def test_empty_prompts(engine: a2sf.Engine) -> None:
    for call in (engine.generate, engine.stream, engine.session().generate):
        with pytest.raises(a2sf.OptionError, match="at least 1 token expected, found 0"):
            call("")


def test_context_is_the_limit_without_eviction(engine: a2sf.Engine) -> None:
    long = [7] * 4097
    for call in (engine.generate, engine.logits, engine.score, engine.session().feed):
        with pytest.raises(a2sf.OptionError, match=r"4096 .* expected.*found 4097"):
            call(long)
    session = engine.session()
    session.feed(long[:4096])
    assert len(session.generate(max_tokens=5).ids) == 1
    with pytest.raises(a2sf.OptionError, match="4096"):
        session.feed([1])
    bounded = engine.generate(long, max_tokens=3, eviction=a2sf.Eviction(budget=64))
    assert len(bounded.ids) == 3


def test_bad_generate_options(engine: a2sf.Engine) -> None:
    cases: list[tuple[Options, type[Exception]]] = [
        ({"max_tokens": -1}, a2sf.OptionError),
        ({"max_tokens": 2**64}, a2sf.OptionError),
        ({"max_tokens": 1.0}, TypeError),
        ({"max_tokens": None}, TypeError),
        ({"stop": ""}, a2sf.OptionError),
        ({"stop": ["a", ""]}, a2sf.OptionError),
        ({"stop": [1]}, TypeError),
        ({"stop": None}, TypeError),
        ({"sampling": None}, TypeError),
        ({"sampling": {"seed": 1}}, TypeError),
        ({"eviction": "h2o"}, TypeError),
    ]
    for options, error in cases:
        for call in (engine.generate, engine.stream):
            with pytest.raises(error):
                call([1, 2], **options)


@pytest.mark.parametrize("max_tokens", [2**31, 2**62, 2**63 - 1])
@pytest.mark.parametrize("budget", [None, 16])
def test_absurd_max_tokens(engine: a2sf.Engine, max_tokens: int, budget: int | None) -> None:
    """No limit in effect: memory is taken as tokens come, and the generation can be left."""
    eviction = a2sf.Eviction(policy="full") if budget is None else a2sf.Eviction(budget=budget)
    sampling = a2sf.Sampling(temperature=1.0, seed=1)
    with engine.stream(
        [1, 2, 3], max_tokens=max_tokens, eviction=eviction, sampling=sampling
    ) as stream:
        assert len([token for token, _ in zip(stream, range(3), strict=False)]) >= 1


@pytest.mark.parametrize("stop", ["\ud800", ["fine", "a\udfff"]], ids=ascii)
def test_stop_strings_that_are_no_unicode(engine: a2sf.Engine, stop: str | list[str]) -> None:
    calls: list[Callable[..., object]] = [engine.generate, engine.stream, engine.batch().add]
    for call in calls:
        with pytest.raises(a2sf.OptionError, match=r"^stop: Unicode text expected, found a lone"):
            call([5], stop=stop)


def test_bad_text(engine: a2sf.Engine) -> None:
    with pytest.raises(a2sf.OptionError, match="lone surrogate at index 1"):
        engine.tokenize("a\ud800b")
    for bad in (b"bytes", None, 3):
        with pytest.raises(TypeError, match="str expected"):
            engine.tokenize(bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="bos"):
        engine.tokenize("a", bos=1)  # type: ignore[arg-type]
    assert engine.detokenize(engine.tokenize("naïve 🙂\x00\n", bos=False)) == "naïve 🙂\x00\n"


def test_q8_0_cache_needs_whole_blocks(engine: a2sf.Engine, llama: Path) -> None:
    assert a2sf.Engine(llama, kv_type="q8_0").generate([1, 2, 3], max_tokens=2).ids
