"""Queues and queue entries: what waits, in which order, and what became of it.

A queue entry is one piece of work before agents: a waiting call, a conversation with unanswered messages, a callback, a lead.
One order key for all of them, fixed at first arrival: `order_at = first_arrival_at - priority credit`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Index, bindparam
from sqlalchemy import text as sql_text
from sqlmodel import col, select

from crm_core.db import Tx
from crm_core.errors import NotFound
from crm_core.statements import fixed
from crm_core.tables import Table, at, doc, key, one_of, ref, text, word


class EntryState(StrEnum):
    """Where a piece of work stands."""

    WAITING = "waiting"
    OFFERED = "offered"
    CONNECTED = "connected"
    WRAPUP = "wrapup"
    DONE = "done"


class Lane(StrEnum):
    """Which of an agent's capacities a piece of work uses: one live conversation, or points of written ones."""

    LIVE = "live"
    TEXT = "text"


class Queue(Table, table=True):
    """A waiting line and its rules."""

    __tablename__ = "queues"

    id: str = key()
    name: str = text(unique=True)
    language: str = text(default="en-GB")  # of announcements
    skills: dict[str, Any] = doc()  # skill -> least level needed
    relax: dict[str, Any] = doc()  # {"rings": [{"after_s": 60, "drop": ["skill"], "lower": {"skill": 1}}]}
    offer_timeout_s: int = 20
    accept_timeout_s: int = 20
    refusal_cooloff_s: int = 60
    wrapup_s: int = 60  # 0 = none
    service_level_s: int = 20
    priority_credit_s: int = 0  # how much earlier its work counts as arrived
    callback_offer_after_s: int = 20  # negative = no in-queue callback
    callback_max_attempts: int = 3
    callback_retry_s: int = 900
    hours_id: str | None = text(default=None)
    max_wait_s: int = 1800  # then the overflow step
    ring_count: int = 1  # so many agents are offered a piece of work at once; the first who accepts has it
    preferred: str = text()  # whom work is kept for: "" nobody, "last" the agent who talked last, "owner" the contact's
    preferred_wait_s: int = 0  # how long it is kept for them alone
    vip_credit_s: int = 0  # how much earlier an important contact counts as arrived, on top of the queue's credit
    overflow: dict[str, Any] = doc()  # to which queue work goes, and when: see routing/overflow.py
    # How calls are treated: see routing/call_rules.py. Empty: not recorded, no voicemail, the hub's own music.
    voice: dict[str, Any] = doc()
    retired: bool = False
    version: int = 1


class QueueMember(Table, table=True):
    """An agent serves a queue."""

    __tablename__ = "queue_members"

    queue_id: str = ref("queues.id", primary_key=True)
    user_id: str = ref("users.id", primary_key=True)
    rank: int = 0  # lower is asked first


class QueueEntry(Table, table=True):
    """One piece of work. `version` guards every change."""

    __tablename__ = "queue_entries"
    __table_args__ = (
        one_of("state", EntryState),
        one_of("lane", Lane),
        Index("ix_queue_entries_waiting", "queue_id", "order_at", "id",
              sqlite_where=sql_text("state = 'waiting'"), postgresql_where=sql_text("state = 'waiting'")),
        Index("ix_queue_entries_open", "state",
              sqlite_where=sql_text("state <> 'done'"), postgresql_where=sql_text("state <> 'done'")),
        Index("ix_queue_entries_agent", "agent_id", "state",
              sqlite_where=sql_text("agent_id IS NOT NULL"), postgresql_where=sql_text("agent_id IS NOT NULL")),
        Index("ix_queue_entries_conversation", "conversation_id", "state"),
        Index("ix_queue_entries_answered", "queue_id", "connected_at",
              sqlite_where=sql_text("connected_at IS NOT NULL"), postgresql_where=sql_text("connected_at IS NOT NULL")),
    )  # fmt: skip

    id: str = key()
    queue_id: str = ref("queues.id", index=False)
    kind: str = text()  # voice, sms, email, webform, callback, lead
    lane: Lane = word(Lane)
    weight: int = 1  # LIVE: 1; TEXT: points
    interaction_id: str = ref("interactions.id")  # the first one it stands for
    conversation_id: str = ref("conversations.id", index=False)
    contact_id: str | None = text(default=None)
    callback_id: str | None = text(default=None)
    state: EntryState = word(EntryState, default=EntryState.WAITING)
    skills: dict[str, Any] = doc()  # extra skills this piece needs
    preferred_agent_id: str | None = text(default=None)
    preferred_until: datetime | None = at(nullable=True)  # kept for the preferred agent alone until then
    order_at: datetime = at()  # the order key: never changes
    first_arrival_at: datetime = at()
    entered_at: datetime = at()  # this queue
    agent_id: str | None = text(default=None)  # offered to, then who has it
    offer_id: str | None = text(default=None)
    offers: int = 0  # how often it was offered
    connected_at: datetime | None = at(nullable=True)
    wrapup_until: datetime | None = at(nullable=True)
    grace_until: datetime | None = at(nullable=True)  # the agent's leg is missing; afterwards the customer is rescued
    not_before: datetime | None = at(
        nullable=True
    )  # a callback asked for in the queue: the caller still hears the number
    left_at: datetime | None = at(nullable=True)
    outcome: str = text()
    version: int = 1


