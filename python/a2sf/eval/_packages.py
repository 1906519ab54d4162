"""Optional packages, asked for where they are needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .._core import Error


def require(module: str, package: str, extra: str = "eval") -> Any:
    """Import an optional package.

    Raises
    ------
    Error
        It is not installed; the message says how to get it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise Error(
            f"a2sf-eval: the package {package} expected (pip install 'a2sf[{extra}]'), found none"
        ) from error
