"""Deliveries: one row per (campaign, address), its state, and the only way from one state to another.

Before the provider: planned, held, deferred and claimed go round until the first network byte. `submitting` is committed with
its key before that byte. From then on rank only rises: a late or repeated report changes nothing.
`unknown` means that the message may or may not have gone: it is examined (reconcile.py), never sent again blindly.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any

from sqlalchemy import Index, bindparam, update
from sqlalchemy import text as sql_text
from sqlmodel import col, func, select

from campaigns.counts import Delta
from crm_core.addresses import Address, PointKind
from crm_core.db import Tx
from crm_core.errors import IllegalTransition, NotFound
from crm_core.statements import Fixed, fixed
from crm_core.tables import Table, at, doc, key, one_of, ref, text, word


class DeliveryState(StrEnum):
    """One recipient's fate."""

    PLANNED = "planned"
    HELD = "held"  # waits for a rule (hours, frequency) until due_at
    DEFERRED = "deferred"  # refused for now by the provider; tried again at due_at
    CLAIMED = "claimed"  # a worker has it; nothing sent
    SUBMITTING = "submitting"  # key committed; the next thing is the network
    UNKNOWN = "unknown"  # may or may not have gone
    ACCEPTED = "accepted"  # the provider has it
    SENT = "sent"
    DELIVERED = "delivered"
    BOUNCED = "bounced"  # this address cannot be reached
    UNDELIVERED = "undelivered"  # accepted, then not delivered
    COMPLAINED = "complained"
    FAILED = "failed"
    SUPPRESSED = "suppressed"  # the gate's rule stands in `rule`
    SKIPPED = "skipped"  # nothing to send to, or the text could not be made
    EXPIRED = "expired"
    CANCELLED = "cancelled"


_D = DeliveryState
WAITING = frozenset({_D.PLANNED, _D.HELD, _D.DEFERRED})
IN_FLIGHT = frozenset({_D.CLAIMED, _D.SUBMITTING})
OPEN = WAITING | IN_FLIGHT  # something is still to be done by us; `unknown` is open until it was examined
BEFORE_SENDING = frozenset({_D.SUPPRESSED, _D.SKIPPED, _D.EXPIRED, _D.CANCELLED})
TERMINAL = frozenset(_D) - OPEN - {_D.UNKNOWN}
AFTER_SUBMIT = frozenset({_D.ACCEPTED, _D.SENT, _D.DELIVERED, _D.BOUNCED, _D.UNDELIVERED, _D.COMPLAINED, _D.FAILED})

RANK: dict[DeliveryState, int] = {
    **dict.fromkeys((*WAITING, _D.CLAIMED, *BEFORE_SENDING), 0),
    _D.SUBMITTING: 1,
    _D.UNKNOWN: 2,
    _D.ACCEPTED: 3,
    _D.SENT: 4,
    _D.UNDELIVERED: 5,
    _D.FAILED: 5,
    _D.BOUNCED: 5,
    _D.DELIVERED: 6,
    _D.COMPLAINED: 7,
}


def _rising(state: DeliveryState) -> frozenset[DeliveryState]:
    return frozenset(to for to in AFTER_SUBMIT if RANK[to] > RANK[state])


ALLOWED: dict[DeliveryState, frozenset[DeliveryState]] = {
    # A report about an earlier attempt may show that it did go: then the row must not be sent again.
    **dict.fromkeys(WAITING, WAITING | BEFORE_SENDING | AFTER_SUBMIT | {_D.CLAIMED}),
    _D.CLAIMED: WAITING | BEFORE_SENDING | AFTER_SUBMIT | {_D.SUBMITTING},
    # Back to waiting only after a definite refusal: the provider certainly did not take it.
    _D.SUBMITTING: WAITING | AFTER_SUBMIT | {_D.UNKNOWN, _D.SUPPRESSED},
    _D.UNKNOWN: AFTER_SUBMIT | {_D.PLANNED, _D.SUPPRESSED},
    _D.ACCEPTED: _rising(_D.ACCEPTED),
    _D.SENT: _rising(_D.SENT),
    _D.UNDELIVERED: _rising(_D.UNDELIVERED),
    _D.FAILED: _rising(_D.FAILED),
    _D.BOUNCED: _rising(_D.BOUNCED),
    _D.DELIVERED: _rising(_D.DELIVERED),
    _D.COMPLAINED: frozenset(),
    # The gate stopped it or somebody cancelled, yet a report about an earlier attempt proves that it went.
    **dict.fromkeys(BEFORE_SENDING, AFTER_SUBMIT),
}

_CLAIMABLE = "deliveries.state IN ('planned','held','deferred')"
_UNDER_LEASE = "deliveries.state IN ('claimed','submitting')"
_DOUBTFUL = "deliveries.state = 'unknown'"


def _where(words: str) -> dict[str, Any]:
    bare = sql_text(words.replace("deliveries.", ""))
    return {"sqlite_where": bare, "postgresql_where": bare}


