"""Runs the application with uvicorn, from the first line on the terminal to the last answer."""

from __future__ import annotations

import socket
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from .._core import Error
from ._options import ServerOptions
from ._scheduler import Scheduler

# For answers that are ready but not sent yet, after the grace of those that are computed.
SENDING_S = 2.0


class Server(uvicorn.Server):
    """Ends the sequences first when it is told to stop; the second signal ends it at once."""

    def __init__(self, config: uvicorn.Config, scheduler: Scheduler, grace_s: float) -> None:
        super().__init__(config)
        self._scheduler = scheduler
        self._grace_s = grace_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Do as uvicorn, which would also raise the signal again after a clean end."""
        self._scheduler.stop(0 if self.should_exit else self._grace_s)
        self.force_exit = self.should_exit
        self.should_exit = True


def run(app: Starlette, options: ServerOptions, *, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises
    ------
    Error
        The address cannot be listened at.
    """
    listening = listen(host, port)
    port = listening.getsockname()[1]
    name = f"[{host}]" if ":" in host else host
    print(f"a2sf: serving {app.state.model_name} at http://{name}:{port}/v1", flush=True)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(options.grace_s + SENDING_S) + 1,
    )
    Server(config, app.state.scheduler, options.grace_s).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        raise Error(f"{host}:{port}: an address to listen at expected, found: {error}") from error
