"""Callbacks doubled, shuffled and with gaps: all 720 orders of the six that end an answered call make the same record.

Each order is taken in by the whole intake, signature and receipt and effects, and then undone, so that the next one starts
from the very same talk. Both engines.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import pytest
from sqlmodel import select

from channels.twilio_api import TwilioSettings
from channels.voice import VoiceChannel
from crm_core.calls import CallEvent, CallRecord
from crm_core.clock import FixedClock
from crm_core.db import Database, Tx
from crm_core.interactions import Interaction, Outcome
from routing import engine, entries
from routing.agents import Agent
from routing.missed import MissedCall, MissedState
from routing.queues import EntryState, QueueEntry
from tests.routing.floor import ANA, Floor
from tests.webhooks.signing import ACCOUNT, ORIGIN, TOKEN, call_fields, call_id, signed
from webhooks import intake, voice
from webhooks.intake import Deps, Kind
from webhooks.receipts import WebhookReceipt

ROOM = "CF" + "b" * 32
Callback = tuple[Kind, str, dict[str, str]]


class Undone(Exception):
    """Ends a trial: nothing of it stays."""


class Inside:
    """A database whose units of work are all within one transaction of the test's."""

    dialect = ""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx

    async def write(self, unit: Callable[[Tx], Awaitable[Any]], **_: Any) -> Any:
        async with self._tx.savepoint():
            value = await unit(self._tx)
            await self._tx.settle()
            return value


def at(seconds: int) -> str:
    return f"Wed, 18 Nov 2026 10:00:{seconds:02d} +0000"


def room_event(interaction_id: str, kind: str, who: str, label: str, second: int) -> Callback:
    fields = {
        "AccountSid": ACCOUNT, "ConferenceSid": ROOM, "FriendlyName": f"room-{interaction_id}", "SequenceNumber": str(second),
        "Timestamp": at(second), "StatusCallbackEvent": f"participant-{kind}", "CallSid": who, "ParticipantLabel": label,
        "Muted": "false", "Hold": "false", "Coaching": "false", "EndConferenceOnExit": "true",
        "StartConferenceOnEnter": "true",
    }  # fmt: skip
    return voice.ROOM, f"/webhooks/twilio/voice/room?i={interaction_id}", fields


def completed(second: int) -> Callback:
    fields = call_fields(
        1, caller=ANA, CallStatus="completed", SequenceNumber="3", CallbackSource="call-progress-events",
        Timestamp=at(second), CallDuration="40",
    )  # fmt: skip
    return voice.STATUS, f"{voice.BASE}/status", fields


@pytest.fixture
async def talk(db: Database, clock: FixedClock) -> tuple[Floor, str, list[Callback]]:
    """Ana has called and kim has joined the room; what the provider has yet to tell of it."""
    floor = Floor(db, clock)
    await floor.open("kim", wrapup_s=30)
    customer = call_id(1)
    await floor.call(ANA, customer)
    interaction = await floor.interaction()
    await engine.tick(db, clock=clock, holder="router")
    offer = await floor.accept("kim")
    leg, steps = await floor.connect("kim", call_id(2), offer=offer.id, nonce=offer.nonce)
    label = steps[0].label  # type: ignore[union-attr]
    await floor.room(interaction.id, "join", leg, label, room=ROOM, sequence=1)
    await floor.step(interaction.id, "join", 1)
    clock.tick(50)
    return floor, interaction.id, [
        room_event(interaction.id, "join", customer, "customer", 10),
        room_event(interaction.id, "hold", customer, "customer", 20),
        room_event(interaction.id, "unhold", customer, "customer", 25),
        room_event(interaction.id, "leave", customer, "customer", 40),
        room_event(interaction.id, "leave", leg, label, 41),
        completed(42),
    ]  # fmt: skip


def deps_on(db: Any, clock: FixedClock) -> Deps:
    settings = TwilioSettings(ACCOUNT, TOKEN, public_url=ORIGIN)
    return Deps(db=db, clock=clock, channels={"voice": VoiceChannel(settings)}, public_url=ORIGIN)


OURS = {"id", "version", "updated_at", "wrap_ms", "events", "disposition"}


