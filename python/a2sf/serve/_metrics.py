"""What /metrics shows, for Prometheus."""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from .._results import Stats

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters and gauges of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Answers, by path and status", "path", "status")
        self.sequences = self._counter(
            "sequences", "Sequences that ended: length, end, stop, cancelled, timeout, error", "end"
        )
        self._prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of finished answers")
        self.generated_tokens = self._counter("generated_tokens", "Tokens generated")
        self._evicted = self._counter(
            "evicted_tokens", "Evictions in finished answers, counted once per token and head"
        )
        self.steps = self._counter("steps", "Passes through the model")
        self.running = self._gauge("sequences_running", "Sequences being computed")
        self.waiting = self._gauge("sequences_waiting", "Sequences that wait for a place")
        self.kv_bytes = self._gauge("kv_cache_bytes", "KV cache of the running sequences, in bytes")
        self.first_token_s = self._histogram(
            "first_token_seconds", "From a request's arrival to its first token"
        )
        self.request_s = self._histogram(
            "request_seconds", "From a request's arrival to its last token"
        )
        ProcessCollector(registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"a2sf_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"a2sf_{name}", text, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"a2sf_{name}", text, buckets=SECONDS, registry=self.registry)

    def count(self, stats: Stats, n_prompt: int) -> None:
        """Add a finished sequence's statistics."""
        self._prompt_tokens.inc(n_prompt)
        self._evicted.inc(stats.n_evicted)

    def page(self) -> tuple[bytes, str]:
        """Return the text of /metrics and its media type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
