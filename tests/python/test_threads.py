"""Threads, signals and progress: the GIL is free during work, Ctrl-C ends it, nothing races."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import a2sf
import numpy as np
import pytest

LONG = [i * 7 % 500 for i in range(4000)]


@pytest.fixture(scope="module")
def engine(llama: Path) -> a2sf.Engine:
    return a2sf.Engine(llama, threads=1)


def test_another_thread_makes_progress(engine: a2sf.Engine) -> None:
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    time.sleep(0.02)
    start = time.monotonic()
    engine.logits(LONG)
    end = time.monotonic()
    done.set()
    thread.join()
    during = [t for t in ticks if start < t < end]
    assert len(during) > 10 * (end - start)  # a held GIL allows none


def test_two_sessions_in_two_threads(engine: a2sf.Engine, ids: list[int]) -> None:
    jobs = [(ids, a2sf.Eviction(budget=40)), (ids[::-1], None), (ids[10:], a2sf.Eviction())]
    alone = [engine.generate(p, max_tokens=30, eviction=e).ids for p, e in jobs]
    together: list[list[int]] = [[] for _ in jobs]

    def work(i: int) -> None:
        prompt, eviction = jobs[i]
        together[i] = engine.generate(prompt, max_tokens=30, eviction=eviction).ids

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_one_session_in_two_threads(engine: a2sf.Engine) -> None:
    session = engine.session()
    started = threading.Event()
    errors: list[str] = []

    def read() -> None:
        started.set()
        try:
            session.feed(LONG)
        except a2sf.Error as error:  # the other thread may come first
            errors.append(str(error))

    thread = threading.Thread(target=read)
    thread.start()
    started.wait()
    while thread.is_alive():
        try:
            session.feed([1])
            session.reset()
        except a2sf.Error as error:
            errors.append(str(error))
        time.sleep(0.005)
    thread.join()
    assert any("one thread at a time expected" in error for error in errors)
    session.reset()
    np.testing.assert_array_equal(session.feed([1, 2]), engine.session().feed([1, 2]))


SCRIPT = """
    import os, signal, sys, time
    import a2sf
    engine = a2sf.Engine(sys.argv[1], threads=1, batch=int(sys.argv[3]))
    prompt = [i * 7 % 500 for i in range(60000)]
    budget = a2sf.Eviction(budget=2000)
    session = engine.session(eviction=budget)
    calls = {
        "feed": lambda: session.feed(prompt),
        "generate": lambda: engine.generate(prompt, eviction=budget),
        "logits": lambda: engine.logits(prompt, eviction=budget),
        "score": lambda: engine.score(prompt, eviction=budget),
        "decode": lambda: engine.generate([1], max_tokens=10**6, eviction=budget),
    }
    # A shell's background jobs start with SIGINT ignored, and Python leaves that as it is.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.7)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    start = time.monotonic()
    try:
        calls[sys.argv[2]]()
    except KeyboardInterrupt:
        print("interrupted after", time.monotonic() - start)
    else:
        sys.exit("not interrupted")
    session.reset()
    assert len(session.feed([1, 2, 3])) == 512
"""


@pytest.mark.parametrize("batch", [512, 16])
@pytest.mark.parametrize("call", ["feed", "generate", "logits", "score", "decode"])
def test_ctrl_c(llama: Path, call: str, batch: int) -> None:
    if batch == 16 and call != "feed":
        pytest.skip("one call is enough for small batches")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(llama), call, str(batch)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 0.7 + 3.0, "Ctrl-C took seconds"


def test_exception_of_a_progress_callback_comes_out(engine: a2sf.Engine) -> None:
    def report(n_done: int, n_total: int) -> None:
        seen.append((n_done, n_total))
        if n_done >= last:
            raise ZeroDivisionError

    array = np.array(LONG, np.int32)
    for last in (1024, 4000):  # in the middle, and after the last chunk
        seen: list[tuple[int, int]] = []
        session = engine.session()
        with pytest.raises(ZeroDivisionError):
            session._native.feed(array, report)
        assert seen == [(n, 4000) for n in (*range(512, 4000, 512), 4000) if n <= last]
        session.reset()
        session.feed([1])


def test_an_interrupted_session_must_be_reset(engine: a2sf.Engine) -> None:
    session = engine.session()
    stream = engine.stream(LONG)
    del stream

    def stop(n_done: int, n_total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session._native.feed(np.array(LONG, np.int32), stop)
    session.reset()
    assert session.n_tokens == 0


def test_progress_bar(llama: Path, capfd: pytest.CaptureFixture[str]) -> None:
    a2sf.Engine(llama).generate(LONG, max_tokens=1)
    assert capfd.readouterr().err == ""  # not a terminal
    engine = a2sf.Engine(llama, progress=True)
    engine.generate(LONG, max_tokens=1)
    assert "prompt" in capfd.readouterr().err
    a2sf.Engine(llama, progress=False).generate(LONG, max_tokens=1)
    assert capfd.readouterr().err == ""


def test_progress_without_tqdm(
    llama: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    a2sf.Engine(llama, progress=True).score(LONG)
    assert "prompt: 4000/4000 tokens" in capfd.readouterr().err


def test_a_fork_needs_a_session_of_its_own(llama: Path, ids: list[int]) -> None:
    """Worker threads do not survive a fork: using their session there is an error, not a hang."""
    engine = a2sf.Engine(llama, threads=2)
    session = engine.session()
    session.feed(ids)
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        code = 1
        try:
            session.feed(ids)
        except a2sf.Error as error:
            fresh = engine.session()
            fresh.feed(ids)
            code = 0 if "fork" in str(error) and fresh.cache.n_tokens == len(ids) else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
