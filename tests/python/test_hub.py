"""Models from the Hugging Face Hub, against a stand-in server on this machine. No real network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import a2sf
import pytest
from a2sf._hub import parse
from hub_server import COMMIT, HubServer

pytest.importorskip("huggingface_hub")

# huggingface_hub reads its environment at import, so every case is a process of its own.
SCRIPT = """
    import json, sys
    import a2sf
    try:
        engine = a2sf.Engine(sys.argv[1], threads=1)
        out = {"path": engine.info.path, "ids": engine.generate([1, 2], max_tokens=3).ids}
    except a2sf.Error as error:
        out = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(out))
"""


@pytest.fixture
def hub(llama: Path) -> Iterator[HubServer]:
    files = {"tiny.gguf": llama.read_bytes(), "sub/dir/tiny.gguf": llama.read_bytes()}
    server = HubServer("acme/models", files, ("main", "v1", COMMIT))
    yield server
    server.stop()


def load(spec: str, endpoint: str, home: Path, **environment: str) -> dict[str, Any]:
    """Load in a fresh process whose only hub is `endpoint` and whose cache is `home`."""
    keep = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "A2SF_ISA")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), spec],
        env={
            **{k: os.environ[k] for k in keep if k in os.environ},
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_ETAG_TIMEOUT": "2",
            "NO_PROXY": "127.0.0.1",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**result, "stderr": done.stderr}


def test_download_then_offline(hub: HubServer, llama: Path, tmp_path: Path) -> None:
    spec = "hf:acme/models/tiny.gguf"
    expected = a2sf.Engine(llama).generate([1, 2], max_tokens=3).ids
    first = load(spec, hub.endpoint, tmp_path)
    assert first["ids"] == expected
    assert str(tmp_path) in first["path"]
    assert any(r.startswith("GET") for r in hub.requests)
    assert first["stderr"] == ""  # huggingface_hub's progress bar is for terminals
    n_requests = len(hub.requests)
    again = load(spec, hub.endpoint, tmp_path)
    assert again["path"] == first["path"]
    assert not any(r.startswith("GET") for r in hub.requests[n_requests:])
    hub.stop()
    assert load(spec, hub.endpoint, tmp_path)["ids"] == expected
    assert load(spec, hub.endpoint, tmp_path, HF_HUB_OFFLINE="1")["ids"] == expected


def test_revisions_and_folders(hub: HubServer, tmp_path: Path) -> None:
    for spec in (
        "hf:acme/models@v1/tiny.gguf",
        f"hf:acme/models@{COMMIT}/tiny.gguf",
        "hf:acme/models/sub/dir/tiny.gguf",
    ):
        assert load(spec, hub.endpoint, tmp_path)["ids"]
    assert any("/resolve/v1/" in r for r in hub.requests)
    assert any("/resolve/main/sub/dir/tiny.gguf" in r for r in hub.requests)


@pytest.mark.parametrize(
    "spec",
    ["hf:acme/models/other.gguf", "hf:acme/nothing/tiny.gguf", "hf:acme/models@v9/tiny.gguf"],
)
def test_missing(hub: HubServer, tmp_path: Path, spec: str) -> None:
    result = load(spec, hub.endpoint, tmp_path)
    assert result["error"] == "Error"
    assert result["message"].startswith(f"{spec}: a file that can be downloaded expected, found")


def test_no_network_and_nothing_cached(hub: HubServer, tmp_path: Path) -> None:
    hub.stop()
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        result = load("hf:acme/models/tiny.gguf", hub.endpoint, tmp_path, **environment)
        assert result["error"] == "Error"


def test_truncated_download(hub: HubServer, tmp_path: Path) -> None:
    hub.truncate = True
    result = load("hf:acme/models/tiny.gguf", hub.endpoint, tmp_path)
    assert result["error"] == "Error"
    hub.truncate = False  # half a file was not taken for a whole one
    assert load("hf:acme/models/tiny.gguf", hub.endpoint, tmp_path)["ids"]


def test_specs() -> None:
    assert parse("hf:a/b/c.gguf") == ("a/b", None, "c.gguf")
    assert parse("hf:a/b@r/c/d.gguf") == ("a/b", "r", "c/d.gguf")
    for bad in ("hf:", "hf:a", "hf:a/b", "hf:a/b/", "hf:/b/c", "hf:a//c", "hf:a/b@/c", "hf:a/@r/c"):
        with pytest.raises(a2sf.OptionError, match="hf:owner/repo"):
            parse(bad)


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(a2sf.Error, match=r"huggingface-hub expected \(pip install a2sf\[hub\]\)"):
        a2sf.Engine("hf:a/b/c.gguf")