async def told(tx: Tx, interaction_id: str, now: datetime) -> dict[str, Any]:
    """What the hub concludes of the call when the agent has wrapped up: the record, and where everything stands.

    Without what only tells how the agent wrapped up: whoever is known to have talked only when all is long over has nothing to
    wrap up any more.
    """
    work = await tx.one(select(QueueEntry).where(QueueEntry.interaction_id == interaction_id))
    if work.state == EntryState.WRAPUP:
        await entries.close(tx, work, outcome=Outcome.HANDLED, now=now)
        await tx.flush()
    record = await tx.one(select(CallRecord).where(CallRecord.interaction_id == interaction_id))
    interaction = await tx.one(select(Interaction).where(Interaction.id == interaction_id))
    entry = await tx.one(select(QueueEntry).where(QueueEntry.interaction_id == interaction_id))
    agent = await tx.one(select(Agent).where(Agent.user_id == "kim"))
    shown = record.model_dump(exclude=OURS) if record is not None else {}
    return {
        **shown,
        "interaction": (str(interaction.state), interaction.outcome, interaction.agent_id),
        "entry": (str(entry.state), entry.outcome, entry.agent_id),
        "missed": await tx.all(select(MissedCall.id).where(MissedCall.state == MissedState.OPEN)),
        "agent": (agent.live_load, agent.ringing, agent.wrapups),
        "receipts": len(await tx.all(select(WebhookReceipt.id))),
        "told": sorted((e.kind, e.leg_id, e.role) for e in await tx.all(select(CallEvent)) if e.sequence),
    }


async def told_by_orders(
    db: Database, clock: FixedClock, interaction_id: str, callbacks: Sequence[Callback], *, first: Sequence[Callback]
) -> dict[tuple[str, ...], dict[str, Any]]:
    """What the callbacks bring about in every order that begins with one of `first`; nothing of it stays.

    Orders share their beginnings: each callback is taken in, all that may follow is tried, and it is undone.
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}

    async def go_on(tx: Tx, deps: Deps, before: tuple[Callback, ...], choice: Sequence[Callback]) -> None:
        if len(before) == len(callbacks):
            with suppress(Undone):
                async with tx.savepoint():
                    names = tuple(
                        f"{f.get('StatusCallbackEvent', 'completed')} {f['CallSid'][-1]}" for _, _, f in before
                    )
                    found[names] = await told(tx, interaction_id, clock.now())
                    raise Undone
        for one in choice:
            kind, path, fields = one
            with suppress(Undone):
                async with tx.savepoint():
                    answer = await intake.take(deps, kind, signed(path, fields, clock.now()))
                    assert (answer.status, answer.outcome) == (200, "stored"), (answer, fields)
                    done = (*before, one)
                    await go_on(tx, deps, done, [other for other in callbacks if other not in done])
                    raise Undone

    async def unit(tx: Tx) -> None:
        await go_on(tx, deps_on(Inside(tx), clock), (), first)
        raise Undone

    with pytest.raises(Undone):
        await db.write(unit)
    return found


async def test_all_720_orders_make_the_same_record(talk: tuple[Floor, str, list[Callback]], clock: FixedClock) -> None:
    """All of them on SQLite; on PostgreSQL the 120 that begin with the end of the call."""
    floor, interaction_id, callbacks = talk
    first = callbacks if floor.db.dialect == "sqlite" else callbacks[5:]
    found = await told_by_orders(floor.db, clock, interaction_id, callbacks, first=first)
    wanted = await in_turn(floor.db, clock, interaction_id, callbacks)
    assert (wanted["talk_ms"], wanted["hold_ms"], wanted["end_reason"]) == (25_000, 5_000, "completed")
    assert wanted["interaction"] == ("ended", "handled", "kim")
    assert len(found) == 120 * len(first)
    differing = [order for order, one in found.items() if one != wanted]
    assert not differing, f"{len(differing)} orders differ, among them {differing[:3]}"


async def in_turn(
    db: Database, clock: FixedClock, interaction_id: str, callbacks: Sequence[Callback]
) -> dict[str, Any]:
    """As the provider means them; nothing of it stays."""
    found: list[dict[str, Any]] = []

    async def unit(tx: Tx) -> None:
        for kind, path, fields in callbacks:
            await intake.take(deps_on(Inside(tx), clock), kind, signed(path, fields, clock.now()))
        found.append(await told(tx, interaction_id, clock.now()))
        raise Undone

    with pytest.raises(Undone):
        await db.write(unit)
    return found[0]


@pytest.mark.parametrize("seed", range(2))
async def test_doubled_shuffled_and_with_gaps(
    talk: tuple[Floor, str, list[Callback]], clock: FixedClock, seed: int
) -> None:
    """Each one to four times in any order; some so late that everything else is long over."""
    floor, interaction_id, callbacks = talk
    wanted = await in_turn(floor.db, clock, interaction_id, callbacks)
    chance = random.Random(seed)
    deps = deps_on(floor.db, clock)
    late = chance.sample(callbacks, 2)
    storm = [one for one in callbacks if one not in late for _ in range(chance.randint(1, 4))]
    chance.shuffle(storm)
    for kind, path, fields in [*storm, *late, *storm]:
        answer = await intake.take(deps, kind, signed(path, fields, clock.now()))
        assert (answer.status, answer.outcome in ("stored", "repeated")) == (200, True)
    found = await floor.do(lambda tx: told(tx, interaction_id, clock.now()))
    assert found == wanted
    await floor.check()
