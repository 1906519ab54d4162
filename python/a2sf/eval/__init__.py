"""Measures what a bounded KV cache loses: the command `a2sf-eval`, extra `eval`.

A measurement is a kind (`_kinds.KINDS`); it makes jobs, which run independently of one another and
leave one line each in a file of results.
"""

from ._jobs import Job
from ._results import Results, read_rows
from ._run import run_here, run_job, sweep

__all__ = ["Job", "Results", "read_rows", "run_here", "run_job", "sweep"]
