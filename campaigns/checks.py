"""The ledger's invariants as queries: each sentence that comes back is a defect. Run every minute, and by the tests."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import text as sql_text
from sqlmodel import col, func, select

from campaigns import call_lists, counts, deliveries
from campaigns.call_lists import CallList, ListEntry
from campaigns.campaigns import Campaign, CampaignState
from campaigns.deliveries import OPEN, Delivery
from crm_core.db import Tx

RECENT = 20  # campaigns and lists looked at, newest first
SMALL = 20_000  # rows counted one by one each minute; larger ones are compared by night's full check
LATE = timedelta(minutes=5)  # a lease that ran out longer ago was never swept


async def check_invariants(tx: Tx, *, now: datetime) -> list[str]:
    """Sentences about everything that is not as it must be; empty when all is well."""
    return [*await _campaigns(tx), *await _lists(tx), *await _leases(tx, now), *await _numbers(tx)]


async def _campaigns(tx: Tx) -> list[str]:
    wrong: list[str] = []
    for row in await tx.all(select(Campaign).order_by(col(Campaign.id).desc()).limit(RECENT)):
        kept = await counts.read(tx, row.id)
        if row.state == CampaignState.FINISHED and (still := sorted(set(kept) & {str(state) for state in OPEN})):
            wrong.append(f"campaign {row.id} is finished with rows {', '.join(still)}")
        if sum(kept.values()) <= SMALL and kept != (true := await deliveries.count_rows(tx, row.id)):
            wrong.append(f"campaign {row.id} counts {kept}, its rows are {true}")
    return wrong


async def _lists(tx: Tx) -> list[str]:
    wrong: list[str] = []
    for list_id in await tx.all(select(CallList.id).order_by(col(CallList.id).desc()).limit(RECENT)):
        kept = await counts.read(tx, list_id)
        if sum(kept.values()) <= SMALL and kept != (true := await call_lists.count_entries(tx, list_id)):
            wrong.append(f"call list {list_id} counts {kept}, its entries are {true}")
    return wrong


async def _leases(tx: Tx, now: datetime) -> list[str]:
    late = await tx.one(
        select(func.count())
        .select_from(Delivery)
        .where(sql_text("deliveries.state IN ('claimed','submitting')"), col(Delivery.lease_until) <= now - LATE)
    )
    return [f"{late} deliveries stand under leases that ran out over five minutes ago"] if late else []


async def _numbers(tx: Tx) -> list[str]:
    doubled = await tx.all(
        select(ListEntry.value)
        .where(sql_text("list_entries.state = 'locked'"))
        .group_by(col(ListEntry.value))
        .having(func.count() > 1)
        .limit(20)
    )
    return [f"number {value[:4]}… is in two hands" for value in doubled]
