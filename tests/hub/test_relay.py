"""The relay: one effect per row, doubts named, a lost lease writes nothing, nobody blocks the others."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import col, select

from channels.contract import SendReceipt
from channels.errors import Gone, Misconfigured, OutcomeUnknown, Throttled, Unavailable
from crm_core import outbox
from crm_core.clock import FixedClock
from crm_core.db import Database
from crm_core.outbox import OutboxState, OutboxTask
from hub.metrics import Metrics
from hub.redis_ports import RedisWakeups
from hub.relay import Done, Executor, Relay


class Silent:
    """Wake-ups of one process without Redis."""

    async def publish(self, *_: Any) -> int:
        raise OSError

    def pubsub(self, **_: Any) -> Any:
        raise OSError


class Provider:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.results: dict[str, list[Any]] = {}
        self.recorded: list[tuple[str, OutboxState]] = []
        self.gate: dict[str, asyncio.Event] = {}

    async def call(self, task: OutboxTask, prepared: Any) -> Any:
        self.calls.append(task.subject_id)
        if task.subject_id in self.gate:
            await self.gate[task.subject_id].wait()
        for result in [self.results[task.subject_id].pop(0)] if self.results.get(task.subject_id) else []:
            if isinstance(result, BaseException):
                raise result
            return result
        return SendReceipt(f"SM-{task.subject_id}", "queued")

    async def record(self, tx: Any, task: OutboxTask, prepared: Any, done: Done) -> None:
        self.recorded.append((task.subject_id, done.state))


@pytest.fixture
def provider() -> Provider:
    return Provider()


def relay_of(db: Database, clock: FixedClock, provider: Provider, **more: Any) -> Relay:
    table = {
        "move": Executor("voice", provider.call, repeatable=True, record=provider.record),
        "send": Executor("sms", provider.call, repeatable=False, record=provider.record, **more),
    }
    return Relay(db, clock, RedisWakeups(Silent()), Metrics(), table)  # type: ignore[arg-type]


async def ask(db: Database, clock: FixedClock, kind: str, *subjects: str, **more: Any) -> None:
    for subject in subjects:
        await db.write(lambda tx: outbox.ask(tx, kind, subject, lane="reply", now=clock.now(), **more))  # noqa: B023
        clock.tick(0.001)


async def tasks(db: Database) -> dict[str, OutboxTask]:
    async with db.reading() as tx:
        return {row.subject_id: row for row in await tx.all(select(OutboxTask).order_by(col(OutboxTask.id)))}


async def test_each_task_is_called_once_and_recorded(db: Database, clock: FixedClock, provider: Provider) -> None:
    relay = relay_of(db, clock, provider)
    await ask(db, clock, "send", "a", "b", "c")
    assert await relay.run_once("reply") == 3
    assert sorted(provider.calls) == ["a", "b", "c"]
    assert {task.state for task in (await tasks(db)).values()} == {OutboxState.DONE}
    assert await relay.run_once("reply") == 0
    assert await relay.run_once("control") == 0


async def test_an_unclear_send_is_unknown_and_never_repeated(
    db: Database, clock: FixedClock, provider: Provider
) -> None:
    relay = relay_of(db, clock, provider)
    provider.results["a"] = [OutcomeUnknown("no answer")]
    await ask(db, clock, "send", "a")
    await relay.run_once("reply")
    clock.tick(3600)
    assert await relay.run_once("reply") == 0
    task = (await tasks(db))["a"]
    assert (task.state, provider.calls) == (OutboxState.UNKNOWN, ["a"])
    assert "OutcomeUnknown" in task.error
    assert provider.recorded == [("a", OutboxState.UNKNOWN)]


@pytest.mark.parametrize("error", [Throttled("slow", retry_after_s=7), Unavailable("down"), OutcomeUnknown("hm")])
async def test_what_may_be_repeated_is_repeated_later(
    db: Database, clock: FixedClock, provider: Provider, error: Exception
) -> None:
    relay = relay_of(db, clock, provider)
    provider.results["a"] = [error]
    await ask(db, clock, "move", "a")
    await relay.run_once("reply")
    assert (await tasks(db))["a"].state is OutboxState.PENDING
    assert await relay.run_once("reply") == 0
    clock.tick(8)
    assert await relay.run_once("reply") == 1
    assert (await tasks(db))["a"].state is OutboxState.DONE
    assert provider.calls == ["a", "a"]


async def test_it_gives_up_after_eight_tries(db: Database, clock: FixedClock, provider: Provider) -> None:
    relay = relay_of(db, clock, provider)
    provider.results["a"] = [Unavailable("down") for _ in range(20)]
    await ask(db, clock, "move", "a")
    for _ in range(20):
        await relay.run_once("reply")
        clock.tick(400)
    assert (await tasks(db))["a"].state is OutboxState.FAILED
    assert len(provider.calls) == 8


async def test_hanging_up_what_is_over_is_done(db: Database, clock: FixedClock, provider: Provider) -> None:
    provider.results["a"] = [Gone("over")]
    await ask(db, clock, "move", "a")
    await relay_of(db, clock, provider).run_once("reply")
    assert (await tasks(db))["a"].state is OutboxState.DONE


async def test_after_a_kill_a_repeatable_task_runs_again_and_a_send_is_doubtful(
    db: Database, clock: FixedClock, provider: Provider
) -> None:
    await ask(db, clock, "send", "text")
    await ask(db, clock, "move", "call")
    await db.write(lambda tx: outbox.claim(tx, lane="reply", now=clock.now()))  # and its process is no more
    relay = relay_of(db, clock, provider)
    assert await relay.run_once("reply") == 0
    clock.tick(outbox.LEASE_S + 1)
    assert await relay.run_once("reply") == 2
    found = await tasks(db)
    assert (found["text"].state, found["call"].state) == (OutboxState.UNKNOWN, OutboxState.DONE)
    assert provider.calls == ["call"]
    assert ("text", OutboxState.UNKNOWN) in provider.recorded


async def test_a_lost_lease_writes_nothing(db: Database, clock: FixedClock, provider: Provider) -> None:
    slow = relay_of(db, clock, provider)
    provider.gate["a"] = asyncio.Event()
    await ask(db, clock, "move", "a")
    first = asyncio.create_task(slow.run_once("reply"))
    while not provider.calls:
        await asyncio.sleep(0)
    clock.tick(outbox.LEASE_S + 1)
    _, doubtful = await db.write(lambda tx: outbox.claim(tx, lane="reply", now=clock.now()))
    assert [task.subject_id for task in doubtful] == ["a"]
    provider.gate["a"].set()
    await first
    task = (await tasks(db))["a"]
    assert (task.state, task.token, provider.recorded) == (OutboxState.CLAIMED, 2, [])


async def test_one_bad_task_does_not_hold_up_the_others(db: Database, clock: FixedClock, provider: Provider) -> None:
    async def prepare(tx: Any, task: OutboxTask) -> Any:
        if task.subject_id == "bad":
            raise KeyError("payload")
        if task.subject_id == "off":
            raise Misconfigured("switched off")
        if task.subject_id == "no":
            return Done(OutboxState.FAILED, error="opt_out: they said STOP")
        return None

    relay = relay_of(db, clock, provider, prepare=prepare)
    provider.results["boom"] = [ValueError("a bug")]
    await ask(db, clock, "send", "bad", "off", "no", "boom", "good")
    await ask(db, clock, "nonsense", "odd")
    await relay.run_once("reply")
    found = await tasks(db)
    assert provider.calls == ["boom", "good"]
    assert found["good"].state is OutboxState.DONE
    assert {name: found[name].state for name in ("bad", "off", "no", "odd")} == dict.fromkeys(
        ("bad", "off", "no", "odd"), OutboxState.FAILED
    )
    assert found["no"].error == "opt_out: they said STOP"
    assert found["boom"].state is OutboxState.CLAIMED, (
        "nobody knows what came of it: it is doubtful when its lease ends"
    )


async def test_one_ordering_runs_one_after_another_and_nobody_overtakes(
    db: Database, clock: FixedClock, provider: Provider
) -> None:
    relay = relay_of(db, clock, provider)
    provider.results["1"] = [Throttled("slow", retry_after_s=30)]
    await ask(db, clock, "move", "1", "2", "3", ordering="talk")
    await ask(db, clock, "move", "other", ordering="talk two")
    assert await relay.run_once("reply") == 2
    assert await relay.run_once("reply") == 0, "the second waits for the first, which rests"
    clock.tick(31)
    for _ in range(3):
        assert await relay.run_once("reply") == 1
    assert provider.calls == ["1", "other", "1", "2", "3"]


async def test_a_lane_runs_its_hands_full_and_is_woken(db: Database, clock: FixedClock, provider: Provider) -> None:
    wakeups = RedisWakeups(Silent())  # type: ignore[arg-type]
    db.wakeups = wakeups
    table = {"move": Executor("voice", provider.call, repeatable=True)}
    relay = Relay(db, clock, wakeups, Metrics(), table, lanes={"reply": 2})
    for name in ("a", "b", "c"):
        provider.gate[name] = asyncio.Event()
    lane = asyncio.create_task(relay.run_lane("reply"))
    await ask(db, clock, "move", "a", "b", "c")
    async with asyncio.timeout(60):
        while len(provider.calls) < 2:
            await asyncio.sleep(0.005)
        provider.gate["a"].set()
        while len(provider.calls) < 3:
            await asyncio.sleep(0.005)
        assert provider.calls == ["a", "b", "c"]
        provider.gate["b"].set()
        provider.gate["c"].set()
        while {task.state for task in (await tasks(db)).values()} != {OutboxState.DONE}:
            await asyncio.sleep(0.005)
    lane.cancel()
    await asyncio.gather(lane, return_exceptions=True)
    await wakeups.close()


async def test_two_relays_never_make_one_call_twice(db: Database, clock: FixedClock, provider: Provider) -> None:
    await ask(db, clock, "send", *[f"m{n}" for n in range(40)])
    relays = [relay_of(db, clock, provider) for _ in range(4)]
    for _ in range(10):
        await asyncio.gather(*(relay.run_once("reply") for relay in relays))
    assert sorted(provider.calls) == sorted(f"m{n}" for n in range(40))
    assert clock.now() - timedelta(hours=1) < clock.now()
