"""Runs the jobs of a sweep on a Ray cluster, which sees to lost workers and to who runs what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ._jobs import Job
from ._packages import require
from ._results import Row
from ._run import Executor, run_job

LOCAL = "local"


def run_on(address: str) -> Executor:
    """Return what runs jobs on a cluster.

    Parameters
    ----------
    address : str
        Of the cluster's head ("host:6379", "auto", "ray://host:10001"), or "local" for one that
        lives as long as this process.
    """
    ray: Any = require("ray", "ray", "ray")

    def execute(jobs: Sequence[Job]) -> Iterator[Row]:
        ray.init(address=None if address == LOCAL else address, log_to_driver=False)
        try:
            remote = ray.remote(max_retries=-1)(run_job)
            waiting = [remote.remote(job) for job in jobs]
            while waiting:
                ended, waiting = ray.wait(waiting, num_returns=1)
                yield ray.get(ended[0])
        finally:
            ray.shutdown()

    return execute
