"""Webhook receipts: everything genuine that came in, once per (provider, event key), before anything is made of it."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Index, bindparam, update
from sqlalchemy import text as sql_text
from sqlmodel import col, func, or_, select

from crm_core.db import Tx
from crm_core.ids import new_id
from crm_core.statements import fixed
from crm_core.tables import Table, at, blob, doc, key, one_of, text, word

SWEEP_AFTER = timedelta(seconds=15)
TRIES = 5


class ReceiptState(StrEnum):
    """What became of it."""

    NEW = "new"
    DONE = "done"
    FAILED = "failed"  # its effects failed; swept again
    QUARANTINED = "quarantined"  # five tries: a person looks at it
    DISCARDED = "discarded"  # with a reason


OPEN = (ReceiptState.NEW, ReceiptState.FAILED)


class WebhookReceipt(Table, table=True):
    """One receipt. `answer` is replayed to a repeat of the same delivery."""

    __tablename__ = "webhook_receipts"
    __table_args__ = (
        one_of("state", ReceiptState),
        Index("uq_webhook_receipts_key", "provider", "event_key", unique=True),
        Index("ix_webhook_receipts_open", "state", "received_at",
              sqlite_where=sql_text("state IN ('new','failed')"), postgresql_where=sql_text("state IN ('new','failed')")),
    )  # fmt: skip

    id: str = key()
    provider: str = text()
    event_key: str = text()
    kind: str = text()  # which parser
    url: str = text()
    headers: dict[str, Any] = doc()
    body: bytes = blob()
    received_at: datetime = at()
    state: ReceiptState = word(ReceiptState, default=ReceiptState.NEW)
    attempts: int = 0
    error: str = text()
    answer: str | None = text(default=None)
    done_at: datetime | None = at(nullable=True)


async def store(
    tx: Tx,
    *,
    provider: str,
    event_key: str,
    kind: str,
    url: str,
    headers: dict[str, Any],
    body: bytes,
    now: datetime,
) -> WebhookReceipt | None:
    """Store one receipt; None when this delivery was here before."""
    receipt = WebhookReceipt(
        id=new_id(now), provider=provider, event_key=event_key, kind=kind, url=url, headers=headers, body=body,
        received_at=now,
    )  # fmt: skip
    return receipt if await tx.add_new(receipt, unique=["provider", "event_key"]) else None


def keep(
    tx: Tx,
    *,
    provider: str,
    event_key: str,
    kind: str,
    url: str,
    headers: dict[str, Any],
    body: bytes,
    state: ReceiptState,
    error: str,
    answer: str | None,
    now: datetime,
) -> None:
    """Keep one receipt with what became of it, in one row written once; Conflict by the unit's end when its key is known."""
    tx.later(
        WebhookReceipt(
            id=new_id(now), provider=provider, event_key=event_key, kind=kind, url=url, headers=headers, body=body,
            received_at=now, state=state, error=error[:1000], answer=answer, done_at=now,
            attempts=1 if state is ReceiptState.FAILED else 0,
        )
    )  # fmt: skip


_BY_KEY = fixed(
    select(WebhookReceipt).where(
        WebhookReceipt.provider == bindparam("provider"), WebhookReceipt.event_key == bindparam("event_key")
    )
)
_DONE = fixed(
    update(WebhookReceipt)
    .where(col(WebhookReceipt.id) == bindparam("receipt_id"))
    .values(state=ReceiptState.DONE, answer=bindparam("reply"), done_at=bindparam("now"), error="")
)


async def get(tx: Tx, receipt_id: str) -> WebhookReceipt | None:
    """The receipt with this id."""
    found: WebhookReceipt | None = await tx.one(select(WebhookReceipt).where(WebhookReceipt.id == receipt_id))
    return found


async def find(tx: Tx, provider: str, event_key: str) -> WebhookReceipt | None:
    """The receipt of this delivery."""
    found: WebhookReceipt | None = await tx.one(_BY_KEY, provider=provider, event_key=event_key)
    return found


async def close(tx: Tx, receipt_id: str, *, now: datetime, answer: str | None = None) -> None:
    """Its effects are committed with this transaction."""
    await tx.run_later(_DONE, receipt_id=receipt_id, reply=answer, now=now)


_LOCK = fixed(select(WebhookReceipt).where(WebhookReceipt.id == bindparam("receipt_id")).with_for_update())


async def lock_unfinished(tx: Tx, receipt_id: str) -> WebhookReceipt | None:
    """The receipt, held against everybody else until the commit; None when its effects are not owed (any more)."""
    found: WebhookReceipt | None = await tx.one(_LOCK, receipt_id=receipt_id)
    return found if found is not None and found.state in OPEN else None


async def discard(tx: Tx, receipt_id: str, *, reason: str, now: datetime, answer: str | None = None) -> None:
    """Nothing is to be made of it, and why: unknown number, unreadable, spam. It stays to be looked at."""
    guard = update(WebhookReceipt).where(col(WebhookReceipt.id) == receipt_id)
    await tx.run(guard.values(state=ReceiptState.DISCARDED, error=reason[:1000], answer=answer, done_at=now))


async def quarantine(tx: Tx, receipt_id: str, *, reason: str, now: datetime) -> None:
    """It cannot be made use of by a machine: a person looks at it."""
    guard = update(WebhookReceipt).where(col(WebhookReceipt.id) == receipt_id)
    await tx.run(guard.values(state=ReceiptState.QUARANTINED, error=reason[:1000], done_at=now))


async def fail(tx: Tx, receipt_id: str, *, error: str, now: datetime) -> None:
    """Its effects failed; it is swept again, and quarantined after five tries."""
    receipt = await tx.one(select(WebhookReceipt).where(WebhookReceipt.id == receipt_id))
    if receipt is None:
        return
    attempts = receipt.attempts + 1
    state = ReceiptState.QUARANTINED if attempts >= TRIES else ReceiptState.FAILED
    guard = update(WebhookReceipt).where(col(WebhookReceipt.id) == receipt_id)
    await tx.run(guard.values(state=state, attempts=attempts, error=error[:1000], done_at=now))


async def list_unfinished(tx: Tx, *, now: datetime, limit: int = 50) -> list[WebhookReceipt]:
    """Receipts whose effects are still owed, oldest first."""
    waiting = col(WebhookReceipt.state).in_(OPEN)
    # A failed one rests after each try, so that five tries are not over within seconds of a short outage.
    rested = or_(col(WebhookReceipt.done_at).is_(None), col(WebhookReceipt.done_at) < now - SWEEP_AFTER)
    statement = select(WebhookReceipt).where(waiting, rested, col(WebhookReceipt.received_at) < now - SWEEP_AFTER)
    return await tx.all(statement.order_by(col(WebhookReceipt.received_at), col(WebhookReceipt.id)).limit(limit))


async def count_states(tx: Tx) -> dict[str, int]:
    """How many receipts are owed or quarantined, by state: read each minute."""
    watched = [ReceiptState.NEW, ReceiptState.FAILED, ReceiptState.QUARANTINED]
    statement = select(WebhookReceipt.state, func.count()).where(col(WebhookReceipt.state).in_(watched))
    return {str(state): number for state, number in await tx.all(statement.group_by(col(WebhookReceipt.state)))}
