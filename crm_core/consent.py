"""May we contact this person, now, for this purpose? Proof of consent, suppressions, and the gate of every outbound touch.

Consent is an append-only ledger per address, channel and purpose; suppressions are addresses we must not use, and why.
`may_contact` is asked twice: when an audience is planned (forecast) and at the instant of sending (binding); its verdict
is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, time, timedelta
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy import Index, bindparam, update
from sqlmodel import Field, col, select

from crm_core import events, outgoing, outgoing_rules
from crm_core.addresses import Address, PointKind, zones
from crm_core.contacts import Contact
from crm_core.db import Tx
from crm_core.ids import new_id
from crm_core.statements import fixed
from crm_core.tables import Table, Word, at, doc, key, one_of, text, word
from crm_core.texts import Text
from crm_core.touches import count_touches


class Purpose(StrEnum):
    """Why we touch somebody. RULES says which rules bind which purpose."""

    REPLY = "reply"  # within a conversation they opened
    REQUESTED_CALLBACK = "requested_callback"
    TRANSACTIONAL = "transactional"
    SERVICE = "service"
    MARKETING = "marketing"
    TELEMARKETING = "telemarketing"
    CONFIRMATION = "confirmation"  # of a STOP or an opt-in: one message
    SYSTEM = "system"  # to our own users


class ConsentAction(StrEnum):
    """One entry of the ledger."""

    GRANTED = "granted"
    WITHDRAWN = "withdrawn"


class SuppressionReason(StrEnum):
    """Why an address must not be used."""

    ERASED = "erased"
    DEAD = "dead"
    COMPLAINT = "complaint"
    OPT_OUT = "opt_out"
    DO_NOT_CALL = "do_not_call"
    SENDER_STOP = "sender_stop"


class ConsentEvent(Table, table=True):
    """One grant or withdrawal, with its proof; never changed, never deleted."""

    __tablename__ = "consent_events"
    __table_args__ = (one_of("action", ConsentAction), Index("ix_consent_events_point", "kind", "value", "id"))

    id: str = key()
    kind: PointKind = word(PointKind)
    value: str = text()
    contact_id: str | None = text(default=None)
    channel: str = text()  # sms, email, voice, or * for all
    purpose: str = text()  # marketing, telemarketing, or * for all
    action: ConsentAction = word(ConsentAction)
    source: str = text()  # sms_keyword, form:<key>, agent, one_click, import:<id>
    evidence: dict[str, Any] = doc()  # text version, address, what they wrote
    actor: str = text()
    at: datetime = at()


class Suppression(Table, table=True):
    """An address we must not use. `sender` empty = for every sender."""

    __tablename__ = "suppressions"
    __table_args__ = (one_of("reason", SuppressionReason),)

    kind: PointKind = Field(primary_key=True, sa_type=Word(PointKind))
    value: str = Field(primary_key=True)
    reason: SuppressionReason = Field(primary_key=True, sa_type=Word(SuppressionReason))
    channel: str = Field(primary_key=True)  # sms, email, voice, or *
    purpose: str = Field(primary_key=True)  # marketing, telemarketing, or *
    sender: str = Field(primary_key=True, default="")  # channel account id
    source: str = text()
    evidence: dict[str, Any] = doc()
    since_at: datetime = at()
    expires_at: datetime | None = at(nullable=True)
    lifted_at: datetime | None = at(nullable=True)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate said: allowed, or the first rule that failed; `until` when waiting would help. Stored with the touch."""

    allowed: bool
    rule: str = ""
    reason: str = ""
    until: datetime | None = None
    checked: list[str] = field(default_factory=list)
    purpose: str = ""

    def as_doc(self) -> dict[str, Any]:
        """JSON for storage."""
        told = asdict(self)
        told["until"] = self.until.isoformat() if self.until else None
        return told