class Delivery(Table, table=True):
    """One recipient of one campaign. `version` rises with every change and is the fencing token of a claim."""

    __tablename__ = "deliveries"
    __table_args__ = (
        one_of("state", DeliveryState),
        Index("uq_deliveries_address", "campaign_id", "kind", "value", unique=True),
        Index("ix_deliveries_claim", "campaign_id", "due_at", "id", **_where(_CLAIMABLE)),
        Index("ix_deliveries_lease", "lease_until", **_where(_UNDER_LEASE)),
        Index("ix_deliveries_doubtful", "campaign_id", "id", **_where(_DOUBTFUL)),
        Index("ix_deliveries_state", "campaign_id", "state", "id"),
        Index("ix_deliveries_external", "external_id", **_where("external_id <> ''")),
        Index("ix_deliveries_value", "value"),
    )

    id: str = key()
    campaign_id: str = ref("campaigns.id", index=False)
    kind: PointKind = word(PointKind)
    value: str = text()  # normalised address
    contact_id: str | None = text(default=None)
    name: str = text()
    fields: dict[str, Any] = doc()  # merge fields as frozen: flat, strings only
    state: DeliveryState = word(DeliveryState, default=DeliveryState.PLANNED)
    rule: str = text()  # the gate's rule that held or stopped it
    reason: str = text()  # a sentence for people
    forecast: str = text()  # what the gate said when the audience was frozen: a rule, or empty for yes
    verdict: dict[str, Any] = doc()  # the gate's last, binding answer
    due_at: datetime = at()  # waiting states: not before
    lease_until: datetime | None = at(nullable=True)  # claimed, submitting: whose it is until then
    worker: str = text()
    attempt: int = 0  # rises when the key is committed
    our_key: str = text()  # of the last attempt: <id>-<attempt>; in callbacks, logs
    content_version: int = 0  # what it was rendered from; 0 = not yet
    external_id: str = text()  # MessageSid, Message-ID
    error_code: str = text()
    error: str = text()
    touch_id: str | None = text(default=None)  # the touch reserved at the claim
    submitted_at: datetime | None = at(nullable=True)  # key committed
    unknown_at: datetime | None = at(nullable=True)
    examined_at: datetime | None = at(nullable=True)  # unknown, and no evidence was found in time: stays unknown
    unsubscribed_at: datetime | None = at(nullable=True)
    updated_at: datetime = at()
    version: int = 1

    @property
    def address(self) -> Address:
        """The recipient's address."""
        return Address(self.kind, self.value, self.value)


def key_of(delivery_id: str, attempt: int) -> str:
    """The key of one attempt. It names the row, so that a report about an earlier attempt is recognised too."""
    return f"{delivery_id}-{attempt}"


def id_of_key(our_key: str) -> str:
    """The delivery a key belongs to; empty when it is no key of ours."""
    head, dash, tail = our_key.rpartition("-")
    return head if dash and tail.isdigit() and len(head) == 26 else ""


@lru_cache(maxsize=200)
def _setting(names: tuple[str, ...]) -> Fixed[Any]:
    """The guarded UPDATE of these columns, built once: a hundred thousand rows take the same few of them."""
    return fixed(
        update(Delivery)
        .where(
            col(Delivery.id) == bindparam("b_id"),
            col(Delivery.version) == bindparam("b_version"),
            col(Delivery.state) == bindparam("b_state"),
        )
        .values(**{name: bindparam(f"v_{name}") for name in names})
    )


async def move(tx: Tx, delivery: Delivery, to: DeliveryState, *, now: datetime, delta: Delta, **changes: Any) -> bool:
    """Move one row, if nobody else did meanwhile (False). IllegalTransition when the table above forbids it.

    `delta` is the unit's count keeper; the caller writes it at the end of the unit.
    """
    if to not in ALLOWED[delivery.state]:
        raise IllegalTransition(
            "A delivery does not go from %(from_text)s to %(to_text)s.", from_text=delivery.state, to_text=to
        )
    if to not in IN_FLIGHT:
        changes.setdefault("lease_until", None)
        changes.setdefault("worker", "")
    values = {**changes, "state": to, "updated_at": now, "version": delivery.version + 1}
    guard = {"b_id": delivery.id, "b_version": delivery.version, "b_state": delivery.state}
    if await tx.run(_setting(tuple(sorted(values))), **guard, **{f"v_{name}": values[name] for name in values}) != 1:
        return False
    delta.move(delivery.state, to)
    delivery.__dict__.update(values)
    return True


def copy(row: Delivery) -> Delivery:
    """The row as a value of its own: a unit of work may run twice, and a moved row would not move again."""
    made = object.__new__(Delivery)
    object.__setattr__(made, "__dict__", {name: row.__dict__[name] for name in _NAMES})
    object.__setattr__(made, "__pydantic_fields_set__", _NAMES)
    object.__setattr__(made, "__pydantic_extra__", None)
    object.__setattr__(made, "__pydantic_private__", None)
    return made


