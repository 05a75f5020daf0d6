"""Callbacks: promises to phone somebody by a time. One ends only as reached, refused, expired after its attempts, or blocked by a
named rule; never gone.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import Index
from sqlalchemy import text as sql_text

from crm_core.tables import Table, at, key, one_of, ref, text, word


class CallbackState(StrEnum):
    """Where a promise stands."""

    REQUESTED = "requested"  # not due yet
    DUE = "due"  # an entry waits for an agent
    CLAIMED = "claimed"  # an agent has it
    DIALING = "dialing"
    REACHED = "reached"
    REFUSED = "refused"  # by the customer
    EXPIRED = "expired"  # attempts used up
    BLOCKED = "blocked"  # by a named rule


_OPEN = sql_text("state IN ('requested','due','claimed','dialing')")


class Callback(Table, table=True):
    """One promise."""

    __tablename__ = "callbacks"
    __table_args__ = (
        one_of("state", CallbackState),
        Index("uq_callbacks_open", "number_e164", "queue_id", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
        Index("ix_callbacks_due", "due_at", sqlite_where=_OPEN, postgresql_where=_OPEN),
    )

    id: str = key()
    contact_id: str | None = text(default=None)
    number_e164: str = text()
    account_id: str = text()  # our number to show
    queue_id: str = ref("queues.id")
    interaction_id: str | None = text(default=None)  # the call that asked for it, in state promised
    entry_id: str | None = text(default=None)  # the present queue entry
    origin: str = text()  # in_queue, agent, form, missed
    state: CallbackState = word(CallbackState, default=CallbackState.REQUESTED)
    owner_id: str | None = text(default=None)  # personal: this agent first
    due_at: datetime = at()
    until_at: datetime | None = at(nullable=True)  # end of the promised window
    order_at: datetime = at()  # keeps the place of the call that asked
    attempts: int = 0
    max_attempts: int = 3
    rule: str = text()  # what blocked it
    note: str = text()
    created_by: str = text()
    created_at: datetime = at()
    ended_at: datetime | None = at(nullable=True)
    version: int = 1
