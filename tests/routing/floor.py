"""A contact-centre floor for tests: a queue, numbers, agents, and a provider that reports what was asked of it.

Every act goes through the functions that webhooks and desktop call, each in its own unit of work; `check` runs the invariants.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import update
from sqlmodel import col, select

from channels.contract import CallArrived, CallProgress, MessageArrived, RoomEvent
from channels.steps import DialConference, Enqueue, Gather, Leave, Redirect, Say, Step
from crm_core import contacts, interactions
from crm_core.accounts import ChannelAccount, Form
from crm_core.addresses import email, phone
from crm_core.calls import CallRecord
from crm_core.clock import FixedClock
from crm_core.consent import Purpose
from crm_core.db import Database, Tx
from crm_core.interactions import Disposition, Interaction
from crm_core.outbox import OutboxState, OutboxTask
from crm_core.users import User
from routing import agents, checks, desk, engine, entries, queues, router
from routing.callbacks import Callback
from routing.offers import LIVE, Offer
from routing.queues import Queue, QueueEntry

R = TypeVar("R")
NUMBER = "+442079460000"
MAILBOX = "support@example.test"
ANA = "+12025550101"
BEN = "+12025550102"


def caller(number: int) -> str:
    """One of a hundred outside numbers."""
    return f"+12025550{100 + number % 100:03d}"


class Floor:
    """The cast, and what they do."""

    def __init__(self, db: Database, clock: FixedClock) -> None:
        self.db = db
        self.clock = clock
        self.numbers = itertools.count(1)
        self.sequence = itertools.count(1)

    @property
    def now(self) -> datetime:
        return self.clock.now()

    async def do(self, unit: Callable[[Tx], Awaitable[R]]) -> R:
        return await self.db.write(unit)

    async def open(self, *agent_ids: str, **queue: Any) -> None:
        """One queue `q` served by these agents (available, phone registered), one account per channel."""
        fields: dict[str, Any] = {"wrapup_s": 60, "refusal_cooloff_s": 60, **queue}

        async def unit(tx: Tx) -> None:
            now = self.now
            await tx.add(Queue(id="q", name="Support", **fields))
            for channel, address in (("voice", NUMBER), ("sms", NUMBER), ("email", MAILBOX), ("webform", "contact")):
                await tx.add(
                    ChannelAccount(
                        id=f"acc-{channel}", channel=channel, name=channel, address=address, country="GB", queue_id="q",
                        created_at=now,
                    )
                )  # fmt: skip
            await tx.add(
                Form(
                    id="form", slug="contact", account_id="acc-webform", title="Contact us", created_at=now,
                    consent_text="You may write to me.", consent_version="1",
                    fields=[
                        {"name": "name", "label": "Name", "kind": "text"},
                        {"name": "email", "label": "E-mail", "kind": "email"},
                        {"name": "phone", "label": "Phone", "kind": "phone"},
                        {"name": "message", "label": "Message", "kind": "textarea"},
                    ],
                )
            )  # fmt: skip
            await tx.add(Disposition(key="done", label="Done"))
            await tx.add(Disposition(key="dnc", label="Never again", flags={"do_not_call": True}))

        await self.do(unit)
        for agent_id in agent_ids:
            await self.hire(agent_id)

    async def hire(self, agent_id: str, *, available: bool = True, queue_id: str = "q") -> None:
        async def unit(tx: Tx) -> None:
            await tx.add(User(id=agent_id, login=agent_id, name=agent_id.title(), created_at=self.now))
            await queues.put_member(tx, queue_id, agent_id)
            await desk.heartbeat(tx, agent_id, voice_ready=True, now=self.now)
            if available:
                await desk.set_activity(tx, agent_id, "available", now=self.now)

        await self.do(unit)

    async def person(self, name: str, *points: str) -> str:
        async def unit(tx: Tx) -> str:
            found = [email(p) if "@" in p else phone(p) for p in points]
            return (await contacts.create(tx, name=name, now=self.now, source="agent", points=found)).id

        return await self.do(unit)

    async def alter_queue(self, **values: Any) -> None:
        await self.do(lambda tx: tx.run(update(Queue).where(col(Queue.id) == "q").values(**values)))

    # --- time

    async def tick(self, *, beats: tuple[str, ...] = ()) -> datetime | None:
        for agent_id in beats:
            await self.beat(agent_id)
        return await engine.tick(self.db, clock=self.clock, holder="test")

    async def beat(self, agent_id: str) -> None:
        await self.do(lambda tx: desk.heartbeat(tx, agent_id, voice_ready=True, now=self.now))

    async def later(self, seconds: float, *, beats: tuple[str, ...] = ()) -> datetime | None:
        self.clock.tick(seconds)
        return await self.tick(beats=beats)

    # --- callers

    async def call(self, number: str = ANA, call_id: str = "") -> tuple[str, list[Step]]:
        """Phone us; the CallSid and what is heard first."""
        call_id = call_id or f"CA{next(self.numbers):032d}"
        event = CallArrived(call_id, number, NUMBER, f"{call_id}:arrived", {}, {})
        return call_id, await self.do(lambda tx: router.call_arrived(tx, event, now=self.now))

    async def step(self, interaction_id: str, step: str, number: int = 1, **params: str) -> list[Step]:
        return await self.do(
            lambda tx: router.call_step(
                tx, interaction_id=interaction_id, step=step, number=number, params=params, now=self.now
            )
        )

    async def status(self, call_id: str, status: str, *, rank: int = 9) -> None:
        sequence = next(self.sequence)
        event = CallProgress(call_id, status, rank, sequence, self.now, f"{call_id}:{status}:{sequence}", None, {})
        await self.do(lambda tx: router.call_progressed(tx, event, now=self.now))

    async def room(
        self,
        interaction_id: str,
        kind: str,
        call_id: str,
        label: str = "",
        *,
        room: str = "",
        sequence: int | None = None,
    ) -> None:
        sequence = sequence or next(self.sequence)
        room_id = room or f"CF-{interaction_id}"
        event = RoomEvent(
            f"room-{interaction_id}", room_id, call_id, label, kind, sequence, self.now,
            f"{room_id}:{kind}:{call_id}:{sequence}", {},
        )  # fmt: skip
        await self.do(lambda tx: router.room_changed(tx, event, interaction_id=interaction_id, now=self.now))

    # --- agents

    async def accept(self, agent_id: str, offer_id: str = "") -> Offer:
        offer_id = offer_id or (await self.live_offers(agent_id))[0].id
        return await self.do(lambda tx: desk.accept(tx, offer_id, agent_id=agent_id, now=self.now))

    async def connect(self, agent_id: str, call_id: str = "", **params: str) -> tuple[str, list[Step]]:
        call_id = call_id or f"CB{next(self.numbers):032d}"
        event = CallArrived(call_id, f"client:{agent_id}", "", f"{call_id}:client", params, {})
        return call_id, await self.do(lambda tx: router.client_connected(tx, event, now=self.now))

    async def talk(self, agent_id: str, customer: str, interaction_id: str) -> str:
        """From an open offer to a talk; the agent's CallSid."""
        offer = await self.accept(agent_id)
        leg, steps = await self.connect(agent_id, offer=offer.id, nonce=offer.nonce)
        assert isinstance(steps[0], DialConference), steps
        await self.room(interaction_id, "join", leg, steps[0].label)
        joined = await self.step(interaction_id, "join", 1)
        assert isinstance(joined[0], DialConference), joined
        await self.room(interaction_id, "join", customer, "customer")
        return leg

    async def hang_up(self, agent_id: str, interaction_id: str) -> None:
        await self.do(lambda tx: desk.hang_up(tx, interaction_id, agent_id=agent_id, now=self.now))

    async def finish(self, agent_id: str, entry_id: str, disposition: str = "done") -> None:
        await self.do(lambda tx: desk.finish(tx, entry_id, agent_id=agent_id, disposition=disposition, now=self.now))

    async def dial(self, agent_id: str, number: str, *, purpose: Purpose = Purpose.REPLY, **more: Any) -> Interaction:
        return await self.do(
            lambda tx: desk.start_call(
                tx, agent_id=agent_id, address=phone(number), purpose=purpose,
                account_id="acc-voice", now=self.now, **more,
            )
        )  # fmt: skip

    async def ring_out(self, agent_id: str, call: Interaction) -> tuple[str, str]:
        """The agent's leg of an outgoing call comes, the customer's phone is dialed; both CallSids."""
        leg, steps = await self.connect(agent_id, call=call.id, nonce=call.data["nonce"])
        assert isinstance(steps[0], DialConference), steps
        await self.room(call.id, "join", leg, steps[0].label)
        assert [task.kind for task in await self.outbox(call.id)][-1] == "call.place"
        theirs = f"CC{next(self.numbers):032d}"
        await self.do(lambda tx: router.call_placed(tx, call.id, call_id=theirs, now=self.now))
        return leg, theirs

    async def text(self, body: str, number: str = ANA, *, external_id: str = "", opt_out: str = "") -> None:
        external_id = external_id or f"SM{next(self.numbers):032d}"
        event = MessageArrived(external_id, number, NUMBER, body, [], opt_out, external_id, {})
        await self.do(lambda tx: router.message_arrived(tx, event, now=self.now))

    # --- looking

    async def live_offers(self, agent_id: str = "") -> list[Offer]:
        statement = select(Offer).where(col(Offer.state).in_(LIVE)).order_by(col(Offer.id))
        if agent_id:
            statement = statement.where(Offer.agent_id == agent_id)
        async with self.db.reading() as tx:
            return await tx.all(statement)

    async def offers(self) -> list[Offer]:
        async with self.db.reading() as tx:
            return await tx.all(select(Offer).order_by(col(Offer.opened_at), col(Offer.id)))

    async def entries(self) -> list[QueueEntry]:
        async with self.db.reading() as tx:
            return await tx.all(select(QueueEntry).order_by(col(QueueEntry.entered_at), col(QueueEntry.id)))

    async def entry(self) -> QueueEntry:
        return (await self.entries())[-1]

    async def interaction(self, interaction_id: str = "") -> Interaction:
        async with self.db.reading() as tx:
            if interaction_id:
                return await interactions.get(tx, interaction_id)
            found = await tx.all(select(Interaction).order_by(col(Interaction.created_at), col(Interaction.id)))
            return found[-1]

    async def interaction_of(self, call_id: str) -> Interaction:
        """The inbound call of this CallSid."""
        async with self.db.reading() as tx:
            found = await interactions.find_external(tx, "acc-voice", call_id)
            assert found is not None
            return found

    async def interactions(self) -> list[Interaction]:
        async with self.db.reading() as tx:
            return await tx.all(select(Interaction).order_by(col(Interaction.created_at), col(Interaction.id)))

    async def callbacks(self) -> list[Callback]:
        async with self.db.reading() as tx:
            return await tx.all(select(Callback).order_by(col(Callback.created_at)))

    async def agent(self, agent_id: str) -> agents.Agent:
        async with self.db.reading() as tx:
            found = await agents.find(tx, agent_id)
            assert found is not None
            return found

    async def record(self, interaction_id: str) -> CallRecord:
        async with self.db.reading() as tx:
            found = await tx.one(select(CallRecord).where(CallRecord.interaction_id == interaction_id))
            assert found is not None
            return found

    async def outbox(self, subject_id: str = "") -> list[OutboxTask]:
        async with self.db.reading() as tx:
            statement = select(OutboxTask).order_by(col(OutboxTask.created_at), col(OutboxTask.id))
            if subject_id:
                statement = statement.where(OutboxTask.subject_id == subject_id)
            return await tx.all(statement)

    async def take_outbox(self) -> list[OutboxTask]:
        """What was asked for since the last time, as an executor would take it."""
        fresh = [task for task in await self.outbox() if task.state == OutboxState.PENDING]
        for task in fresh:
            done = update(OutboxTask).where(col(OutboxTask.id) == task.id).values(state=OutboxState.DONE)
            await self.do(lambda tx, done=done: tx.run(done))  # type: ignore[misc]
        return fresh

    async def check(self) -> None:
        async with self.db.reading() as tx:
            assert await checks.check_invariants(tx, now=self.now) == []

    async def conservation(self) -> dict[str, int]:
        async with self.db.reading() as tx:
            return await checks.conservation(tx, self.now)

    async def position(self, entry: QueueEntry) -> int:
        async with self.db.reading() as tx:
            return await entries.position(tx, entry)


def said(steps: list[Step]) -> str:
    """Everything spoken in these steps, prompts included."""
    parts: list[str] = []
    for step in steps:
        if isinstance(step, Say):
            parts.append(step.text)
        elif isinstance(step, Gather):
            parts += [prompt.text for prompt in step.prompts if isinstance(prompt, Say)]
    return " ".join(parts)


def kinds(steps: list[Step]) -> list[str]:
    """The steps' names."""
    return [type(step).__name__ for step in steps]


__all__ = ["ANA", "BEN", "MAILBOX", "NUMBER", "Enqueue", "Floor", "Leave", "Redirect", "caller", "kinds", "said"]
