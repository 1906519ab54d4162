"""The thread that computes: it owns the batch, takes sequences from the queue and hands out tokens.

Everything else runs in the event loop. The two meet in a queue of new jobs one way, and calls of
the loop the other; a job's own fields are written by one side only.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

import numpy as np
from numpy.typing import NDArray

from .._batch import Batch, BatchStream
from .._core import DeviceError, OptionError
from .._engine import Engine
from .._results import Generation, Token
from ._errors import ApiError, bad_request
from ._metrics import Metrics
from ._options import ServerOptions
from ._requests import Request

LOG = logging.getLogger("a2sf.serve")
RETRY_S = 5.0  # from a fault to the next try, if no request comes before
GONE = 499  # the status by which a client that went away is counted; it is never sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """News of one sequence: tokens, and at its end what came of it."""

    index: int
    tokens: list[Token]
    result: Generation | None = None
    error: ApiError | None = None
    n_prompt: int = 0

    @property
    def is_last(self) -> bool:
        """Whether the sequence is over."""
        return self.result is not None or self.error is not None


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """A request being served: its sequences' news arrive in `events`, an item per sequence."""

    n_sequences: int
    arrived: float
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    cancelled: bool = False  # written by the loop, read by the thread
    n_ended: int = 0
    has_token: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One sequence of a call."""

    call: Call
    index: int
    ids: NDArray[np.int32]
    request: Request
    deadline: float
    stream: BatchStream | None = None


class Scheduler:
    """Serves calls with one batch.

    Made, started and stopped by the server; `submit` and `cancel` belong to the event loop.
    """

    def __init__(self, engine: Engine, options: ServerOptions, metrics: Metrics) -> None:
        self._engine = engine
        self._options = options
        self._metrics = metrics
        self._batch: Batch | None = Batch(engine, size=options.parallel)
        self._is_faulty = False  # no batch can be made; written by the thread
        self._inbox: SimpleQueue[Job | None] = SimpleQueue()  # None wakes the thread
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._news: list[tuple[Job, Event]] = []
        self._n_open = 0  # sequences accepted and not over; the loop's
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="a2sf-serve", daemon=True)

    # In the event loop.

    def start(self) -> None:
        """Start the thread; its news go to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """Take nothing new, and end what runs within some seconds. A signal handler may call it."""
        stop_at = time.monotonic() + grace_s
        self._stop_at = stop_at if self._stop_at is None else min(stop_at, self._stop_at)
        self._inbox.put(None)

    async def join(self) -> None:
        """Wait until the thread has ended, which `stop` must have asked for."""
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the thread's end, outside the event loop; return whether it has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def is_open(self) -> bool:
        """Whether it takes requests."""
        return self._thread.is_alive() and self._stop_at is None

    @property
    def is_healthy(self) -> bool:
        """Whether it takes requests, and could do something for the last one that came."""
        return self.is_open and not self._is_faulty

    def check_room(self, n: int) -> None:
        """Refuse a request of n sequences that there is no room for: ApiError."""
        if not self.is_open:
            raise shutting_down()
        room = self._options.parallel + self._options.queue
        if n > room:
            raise bad_request(f"prompt: at most {room} prompts expected, found {n}", "prompt")
        if self._n_open + n > room:
            found = f"{self._n_open} of {room} taken"
            raise ApiError(
                429,
                f"queue: room for {n} more expected, found {found}",
                code="queue_full",
                retry_after_s=1,
            )

    def submit(self, request: Request, prompts: list[NDArray[np.int32]]) -> Call:
        """Queue a request's sequences: all of them, or none and an ApiError."""
        n = len(prompts)
        self.check_room(n)
        self._n_open += n
        now = time.monotonic()
        limit = self._options.timeout_s
        call = Call(n_sequences=n, arrived=now)
        for i, ids in enumerate(prompts):
            deadline = now + limit if limit > 0 else float("inf")
            self._inbox.put(Job(call=call, index=i, ids=ids, request=request, deadline=deadline))
        return call

    def cancel(self, call: Call) -> None:
        """End a call's sequences that still run or wait. They say so in its events."""
        call.cancelled = True

    def _deliver(self, news: list[tuple[Job, Event]]) -> None:
        now = time.monotonic()
        for job, event in news:
            call = job.call
            if event.tokens and not call.has_token:
                call.has_token = True
                self._metrics.first_token_s.observe(now - call.arrived)
            if event.is_last:
                self._n_open -= 1
                call.n_ended += 1
                if call.n_ended == call.n_sequences:
                    self._metrics.request_s.observe(now - call.arrived)
            call.events.put_nowait(event)

    # In the thread.

    def _run(self) -> None:
        while self._receive():
            try:
                self._turn()
            except Exception as error:
                self._give_up(error)
            self._publish()

    def _turn(self) -> None:
        self._end_overdue()
        if self._waiting or self._running or self._is_faulty:
            batch = self._ready_batch()
            self._admit(batch)
            if self._running:
                self._step(batch)
        self._measure()

    def _give_up(self, error: Exception) -> None:
        """End everything: nobody knows what state a fault left. The next turn makes a new batch."""
        answer = api_error(error)
        log(answer, error)
        for job in [*self._waiting, *self._running]:
            self._fail(job, answer, "error")
        self._batch = None
        self._measure()

    def _ready_batch(self) -> Batch:
        """Return the batch; a new one after a fault."""
        if self._batch is None:
            self._is_faulty = True
            self._batch = Batch(self._engine, size=self._options.parallel)
            self._is_faulty = False
        return self._batch

    def _measure(self) -> None:
        self._metrics.running.set(len(self._running))
        self._metrics.waiting.set(len(self._waiting))
        caches = [job.stream.cache for job in self._running if job.stream is not None]
        self._metrics.kv_bytes.set(sum(cache.bytes for cache in caches))

    def _receive(self) -> bool:
        """Take new jobs; wait for one if there is nothing to do. False at the end."""
        while True:
            idle = not self._waiting and not self._running
            if idle and self._stop_at is not None and self._inbox.empty():
                return False
            patience_s = RETRY_S if self._is_faulty else None
            try:
                job = self._inbox.get(idle, patience_s)
            except Empty:
                return True
            if job is not None:
                self._waiting.append(job)

    def _end_overdue(self) -> None:
        """End those whose client is gone or whose time is up, and all when the server ends."""
        now = time.monotonic()
        stopping = self._stop_at is not None
        stopped = self._stop_at is not None and now >= self._stop_at
        for job in [*self._waiting, *self._running]:
            if job.call.cancelled:
                self._fail(job, ApiError(GONE, "client: gone"), "cancelled")
            elif now >= job.deadline:
                limit = f"{self._options.timeout_s:g} s"
                error = ApiError(504, f"time: an answer within {limit} expected", code="timeout")
                self._fail(job, error, "timeout")
            elif stopped or (stopping and job.stream is None):
                self._fail(job, shutting_down(), "cancelled")

    def _admit(self, batch: Batch) -> None:
        while self._waiting and len(self._running) < batch.size:
            job = self._waiting[0]
            request = job.request
            try:
                job.stream = batch.add(
                    job.ids,
                    max_tokens=request.max_tokens,
                    sampling=request.sampling,
                    stop=request.stop,
                )
            except Exception as error:
                self._fail_by(job, error)
                continue
            self._waiting.popleft()
            self._running.append(job)

    def _step(self, batch: Batch) -> None:
        batch.step()
        self._metrics.steps.inc()
        for job in list(self._running):
            stream = job.stream
            assert stream is not None
            tokens = stream.take()
            self._metrics.generated_tokens.inc(len(tokens))
            if stream.error is not None:
                self._fail_by(job, stream.error)
            elif stream.result is not None:
                self._running.remove(job)
                self._tell(job, tokens, result=stream.result)
                self._metrics.sequences.labels(stream.result.finish_reason).inc()
                self._metrics.count(stream.result.stats, stream.n_prompt)
                job.stream = None
            elif tokens:
                self._tell(job, tokens)

    def _fail_by(self, job: Job, error: Exception) -> None:
        """End a job by an error of the library."""
        answer = api_error(error)
        log(answer, error)
        self._fail(job, answer, "error")

    def _fail(self, job: Job, error: ApiError, end: str) -> None:
        """End a job that waits or runs."""
        if job.stream is not None:
            self._running.remove(job)
            job.stream.cancel()
            job.stream = None
        else:
            self._waiting.remove(job)
        self._tell(job, [], error=error)
        self._metrics.sequences.labels(end).inc()

    def _tell(
        self,
        job: Job,
        tokens: list[Token],
        *,
        result: Generation | None = None,
        error: ApiError | None = None,
    ) -> None:
        event = Event(
            index=job.index, tokens=tokens, result=result, error=error, n_prompt=len(job.ids)
        )
        self._news.append((job, event))

    def _publish(self) -> None:
        """Hand the news to the event loop."""
        news, self._news = self._news, []
        if news and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, news)


def shutting_down() -> ApiError:
    """Return the error of a request that comes, or still runs, when the server ends."""
    message = "server: one that runs expected, found it shutting down"
    return ApiError(503, message, code="shutting_down")


def api_error(error: Exception) -> ApiError:
    """Return an error of the library as one for clients."""
    if isinstance(error, OptionError):
        return bad_request(str(error))
    if isinstance(error, (DeviceError, MemoryError)):
        found = f", found: {error}" if str(error) else ""
        message = f"memory: enough for this request expected{found}"
        return ApiError(503, message, code="out_of_memory")
    return ApiError(500, f"server: {error}", code="internal")


def log(answer: ApiError, error: Exception) -> None:
    """Write the server's own failures into its log; where they arose, unless memory ran out."""
    if answer.status == 500:
        LOG.error("a2sf: %s: %s", answer.code, error, exc_info=error)
    elif answer.status > 500:
        LOG.error("a2sf: %s: %s", answer.code, str(error) or "no memory")