# Purpose × rule: who is bound by what (DESIGN.md 5.5). Order is the gate's order; the first failure is recorded.
GATE = ("erased", "dead", "sender_stop", "opt_out", "do_not_call", "complaint", "consent", "hours", "frequency")
RULES: dict[Purpose, frozenset[str]] = {
    Purpose.REPLY: frozenset({"erased", "dead", "sender_stop"}),
    Purpose.REQUESTED_CALLBACK: frozenset({"erased", "dead", "window"}),
    Purpose.TRANSACTIONAL: frozenset({"erased", "dead", "sender_stop", "opt_out_all", "do_not_call", "hours"}),
    Purpose.SERVICE: frozenset(
        {"erased", "dead", "sender_stop", "opt_out_all", "do_not_call", "complaint", "hours", "frequency"}
    ),
    Purpose.MARKETING: frozenset(GATE) - {"do_not_call"},
    Purpose.TELEMARKETING: frozenset(GATE),
    Purpose.CONFIRMATION: frozenset({"erased", "dead"}),
    Purpose.SYSTEM: frozenset(),
}

_SUPPRESSIONS = fixed(
    select(Suppression).where(
        Suppression.kind == bindparam("kind"),
        Suppression.value == bindparam("value"),
        col(Suppression.lifted_at).is_(None),
    )
)
_LEDGER = fixed(
    select(ConsentEvent)
    .where(ConsentEvent.kind == bindparam("kind"), ConsentEvent.value == bindparam("value"))
    .order_by(col(ConsentEvent.at).desc(), col(ConsentEvent.id).desc())
    .limit(200)
)

# Calling and texting hours where the person is: 8 to 21 is the US federal rule (47 CFR 64.1200(c)(1)); the strictest of a
# country wins. (first hour, last hour), weekday 0 = Monday. Dated 2026-11; a table of rows replaces this with the law module.
HOURS_DEFAULT = (8, 21)
HOURS: dict[str, dict[int, tuple[int, int] | None]] = {
    "FR": {**{day: (10, 20) for day in range(5)}, 5: None, 6: None},  # décret 2022-1313: weekdays 10-13, 14-20
    "GB": {**{day: (8, 21) for day in range(5)}, 5: (9, 17), 6: None},
    "DE": {**{day: (8, 20) for day in range(6)}, 6: None},
    "ES": {**{day: (9, 21) for day in range(5)}, 5: (9, 21), 6: None},
}
FREQUENCY_MARKETING = 3  # touches over all channels
FREQUENCY_WINDOW = timedelta(days=7)
TEXT_PURPOSES = {Purpose.MARKETING, Purpose.TELEMARKETING}


async def may_contact(
    tx: Tx,
    *,
    purpose: Purpose,
    channel: str,
    address: Address,
    now: datetime,
    contact: Contact | None = None,
    sender: str = "",
    window: tuple[datetime, datetime] | None = None,
    user_id: str = "",
    spend: bool = True,
    guard: outgoing.Guard | None = None,
) -> Verdict:
    """The gate. Rules of the purpose in the gate's order; the first that fails is the verdict.

    `sender` is the channel account used; `window` the promised time of a requested callback. For marketing and telemarketing
    an unknown time zone or missing consent says no. Calls and texts, whatever their purpose, pass `outgoing.py`: first
    whereto, and last (unless `spend` is false: a forecast, or counted already) how many by whom, which may lock: only where
    one writes; `guard` if it was read before.
    """
    spends = address.kind == PointKind.PHONE and channel in outgoing_rules.CHANNELS
    refused = None
    if spends:
        if guard is None:
            guard = await outgoing.load(tx, now=now, user_id=user_id, spend_on=channel if spend else "")
        refused = outgoing.refusal(guard, address.value, channel=channel, user_id=user_id, spend=False)
    if refused is None:
        verdict = await _people(
            tx, purpose=purpose, channel=channel, address=address, now=now, contact=contact, sender=sender, window=window
        )  # fmt: skip
        if verdict.allowed and spends and spend and guard is not None:
            refused = outgoing.refusal(guard, address.value, channel=channel, user_id=user_id)
        if refused is None:
            return verdict
    rule, reason, until = refused
    return Verdict(allowed=False, rule=rule, reason=reason, until=until, checked=["outgoing"], purpose=purpose)


