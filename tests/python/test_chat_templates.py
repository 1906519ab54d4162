"""The program's own rendering of conversations against Jinja's."""

from __future__ import annotations

from pathlib import Path

import a2sf
import pytest
from a2sf import _core
from a2sf._chat import render
from chat_templates import TEMPLATES
from conftest import SHARED

TURNS = [
    ["Hi"],
    ["Hi", "Hello! ", "  What is 1 + 1?\n"],
    ["Line one\nline two", "It is\n\ntwo.", "Thanks", " \nBye", "Bye <b>"],
]


def by_jinja(template: str, system: str | None, turns: list[str], bos: str = "<s>") -> str:
    messages = [] if system is None else [{"role": "system", "content": system}]
    for i, text in enumerate(turns):
        messages.append({"role": "assistant" if i % 2 else "user", "content": text})
    return render(template, messages, bos_token=bos, eos_token="</s>")


@pytest.mark.parametrize("system", [None, "Be brief.\n  Very."])
@pytest.mark.parametrize("turns", TURNS, ids=len)
@pytest.mark.parametrize("name", TEMPLATES)
def test_rendering(name: str, turns: list[str], system: str | None) -> None:
    family, template, has_system = TEMPLATES[name]
    if system is not None and not has_system:
        pytest.skip("a template without system prompts")
    expected = by_jinja(template, system, turns)
    assert _core.chat_text(template, None, "<s>", "</s>", system, turns) == expected
    if family not in ("chatml", "llama3", "gemma", "mistral") and "{{ bos_token }}" not in template:
        assert _core.chat_text("", family, "<s>", "</s>", system, turns) == expected


@pytest.mark.parametrize("kind", ["reference/models", "vocab"])
def test_reference_models(kind: str) -> None:
    """Every template of the reference files is known, or there is none."""
    found = 0
    for path in sorted((SHARED / kind).glob("*.gguf")):
        template = a2sf.Tokenizer(path).chat_template
        if not template:
            continue
        found += 1
        for turns in TURNS:
            for system in (None, "Be brief."):
                expected = by_jinja(template, system, turns, bos="")
                assert _core.chat_text(template, None, "", "</s>", system, turns) == expected
    if found == 0:
        pytest.skip("no templates there")


def test_bundled_model(bundled: Path) -> None:
    template = a2sf.Tokenizer(bundled).chat_template
    for turns in TURNS:
        expected = by_jinja(template, "A note.", turns)
        assert _core.chat_text(template, None, "<s>", "</s>", "A note.", turns) == expected


def test_every_family_has_a_template_here() -> None:
    with pytest.raises(a2sf.OptionError, match='found "other"') as error:
        _core.chat_text("", "other", "", "", None, ["x"])
    known = str(error.value).removeprefix("template: one of ").split(" expected")[0].split(", ")
    assert set(known) == {family for family, _, _ in TEMPLATES.values()}


@pytest.mark.parametrize("template", ["", "{{ messages[0].content }}"])
def test_unknown(template: str) -> None:
    with pytest.raises(a2sf.UnsupportedError, match=r"chatml.*--template NAME"):
        _core.chat_text(template, None, "", "", None, ["x"])