_NAMES = frozenset(Delivery.model_fields)
_DUE = fixed(
    select(Delivery)
    .where(
        Delivery.campaign_id == bindparam("campaign_id"),
        sql_text(_CLAIMABLE),
        Delivery.due_at <= bindparam("now"),
    )
    .order_by(col(Delivery.due_at), col(Delivery.id))
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)


async def list_claimable(tx: Tx, campaign_id: str, *, now: datetime, limit: int) -> list[Delivery]:
    """Waiting rows that are due, oldest first, locked where the engine can, so that two workers get different ones."""
    return await tx.all(_DUE, campaign_id=campaign_id, now=now, limit=limit)


_NEXT = fixed(
    select(Delivery.due_at)
    .where(Delivery.campaign_id == bindparam("campaign_id"), sql_text(_CLAIMABLE))
    .order_by(col(Delivery.due_at), col(Delivery.id))
    .limit(1)
)


async def next_due(tx: Tx, campaign_id: str) -> datetime | None:
    """When the next waiting row is due; None when none waits."""
    due: datetime | None = await tx.one(_NEXT, campaign_id=campaign_id)
    return due


_EXPIRED = fixed(
    select(Delivery)
    .where(sql_text(_UNDER_LEASE), Delivery.lease_until <= bindparam("now"))
    .order_by(col(Delivery.lease_until))
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)


async def list_expired(tx: Tx, *, now: datetime, limit: int = 200) -> list[Delivery]:
    """Claimed and submitting rows whose worker let the lease run out: it was killed, or is stuck."""
    return await tx.all(_EXPIRED, now=now, limit=limit)


_DOUBTFUL_OF = fixed(
    select(Delivery)
    .where(Delivery.campaign_id == bindparam("campaign_id"), sql_text(_DOUBTFUL), col(Delivery.id) > bindparam("after"))
    .order_by(col(Delivery.id))
    .limit(bindparam("limit"))
)


async def list_unknown(tx: Tx, campaign_id: str, *, after: str = "", limit: int = 200) -> list[Delivery]:
    """The doubtful ones, by name: those who may or may not have got it."""
    return await tx.all(_DOUBTFUL_OF, campaign_id=campaign_id, after=after, limit=limit)


_UNEXAMINED = fixed(
    select(func.count())
    .select_from(Delivery)
    .where(Delivery.campaign_id == bindparam("campaign_id"), sql_text(_DOUBTFUL), col(Delivery.examined_at).is_(None))
)


async def count_unexamined(tx: Tx, campaign_id: str) -> int:
    """Doubtful rows for which evidence is still looked for."""
    return int(await tx.one(_UNEXAMINED, campaign_id=campaign_id) or 0)


_GET = fixed(select(Delivery).where(Delivery.id == bindparam("id")))
_BY_ADDRESS = fixed(
    select(Delivery).where(
        Delivery.campaign_id == bindparam("campaign_id"),
        Delivery.kind == bindparam("kind"),
        Delivery.value == bindparam("value"),
    )
)


async def find(tx: Tx, delivery_id: str) -> Delivery | None:
    """The row, or None."""
    found: Delivery | None = await tx.one(_GET, id=delivery_id)
    return found


async def get(tx: Tx, delivery_id: str) -> Delivery:
    """The row, or NotFound."""
    found = await find(tx, delivery_id)
    if found is None:
        raise NotFound("There is no such delivery.")
    return found


async def find_by_address(tx: Tx, campaign_id: str, address: Address) -> Delivery | None:
    """The campaign's row for this address."""
    found: Delivery | None = await tx.one(_BY_ADDRESS, campaign_id=campaign_id, kind=address.kind, value=address.value)
    return found


async def list_page(
    tx: Tx, campaign_id: str, *, state: DeliveryState | None = None, after: str = "", limit: int = 50
) -> list[Delivery]:
    """Rows of a campaign, of one state or all, by id from behind `after` (keyset)."""
    statement = select(Delivery).where(Delivery.campaign_id == campaign_id, col(Delivery.id) > after)
    if state is not None:
        statement = statement.where(Delivery.state == state)
    return await tx.all(statement.order_by(col(Delivery.id)).limit(min(limit, 500)))


async def count_rows(tx: Tx, campaign_id: str) -> dict[str, int]:
    """The truth behind the maintained counts: rows by state. Reads them all; for checks and tests."""
    rows = await tx.all(
        select(Delivery.state, func.count()).where(Delivery.campaign_id == campaign_id).group_by(col(Delivery.state))
    )
    return {str(state): int(number) for state, number in rows}


async def list_of_contact(tx: Tx, contact_id: str, values: Sequence[str], *, limit: int = 50) -> list[Delivery]:
    """What campaigns sent or meant to send to these addresses, newest first: for the timeline."""
    statement = select(Delivery).where(col(Delivery.value).in_(values))
    rows = await tx.all(statement.order_by(col(Delivery.id).desc()).limit(limit))
    return [row for row in rows if row.contact_id in (None, contact_id)]
