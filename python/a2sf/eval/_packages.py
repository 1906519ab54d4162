"""Optional packages of measurements, asked for where they are needed."""

from __future__ import annotations

from typing import Any

from .. import _packages


def require(module: str, package: str, extra: str = "eval") -> Any:
    """Import an optional package.

    Raises
    ------
    Error
        It is not installed; the message says how to get it.
    """
    return _packages.require(module, package, extra=extra, user="a2sf-eval")
