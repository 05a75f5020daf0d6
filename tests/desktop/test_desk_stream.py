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
from hub.desktop.stream import Listener, Told, gathered, urgent
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
    assert urgent(AMY, told("offer.changed", user="amy"))
    assert urgent(AMY, told("interaction.connected", agent="amy"))
    assert not urgent(AMY, told("entry.changed", queue="support"))
    assert AMY.shown(told("interaction.connected", agent="amy"))["type"] == "call"
    assert SAM.shown(told("interaction.connected", agent="amy"))["type"] == "interaction"


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
            line = (await asyncio.wait_for(self._content.readline(), 10)).decode().rstrip("\n")
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
