"""What the hub counts and times, and the text that Prometheus reads at `/metrics`.

One `Metrics` per process, handed on like everything else. Counters and times are of this process; gauges that are true
for the whole hub (people waiting, rows due) are read from the database by probes at the moment of the scrape, so that
they are right whichever web process answers. No label ever holds an id, an address or anything that a stranger chooses.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.process_collector import ProcessCollector

from hub.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping

log = get_logger(__name__)

FAST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SLOW_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)
LAG_WARNING_S = 0.25
PROBE_S = 2.0

Probe = Callable[[], Awaitable["Mapping[tuple[str, ...], float]"]]


class Metrics:
    """Every metric of one process, in a registry of its own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "hub_http_requests", "Answered HTTP requests.", ["route", "method", "status"], registry=registry
        )
        self.request_s = Histogram(
            "hub_http_request_seconds", "Time to answer.", ["route"], buckets=FAST_S, registry=registry
        )
        self.webhooks = Counter(
            "hub_webhooks",
            "Webhooks by channel and outcome: stored, repeated, forged, unreadable, failed.",
            ["channel", "outcome"],
            registry=registry,
        )
        self.streams = Gauge("hub_event_streams", "Open event streams of desktops and API clients.", registry=registry)
        self.commits = Histogram(
            "hub_database_commit_seconds",
            "Time of one unit of work, commit included.",
            buckets=FAST_S,
            registry=registry,
        )
        self.provider_calls = Counter(
            "hub_provider_calls",
            "Calls to providers by channel and outcome.",
            ["channel", "outcome"],
            registry=registry,
        )
        self.provider_s = Histogram(
            "hub_provider_call_seconds", "Time of calls to providers.", ["channel"], buckets=SLOW_S, registry=registry
        )
        self.jobs = Counter(
            "hub_jobs", "Background jobs by queue and outcome.", ["queue", "outcome"], registry=registry
        )
        self.invariants = Gauge(
            "hub_invariant_violations", "Rows that break an invariant, by its number.", ["invariant"], registry=registry
        )
        self.loop_lag = Histogram(
            "hub_event_loop_lag_seconds", "How late the event loop runs.", buckets=FAST_S, registry=registry
        )
        self.probe_failures = Counter(
            "hub_probe_failures", "Probes that failed or were too slow.", ["probe"], registry=registry
        )
        self._probes: list[tuple[str, Gauge, Probe]] = []
        self._answers: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._outcomes: dict[tuple[str, str], Counter] = {}

    def answered(self, route: str, method: str, status: int, spent_s: float) -> None:
        """Count and time one answered request. Routes, methods and statuses are few: each is looked up by labels once."""
        known = self._answers.get((route, method, status))
        if known is None:
            known = self.requests.labels(route, method, str(status)), self.request_s.labels(route)
            self._answers[route, method, status] = known
        known[0].inc()
        known[1].observe(spent_s)

    def webhook(self, channel: str, outcome: str) -> None:
        """Count one webhook."""
        known = self._outcomes.get((channel, outcome))
        if known is None:
            known = self._outcomes[channel, outcome] = self.webhooks.labels(channel, outcome)
        known.inc()

    def add_probe(self, name: str, help_text: str, labels: tuple[str, ...], probe: Probe) -> None:
        """A gauge read at each scrape: `probe` gives {label values: number}; labels it no longer names disappear."""
        self._probes.append((name, Gauge(name, help_text, labels, registry=self.registry), probe))

    async def render(self) -> tuple[bytes, str]:
        """The text for Prometheus and its content type. A probe that fails or takes over 2 s is counted, not shown."""
        for name, gauge, probe in self._probes:
            try:
                async with asyncio.timeout(PROBE_S):
                    found = await probe()
            except Exception:
                # A scrape must tell what it can while the database is away: that is when it is needed most.
                self.probe_failures.labels(name).inc()
                log.exception("metric probe failed", probe=name)
                gauge.clear()
                continue
            gauge.clear()
            for labels, value in found.items():
                (gauge.labels(*labels) if labels else gauge).set(value)
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    @contextmanager
    def provider_call(self, channel: str) -> Iterator[None]:
        """Count and time one call to a provider; an error counts as failed and goes on."""
        began = time.monotonic()
        outcome = "failed"
        try:
            yield
            outcome = "ok"
        finally:
            self.provider_calls.labels(channel, outcome).inc()
            self.provider_s.labels(channel).observe(time.monotonic() - began)

    async def watch_loop(self, *, every_s: float = 0.25) -> None:
        """Measure for ever how late this event loop runs; a long stall is logged. Run it as a task."""
        while True:
            due = time.monotonic() + every_s
            await asyncio.sleep(every_s)
            lag = max(0.0, time.monotonic() - due)
            self.loop_lag.observe(lag)
            if lag > LAG_WARNING_S:
                log.warning("event loop stalled", lag_s=round(lag, 3))
