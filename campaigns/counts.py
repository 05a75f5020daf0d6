"""Maintained counts of deliveries and list entries by state, changed in the transaction that moves the row.

The rows are the truth; these sums exist so that a screen need not count a million rows. Tests and the minute's check hold
them equal to a query over the rows.
"""

from __future__ import annotations

import random
from collections import Counter

from sqlalchemy import bindparam
from sqlmodel import Field, col, func, select

from crm_core.db import Tx
from crm_core.statements import fixed
from crm_core.tables import Table

# Several rows per count, so that workers on PostgreSQL do not queue for one row; read as a sum.
SHARDS = 8
STATE, FORECAST, EVENT = "state", "forecast", "event"


class CampaignCount(Table, table=True):
    """How many rows of a campaign or call list (`subject_id`) stand under `word`; a sum over shards."""

    __tablename__ = "campaign_counts"

    subject_id: str = Field(primary_key=True)
    kind: str = Field(
        primary_key=True
    )  # state: of the rows now; forecast: the gate's first look; event: unsubscribed …
    word: str = Field(primary_key=True)
    shard: int = Field(primary_key=True)
    number: int = 0


_UNIQUE = ("subject_id", "kind", "word", "shard")


class Delta:
    """Changes to the counts of one subject within one unit of work; `write` once, at its end."""

    __slots__ = ("_changes", "subject_id")

    def __init__(self, subject_id: str) -> None:
        self.subject_id = subject_id
        self._changes: Counter[tuple[str, str]] = Counter()

    def add(self, word: str, by: int = 1, *, kind: str = STATE) -> None:
        """`by` more rows stand under `word`."""
        self._changes[kind, word] += by

    def move(self, before: str, after: str) -> None:
        """One row went from one state to another."""
        self._changes[STATE, before] -= 1
        self._changes[STATE, after] += 1

    async def write(self, tx: Tx) -> None:
        """Put the changes into the transaction, in one order everywhere, so that two transactions cannot deadlock."""
        shard = random.randrange(SHARDS)  # noqa: S311 - spreads load, guards nothing
        for (kind, word), by in sorted(self._changes.items()):
            if by:
                row = CampaignCount(subject_id=self.subject_id, kind=kind, word=word, shard=shard, number=by)
                await tx.put(row, unique=_UNIQUE, add=["number"])
        self._changes.clear()


_READ = fixed(
    select(CampaignCount.word, func.sum(CampaignCount.number))
    .where(CampaignCount.subject_id == bindparam("subject_id"), CampaignCount.kind == bindparam("kind"))
    .group_by(col(CampaignCount.word))
)


async def read(tx: Tx, subject_id: str, *, kind: str = STATE) -> dict[str, int]:
    """Counts by word; words at zero are left out."""
    rows = await tx.all(_READ, subject_id=subject_id, kind=kind)
    return {word: int(number) for word, number in rows if number}