async def _people(
    tx: Tx, *, purpose: Purpose, channel: str, address: Address, now: datetime, contact: Contact | None, sender: str,
    window: tuple[datetime, datetime] | None,
) -> Verdict:  # fmt: skip
    """What the person and the law allow."""
    bound = RULES[purpose]
    if not bound:
        return Verdict(allowed=True, purpose=purpose)
    rows = await tx.all(_SUPPRESSIONS, kind=address.kind, value=address.value)
    active = [row for row in rows if row.expires_at is None or row.expires_at > now]
    checked: list[str] = []

    def no(rule: str, reason: str, until: datetime | None = None) -> Verdict:
        return Verdict(allowed=False, rule=rule, reason=reason, until=until, checked=checked, purpose=purpose)

    if "erased" in bound and contact is not None and contact.erased_at is not None:
        checked.append("erased")
        return no("erased", Text("This person asked to be forgotten."))
    for rule, sentence in _BY_SUPPRESSION:
        if rule not in bound and not (rule == "opt_out" and "opt_out_all" in bound):
            continue
        checked.append(rule)
        for row in active:
            if row.reason == rule and _covers(row, channel, purpose, sender, everything="opt_out" not in bound):
                return no(
                    rule, Text(sentence, since_on=row.since_at.date(), source_text=row.source or "unknown source")
                )
    if "consent" in bound:
        checked.append("consent")
        if not await has_consent(tx, address, channel=channel, purpose=purpose):
            return no(
                "consent",
                Text(
                    "There is no proof of consent to %(purpose_text)s by %(channel_text)s.", purpose_text=purpose,
                    channel_text=channel,
                ),
            )  # fmt: skip
    if "window" in bound and window is not None:
        checked.append("window")
        if now < window[0]:
            return no("window", Text("The promised time has not come."), window[0])
    if "hours" in bound and channel != "email":
        checked.append("hours")
        verdict = _hours(address, contact, purpose, now)
        if verdict is not None:
            return no(*verdict)
    if "frequency" in bound and purpose in TEXT_PURPOSES:
        checked.append("frequency")
        times = await count_touches(tx, address, purpose=purpose, since=now - FREQUENCY_WINDOW)
        if len(times) >= FREQUENCY_MARKETING:
            return no(
                "frequency",
                Text("%(times)s such touches in seven days already.", times=len(times)),
                times[0] + FREQUENCY_WINDOW,
            )
    return Verdict(allowed=True, checked=checked, purpose=purpose)


_BY_SUPPRESSION = (
    ("erased", Text("This address belongs to somebody who asked to be forgotten.")),
    ("dead", Text("This address does not work since %(since_on)s (%(source_text)s).")),
    ("sender_stop", Text("They stopped this sender on %(since_on)s (%(source_text)s).")),
    ("opt_out", Text("They opted out on %(since_on)s (%(source_text)s).")),
    ("do_not_call", Text("They asked on %(since_on)s never to be called again (%(source_text)s).")),
    ("complaint", Text("They complained on %(since_on)s (%(source_text)s).")),
)


def _covers(row: Suppression, channel: str, purpose: str, sender: str, *, everything: bool) -> bool:
    if row.channel not in ("*", channel) or (row.sender and row.sender != sender):
        return False
    if row.reason in (SuppressionReason.DEAD, SuppressionReason.ERASED, SuppressionReason.SENDER_STOP):
        return True
    return row.purpose == "*" or (not everything and row.purpose == purpose)


def is_stopped(stops: Sequence[Suppression], *, channel: str, purpose: str) -> bool:
    """Whether one of these suppressions takes a consent its effect, whoever sends."""
    return any(_covers(row, channel, purpose, "", everything=False) for row in stops)


def _hours(
    address: Address, contact: Contact | None, purpose: Purpose, now: datetime
) -> tuple[str, str, datetime | None] | None:
    """None when the hour is legal in every zone the person may be in; else rule, reason and the next instant that is."""
    if contact is not None and contact.zone:
        candidates: tuple[str, ...] = (contact.zone,)
    else:
        candidates = zones(address.value)
    if not candidates:
        if purpose in TEXT_PURPOSES:
            return "hours", Text("Their time zone is unknown."), None
        return None
    country = (contact.country if contact else "") or ""
    moment = now
    for _ in range(7 * 24 * 4):
        if all(_legal(moment, zone, country) for zone in candidates):
            break
        moment = _next_quarter(moment)
    else:
        return "hours", Text("No hour is legal in every zone they may be in."), None
    if moment == now:
        return None
    told = Text("It is outside the hours allowed where they are (%(zones)s).", zones=candidates[:3])
    return "hours", told, moment


def _next_quarter(moment: datetime) -> datetime:
    """The next quarter of an hour: zones differ by quarters, so a window opens on one everywhere."""
    minutes = 15 - moment.minute % 15
    return moment.replace(second=0, microsecond=0) + timedelta(minutes=minutes)


