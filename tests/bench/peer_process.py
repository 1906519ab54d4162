"""An engine in a process of its own, for compare_peers.py: lines of JSON over its pipes.

Only one process works at any time; the others are stopped (SIGSTOP), whatever their threads do
between calls.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peer_engines import PACKAGES, RUNNERS, Settings, Speeds, Turn, forbid_amx


class PeerError(Exception):
    """An engine is missing, or failed; the message names it."""


def die_with_parent() -> None:
    """A stopped process would outlive a parent that was killed: prctl(PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)


def open_answers() -> Callable[..., None]:
    """Return what writes a line of JSON to standard output, which nothing else then reaches."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the libraries print is no answer

    def answer(**values: object) -> None:
        print(json.dumps(values), file=answers, flush=True)

    return answer


def missing(module: str, package: str) -> str | None:
    """Say that a package is not installed; None if it is."""
    if importlib.util.find_spec(module) is not None:
        return None
    return f"{package} is not installed for {sys.executable}"


def work(name: str) -> None:
    """Serve one engine: settings in, then turns, one line each; one line of answer for each."""
    die_with_parent()
    answer = open_answers()
    start = json.loads(sys.stdin.readline())
    if lacks := missing(*PACKAGES[name]):
        answer(missing=lacks)
        return
    if start["no_amx"]:
        forbid_amx()
    try:
        settings = Settings(**start["settings"])
        runner = RUNNERS[name](settings)
        for evict in (False, True) if runner.evicts else (False,):  # a warm-up
            runner.measure(Turn(0, 0, evict, first_id=100, last_id=200))
        answer(version=runner.version, n_vocab=runner.n_vocab)
        for line in sys.stdin:
            answer(speeds=runner.measure(Turn(**json.loads(line))))
    except Exception as error:
        traceback.print_exc()
        answer(failed=f"{type(error).__name__}: {str(error).strip()}")


class Peer:
    """The parent's side of one engine; starts its process when first needed."""

    def __init__(
        self, name: str, python: str, settings: Settings, *, no_amx: bool, log: Path | None
    ) -> None:
        self.name = name
        self.version = ""
        self.n_vocab: int | None = None
        self._python = python
        self._start = json.dumps({"settings": asdict(settings), "no_amx": no_amx})
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the process and load the model, unless that is done."""
        if self._process is not None:
            return
        script = Path(__file__).with_name("compare_peers.py")
        with self._log.open("a") if self._log else open(os.devnull, "w") as errors:
            try:
                self._process = subprocess.Popen(
                    [self._python, str(script), "--worker", self.name],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    bufsize=1,
                )
            except OSError as error:
                raise PeerError(f"{self.name} skipped: {self._python}: {error.strerror}") from None
        ready = self._exchange(self._start)
        self.version, self.n_vocab = ready["version"], ready["n_vocab"]

    def measure(self, turn: Turn) -> Speeds:
        """Let it work on one turn, and stop it again."""
        self.start()
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        speeds: Speeds = self._exchange(json.dumps(asdict(turn)))["speeds"]
        self._process.send_signal(signal.SIGSTOP)
        return speeds

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _exchange(self, line: str) -> Any:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(line, file=self._process.stdin, flush=True)
            text = self._process.stdout.readline()
        except BrokenPipeError:
            text = ""
        if not text:
            self._process.wait()
            raise PeerError(f"{self.name} failed: {self._ending(self._process.returncode)}")
        values = json.loads(text)
        if "missing" in values:
            raise PeerError(f"{self.name} skipped: {values['missing']}")
        if "failed" in values:
            raise PeerError(f"{self.name} failed: {values['failed']}")
        return values

    @staticmethod
    def _ending(code: int) -> str:
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return f"{how} (--log FILE keeps what it printed)"
