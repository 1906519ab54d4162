"""The command `a2sf-eval`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from .. import _core
from . import _calibrate, _report
from ._arguments import add_run_arguments, executor_of
from ._jobs import Job
from ._kinds import Kind, kinds
from ._results import Results
from ._run import sweep
from ._show import as_markdown


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all measurements."""
    parser = argparse.ArgumentParser(
        prog="a2sf-eval",
        allow_abbrev=False,  # --window is not --windows
        description="Measure what a bounded KV cache loses, on any GGUF model. Every result is a "
        "line of a file; a sweep that was stopped continues where it was.",
        epilog="Exit status: 0 done, 1 run-time error, 2 bad usage, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"a2sf {_core.VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for kind in kinds().values():
        command = commands.add_parser(
            kind.name, help=kind.summary, description=kind.summary, allow_abbrev=False
        )
        add_run_arguments(command)
        kind.add_arguments(command)
        command.set_defaults(kind=kind)
    _calibrate.add_command(commands)
    _report.add_command(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return the exit status."""
    given = make_parser().parse_args(arguments)
    try:
        status = int(given.run(given)) if hasattr(given, "run") else _measure(given.kind, given)
        sys.stdout.flush()
        return status
    except _core.OptionError as error:
        print(f"a2sf-eval: {error}\nTry 'a2sf-eval {given.command} --help'.", file=sys.stderr)
        return 2
    except _core.Error as error:
        print(f"a2sf-eval: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("a2sf-eval: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the tables has seen enough; the results are in their file. Nothing may be
        # written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _measure(kind: Kind, given: argparse.Namespace) -> int:
    jobs: list[Job] = kind.jobs(given)
    wanted = {job.key for job in jobs}
    with Results(given.output) as results:
        if len(wanted & results.done) and not given.quiet:
            print(
                f"a2sf-eval: {len(wanted & results.done)} of {len(wanted)} results are in "
                f"{given.output} already",
                file=sys.stderr,
            )
        try:
            sweep(jobs, results, executor_of(given), quiet=given.quiet)
        except KeyboardInterrupt:
            left = len(wanted - results.done)
            print(
                f"a2sf-eval: interrupted; the same command runs the {left} jobs that are left",
                file=sys.stderr,
            )
            return 130
        rows = results.of(jobs)
    if given.json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    else:
        print("\n\n".join(as_markdown(table) for table in kind.tables(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
