"""The ASGI application: routes, and the road of a request through them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from .. import _core
from .._core import Error
from .._dialogue import encode_start, write_out
from .._engine import Engine
from .._ids import as_ids
from ._answers import Answer
from ._errors import ApiError, bad_request
from ._http import Gate, Json, error_response, read_body, refuse_route, respond, unexpected
from ._metrics import Metrics
from ._options import ServerOptions
from ._requests import Request, parse_chat, parse_completion
from ._scheduler import Scheduler, shutting_down

Parse = Callable[[bytes, ServerOptions, str], Request]


def make_app(engine: Engine, options: ServerOptions) -> Starlette:
    """Return the application. Its lifespan starts and ends the computing thread."""
    metrics = Metrics()
    service = Service(engine, options, metrics)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.scheduler.start()
        yield
        service.scheduler.stop(0)
        await service.scheduler.join()

    middleware = [Middleware(Gate, options=options, metrics=metrics)]
    if options.cors_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=options.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
        middleware.insert(0, cors)
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", service.chat, methods=["POST"]),
            Route("/v1/completions", service.completion, methods=["POST"]),
            Route("/v1/models", service.models, methods=["GET"]),
            Route("/v1/models/{name:path}", service.model, methods=["GET"]),
            Route("/metrics", service.metrics, methods=["GET"]),
            Route("/health", service.health, methods=["GET"]),
        ],
        middleware=middleware,
        exception_handlers={
            ApiError: error_response,
            HTTPException: refuse_route,
            Exception: unexpected,
        },
        lifespan=lifespan,
    )
    app.state.scheduler = service.scheduler
    app.state.model_name = service.model_name
    return app


class Service:
    """What the routes do."""

    def __init__(self, engine: Engine, options: ServerOptions, metrics: Metrics) -> None:
        self._engine = engine
        self._options = options
        self._metrics = metrics
        self._created = int(time.time())
        name = Path(engine.info.path).name.removesuffix(".gguf")
        self.model_name = options.model_name or name
        self.scheduler = Scheduler(engine, options, metrics)

    async def chat(self, http: HttpRequest) -> Response:
        """POST /v1/chat/completions."""
        return await self._serve(http, parse_chat)

    async def completion(self, http: HttpRequest) -> Response:
        """POST /v1/completions."""
        return await self._serve(http, parse_completion)

    async def models(self, http: HttpRequest) -> Response:
        """GET /v1/models."""
        return Json({"object": "list", "data": [self._model_card()]})

    async def model(self, http: HttpRequest) -> Response:
        """GET /v1/models/{name}."""
        name = http.path_params["name"]
        if name != self.model_name:
            raise ApiError(
                404,
                f"model: {self.model_name!r} expected, found {name!r}",
                param="model",
                code="model_not_found",
            )
        return Json(self._model_card())

    async def metrics(self, http: HttpRequest) -> Response:
        """GET /metrics."""
        page, media_type = self._metrics.page()
        return Response(page, headers={"Content-Type": media_type})

    async def health(self, http: HttpRequest) -> Response:
        """GET /health."""
        if not self.scheduler.is_open:
            raise shutting_down()
        if not self.scheduler.is_healthy:
            message = "server: one that computes expected, found a fault, told in its log"
            raise ApiError(503, message, code="internal")
        return Json({"status": "ok"})

    async def _serve(self, http: HttpRequest, parse: Parse) -> Response:
        body = await read_body(http, self._options)
        request = parse(body, self._options, self.model_name)
        self.scheduler.check_room(max(1, len(request.prompts)))
        # Long texts take a while, and the event loop must not wait for them.
        prompts = await run_in_threadpool(self._prompts, request)
        call = self.scheduler.submit(request, prompts)
        answer = Answer(request, self.model_name, self._engine.tokenizer)
        return await respond(http, self.scheduler, call, answer, stream=request.stream)

    def _prompts(self, request: Request) -> list[NDArray[np.int32]]:
        """Return the ids of each sequence's prompt."""
        field = "messages" if request.messages else "prompt"
        try:
            return list(self._each_prompt(request, field))
        except (Error, TypeError) as error:
            raise bad_request(str(error), field) from None

    def _each_prompt(self, request: Request, field: str) -> Iterator[NDArray[np.int32]]:
        """Yield each prompt's ids. What follows one that is too long is not looked at."""
        tokenizer = self._engine.tokenizer
        if request.messages:
            chat = encode_start(tokenizer, write_out(tokenizer, request.messages))
            self._check_length(len(chat), field)
            yield as_ids(chat, tokenizer.n_vocab, what="prompt")
        for prompt in request.prompts:
            ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
            self._check_length(len(ids), field)
            yield as_ids(ids, tokenizer.n_vocab, what="prompt")

    def _check_length(self, n_tokens: int, field: str) -> None:
        eviction = self._engine.eviction
        evicts = eviction is not None and _core.policy_evicts(eviction.policy)
        n_ctx = self._engine.info.n_ctx
        if n_tokens == 0:
            raise bad_request("prompt: at least 1 token expected, found 0", field)
        if n_tokens > n_ctx and not evicts:
            raise bad_request(
                f"prompt: at most {n_ctx} tokens expected (the model's context; a server "
                f"started with --budget has no limit), found {n_tokens}",
                field,
                "context_length_exceeded",
            )

    def _model_card(self) -> dict[str, Any]:
        info, eviction = self._engine.info, self._engine.eviction
        return {
            "id": self.model_name,
            "object": "model",
            "created": self._created,
            "owned_by": "a2sf",
            "a2sf": {
                "architecture": info.architecture,
                "weight_type": info.weight_type,
                "n_params": info.n_params,
                "n_ctx": info.n_ctx,
                "policy": "full" if eviction is None else eviction.policy,
                "budget": None if eviction is None else eviction.budget,
            },
        }
