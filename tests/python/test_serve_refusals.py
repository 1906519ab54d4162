"""a2sf serve: what is refused before any work is done for it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

pytest.importorskip("openai")
pytest.importorskip("uvicorn")
from a2sf.serve import ServerOptions  # noqa: E402
from a2sf.serve._errors import ApiError  # noqa: E402
from a2sf.serve._requests import parse_chat, parse_completion, short  # noqa: E402


@pytest.mark.parametrize("parse", [parse_chat, parse_completion])
@pytest.mark.parametrize("kind", ["[]", "{}"])
def test_bodies_of_any_depth(parse: Callable[..., object], kind: str) -> None:
    """Those that are just not too deep to be read are not too deep to be told of."""
    opening, closing = ("[", "]") if kind == "[]" else ('{"a":', "}")
    for depth in range(700, 1000):
        value = opening * depth + "1" + closing * depth
        for field in ("messages", "prompt", "stop", "tools"):
            with pytest.raises(ApiError) as refused:
                parse(f'{{"{field}":{value}}}'.encode(), ServerOptions(), "model")
            assert refused.value.status == 400


def test_a_value_that_is_told_of_is_cut() -> None:
    for value in ("text", 5, 1.5, True, [], {}, [1, "a", {"b": [None]}], {"a": 1, "b": "\ud800"}):
        assert short(value) == json.dumps(value)
    assert short(None) == "none"
    assert short([7] * 1_000_000) == json.dumps([7] * 100)[:100] + "..."
