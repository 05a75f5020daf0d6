"""The permission gate at the instant of an agent's own touch: asked, stored with the touch, told in a sentence when it says no.

A refusal undoes the transaction that asked, so the entrance stores it in a second one with `record_refusal`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from crm_core import contacts, touches
from crm_core.addresses import Address, PointKind
from crm_core.consent import Purpose, Verdict, may_contact
from crm_core.db import Tx
from crm_core.errors import Refused
from crm_core.touches import Direction
from routing import callbacks

PERMANENT = {
    "erased",
    "dead",
    "opt_out",
    "do_not_call",
    "complaint",
    "sender_stop",
    "consent",
    "destination",
    "emergency",
}


async def ask(
    tx: Tx,
    address: Address,
    *,
    purpose: Purpose,
    channel: str,
    sender: str,
    user_id: str,
    now: datetime,
    contact_id: str | None = None,
    callback_id: str | None = None,
    window: tuple[datetime, datetime] | None = None,
) -> Verdict:
    """The verdict when it allows; Refused with its rule and sentence when it does not."""
    contact = await contacts.find(tx, contact_id) if contact_id else None
    verdict = await may_contact(
        tx,
        purpose=purpose,
        channel=channel,
        address=address,
        now=now,
        contact=contact,
        sender=sender,
        window=window,
        user_id=user_id,
    )
    if not verdict.allowed:
        raise Refused(
            verdict.reason, rule=verdict.rule, kind=str(address.kind), value=address.value, channel=channel,
            purpose=str(purpose), contact_id=contact_id, user_id=user_id, callback_id=callback_id,
            until=verdict.until.isoformat() if verdict.until else None, verdict=verdict.as_doc(),
        )  # fmt: skip
    return verdict


async def record(tx: Tx, address: Address, verdict: Verdict, *, channel: str, now: datetime, **ids: str | None) -> None:
    """Store an allowed touch with its verdict. `ids` as in touches.record."""
    await touches.record(
        tx, address, direction=Direction.OUTBOUND, channel=channel, now=now, purpose=str(verdict.purpose),
        verdict=verdict.as_doc(), **ids,
    )  # fmt: skip


async def record_refusal(tx: Tx, refused: Refused, *, now: datetime) -> None:
    """Store what the gate refused: the touch that did not happen; a callback is blocked for good, or put off until it may be.

    Call it in a new transaction when start_call or reply raised Refused. Refusals of other origin are ignored.
    """
    told: dict[str, Any] = refused.data
    if "verdict" not in told:
        return
    address = Address(PointKind(told["kind"]), told["value"], told["value"])
    await touches.record(
        tx, address, direction=Direction.OUTBOUND, channel=told["channel"], now=now, purpose=told["purpose"],
        verdict=told["verdict"], contact_id=told["contact_id"], user_id=told["user_id"],
    )  # fmt: skip
    if told["callback_id"] is None:
        return
    if refused.rule in PERMANENT:
        await callbacks.blocked(tx, told["callback_id"], rule=refused.rule, now=now)
    else:
        until = datetime.fromisoformat(told["until"]) if told["until"] else now + timedelta(hours=1)
        await callbacks.postpone(tx, told["callback_id"], due_at=until, now=now)
