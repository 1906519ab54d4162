"""Options of the server, checked when they are built."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .._core import OptionError
from .._options import Sampling
from ._hosts import ANY


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What the server allows and assumes.

    Parameters
    ----------
    model_name : str or None, default None
        The model's name in requests and answers; None is its file's name without ".gguf".
    api_keys : tuple of str, default ()
        A request must bring one of these as "Authorization: Bearer KEY"; none are asked for if
        there are none. Printable ASCII without blanks at the ends, which a header loses.
    parallel : int, default 8
        Sequences computed together, at most.
    queue : int, default 64
        Sequences that may wait beside those; one more is refused (429).
    timeout_s : float, default 600.0
        Seconds from the arrival of a request to its last token; 0 is no limit.
    grace_s : float, default 5.0
        Seconds that running answers have to end after the server was told to stop.
    max_request_bytes : int, default 4 MiB
        Largest body of a request.
    max_tokens_limit : int, default 4096
        Most tokens that a request may ask for, and what a chat gets that asks for no number.
    temperature : float, default 1.0
        For requests that name none, as with OpenAI. 0 is greedy.
    cors_origins : tuple of str, default ()
        Origins whose pages may call the server from a browser; "*" is all of them.
    allowed_hosts : tuple of str, default ()
        Names and addresses, without port, by which the server may be called (header Host); empty,
        or "*" among them, is any. `a2sf serve` that listens on this machine only and has no keys
        allows those of this machine, so that no page from elsewhere reaches it by DNS rebinding.

    Raises
    ------
    OptionError
        A number out of range, an empty name, a key, origin or host that no header could hold.
    TypeError
        Keys, origins or hosts that are no tuple or list of str; one text alone is none.
    """

    model_name: str | None = None
    api_keys: tuple[str, ...] = ()
    parallel: int = 8
    queue: int = 64
    timeout_s: float = 600.0
    grace_s: float = 5.0
    max_request_bytes: int = 4 * 2**20
    max_tokens_limit: int = 4096
    temperature: float = 1.0
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        least = {"parallel": 1, "queue": 0, "max_request_bytes": 1, "max_tokens_limit": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise OptionError(f"{name}: an integer of at least {low} expected, found {value!r}")
        for name in ("timeout_s", "grace_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise OptionError(f"{name}: seconds, 0 or more, expected, found {value!r}")
        if self.model_name is not None and not self.model_name.strip():
            raise OptionError("model_name: a name expected, found an empty one")
        for name in ("api_keys", "cors_origins", "allowed_hosts"):
            object.__setattr__(self, name, header_texts(name, getattr(self, name)))
        for host in self.allowed_hosts:
            has_port = host.count(":") == 1  # an IPv6 address has more
            if has_port or not host.strip("[]") or ("*" in host and host != ANY):
                raise OptionError(
                    f"allowed_hosts: names without port, or {ANY}, expected, found {host!r}"
                )
        Sampling(temperature=self.temperature)


def header_texts(name: str, texts: Sequence[str]) -> tuple[str, ...]:
    """Check texts that headers are compared with. Messages do not show them: keys are secret."""
    if not isinstance(texts, (tuple, list)):
        raise TypeError(f"{name}: a tuple of str expected, found {type(texts).__name__}")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{name}: str expected, found {type(text).__name__} at index {i}")
        if not text or text != text.strip() or not (text.isascii() and text.isprintable()):
            found = "an empty one" if not text else "another"
            raise OptionError(
                f"{name}: printable ASCII without blanks at its ends expected, "
                f"found {found} at index {i}"
            )
    return tuple(texts)
