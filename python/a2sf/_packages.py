"""Optional packages, asked for where they are needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ._core import Error


def require(module: str, package: str, *, extra: str, user: str) -> Any:
    """Import an optional package.

    Parameters
    ----------
    module
        What to import.
    package
        Its name where it is installed from.
    extra
        Extra of a2sf that brings it.
    user
        Part of a2sf that asks, for the message.

    Raises
    ------
    Error
        It is not installed; the message says how to get it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise Error(
            f"{user}: the package {package} expected (pip install 'a2sf[{extra}]'), found none"
        ) from error
