"""`a2sf-eval --ray`: the same results on a cluster, whatever becomes of its workers."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import a2sf
import pytest
from a2sf.eval import Job, read_rows, run_here
from a2sf.eval.__main__ import main
from a2sf.eval._jobs import file_hash

# Ray reads these when it is imported.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(16)  # else Ray keeps one in the user's directory
if os.environ.get("CI"):
    import ray
else:
    ray = pytest.importorskip("ray")

from a2sf.eval._ray import run_on, run_there
from ray.cluster_utils import Cluster

TEXT = "Nora keeps the stone letter in the white sack. " * 300
STORE = 80 << 20


@pytest.fixture(scope="module")
def address():
    """A cluster of one node with two cores that this process starts, but is not part of."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "object_store_memory": STORE, "include_dashboard": False},
    )
    yield cluster.address
    cluster.shutdown()


@pytest.fixture
def jobs(tmp_path, bundled):
    return make_jobs(tmp_path, bundled)


def make_jobs(folder, model, n=6, ctx=96):
    text = folder / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    eviction = {"policy": "streaming", "budget": 32, "prefill": "token"}
    options = {"text": file_hash(text), "ctx": ctx, "skip": 32, "eviction": eviction}
    return [
        Job(
            kind="perplexity",
            model=str(model),
            options={**options, "first": 7 * i},
            files={"text": str(text)},
        )
        for i in range(n)
    ]


def measured(rows):
    """What must not depend on where a job ran."""
    no = ("time_s", "finished", "engine")
    return sorted(({k: v for k, v in row.items() if k not in no} for row in rows), key=str)


def processes_below(root: int) -> dict[int, str]:
    """Process id to command line of everything that a process started."""
    parents, commands = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                after_name = (folder / "stat").read_text().rpartition(")")[2]
                parents[int(folder.name)] = int(after_name.split()[1])
                commands[int(folder.name)] = (folder / "cmdline").read_text()

    def is_below(process: int) -> bool:
        while process in parents:
            process = parents[process]
            if process == root:
                return True
        return False

    return {process: commands[process] for process in commands if is_below(process)}


def working(root: int) -> list[int]:
    """Workers in the middle of a job, by the title that Ray gives them."""
    return [p for p, title in processes_below(root).items() if "ray::a2sf-eval" in title]


def test_a_cluster_gives_the_same_results(address, jobs):
    rows = list(run_on(address)(jobs))
    assert measured(rows) == measured(run_here(jobs))
    assert all(row["engine"]["threads"] == 1 for row in rows)
    assert {row["key"] for row in rows} == {job.key for job in jobs}


def test_jobs_of_a_killed_worker_run_again(address, tmp_path, bundled):
    jobs = make_jobs(tmp_path, bundled, n=4, ctx=1024)
    killed = []

    def kill_one():
        while not killed and time.monotonic() < end:
            for process in working(os.getpid()):
                os.kill(process, signal.SIGSTOP)  # so that the job cannot end meanwhile
                if process in working(os.getpid()):
                    killed.append(process)
                os.kill(process, signal.SIGKILL if killed else signal.SIGCONT)
                break
            time.sleep(0.002)

    end = time.monotonic() + 30
    thread = threading.Thread(target=kill_one)
    thread.start()
    try:
        rows = list(run_on(address)(jobs))
    finally:
        end = 0.0
        thread.join()
    assert killed
    assert measured(rows) == measured(run_here(jobs))


def test_an_error_of_a_job_comes_out_after_what_ended(address, jobs):
    bad = replace(jobs[1], options={**jobs[1].options, "eviction": {"policy": "h3o"}})
    found = []
    with pytest.raises(a2sf.OptionError, match=r'^policy: one of .* found "h3o"$'):
        found.extend(run_on(address)([jobs[0], bad, jobs[2]]))  # keeps those before the error
    assert measured(found) == measured(run_here([jobs[0], jobs[2]]))


def test_another_file_on_a_worker_is_an_error(jobs, tmp_path):
    job = jobs[0]
    hashes = {path: file_hash(path) for path in (job.model, job.files["text"])}
    assert run_there(job, "its key", hashes, a2sf.__version__)["key"] == "its key"
    with pytest.raises(a2sf.Error, match=r"a2sf 0\.0\.0 expected on a worker"):
        run_there(job, "", hashes, "0.0.0")
    text = Path(job.files["text"])
    text.write_text("something else", encoding="utf-8")
    with pytest.raises(a2sf.Error, match=r"text\.txt with sha256 .* on a worker, found sha256"):
        run_there(job, "", hashes, a2sf.__version__)
    text.unlink()
    with pytest.raises(a2sf.Error, match=r"on a worker: .*text\.txt: a file .* No such file"):
        run_there(job, "", hashes, a2sf.__version__)


def test_more_threads_than_any_node_has_is_an_error(address, jobs):
    with pytest.raises(a2sf.Error, match=r"a node with 64 cores \(--threads\) expected, found"):
        list(run_on(address)([replace(jobs[0], engine={"threads": 64})]))


def test_no_cluster_is_an_error(jobs):
    with pytest.raises(a2sf.Error, match=r"a cluster at 127\.0\.0\.1:1 expected"):
        list(run_on("127.0.0.1:1")(jobs))


def command(folder, *more):
    text = folder / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    return [
        "perplexity", "-q", "-f", str(text), "-o", str(folder / "out.jsonl"), "--skip", "32",
        "--policy", "a2sf", "--budget", "25%", *more,
    ]  # fmt: skip


def test_a_cluster_of_its_own_runs_the_command(tmp_path, capfd):
    assert main(command(tmp_path, "--ray", "local", "--ctx", "96", "--windows", "3")) == 0
    assert len(read_rows([tmp_path / "out.jsonl"])) == 3
    assert not ray.is_initialized()
    assert capfd.readouterr().err == ""


def test_ctrl_c_keeps_what_ended(address, tmp_path):
    budgets = ",".join(str(n) for n in range(100, 200))
    more = ["--ctx", "1024", "--windows", "2", "--budget", budgets]
    arguments = command(tmp_path, "--ray", address, *more)
    process = subprocess.Popen(
        [sys.executable, "-m", "a2sf.eval", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Whoever starts tests in the background leaves it ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    output = tmp_path / "out.jsonl"
    end = time.monotonic() + 60
    while time.monotonic() < end and (not output.exists() or not output.stat().st_size):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130, errors
    n_rows = len(read_rows([output]))
    assert 1 <= n_rows < 200
    assert errors.strip().endswith(f"the same command runs the {200 - n_rows} jobs that are left")
