"""The event stream: who hears what, replay after a lost link, and the word that a replay is not possible."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from crm_core import events
from crm_core.db import Tx
from crm_core.ids import new_id
from crm_core.users import Role
from hub.desktop.fan import BACKLOG, Fan, Listener, Told, gathered
from hub.publisher import STREAM, Publisher
from hub.runtime import Runtime
from routing.queues import Queue, QueueMember
from tests.apps import Visitor, add_user


def told(kind: str, subject: str = "s", **more: Any) -> Told:
    return Told(
        **{"seq": 1, "kind": kind, "subject": subject, "version": 1, "user": None, "queue": None, "data": {}, **more}
    )


AMY = Listener("amy", supervises=False, queues=frozenset({"support"}))
SAM = Listener("sam", supervises=True, queues=frozenset())


@pytest.mark.parametrize(
    ("event", "amy", "sam"),
    [
        (told("offer.opened", user="amy"), True, False),
        (told("offer.opened", user="ben"), False, False),
        (told("agent.changed", user="ben"), False, True),
        (told("agent.changed", user="amy"), True, True),
        (told("entry.changed", queue="support"), True, True),
        (told("entry.changed", queue="sales"), False, True),
        (told("interaction.connected", queue="sales", agent="amy"), True, True),
        (told("contact.changed"), True, True),
    ],
)
def test_rights_are_looked_at_per_event(event: Told, amy: bool, sam: bool) -> None:
    assert (AMY.may_hear(event), SAM.may_hear(event)) == (amy, sam)


def test_own_calls_and_offers_cannot_wait_for_a_board() -> None:
    assert AMY.urgent(told("offer.changed", user="amy"))
    assert AMY.urgent(told("interaction.connected", agent="amy"))
    assert not AMY.urgent(told("entry.changed", queue="support"))
    call = told("interaction.connected", agent="amy")
    assert b'"type":"call"' in AMY.line(call)
    assert b'"type":"interaction"' in SAM.line(call)


def test_a_board_hears_the_latest_of_each_thing_in_order() -> None:
    many = [told("entry.changed", "a", seq=1), told("entry.changed", "b", seq=2), told("entry.changed", "a", seq=3)]
    assert [event.seq for event in gathered(many)] == [2, 3]


class Source:
    """An EventSource without a browser."""

    def __init__(self, content: Any) -> None:
        self._content = content

    async def next(self, *, beats: bool = False) -> tuple[str, dict[str, Any]]:
        """The next event: its id and data."""
        number, data = "", ""
        while True:
            line = (await asyncio.wait_for(self._content.readline(), 60)).decode().rstrip("\n")
            if line.startswith("id: "):
                number = line[4:]
            elif line.startswith("data: "):
                data = line[6:]
            elif not line and data:
                event = json.loads(data)
                if event["type"] != "beat" or beats:
                    return number, event
                number, data = "", ""


@asynccontextmanager
async def listening(visitor: Visitor, after: str = "") -> AsyncIterator[Source]:
    headers = {"Last-Event-ID": after} if after else {}
    async with visitor.http.get(visitor.url + "/desk/events", headers=headers) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/event-stream"
        yield Source(answer.content)


@pytest.fixture
async def publisher(runtime: Runtime) -> Publisher:
    return Publisher(runtime.db, runtime.redis, runtime.wakeups)


async def happen(runtime: Runtime, publisher: Publisher, kind: str, subject: str, **more: Any) -> None:
    now = runtime.clock.now()
    await runtime.db.write(lambda tx: events.emit(tx, kind, subject, now=now, version=2, **more))
    await publisher.publish()


async def test_events_arrive_and_a_lost_link_misses_none(
    runtime: Runtime, publisher: Publisher, visitor: Visitor
) -> None:
    await add_user(runtime, "sam", [Role.SUPERVISOR])
    await visitor.log_in("sam")
    async with listening(visitor) as source:
        number, hello = await source.next()
        assert hello["type"] == "hello"
        assert hello["beat_s"] <= 2
        await happen(runtime, publisher, "contact.changed", "c1", contact="c1")
        first, event = await source.next()
        assert (event["type"], event["kind"], event["id"], event["contact"]) == (
            "contact",
            "contact.changed",
            "c1",
            "c1",
        )
        assert int(first) > int(number)
    for subject in ("c2", "c3"):
        await happen(runtime, publisher, "contact.changed", subject)
    async with listening(visitor, after=first) as source:
        assert (await source.next())[1]["type"] == "hello"
        missed = [(await source.next())[1]["id"] for _ in range(2)]
    assert missed == ["c2", "c3"]


async def test_an_unknown_id_gets_resync(runtime: Runtime, publisher: Publisher, visitor: Visitor) -> None:
    await add_user(runtime, "sam", [Role.SUPERVISOR])
    await visitor.log_in("sam")
    await happen(runtime, publisher, "contact.changed", "c1")
    for strange in ("999999", "rubbish"):
        async with listening(visitor, after=strange) as source:
            assert [(await source.next())[1]["type"] for _ in range(2)] == ["hello", "resync"]


async def test_a_flushed_redis_gets_resync(runtime: Runtime, publisher: Publisher, visitor: Visitor) -> None:
    await add_user(runtime, "sam", [Role.SUPERVISOR])
    await visitor.log_in("sam")
    for subject in ("c1", "c2", "c3"):
        await happen(runtime, publisher, "contact.changed", subject)
    async with listening(visitor) as source:
        assert (await source.next())[1]["type"] == "hello"
        await runtime.redis.delete(STREAM)
        assert (await source.next())[1]["type"] == "resync"


async def test_another_queues_work_is_not_heard(runtime: Runtime, publisher: Publisher, visitor: Visitor) -> None:
    amy = await add_user(runtime, "amy", [Role.AGENT])
    now = runtime.clock.now()

    async def queues(tx: Tx) -> tuple[str, str]:
        mine, other = Queue(id=new_id(now), name="Mine"), Queue(id=new_id(now), name="Other")
        await tx.add_all([mine, other])
        await tx.add(QueueMember(queue_id=mine.id, user_id=amy.id))
        return mine.id, other.id

    mine, other = await runtime.db.write(queues)
    await visitor.log_in("amy")
    async with listening(visitor) as source:
        await source.next()
        await happen(runtime, publisher, "entry.changed", "theirs", queue_id=other)
        await happen(runtime, publisher, "offer.opened", "not for amy", user_id="ben")
        await happen(runtime, publisher, "entry.changed", "ours", queue_id=mine)
        assert (await source.next())[1]["id"] == "ours"


async def test_a_silent_stream_beats(runtime: Runtime, visitor: Visitor) -> None:
    await add_user(runtime, "sam", [Role.SUPERVISOR])
    await visitor.log_in("sam")
    async with listening(visitor) as source:
        await source.next()
        assert (await source.next(beats=True))[1] == {"type": "beat"}


async def test_two_hundred_desktops_that_come_at_once_are_told_everything_once(
    runtime: Runtime, publisher: Publisher
) -> None:
    """As after a restart of the hub: one reader, no resync, and what was missed meanwhile for each of them."""
    for number in range(5):
        await happen(runtime, publisher, "contact.changed", f"before{number}")
    fan, ready = Fan(runtime), asyncio.Event()
    heard: list[list[int]] = []

    async def desktop(number: int) -> None:
        listener = Listener(f"agent{number}", supervises=False, queues=frozenset())
        async with fan.listening(listener):
            missed = await fan.since(fan.newest - 3, listener)
            assert missed is not None
            seen = [event.seq for event in missed]
            heard.append(seen)
            if len(heard) == 200:
                ready.set()
            while len(seen) < 5:
                await listener.wake.wait()
                lines = listener.take()
                assert b"resync" not in lines
                seen += [int(line[4:]) for line in lines.decode().split("\n") if line.startswith("id: ")]

    async with asyncio.timeout(60):
        async with asyncio.TaskGroup() as tasks:
            for number in range(200):
                tasks.create_task(desktop(number))
            await ready.wait()
            followers = [task for task in asyncio.all_tasks() if "_follow" in repr(task.get_coro())]
            assert len(followers) == 1
            await happen(runtime, publisher, "contact.changed", "after0")
            await happen(runtime, publisher, "contact.changed", "after1")
    assert len(heard) == 200
    assert {tuple(seen) for seen in heard} == {tuple(range(heard[0][0], heard[0][0] + 5))}


async def test_an_event_is_written_once_for_all(runtime: Runtime) -> None:
    event = told("interaction.connected", agent="amy", seq=9)
    assert AMY.line(event) is Listener("amy", supervises=False, queues=frozenset()).line(event)
    assert event.line("interaction").startswith(b"id: 9\ndata: {")
    assert event.lines.keys() == {"call", "interaction"}


async def test_who_takes_nothing_is_told_to_look_again() -> None:
    slow = Listener("amy", supervises=False, queues=frozenset({"support"}))
    for number in range(BACKLOG + 2):
        slow.hear(told("entry.changed", f"e{number}", queue="support", seq=number))
    lines = slow.take()
    assert lines.startswith(b'data: {"type":"resync"}\n\n')
    assert lines.count(b"data: ") == 2, "and what came after that"
    assert slow.take() == b""


async def test_what_is_older_than_the_replay_is_not_guessed(runtime: Runtime, publisher: Publisher) -> None:
    for number in range(3):
        await happen(runtime, publisher, "contact.changed", f"c{number}")
    fan = Fan(runtime)
    listener = Listener("amy", supervises=False, queues=frozenset())
    async with fan.listening(listener):
        assert [event.subject for event in await fan.since(fan.newest - 2, listener) or []] == ["c1", "c2"]
        assert await fan.since(fan.newest, listener) == []
        assert await fan.since(fan.newest + 1, listener) is None
        fan._recent.popleft()
        assert await fan.since(fan.newest - 3, listener) is None
        assert [event.subject for event in await fan.since(fan.newest - 2, listener) or []] == ["c1", "c2"]
