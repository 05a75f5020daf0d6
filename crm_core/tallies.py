"""Maintained counts of interactions by day, queue and state, changed in the transaction that changes the row.

Their sum is what came (invariant 1): each arrival adds one, each move subtracts one here and adds one there.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime

from sqlmodel import Field, SQLModel, col, func, select

from crm_core.db import Tx
from crm_core.tables import Table

# Several rows per count on a busy PostgreSQL, so that parallel transactions do not queue for one row; read as a sum.
SHARDS = 16


class Tally(Table, table=True):
    """How many interactions that arrived on `day` at `queue_id` are in `state`; a sum over shards."""

    __tablename__ = "tallies"

    day: str = Field(primary_key=True)  # UTC date of first arrival, ISO
    queue_id: str = Field(primary_key=True)  # empty before a queue is known
    state: str = Field(primary_key=True)  # a state word, or ended:<outcome>
    shard: int = Field(primary_key=True)
    number: int = 0


class Count(SQLModel):
    """A read count."""

    queue_id: str
    state: str
    number: int


_UNIQUE = ("day", "queue_id", "state", "shard")


async def add(tx: Tx, *, day: datetime, queue_id: str | None, state: str, by: int) -> None:
    """Add `by` to one count. Written just before the commit: there and back within one transaction costs nothing."""
    tx.add_up(_write, (day.date().isoformat(), queue_id or "", state), by)


async def _write(tx: Tx, sums: Sequence[tuple[tuple[str, ...], int]]) -> None:
    # One shard for the whole transaction, and keys in order: transactions that meet wait for one another, never in a circle.
    shard = random.randrange(SHARDS)  # noqa: S311 - spreads load, guards nothing
    for (day, queue_id, state), by in sums:
        row = Tally(day=day, queue_id=queue_id, state=state, shard=shard, number=by)
        tx.later(row, unique=_UNIQUE, add=("number",))


async def list_counts(tx: Tx, *, day: datetime) -> list[Count]:
    """Counts of the interactions that arrived on this UTC day, by queue and state."""
    statement = (
        select(Tally.queue_id, Tally.state, func.sum(Tally.number))
        .where(Tally.day == day.date().isoformat())
        .group_by(col(Tally.queue_id), col(Tally.state))
    )
    rows = await tx.all(statement)
    return [Count(queue_id=queue, state=state, number=int(number)) for queue, state, number in rows if number]
