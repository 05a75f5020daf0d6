"""The machine's clock jumps, and the nights on which clocks change: nothing sticks or goes twice, nobody is woken."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from crm_core import consent, contacts, leases, outbox
from crm_core.addresses import phone
from crm_core.clock import FixedClock
from crm_core.consent import Purpose
from crm_core.db import Database
from routing import agents, callbacks
from routing.hours import Hours, is_open, next_open
from tests.routing.floor import ANA, Floor

HOUR = 3600.0


@pytest.fixture
def floor(db: Database, clock: FixedClock) -> Floor:
    return Floor(db, clock)


async def test_a_dead_leaders_lease_does_not_outlive_a_clock_set_back(db: Database, clock: FixedClock) -> None:
    async def take(holder: str) -> int | None:
        return await db.write(lambda tx: leases.take(tx, "router", holder=holder, now=clock.now(), ttl_s=5))

    assert await take("dead") == 1
    clock.tick(-HOUR)
    assert await take("alive") == 2, "nobody would route a call for an hour"
    async with db.reading() as tx:
        assert not await leases.holds(tx, "router", token=1)
    assert await take("dead") is None
    clock.tick(4)
    assert await take("alive") == 2


async def test_clocks_that_differ_by_seconds_take_no_lease_away(db: Database, clock: FixedClock) -> None:
    async def take(holder: str, ahead_s: float) -> int | None:
        now = clock.now() + timedelta(seconds=ahead_s)
        return await db.write(lambda tx: leases.take(tx, "router", holder=holder, now=now, ttl_s=5))

    assert await take("ahead", 30) == 1
    assert await take("behind", 0) is None


@pytest.mark.parametrize("jump_s", [HOUR, -HOUR, 24 * HOUR, -24 * HOUR], ids=["+1 h", "-1 h", "+1 d", "-1 d"])
async def test_an_effect_neither_sticks_nor_goes_twice(db: Database, clock: FixedClock, jump_s: float) -> None:
    async def ask(subject: str) -> None:
        await db.write(lambda tx: outbox.ask(tx, "text.send", subject, lane="reply", now=clock.now()))

    async def claim() -> tuple[list[str], list[str]]:
        found = await db.write(lambda tx: outbox.claim(tx, lane="reply", now=clock.now()))
        return [task.subject_id for task in found[0]], [task.subject_id for task in found[1]]

    await ask("claimed")
    assert await claim() == (["claimed"], [])
    await ask("asked")
    clock.tick(jump_s)
    # What the minute's check does; with a clock that went forwards there is nothing to do.
    async with db.reading() as tx:
        ahead = await outbox.any_ahead(tx, now=clock.now())
    healed = await db.write(lambda tx: outbox.heal_clock(tx, now=clock.now()))
    assert (ahead, healed > 0) == (jump_s < 0, jump_s < 0)
    # The one that nobody began goes; the other, whose call may have happened, is in doubt and not simply begun again.
    assert await claim() == (["asked"], ["claimed"])
    assert await claim() == ([], [])


async def test_what_is_asked_for_later_keeps_its_time(db: Database, clock: FixedClock) -> None:
    due = clock.now() + timedelta(hours=3)
    await db.write(lambda tx: outbox.ask(tx, "x", "later", lane="reply", now=clock.now(), due_at=due))
    async with db.reading() as tx:
        assert not await outbox.any_ahead(tx, now=clock.now())
    assert await db.write(lambda tx: outbox.heal_clock(tx, now=clock.now())) == 0


async def test_a_tab_that_was_closed_counts_as_gone_although_the_clock_went_back(floor: Floor) -> None:
    await floor.open("kim")
    floor.clock.tick(-HOUR)
    await floor.call(ANA)
    assert await floor.do(lambda tx: agents.heal_clock(tx, now=floor.now)) == 1
    for _ in range(4):  # nobody beats
        await floor.later(31)
    assert await floor.live_offers() == [], "a call rings at a tab that is not there"
    assert (await floor.entry()).state == "waiting"
    await floor.later(1, beats=("kim",))
    await floor.tick()
    assert [offer.agent_id for offer in await floor.live_offers()] == ["kim"]


@pytest.mark.parametrize("jump_s", [HOUR, -HOUR], ids=["forwards", "backwards"])
async def test_a_talk_goes_on_through_a_jump(floor: Floor, jump_s: float) -> None:
    await floor.open("kim")
    customer, _ = await floor.call(ANA)
    await floor.tick()
    interaction = await floor.interaction()
    await floor.talk("kim", customer, interaction.id)
    await floor.later(jump_s, beats=("kim",))
    await floor.tick(beats=("kim",))
    assert (await floor.interaction(interaction.id)).state == "connected"
    await floor.hang_up("kim", interaction.id)
    await floor.room(interaction.id, "leave", customer, "customer")
    await floor.status(customer, "completed")
    await floor.later(120, beats=("kim",))
    await floor.tick(beats=("kim",))
    record = await floor.record(interaction.id)
    assert min(record.talk_ms, record.wait_ms, record.ring_ms, record.hold_ms, record.menu_ms) >= 0
    assert (await floor.agent("kim")).live_load == 0


# --- the nights of the change ------------------------------------------------------------------------------------------------

NIGHTS = [
    ("Europe/London", "2026-03-29"), ("Europe/London", "2026-10-25"), ("America/New_York", "2026-03-08"),
    ("America/New_York", "2026-11-01"), ("Australia/Lord_Howe", "2026-04-05"), ("America/Santiago", "2026-09-06"),
]  # fmt: skip


@pytest.mark.parametrize(("zone", "night"), NIGHTS, ids=[f"{zone} {night}" for zone, night in NIGHTS])
def test_opening_hours_of_that_day_are_those_on_the_wall(zone: str, night: str) -> None:
    hours = Hours(id="h", name="h", zone=zone, week={str(day): [["09:00", "17:30"]] for day in range(7)})
    local = ZoneInfo(zone)
    start = datetime.fromisoformat(night).replace(tzinfo=local).astimezone(UTC) - timedelta(hours=2)
    changes = [is_open(hours, start + timedelta(minutes=m)) for m in range(0, 30 * 60, 5)]
    edges = [start + timedelta(minutes=5 * n) for n in range(1, len(changes)) if changes[n] != changes[n - 1]]
    assert [edge.astimezone(local).strftime("%H:%M") for edge in edges] == ["09:00", "17:30"]
    opens = next_open(hours, start)
    assert opens is not None
    assert opens.astimezone(local).strftime("%H:%M") == "09:00"


@pytest.mark.parametrize(("zone", "night"), NIGHTS, ids=[f"{zone} {night}" for zone, night in NIGHTS])
async def test_no_campaign_reaches_anybody_at_night(sqlite_db: Database, zone: str, night: str) -> None:
    """Every half hour of that day and the two beside it: allowed exactly from 8 to 21 on their wall, else postponed."""
    local = ZoneInfo(zone)
    day = datetime.fromisoformat(night).replace(tzinfo=local).astimezone(UTC) - timedelta(days=1)

    async def person(tx: Any) -> contacts.Contact:
        made = await contacts.create(tx, name="Ana", now=day, source="test", points=[phone(ANA)])
        return await contacts.edit(tx, made.id, version=made.version, now=day, zone=zone)

    ana = await sqlite_db.write(person)
    async with sqlite_db.reading() as tx:
        for quarter in range(0, 3 * 24 * 4, 2):
            now = day + timedelta(minutes=15 * quarter)
            verdict = await consent.may_contact(
                tx, address=phone(ANA), channel="sms", purpose=Purpose.TRANSACTIONAL, now=now, contact=ana, spend=False
            )
            clock_there = now.astimezone(local)
            awake = 8 <= clock_there.hour < 21
            assert (verdict.rule != "hours") == awake, (clock_there, verdict)
            if not awake:
                again = verdict.until
                assert again is not None
                assert again > now
                assert again.astimezone(local).strftime("%H:%M") == "08:00"


@pytest.mark.parametrize(("zone", "night"), NIGHTS, ids=[f"{zone} {night}" for zone, night in NIGHTS])
async def test_a_callback_promised_across_the_night_comes_once_and_at_its_instant(
    sqlite_db: Database, zone: str, night: str
) -> None:
    local = ZoneInfo(zone)
    morning = datetime.fromisoformat(night).replace(hour=10, tzinfo=local).astimezone(UTC)
    clock = FixedClock(morning - timedelta(hours=14))
    floor = Floor(sqlite_db, clock)
    await floor.open("kim")
    await floor.do(
        lambda tx: callbacks.request(
            tx, number=phone(ANA), queue_id="q", due_at=morning, origin="agent", now=clock.now(), account_id="acc-voice"
        )
    )
    came: list[datetime] = []
    while clock.now() < morning + timedelta(hours=2):
        await floor.later(1800, beats=("kim",))
        if len(await floor.entries()) > len(came):
            came.append(clock.now())
    assert came == [morning]
