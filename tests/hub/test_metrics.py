"""What /metrics will say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import pytest

from hub.metrics import Metrics


async def text(metrics: Metrics) -> str:
    body, content_type = await metrics.render()
    assert content_type.startswith("text/plain")
    return body.decode()


async def test_two_processes_in_one_test_do_not_share_counters() -> None:
    one, two = Metrics(), Metrics()
    one.requests.labels("/healthz", "GET", "200").inc()
    assert 'hub_http_requests_total{method="GET",route="/healthz",status="200"} 1.0' in await text(one)
    assert "/healthz" not in await text(two)


async def test_probes_are_read_at_each_scrape_and_forget_what_is_gone() -> None:
    waiting: dict[tuple[str, ...], float] = {("sales",): 3, ("support",): 1}

    async def probe() -> Mapping[tuple[str, ...], float]:
        return waiting

    metrics = Metrics()
    metrics.add_probe("hub_waiting", "Waiting now.", ("queue",), probe)
    assert 'hub_waiting{queue="sales"} 3.0' in await text(metrics)
    del waiting[("sales",)]
    waiting["support",] = 2
    second = await text(metrics)
    assert 'hub_waiting{queue="support"} 2.0' in second
    assert "sales" not in second


async def test_a_failing_probe_does_not_hide_the_rest() -> None:
    async def fails() -> Mapping[tuple[str, ...], float]:
        raise ConnectionError("the database is away")

    async def total() -> Mapping[tuple[str, ...], float]:
        return {(): 7}

    metrics = Metrics()
    metrics.add_probe("hub_broken", "Broken.", (), fails)
    metrics.add_probe("hub_total", "Total.", (), total)
    found = await text(metrics)
    assert "hub_total 7.0" in found
    assert 'hub_probe_failures_total{probe="hub_broken"} 1.0' in found


async def test_calls_to_providers_are_counted_by_outcome() -> None:
    metrics = Metrics()
    with metrics.provider_call("sms"):
        pass
    with pytest.raises(TimeoutError), metrics.provider_call("sms"):
        raise TimeoutError
    found = await text(metrics)
    assert 'hub_provider_calls_total{channel="sms",outcome="ok"} 1.0' in found
    assert 'hub_provider_calls_total{channel="sms",outcome="failed"} 1.0' in found
    assert 'hub_provider_call_seconds_count{channel="sms"} 2.0' in found


async def test_a_stalled_loop_is_seen() -> None:
    metrics = Metrics()
    task = asyncio.create_task(metrics.watch_loop(every_s=0.01))
    await asyncio.sleep(0)
    time.sleep(0.3)  # the stall itself
    while metrics.registry.get_sample_value("hub_event_loop_lag_seconds_count") == 0:
        await asyncio.sleep(0.005)
    task.cancel()
    slow = metrics.registry.get_sample_value("hub_event_loop_lag_seconds_bucket", {"le": "0.25"})
    total = metrics.registry.get_sample_value("hub_event_loop_lag_seconds_count")
    assert slow is not None
    assert total is not None
    assert total - slow >= 1
