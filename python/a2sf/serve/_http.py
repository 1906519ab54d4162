"""Between HTTP and the scheduler: keys, bodies, answers whole and streamed, clients that leave."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ._answers import Answer, server_sent
from ._errors import ApiError
from ._hosts import ANY, name_in
from ._metrics import Metrics
from ._options import ServerOptions
from ._scheduler import GONE, Call, Event, Scheduler

# The rest of a body that is too large is read up to here, so that its sender sees the answer.
DRAINED_BYTES = 64 * 2**20
# Labels of the request counter; what else clients ask for must not fill it.
PATHS = {"/v1/chat/completions", "/v1/completions", "/v1/models", "/metrics", "/health"}
PUBLIC = "/health"


class Json(JSONResponse):
    """JSON in ASCII, so that a client's lone surrogate is no error."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json.dumps(content, separators=(",", ":")).encode()


class Gate:
    """ASGI middleware: asks for the server's name and a key, counts answers."""

    def __init__(self, app: ASGIApp, *, options: ServerOptions, metrics: Metrics) -> None:
        self._app = app
        self._keys = [key.encode() for key in options.api_keys]
        self._hosts = [host.strip("[]").lower() for host in options.allowed_hosts]
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if scope["path"] in PATHS else "other"
                self._metrics.requests.labels(path, str(message["status"])).inc()
            await send(message)

        refusal = self._refusal(scope["path"], Headers(scope=scope))
        app = self._app if refusal is None else to_response(refusal)
        await app(scope, receive, counted)

    def _refusal(self, path: str, headers: Headers) -> ApiError | None:
        """Return why a request may not pass; None if it may."""
        host = headers.get("host", "")
        if self._hosts and ANY not in self._hosts and name_in(host) not in self._hosts:
            known = ", ".join(self._hosts)
            found = repr(host) if host else "none"
            message = f"Host: one of {known} expected (see --allowed-host), found {found}"
            return ApiError(403, message, code="host_not_allowed")
        if self._keys and path != PUBLIC and not self._is_known(headers):
            message = "key: Authorization: Bearer with a key of this server expected, found "
            found = "another" if "authorization" in headers else "none"
            return ApiError(401, message + found, code="invalid_api_key")
        return None

    def _is_known(self, headers: Headers) -> bool:
        """Compare with every key, each in constant time."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        found = [hmac.compare_digest(given.strip().encode(), key) for key in self._keys]
        return scheme.lower() == "bearer" and any(found)


def to_response(error: ApiError) -> Json:
    """Return the response that tells of an error."""
    return Json(error.body, error.status, error.headers)


async def error_response(http: HttpRequest, error: Exception) -> Response:
    """Tell of an ApiError."""
    assert isinstance(error, ApiError)
    return to_response(error)


async def refuse_route(http: HttpRequest, error: Exception) -> Response:
    """Tell of a path or method that there is not."""
    assert isinstance(error, HTTPException)
    known = ", ".join(sorted(PATHS))
    message = f"{http.method} {http.url.path}: one of {known} expected"
    response = to_response(ApiError(error.status_code, message, code="not_found"))
    response.headers.update(error.headers or {})
    return response


async def unexpected(http: HttpRequest, error: Exception) -> Response:
    """Tell of a fault of the server, without its details."""
    return to_response(ApiError(500, "server: a fault, told in its log", code="internal"))


async def read_body(http: HttpRequest, options: ServerOptions) -> bytes:
    """Return a request's body, if it is JSON, not too large and not too slow."""
    limit = options.timeout_s
    try:
        return await asyncio.wait_for(receive_body(http, options.max_request_bytes), limit or None)
    except asyncio.TimeoutError:
        message = f"body: all of it within {limit:g} s expected"
        raise ApiError(408, message, code="timeout") from None


async def receive_body(http: HttpRequest, most: int) -> bytes:
    """Return a request's body without regard to time."""
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    # A web page elsewhere can make a browser send other types without asking this server first.
    if kind != "application/json":
        found = kind or "none"
        raise ApiError(415, f"Content-Type: application/json expected, found {found}")
    body = bytearray()
    n_bytes = 0
    try:
        async for chunk in http.stream():
            n_bytes += len(chunk)
            if n_bytes <= most:
                body += chunk
            elif n_bytes > most + DRAINED_BYTES:
                break
    except ClientDisconnect:
        raise ApiError(GONE, "client: gone") from None
    if n_bytes > most:
        raise ApiError(
            413, f"body: at most {most} bytes expected, found more", code="request_too_large"
        )
    return bytes(body)


async def respond(
    http: HttpRequest, scheduler: Scheduler, call: Call, answer: Answer, *, stream: bool
) -> Response:
    """Wait for a call's answer, or for the beginning of one that is streamed."""
    if not stream:
        async with watched(http.receive, scheduler, call):
            async for event in events(call):
                if event.error is not None:
                    raise event.error
                answer.add(event)
        return Json(answer.whole())
    return EventStream(scheduler, call, answer)


async def events(call: Call) -> AsyncIterator[Event]:
    """Give a call's events to the last one of its last sequence."""
    n_open = call.n_sequences
    while n_open:
        event = await call.events.get()
        n_open -= event.is_last
        yield event


@asynccontextmanager
async def watched(receive: Receive, scheduler: Scheduler, call: Call) -> AsyncIterator[None]:
    """Cancel a call when its client leaves, or when nobody waits for it any more."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scheduler.cancel(call)

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        scheduler.cancel(call)  # no effect on one that is over
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class EventStream(Response):
    """An answer in pieces, as server-sent events.

    What goes wrong before the first token has a status of its own; later it is an event
    {"error": ...}, and [DONE] does not follow.
    """

    def __init__(self, scheduler: Scheduler, call: Call, answer: Answer) -> None:
        super().__init__(
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )
        # Not known before the end; set by Response for its own, empty body.
        del self.headers["content-length"]
        self._scheduler = scheduler
        self._call = call
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; it ends early when the client leaves."""
        started = False
        items: list[dict[str, Any] | str] = []
        async with watched(receive, self._scheduler, self._call):
            async for event in events(self._call):
                if event.error is not None:
                    if not started:
                        await to_response(event.error)(scope, receive, send)
                        return
                    items.append(event.error.body)
                    break
                if not started:
                    started = True
                    head = {"status": self.status_code, "headers": self.raw_headers}
                    await send({"type": "http.response.start", **head})
                    items += self._answer.begin()
                items += self._answer.add(event)
                # All that is there in one write, and then back to the event loop: it would not
                # notice otherwise that the client has left.
                if items and self._call.events.empty():
                    await send(body_part(items, more=True))
                    items = []
            else:
                items += [*self._answer.end(), "[DONE]"]
            await send(body_part(items, more=False))


def body_part(items: list[dict[str, Any] | str], *, more: bool) -> Message:
    """Return the ASGI message that sends some events."""
    data = b"".join(map(server_sent, items))
    return {"type": "http.response.body", "body": data, "more_body": more}
