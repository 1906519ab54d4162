"""A conversation as the text a model was trained on, by the model's own Jinja template.

A template comes with the model file, so it is rendered in Jinja's sandbox. Names that templates
expect beyond Jinja's own follow Hugging Face transformers: raise_exception, strftime_now, tojson,
break and continue, {% generation %}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from ._core import Error, OptionError, UnsupportedError

if TYPE_CHECKING:
    from jinja2 import Template

Messages = Sequence[Mapping[str, Any]]


def render(template: str, messages: Messages, *, bos_token: str, eos_token: str) -> str:
    """Text of a conversation, up to where the assistant's answer begins.

    Parameters
    ----------
    template : str
        The model's `tokenizer.chat_template`.
    messages : sequence of mappings
        Each with "role" ("system", "user", "assistant", ...) and "content" (text).
    bos_token, eos_token : str
        Text of the model's special tokens; empty for none.

    Raises
    ------
    OptionError
        No messages, messages of another form, or a conversation that the template refuses.
    UnsupportedError
        The model has no template, or one that does not work.
    Error
        jinja2 is not installed.
    """
    checked = check_messages(messages)
    if not template:
        raise UnsupportedError(
            "chat: a model with a chat template (tokenizer.chat_template) expected, found none"
        )
    compiled = compile_template(template)
    try:
        return compiled.render(
            messages=checked,
            add_generation_prompt=True,
            bos_token=bos_token,
            eos_token=eos_token,
            tools=None,
            documents=None,
        )
    except Error:
        raise
    except Exception as error:  # whatever a template of unknown origin runs into
        raise UnsupportedError(
            f"chat template: one that renders these messages expected, found: {error}"
        ) from error


def check_messages(messages: Messages) -> list[dict[str, Any]]:
    """Copy messages, or raise OptionError naming the first wrong one."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        found = type(messages).__name__
        raise TypeError(f"messages: a sequence of mappings expected, found {found}")
    if not messages:
        raise OptionError("messages: at least 1 message expected, found 0")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            found = type(message).__name__
            raise TypeError(f"messages[{i}]: a mapping expected, found {found}")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                found = type(message[key]).__name__ if key in message else "none"
                raise OptionError(f"messages[{i}]: text under {key!r} expected, found {found}")
    return [dict(message) for message in messages]


@lru_cache(maxsize=16)
def compile_template(template: str) -> Template:
    """Compile once per template. UnsupportedError for one that jinja2 cannot parse."""
    try:
        from jinja2 import TemplateSyntaxError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise Error(
            "chat: the package jinja2 expected (pip install a2sf[chat]), found none"
        ) from error
    from ._jinja import GenerationTag

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, GenerationTag]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(template)
    except TemplateSyntaxError as error:
        raise UnsupportedError(
            f"chat template: a Jinja template expected, found at line {error.lineno}: {error}"
        ) from error


def refuse(message: str) -> NoReturn:
    """Templates' raise_exception: a conversation they were not made for."""
    raise OptionError(f"messages: a conversation the template accepts expected, found: {message}")


def to_json(value: Any, indent: int | None = None) -> str:
    """Templates' tojson. Unlike Jinja's it does not escape HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
