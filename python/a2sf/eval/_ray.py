"""Runs the jobs of a sweep on a Ray cluster, which sees to lost workers and to who runs what.

Only the driver writes results. A job asks for as many cores as its engine has threads, one unless
told otherwise: a core each is the best use of a cluster, and results do not depend on threads.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from .. import _core
from .._core import Error
from ._jobs import Job, file_hash
from ._packages import require
from ._results import Row
from ._run import Executor, run_job

LOCAL = "local"
# Jobs handed out for each that can run, so that no worker waits for the driver and a lost driver
# or a full disk leaves little to be done again.
AHEAD = 2
STORE_BYTES = 100 << 20  # a local cluster's object store: rows are small, and /dev/shm may be

REACH_S = 10.0


def run_on(address: str) -> Executor:
    """Return what runs jobs on a cluster.

    Parameters
    ----------
    address : str
        Of the cluster's head ("host:6379", "auto", "ray://host:10001"), or "local" for one that
        lives as long as the sweep.

    Raises
    ------
    Error
        Ray is not installed. While running: no cluster there, no node with as many cores as a job
        has threads, a file that is another one on a worker, and whatever a job raises; the jobs
        handed out before then still end, and give their rows first.
    """
    ray: Any = require("ray", "ray", "ray")

    def execute(jobs: Sequence[Job]) -> Iterator[Row]:
        if jobs:
            with _cluster(ray, address):
                yield from _run([_prepared(job) for job in jobs], ray)

    return execute


def run_there(job: Job, key: str, hashes: Mapping[str, str], version: str) -> Row:
    """Measure one job on a worker, if what decides its result is what the driver has.

    Parameters
    ----------
    job
        Its paths are those of the driver.
    key
        The driver's.
    hashes
        Path to SHA-256 of every file of the job.
    version
        Of the driver's a2sf.

    Raises
    ------
    Error
        A file or the package differs.
    """
    if version != _core.VERSION:
        raise Error(f"ray: a2sf {version} expected on a worker, found {_core.VERSION}")
    for path, expected in hashes.items():
        try:
            found = file_hash(path)
        except Error as error:
            raise Error(f"ray: on a worker: {error}") from error
        if found != expected:
            raise Error(f"ray: {path} with sha256 {expected[:16]} expected on a worker, "
                        f"found sha256 {found[:16]}")  # fmt: skip
    return {**run_job(job), "key": key}


def _prepared(job: Job) -> Job:
    """Make paths absolute, since a worker has its own directory, and fix the threads."""
    return replace(
        job,
        model=os.path.abspath(job.model),
        files={name: os.path.abspath(path) for name, path in job.files.items()},
        engine={**job.engine, "threads": _threads(job)},
    )


def _threads(job: Job) -> int:
    return int(job.engine.get("threads") or 1)


@contextmanager
def _cluster(ray: Any, address: str) -> Iterator[None]:
    """Connect, unless this process is connected; disconnect from what was connected here."""
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        # What a cluster of one's own would tell its makers.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options |= {"include_dashboard": False, "object_store_memory": STORE_BYTES}
    else:
        _reach(address)
        if where := os.environ.get("PYTHONPATH"):  # a package that is used where it was built
            options["runtime_env"] = {"env_vars": {"PYTHONPATH": f"{where}:${{PYTHONPATH}}"}}
    try:
        ray.init(address=address, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise Error(f"ray: a cluster at {address} expected, found: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raise Error if nothing listens there: Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return  # "auto"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
    except (OSError, OverflowError) as error:
        raise Error(f"ray: a cluster at {address} expected, found: {error}") from error


def _run(jobs: Sequence[Job], ray: Any) -> Iterator[Row]:
    """Give rows as they come; hand out no more jobs after one failed, and raise at the end."""
    threads = max(_threads(job) for job in jobs)
    # Only what Ray itself lost is run again: an exception of a job would come again.
    remote = ray.remote(max_retries=-1, retry_exceptions=False)(run_there)
    left = deque(jobs)
    running: dict[Any, None] = {}
    failure: Exception | None = None
    try:
        while running or (left and failure is None):
            room = AHEAD * _slots(ray, threads) - len(running)
            while failure is None and left and room > 0:
                running[_hand_out(remote, left.popleft())] = None
                room -= 1
            ended = ray.wait(list(running), num_returns=1)[0][0]
            try:
                row = ray.get(ended)
            except ray.exceptions.RayError as error:
                failure = failure or _cause(error)
                del running[ended]
            else:
                del running[ended]
                yield row
    except KeyboardInterrupt:
        yield from _ended(list(running), ray)
        raise
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
    if failure is not None:
        raise failure


def _hand_out(remote: Any, job: Job) -> Any:
    hashes = {path: file_hash(path) for path in (job.model, *job.files.values())}
    options = {"num_cpus": _threads(job), "name": f"a2sf-eval {job.kind}"}
    return remote.options(**options).remote(job, job.key, hashes, _core.VERSION)


def _slots(ray: Any, threads: int) -> int:
    """Jobs that can run at once now; nodes come and go.

    Raises
    ------
    Error
        None can: it would wait for ever.
    """
    cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    slots = sum(n // threads for n in cores)
    if slots < 1:
        raise Error(f"ray: a node with {threads} cores (--threads) expected, found {cores}")
    return slots


def _ended(references: list[Any], ray: Any) -> Iterator[Row]:
    """Give the rows that are there, without waiting."""
    if references:
        for reference in ray.wait(references, num_returns=len(references), timeout=0)[0]:
            try:
                yield ray.get(reference)
            except ray.exceptions.RayError:
                continue  # its job runs again with the next sweep


def _cause(error: Any) -> Exception:
    """Return what a job raised, or what became of it, as this library's error."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Error):
        return cause
    lines = [line for line in str(error).splitlines() if line.strip()]
    return Error(f"ray: a result expected, found {type(error).__name__}: {lines[-1].strip()}")
