"""Every touch, in and out: one row each, with the gate's verdict for outbound ones. Frequency caps count here."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Index, bindparam
from sqlmodel import col, select

from crm_core import outgoing
from crm_core.addresses import Address, PointKind
from crm_core.db import Tx
from crm_core.ids import new_id
from crm_core.statements import fixed
from crm_core.tables import Table, at, doc, key, one_of, text, word


class Direction(StrEnum):
    """Who started it."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


class Touch(Table, table=True):
    """One touch, or one refused attempt at one (`allowed` false)."""

    __tablename__ = "touches"
    __table_args__ = (
        one_of("direction", Direction),
        Index("ix_touches_point", "kind", "value", "at"),
        Index("ix_touches_contact", "contact_id", "at"),
    )

    id: str = key()
    direction: Direction = word(Direction)
    channel: str = text()
    kind: PointKind = word(PointKind)
    value: str = text()
    contact_id: str | None = text(default=None)
    purpose: str = text()  # empty for inbound
    interaction_id: str | None = text(default=None)
    delivery_id: str | None = text(default=None)
    user_id: str | None = text(default=None)
    allowed: bool = True
    rule: str = text()  # the rule that refused it
    verdict: dict[str, Any] = doc()
    at: datetime = at()


async def record(
    tx: Tx,
    address: Address,
    *,
    direction: Direction,
    channel: str,
    now: datetime,
    purpose: str = "",
    verdict: dict[str, Any] | None = None,
    **ids: str | None,
) -> Touch:
    """Append one touch. `ids`: contact_id, interaction_id, delivery_id, user_id. One that goes out is counted (outgoing.py)."""
    if direction == Direction.OUTBOUND and (verdict is None or verdict["allowed"]):
        await outgoing.count(tx, channel, address.value, now=now, user_id=ids.get("user_id") or "")
    return tx.later(
        Touch(
            id=new_id(now),
            direction=direction,
            channel=channel,
            kind=address.kind,
            value=address.value,
            purpose=purpose,
            allowed=verdict is None or bool(verdict["allowed"]),
            rule="" if verdict is None else verdict["rule"],
            verdict=verdict or {},
            at=now,
            **ids,
        )
    )


_TIMES = fixed(
    select(Touch.at)
    .where(
        Touch.kind == bindparam("kind"),
        Touch.value == bindparam("value"),
        Touch.at > bindparam("since"),
        Touch.direction == Direction.OUTBOUND,
        Touch.allowed == True,  # noqa: E712 - SQL, not Python
        Touch.purpose == bindparam("purpose"),
    )
    .order_by(col(Touch.at))
    .limit(100)
)


async def count_touches(tx: Tx, address: Address, *, purpose: str, since: datetime) -> list[datetime]:
    """When this address was touched for this purpose since then, over all channels, oldest first; at most 100."""
    return await tx.all(_TIMES, kind=address.kind, value=address.value, since=since, purpose=purpose)