# Written out, so that both engines see at once that the partial indexes fit; a bound value hides it from a prepared plan.
IS_WAITING = sql_text("queue_entries.state = 'waiting'")
IS_OPEN = sql_text("queue_entries.state <> 'done'")


class Refusal(Table, table=True):
    """This agent refused or missed this piece of work; not asked again until then, unless nobody else is left."""

    __tablename__ = "refusals"

    entry_id: str = ref("queue_entries.id", primary_key=True)
    agent_id: str = ref("users.id", primary_key=True)
    until: datetime = at()
    times: int = 1


class EntryTrace(Table, table=True):
    """Why a waiting piece of work got no offer, as the last pass that decided differently said it. Gone with the wait.

    `trace` names its line (key of `LineTrace`), empty when nobody was asked.
    """

    __tablename__ = "entry_traces"

    entry_id: str = ref("queue_entries.id", primary_key=True)
    trace: dict[str, Any] = doc()
    at: datetime = at()


class LineTrace(Table, table=True):
    """What stands in each agent's way to all waiting work of one line, as the last pass saw it that saw a difference.

    Agents come and go all the time, and hundreds of pieces of work wait for the same ones: so it is not written down at each.
    """

    __tablename__ = "line_traces"

    key: str = key()  # of the line, or of the work that stands for itself
    agents: dict[str, Any] = doc()
    at: datetime = at()


BY_ID = fixed(select(Queue).where(Queue.id == bindparam("id")))


async def get(tx: Tx, queue_id: str) -> Queue:
    """The queue, or NotFound."""
    found: Queue | None = await tx.one(BY_ID, id=queue_id)
    if found is None:
        raise NotFound("There is no such queue.")
    return found


_THESE = fixed(select(Queue).where(col(Queue.id).in_(bindparam("ids", expanding=True))))


async def find_all(tx: Tx, queue_ids: Iterable[str]) -> dict[str, Queue]:
    """These queues by id."""
    return {queue.id: queue for queue in await tx.all(_THESE, ids=list(queue_ids))}


async def list_all(tx: Tx) -> list[Queue]:
    """Queues in use, by name."""
    return await tx.all(select(Queue).where(col(Queue.retired).is_(False)).order_by(col(Queue.name)))


async def list_served(tx: Tx, user_id: str) -> list[Queue]:
    """Queues that an agent serves, by name."""
    return await tx.all(
        select(Queue)
        .join(QueueMember, col(QueueMember.queue_id) == col(Queue.id))
        .where(QueueMember.user_id == user_id, col(Queue.retired).is_(False))
        .order_by(col(Queue.name))
    )


async def put_member(tx: Tx, queue_id: str, user_id: str, *, rank: int = 0) -> None:
    """Let an agent serve a queue, or change their rank there."""
    await tx.put(
        QueueMember(queue_id=queue_id, user_id=user_id, rank=rank), unique=["queue_id", "user_id"], update=["rank"]
    )
    tx.wake("router")
