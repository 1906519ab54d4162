"""Runs the jobs of a sweep, here and one after the other; `_ray` runs them on a cluster."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

from .._engine import Engine
from ._jobs import Job, Json, file_hash
from ._kinds import find_kind
from ._packages import require
from ._results import Results, Row, make_row

# Gives the rows of jobs in any order, as they end.
Executor = Callable[[Sequence[Job]], Iterator[Row]]


def run_job(job: Job) -> Row:
    """Measure one job in this process."""
    engine = engine_of(job.model, job.engine)
    start = time.perf_counter()
    result = find_kind(job.kind).run(engine, job)
    return make_row(job, result, time.perf_counter() - start)


def engine_of(model: str, arguments: dict[str, Json]) -> Engine:
    """Load a model, or give the one that is loaded if it is the same with the same arguments."""
    return _engine(model, file_hash(model), json.dumps(arguments, sort_keys=True))


@lru_cache(maxsize=1)
def _engine(model: str, _hash: str, arguments: str) -> Engine:
    return Engine(model, progress=False, **json.loads(arguments))


def run_here(jobs: Sequence[Job]) -> Iterator[Row]:
    """Run jobs one after the other in this process; the engine's threads share each."""
    return map(run_job, jobs)


def sweep(jobs: Iterable[Job], results: Results, execute: Executor, *, quiet: bool = False) -> int:
    """Run what has no result yet, and write each result as it comes.

    Parameters
    ----------
    jobs
        The same measurement listed twice runs once.
    results
        Whatever is in there already is not run again.
    execute
        `run_here`, or another way.
    quiet
        No progress bar.

    Returns
    -------
    int
        Jobs run.

    Raises
    ------
    KeyboardInterrupt
        Everything that ended before it is in the file.
    """
    wanted = {job.key: job for job in jobs}
    done = results.done
    missing = [job for key, job in wanted.items() if key not in done]
    tqdm = require("tqdm", "tqdm").tqdm
    bar = tqdm(
        total=len(wanted),
        initial=len(wanted) - len(missing),
        unit="job",
        disable=quiet or None if sys.stderr is not None else True,
    )
    with bar:
        for row in execute(missing):
            results.append(row)
            bar.update()
    return len(missing)
