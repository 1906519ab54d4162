"""A pytest plugin that fails the run unless the tests marked `real` ran and passed.

They skip themselves without $A2SF_REAL_MODEL, which is right for a developer and wrong for CI.
"""

from __future__ import annotations

import pytest

outcomes: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count a real test once: its call, or what kept it from being called."""
    if "real" not in report.keywords:
        return
    if report.when == "call" or report.outcome != "passed":
        outcomes[report.outcome].append(report.nodeid)


def all_ran() -> bool:
    """Whether there were real tests, and every one passed."""
    return bool(outcomes["passed"]) and not outcomes["skipped"] and not outcomes["failed"]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Turn a success without them into a failure."""
    if not all_ran() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many ran, and name those that did not."""
    counts = ", ".join(f"{len(ids)} {outcome}" for outcome, ids in outcomes.items())
    terminalreporter.write_line(f"tests marked real: {counts}")
    for node in outcomes["skipped"]:
        terminalreporter.write_line(f"real test skipped: {node}", red=True)