def _legal(moment: datetime, zone: str, country: str) -> bool:
    try:
        local = moment.astimezone(ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError):
        return False
    window = HOURS.get(country, {}).get(local.weekday(), HOURS_DEFAULT)
    return window is not None and time(window[0]) <= local.time() < time(window[1])


async def has_consent(tx: Tx, address: Address, *, channel: str, purpose: Purpose) -> bool:
    """True when the latest ledger entry that covers this channel and purpose grants."""
    entries = await tx.all(_LEDGER, kind=address.kind, value=address.value)
    covering = [entry for entry in entries if entry.channel in ("*", channel) and entry.purpose in ("*", purpose)]
    # Of entries of the same instant the withdrawal counts.
    latest = [entry.action for entry in covering if entry.at == covering[0].at]
    return bool(latest) and ConsentAction.WITHDRAWN not in latest


async def grant(
    tx: Tx,
    address: Address,
    *,
    channel: str,
    purpose: str,
    source: str,
    evidence: dict[str, Any],
    actor: str,
    now: datetime,
    contact_id: str | None = None,
) -> None:
    """Write a grant. Needs evidence: what they saw or wrote. Never lifts a suppression that is wider than what is granted."""
    if not evidence:
        raise ValueError("consent cannot rise without evidence")
    await tx.add(
        ConsentEvent(
            id=new_id(now), kind=address.kind, value=address.value, contact_id=contact_id, channel=channel,
            purpose=purpose, action=ConsentAction.GRANTED, source=source, evidence=evidence, actor=actor, at=now,
        )
    )  # fmt: skip
    await events.emit(tx, "consent.granted", address.value, now=now, contact=contact_id or "")


async def opt_out(
    tx: Tx,
    address: Address,
    *,
    channel: str = "*",
    purpose: str = "*",
    sender: str = "",
    reason: SuppressionReason = SuppressionReason.OPT_OUT,
    source: str,
    evidence: dict[str, Any],
    actor: str,
    now: datetime,
    contact_id: str | None = None,
) -> None:
    """Stop using an address at once, for everything the person asked to stop. Idempotent; also ends consent in the ledger."""
    await tx.put(
        Suppression(
            kind=address.kind, value=address.value, reason=reason, channel=channel, purpose=purpose, sender=sender,
            source=source, evidence=evidence, since_at=now,
        ),
        unique=["kind", "value", "reason", "channel", "purpose", "sender"],
        update=["source", "evidence", "since_at", "expires_at", "lifted_at"],
    )  # fmt: skip
    if reason not in (SuppressionReason.DEAD, SuppressionReason.SENDER_STOP):
        await tx.add(
            ConsentEvent(
                id=new_id(now), kind=address.kind, value=address.value, contact_id=contact_id, channel=channel,
                purpose=purpose, action=ConsentAction.WITHDRAWN, source=source, evidence=evidence, actor=actor, at=now,
            )
        )  # fmt: skip
    await events.emit(tx, "consent.withdrawn", address.value, now=now, contact=contact_id or "", reason=reason)


async def lift(tx: Tx, address: Address, *, reason: SuppressionReason, channel: str, sender: str, now: datetime) -> int:
    """End suppressions of exactly this reason, channel and sender (START undoes only what that sender's STOP did)."""
    guard = update(Suppression).where(
        col(Suppression.kind) == address.kind,
        col(Suppression.value) == address.value,
        col(Suppression.reason) == reason,
        col(Suppression.channel) == channel,
        col(Suppression.sender) == sender,
        col(Suppression.lifted_at).is_(None),
    )
    return await tx.run(guard.values(lifted_at=now))


async def list_for(tx: Tx, address: Address) -> tuple[list[Suppression], list[ConsentEvent]]:
    """Active suppressions and the consent ledger (newest first, at most 200) of one address."""
    return (
        await tx.all(_SUPPRESSIONS, kind=address.kind, value=address.value),
        await tx.all(_LEDGER, kind=address.kind, value=address.value),
    )


async def list_suppressions(tx: Tx, *, after: str = "", limit: int = 50) -> list[Suppression]:
    """Active suppressions by address, from behind `after`."""
    statement = select(Suppression).where(col(Suppression.lifted_at).is_(None), col(Suppression.value) > after)
    return await tx.all(statement.order_by(col(Suppression.value)).limit(min(limit, 200)))
