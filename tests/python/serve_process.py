"""A server of its own process, and what tests do to it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import httpx
import openai
from prometheus_client.parser import text_string_to_metric_families

# Only so that a broken server fails a test instead of blocking it.
PATIENCE_S = 120.0
# Goes on for far longer than any test under ENDLESS_OPTIONS.
ENDLESS_PROMPT = "Nora keeps the"
ENDLESS_OPTIONS = ("--budget", "64", "--max-tokens-limit", "10000000")
ENDLESS_TOKENS = 10_000_000


def environment() -> dict[str, str]:
    """Environment without a key, where the native program finds this interpreter."""
    kept = {name: text for name, text in os.environ.items() if name != "A2SF_API_KEY"}
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return kept


class ServeProcess:
    """`python -m a2sf.serve` at a free port, for a with statement."""

    def __init__(
        self,
        model: Path,
        *options: object,
        command: list[str] | None = None,
        variables: dict[str, str] | None = None,
        logs: str | None = None,
    ) -> None:
        """`logs` is what standard error must tell of; None is that it stays empty."""
        self.logs = logs
        start = command or [sys.executable, "-m", "a2sf.serve"]
        line = [*start, "-m", str(model), "--port", "0", *map(str, options)]
        self.process = subprocess.Popen(
            line,
            env=environment() | (variables or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        found = re.fullmatch(r"a2sf: serving (\S+) at (http://[\d.]+:\d+)/v1\n", first)
        if found is None:
            self.process.kill()
            raise AssertionError(f"{first!r}: {self.process.communicate()}")
        self.model, self.root = found.group(1), found.group(2)
        self.http = httpx.Client(base_url=self.root, timeout=PATIENCE_S)
        self.clients: list[openai.OpenAI] = []

    def __enter__(self) -> ServeProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for client in self.clients:
            client.close()
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            _, errors = self.process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        if error is None:
            if self.logs is None:
                assert errors == "", errors
            else:
                assert self.logs in errors, errors
            assert self.process.returncode == 0, self.process.returncode

    def client(self, key: str = "none") -> openai.OpenAI:
        """OpenAI's client, which tries only once."""
        url = f"{self.root}/v1"
        client = openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=PATIENCE_S)
        self.clients.append(client)
        return client

    def endless(self) -> openai.Stream[openai.types.Completion]:
        """Return the stream of an answer that takes far longer than the test."""
        return self.client().completions.create(
            model=self.model,
            prompt=ENDLESS_PROMPT,
            max_tokens=ENDLESS_TOKENS,
            temperature=0,
            stream=True,
        )

    def metrics(self) -> dict[str, float]:
        """Samples of /metrics: those with labels as 'name{label,label}'."""
        samples: dict[str, float] = {}
        for family in text_string_to_metric_families(self.http.get("/metrics").text):
            for sample in family.samples:
                labels = ",".join(sample.labels.values())
                samples[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
        return samples

    def wait_for(self, what: Callable[[dict[str, float]], bool]) -> dict[str, float]:
        """Wait until the metrics are as told, and return them."""
        end = time.monotonic() + PATIENCE_S
        while not what(metrics := self.metrics()):
            assert time.monotonic() < end, metrics
            time.sleep(0.02)
        return metrics

    def wait_until_told_to_end(self) -> None:
        """Wait until a signal has been taken: a second one before that would be one with it."""
        end = time.monotonic() + PATIENCE_S
        try:
            while self.http.get("/health").status_code != 503:
                assert time.monotonic() < end
                time.sleep(0.02)
        except httpx.TransportError:  # it listens no more
            pass
