"""An HTTP server with OpenAI's interface: `a2sf serve`, or `python -m a2sf.serve`.

Needs the extra `serve` (`pip install 'a2sf[serve]'`). In a program of your own:

>>> from a2sf.serve import ServerOptions, create_app
>>> app = create_app(a2sf.Engine(), ServerOptions(parallel=4))  # an ASGI application

See docs/server.md for the interface and its limits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _core
from .._engine import Engine
from ._options import ServerOptions

if TYPE_CHECKING:
    from starlette.applications import Starlette

__all__ = ["ServerOptions", "create_app"]


def create_app(engine: Engine, options: ServerOptions | None = None) -> Starlette:
    """Return the server as an ASGI application. Its lifespan starts and ends the computing thread.

    Parameters
    ----------
    engine : Engine
    options : ServerOptions or None, default None
        None is `ServerOptions()`.

    Raises
    ------
    Error
        The packages of the extra `serve` are not installed.
    """
    require_packages()
    from ._app import make_app

    return make_app(engine, options or ServerOptions())


def require_packages() -> None:
    """Raise Error, naming what to install, unless everything that the server needs is there."""
    try:
        import jinja2  # noqa: F401
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise _core.Error(
            f"serve: the package {error.name} expected (pip install 'a2sf[serve]'), found none"
        ) from error
