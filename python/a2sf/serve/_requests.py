"""Bodies of requests, checked in full.

A field that is not known, or asks for what there is not, is an error: none is ignored, but for
those that change no answer.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, NoReturn

from .._core import Error, OptionError
from .._options import Sampling, native_generate
from ._errors import ApiError, bad_request
from ._options import ServerOptions

# Fields that change no answer, whatever they hold.
HARMLESS = ("user", "metadata", "safety_identifier", "prompt_cache_key")
# Fields that are accepted as long as they ask for nothing.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "n": (1,),
    "parallel_tool_calls": (False, True),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "repeat_window")
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# OpenAI's number for /v1/completions.
DEFAULT_MAX_TOKENS = 16
MOST_STOPS = 16
MOST_BITS = 64
MOST_SHOWN = 100  # characters of a value, in an error

Prompt = str | list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client asks for.

    Attributes
    ----------
    prompts : list of str or list of int
        One answer each; empty for a chat.
    messages : list of dict
        A chat's, with "role" and "content"; empty for a completion.
    logprobs : bool
        Whether the answer has the log-probability of each token.
    """

    prompts: list[Prompt]
    messages: list[dict[str, str]]
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    logprobs: bool


class Fields:
    """The fields of a body; each is taken once, and in the end none may be left."""

    def __init__(self, body: bytes) -> None:
        try:
            fields = json.loads(body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:  # Unicode and huge integers included
            raise bad_request(f"body: a JSON object expected, found: {error}") from None
        if not isinstance(fields, dict):
            raise bad_request(f"body: a JSON object expected, found {type(fields).__name__}")
        self._left = {name: value for name, value in fields.items() if value is not None}

    def take(self, name: str) -> Any:
        """Return a field's value; None if it is missing or null."""
        return self._left.pop(name, None)

    def flag(self, name: str) -> bool:
        """Return a boolean, False if it is missing."""
        value = self.take(name)
        if value is None or isinstance(value, bool):
            return bool(value)
        raise wrong(name, "true or false", value)

    def integer(self, name: str, low: int, high: int) -> int | None:
        """Return an integer in [low, high], or None if it is missing."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise wrong(name, f"an integer from {low} to {high}", value)
        return value

    def end(self) -> None:
        """Refuse what is left, unless it changes no answer."""
        for name, value in self._left.items():
            if name in HARMLESS:
                continue
            if name not in NEUTRAL:
                raise bad_request(
                    f"{name}: a field known here expected, found an unknown one",
                    name,
                    "unknown_field",
                )
            if not any(_same(value, neutral) for neutral in NEUTRAL[name]):
                known = " or ".join(json.dumps(neutral) for neutral in NEUTRAL[name])
                raise wrong(name, f"{known} (nothing else is supported)", value, "unsupported")


def parse_completion(body: bytes, options: ServerOptions, model_name: str) -> Request:
    """Check the body of /v1/completions."""
    fields = Fields(body)
    check_model(fields, model_name)
    prompts = parse_prompt(fields.take("prompt"))
    # There is no more than the token's own probability: OpenAI's 0, not its 1 to 5 alternatives.
    logprobs = fields.integer("logprobs", 0, 0) is not None
    limit = fields.integer("max_tokens", 1, options.max_tokens_limit)
    max_tokens = min(DEFAULT_MAX_TOKENS, options.max_tokens_limit) if limit is None else limit
    return finish(fields, options, prompts, [], max_tokens, logprobs)


def parse_chat(body: bytes, options: ServerOptions, model_name: str) -> Request:
    """Check the body of /v1/chat/completions."""
    fields = Fields(body)
    check_model(fields, model_name)
    messages = parse_messages(fields.take("messages"))
    logprobs = fields.flag("logprobs")
    limit = fields.integer("max_tokens", 1, options.max_tokens_limit)
    newer = fields.integer("max_completion_tokens", 1, options.max_tokens_limit)
    if limit is not None and newer is not None and limit != newer:
        raise wrong("max_completion_tokens", f"max_tokens ({limit}), or one of the two", newer)
    limit = newer if limit is None else limit
    max_tokens = options.max_tokens_limit if limit is None else limit
    return finish(fields, options, [], messages, max_tokens, logprobs)


def finish(
    fields: Fields,
    options: ServerOptions,
    prompts: list[Prompt],
    messages: list[dict[str, str]],
    max_tokens: int,
    logprobs: bool,
) -> Request:
    """Check what both kinds of request have in common."""
    stop = parse_stop(fields.take("stop"))
    sampling = parse_sampling(fields, options.temperature)
    stream = fields.flag("stream")
    include_usage = parse_stream_options(fields.take("stream_options"), stream)
    fields.end()
    try:
        native_generate(max_tokens, sampling, stop)
    except Error as error:
        raise told(error) from None
    return Request(
        prompts=prompts,
        messages=messages,
        max_tokens=max_tokens,
        sampling=sampling,
        stop=stop,
        stream=stream,
        include_usage=include_usage,
        logprobs=logprobs,
    )


def check_model(fields: Fields, model_name: str) -> None:
    """Refuse another model than the one that runs; a request that names none means that one."""
    name = fields.take("model")
    if name is None or name == model_name:
        return
    raise ApiError(
        404,
        f"model: {model_name!r} expected, found {short(name)}",
        param="model",
        code="model_not_found",
    )


def parse_prompt(prompt: Any) -> list[Prompt]:
    """Return one prompt, or several: text, ids, a list of texts, a list of lists of ids."""
    expected = "text, ids, or a list of these, none of them empty,"
    if isinstance(prompt, str) or (isinstance(prompt, list) and _are_ids(prompt)):
        prompts = [prompt]
    elif isinstance(prompt, list):
        prompts = prompt
    else:
        raise wrong("prompt", expected, prompt)
    for item in prompts:
        if not item or not (isinstance(item, str) or (isinstance(item, list) and _are_ids(item))):
            raise wrong("prompt", expected, item)
    if not prompts:
        raise wrong("prompt", expected, prompt)
    return prompts


def parse_messages(messages: Any) -> list[dict[str, str]]:
    """Return messages whose content is text; lists of text parts are joined."""
    if not isinstance(messages, list) or not messages:
        raise wrong("messages", "a list of at least one message", messages)
    return [parse_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def parse_message(message: Any, where: str) -> dict[str, str]:
    """Check one message; `where` is its name in errors."""
    if not isinstance(message, dict):
        raise wrong(where, "an object", message)
    given = {key: value for key, value in message.items() if value is not None}
    unknown = [key for key in given if key not in ("role", "content", "name")]
    if unknown:
        known = "role, content and name (tools, images and audio are not supported)"
        raise wrong(where, known, unknown[0], "unsupported")
    role = given.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise wrong(f"{where}.role", "one of " + ", ".join(ROLES), role)
    checked = {"role": ROLES[role], "content": parse_content(given.get("content"), where)}
    if "name" in given:
        if not isinstance(given["name"], str):
            raise wrong(f"{where}.name", "text", given["name"])
        checked["name"] = given["name"]
    return checked


def parse_content(content: Any, where: str) -> str:
    """Return a message's text, which may come in parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong(f"{where}.content", "text, or a list of parts of type text,", content)
    texts = []
    for i, part in enumerate(content):
        fine = isinstance(part, dict) and part.keys() == {"type", "text"}
        if not fine or part["type"] != "text" or not isinstance(part["text"], str):
            raise wrong(f"{where}.content[{i}]", 'only {"type": "text", "text": ...}', part)
        texts.append(part["text"])
    return "".join(texts)


def parse_stop(stop: Any) -> tuple[str, ...]:
    """Return the stop strings, given as one or as a list."""
    strings = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if not isinstance(strings, list) or len(strings) > MOST_STOPS:
        raise wrong("stop", f"text, or at most {MOST_STOPS} of them,", stop)
    for string in strings:
        if not isinstance(string, str) or not string:
            raise wrong("stop", "text that is not empty", string)
    return tuple(strings)


def parse_sampling(fields: Fields, temperature: float) -> Sampling:
    """Return how tokens are chosen. Without a seed each request has a new one."""
    low, high = -(2 ** (MOST_BITS - 1)), 2**MOST_BITS - 1
    seed = fields.integer("seed", low, high)
    values = {name: fields.take(name) for name in SAMPLING}
    values = {name: value for name, value in values.items() if value is not None}
    values.setdefault("temperature", temperature)
    try:
        seed = secrets.randbits(MOST_BITS) if seed is None else seed % 2**MOST_BITS
        return Sampling(seed=seed, **values)
    except (Error, TypeError) as error:
        raise told(error) from None


def parse_stream_options(options: Any, stream: bool) -> bool:
    """Return whether a stream ends with its usage."""
    if options is None:
        return False
    if not stream:
        raise wrong("stream_options", "none without stream", options)
    if not isinstance(options, dict) or not options.keys() <= {
        "include_usage",
        "include_obfuscation",
    }:
        raise wrong("stream_options", '{"include_usage": ...}', options)
    if options.get("include_obfuscation") not in (None, False):
        raise wrong("stream_options.include_obfuscation", "false", options, "unsupported")
    usage = options.get("include_usage")
    if not (usage is None or isinstance(usage, bool)):
        raise wrong("stream_options.include_usage", "true or false", usage)
    return bool(usage)


def wrong(name: str, expected: str, found: Any, code: str | None = None) -> ApiError:
    """Return the error of a field that holds something else than it should."""
    return bad_request(f"{name}: {expected} expected, found {short(found)}", name, code)


def told(error: Exception) -> ApiError:
    """Return an error of the library, whose message begins with what is wrong, as a client's."""
    message = str(error)
    param = message.partition(":")[0]
    if isinstance(error, (OptionError, TypeError)) and param.isidentifier():
        return bad_request(message, param)
    return bad_request(message)


def short(value: Any) -> str:
    """Return a value as JSON, cut where it is long."""
    if value is None:
        return "none"
    # In pieces, of which as many as are shown are made: a body may be large, and just not too deep
    # to be read. Each has at least one character.
    pieces = islice(json.JSONEncoder().iterencode(value), MOST_SHOWN + 1)
    text = "".join(pieces)
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "..."


def _are_ids(items: list[Any]) -> bool:
    return bool(items) and all(isinstance(x, int) and not isinstance(x, bool) for x in items)


def _same(value: Any, neutral: Any) -> bool:
    """Compare as JSON does: true is not 1."""
    return isinstance(value, bool) == isinstance(neutral, bool) and bool(value == neutral)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
