"""Runs the application with uvicorn, from the first line on the terminal to the last answer."""

from __future__ import annotations

import socket
import sys
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from .._core import Error
from ._hosts import is_loopback, resolve
from ._options import ServerOptions
from ._scheduler import Scheduler

# For answers that are ready but not sent yet, after the grace of those that are computed.
SENDING_S = 2.0
# For the pass through the model that runs when all is over.
STEP_S = 10.0


class Server(uvicorn.Server):
    """Ends the sequences first when it is told to stop; without grace at the second signal.

    The third does not wait for clients to take what was sent to them.
    """

    def __init__(self, config: uvicorn.Config, scheduler: Scheduler, grace_s: float) -> None:
        super().__init__(config)
        self._scheduler = scheduler
        self._grace_s = grace_s
        self._n_signals = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Do as uvicorn, which would also raise the signal again after a clean end."""
        self._n_signals += 1
        self._scheduler.stop(self._grace_s if self._n_signals == 1 else 0)
        self.should_exit = True
        self.force_exit = self._n_signals > 2


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
    if not options.api_keys and not is_loopback(listening.getsockname()[0]):
        print(f"a2sf: {host}: whoever reaches it may use it; see --api-key", file=sys.stderr)
    print(f"a2sf: serving {app.state.model_name} at http://{name}:{port}/v1", flush=True)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(options.grace_s + SENDING_S) + 1,
    )
    scheduler: Scheduler = app.state.scheduler
    try:
        Server(config, scheduler, options.grace_s).run(sockets=[listening])
    finally:
        # Ended by a third signal, uvicorn leaves the thread alone; it must not compute while the
        # interpreter is taken down.
        scheduler.stop(0)
        scheduler.wait(STEP_S)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens."""
    try:
        family, address = resolve(host, port)
        return socket.create_server(address, family=family, backlog=1024)
    except (OSError, UnicodeError) as error:
        raise Error(f"{host}:{port}: an address to listen at expected, found: {error}") from error
