"""The Python contract: names, arguments, defaults, types, lists, errors."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from pathlib import Path
from typing import Any

import a2sf
import pytest

GENERATE = {
    "max_tokens": 128,
    "sampling": a2sf.Sampling(),
    "stop": (),
}
KEYWORDS: list[tuple[Any, dict[str, Any]]] = [
    (
        a2sf.Engine,
        {
            "eviction": None,
            "kv_type": "f16",
            "device": "auto",
            "threads": None,
            "batch": 512,
            "progress": None,
        },
    ),
    (a2sf.Engine.tokenize, {"special": True, "bos": None}),
    (a2sf.Engine.detokenize, {}),
    (a2sf.Engine.generate, {**GENERATE, "eviction": None}),
    (a2sf.Engine.stream, {**GENERATE, "eviction": None}),
    (a2sf.Engine.chat, {**GENERATE, "eviction": None}),
    (a2sf.Engine.stream_chat, {**GENERATE, "eviction": None}),
    (a2sf.Engine.logits, {"eviction": None}),
    (a2sf.Engine.score, {"eviction": None}),
    (a2sf.Engine.session, {"eviction": None, "load": None}),
    (a2sf.Session.feed, {}),
    (a2sf.Session.generate, GENERATE),
    (a2sf.Session.stream, GENERATE),
    (a2sf.Session.chat, {"role": "user", "system": None} | GENERATE),
    (a2sf.Session.stream_chat, {"role": "user", "system": None} | GENERATE),
    (a2sf.Engine.chat_session, {"system": None, "eviction": None}),
    (a2sf.Session.reset, {}),
    (a2sf.Tokenizer.encode, {"special": True, "bos": None}),
    (a2sf.Tokenizer.decode, {"special": False}),
    (
        a2sf.Eviction,
        {
            "policy": "a2sf",
            "budget": None,
            "forgetting_factor": None,
            "sinks": None,
            "recent": None,
            "window": None,
            "scope": None,
            "pooling": None,
            "prefill": None,
            "positions": None,
            "pinned": None,
            "allocation": None,
            "guard": None,
        },
    ),
    (
        a2sf.Sampling,
        {
            "temperature": 0.0,
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
            "repeat_penalty": 1.0,
            "repeat_window": 64,
            "seed": 0,
        },
    ),
]
DATACLASSES: list[Any] = [
    a2sf.Eviction,
    a2sf.Sampling,
    a2sf.Token,
    a2sf.Generation,
    a2sf.Stats,
    a2sf.ModelInfo,
]
ERRORS = [a2sf.GgufError, a2sf.OptionError, a2sf.UnsupportedError, a2sf.DeviceError]


@pytest.mark.parametrize(
    ("function", "expected"), KEYWORDS, ids=lambda x: getattr(x, "__qualname__", "")
)
def test_options_are_keyword_only_with_documented_defaults(
    function: Any, expected: dict[str, Any]
) -> None:
    parameters = inspect.signature(function).parameters.values()
    found = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert found == expected
    assert not any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters)


def test_every_public_name_has_a_docstring() -> None:
    for name in a2sf.__all__:
        thing = getattr(a2sf, name)
        if not isinstance(thing, str):
            assert thing.__doc__, name
            assert getattr(thing, "__module__", "a2sf").startswith("a2sf")
        if inspect.isclass(thing):
            for member, value in vars(thing).items():
                if not member.startswith("_") and (callable(value) or isinstance(value, property)):
                    assert value.__doc__ or dataclasses.is_dataclass(thing), f"{name}.{member}"


@pytest.mark.parametrize("kind", DATACLASSES)
def test_dataclasses_are_frozen_slotted_and_keyword_only(kind: Any) -> None:
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen
    assert "__slots__" in vars(kind)
    assert all(field.kw_only for field in dataclasses.fields(kind))
    if kind in (a2sf.Eviction, a2sf.Sampling):
        one = kind()
        assert one == copy.deepcopy(one) == pickle.loads(pickle.dumps(one))
        assert hash(one) == hash(kind())
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, dataclasses.fields(kind)[0].name, None)


def test_default_budget() -> None:
    assert a2sf.Eviction().budget == 1024
    assert a2sf.Eviction(policy="full").budget is None
    assert a2sf.Eviction(policy="h2o").budget == 1024


def test_lists() -> None:
    assert {"full", "a2sf", "a2sf-paper", "a2sf-dual", "h2o", "tova"} <= set(a2sf.policies())
    assert {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q6_K"} <= set(a2sf.weight_types())
    assert {"llama", "qwen2", "qwen3", "gemma3", "phi3"} <= set(a2sf.architectures())
    assert "cpu" in a2sf.devices()
    assert isinstance(a2sf.isa(), str)
    assert a2sf.isa()
    assert a2sf.__version__.count(".") == 2


@pytest.mark.parametrize("kind", ERRORS)
def test_errors(kind: type[a2sf.Error]) -> None:
    assert issubclass(kind, a2sf.Error)
    assert issubclass(kind, ValueError) == (kind in (a2sf.GgufError, a2sf.OptionError))
    assert kind.__module__ == "a2sf"
    again = pickle.loads(pickle.dumps(kind("where: this expected, found that")))
    assert type(again) is kind
    assert str(again) == "where: this expected, found that"


def test_properties(llama: Path) -> None:
    eviction = a2sf.Eviction(budget=64)
    engine = a2sf.Engine(llama, eviction=eviction)
    assert engine.eviction is eviction
    assert engine.info.path == str(llama)
    assert engine.info.architecture == "llama"
    assert engine.info.weight_type == "F32"
    assert (engine.info.n_layers, engine.info.n_heads, engine.info.n_kv_heads) == (2, 4, 2)
    assert (engine.info.n_vocab, engine.info.n_ctx, engine.info.head_dim) == (512, 4096, 64)
    assert engine.tokenizer.n_vocab == 512
    assert (engine.tokenizer.bos, engine.tokenizer.eos) == (510, 511)
    assert "llama" in repr(engine)
    assert a2sf.Tokenizer(llama).encode("hello") == engine.tokenize("hello")


def test_stub_and_marker_are_shipped() -> None:
    folders = [Path(p) for p in a2sf.__path__] + [Path(str(a2sf._core.__file__)).parent]
    for name in ("py.typed", "_core.pyi"):
        assert any((folder / name).is_file() for folder in folders), name
