"""Raw call events, and the call record that is folded from them. The record is a conclusion: fold again, get the same.

Decides what one call was: wait, ring, talk, hold, wrap, who hung up. Leaves what to do next to routing.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Index, bindparam
from sqlmodel import Field, col, select

from crm_core.db import Tx
from crm_core.ids import new_id
from crm_core.statements import fixed
from crm_core.tables import Table, at, doc, docs, key, one_of, ref, text, word


class LegRole(StrEnum):
    """Who is at the end of a leg."""

    CUSTOMER = "customer"
    AGENT = "agent"
    CONSULT = "consult"


HUB = "system"  # the hub itself, as the role of an event and as who hung up


class CallEvent(Table, table=True):
    """One raw event of a call, as the provider sent it or as the hub did it; append-only.

    `kind`: leg status words (initiated, ringing, answered, completed, busy, no-answer, failed, canceled), conference words
    (join, leave, hold, unhold, mute, unmute, end), and the hub's own (arrived, queued, offered, accepted, moved, wrapup,
    disposed, transferred, away, part_disposed, recording …).
    """

    __tablename__ = "call_events"
    __table_args__ = (Index("ix_call_events_interaction", "interaction_id", "happened_at", "sequence"),)

    id: str = key()
    interaction_id: str = text()
    leg_id: str = text()  # CallSid of the leg, empty for the hub's own
    role: str = text()  # word of LegRole, HUB, or empty
    user_id: str = text()
    kind: str = text()
    sequence: int = 0  # the provider's number within the leg; 0 when it gave none
    event_key: str = text(unique=True)  # the same event delivered twice is one row
    raw: dict[str, Any] = doc()
    happened_at: datetime = at()  # the provider's timestamp where it gives one
    received_at: datetime = at()


class CallLeg(Table, table=True):
    """One leg: a provider call tied to an interaction, so that a bare CallSid finds its place."""

    __tablename__ = "call_legs"
    __table_args__ = (one_of("role", LegRole),)

    id: str = key()  # CallSid
    interaction_id: str = ref("interactions.id")
    role: LegRole = word(LegRole)
    user_id: str = text()
    offer_id: str = text()
    conference: str = text()  # our own name of the room
    rank: int = 0  # of the leg's status; only rises
    status: str = text()
    joined_at: datetime | None = at(nullable=True)
    left_at: datetime | None = at(nullable=True)
    held: bool = False
    muted: bool = False
    created_at: datetime = at()


class CallRecord(Table, table=True):
    """The call detail record ("CDR" in exports). Milliseconds; null while unknown. Written only by `fold`."""

    __tablename__ = "call_records"

    interaction_id: str = Field(primary_key=True)
    direction: str = text()
    from_e164: str = text()
    to_e164: str = text()
    started_at: datetime | None = at(nullable=True)
    answered_at: datetime | None = at(nullable=True)  # the customer and the agent are together
    ended_at: datetime | None = at(nullable=True)
    menu_ms: int = 0
    wait_ms: int = 0
    ring_ms: int = 0
    talk_ms: int = 0
    hold_ms: int = 0
    wrap_ms: int = 0
    hung_up_by: str = text()  # customer, agent, system, or empty
    end_reason: str = text()  # completed, abandoned, busy, no-answer, failed, canceled, callback, voicemail
    agents: list[str] = docs()
    holds: int = 0
    disposition: str = text()
    events: int = 0  # how many events it was folded from


async def record_event(
    tx: Tx,
    *,
    interaction_id: str,
    kind: str,
    event_key: str,
    happened_at: datetime,
    now: datetime,
    leg_id: str = "",
    role: str = "",
    user_id: str = "",
    sequence: int = 0,
    raw: dict[str, Any] | None = None,
) -> bool:
    """Append one event; False when its key was there already."""
    row = CallEvent(
        id=new_id(now), interaction_id=interaction_id, leg_id=leg_id, role=role, user_id=user_id, kind=kind,
        sequence=sequence, event_key=event_key, raw=raw or {}, happened_at=happened_at, received_at=now,
    )  # fmt: skip
    return await tx.add_new(row, unique=["event_key"])


def note_event(
    tx: Tx, *, interaction_id: str, kind: str, event_key: str, now: datetime, leg_id: str = "", role: str = "",
    user_id: str = "", raw: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Append an event of the hub's own by the end of the unit, unless its key is there already."""
    row = CallEvent(
        id=new_id(now), interaction_id=interaction_id, leg_id=leg_id, role=role, user_id=user_id, kind=kind,
        event_key=event_key, raw=raw or {}, happened_at=now, received_at=now,
    )  # fmt: skip
    tx.later(row, unique=("event_key",))


async def note_end(tx: Tx, interaction_id: str, *, now: datetime) -> None:
    """The hub ends this call: with what the caller hears now it hangs up."""
    await record_event(
        tx, interaction_id=interaction_id, kind="hangup", event_key=f"hub:{interaction_id}:hub_ended", happened_at=now,
        now=now, role=HUB,
    )  # fmt: skip


def fold(interaction_id: str, events: Iterable[CallEvent]) -> CallRecord:
    """The call record of these events, whatever order they come in. Pure.

    Time lines: menu = arrived→queued; wait = queued→(offer accepted or left); ring = accepted→customer and agent together, or
    dialed→answered; talk = together and not held; hold = together and held; wrap = the customer is gone→disposed. They add up
    to the time from the first event to the last of them. A rescue (the agent was lost, the customer is still there) waits again.
    """
    ordered = sorted(
        events,
        key=lambda e: (
            e.happened_at, _ORDER.get(e.kind, 50), e.sequence, e.role != LegRole.CUSTOMER, e.leg_id, e.kind, e.event_key,
        ),
    )  # fmt: skip
    state = _Fold(interaction_id)
    for event in ordered:
        state.take(event)
    return state.record(len(ordered))


# At the same instant the cause comes before its effect.
_ORDER = {"arrived": 0, "queued": 1, "initiated": 2, "ringing": 3, "offered": 4, "accepted": 5, "answered": 6, "moved": 7,
          "join": 10, "hold": 20, "unhold": 21, "hangup": 55, "leave": 60, "busy": 70, "no-answer": 70, "failed": 70,
          "canceled": 70, "completed": 71, "end": 80, "callback": 85, "wrapup": 90, "disposed": 95}  # fmt: skip
_ENDINGS = {"completed", "busy", "no-answer", "failed", "canceled"}


class _Fold:
    """The clockwork: in which of menu, wait, ring, talk, hold, wrap is the call now, and since when."""

    def __init__(self, interaction_id: str) -> None:
        self.row = CallRecord(interaction_id=interaction_id)
        self.spent = dict.fromkeys(("menu", "wait", "ring", "talk", "hold", "wrap"), 0.0)
        self.phase = ""
        self.since: datetime | None = None
        self.customer_in = False
        self.held = False
        self.agents_in: set[str] = set()  # legs
        self.first_leaver = ""
        self.hung_up = ""  # who pressed the button, when the hub knows it
        self.ending = ""
        self.over = False
        self.queued = False
        self.away = False

    def enter(self, phase: str, when: datetime) -> None:
        if self.phase == phase:
            return
        if self.phase and self.since is not None:
            self.spent[self.phase] += max(0.0, (when - self.since).total_seconds() * 1000)
        # A provider's stamps are whole seconds and may lie before our own of the same moment: nothing falls between the two.
        self.phase, self.since = phase, (when if self.since is not None else self.row.started_at)

    def take(self, event: CallEvent) -> None:
        when, kind, role = event.happened_at, event.kind, event.role
        row = self.row
        row.__dict__["started_at"] = min(filter(None, (row.started_at, when)))
        if kind == "disposed":
            # Chosen late, after the time for wrap-up: a new outcome, no new time.
            row.__dict__["disposition"] = event.raw.get("disposition", "")
            if not self.away or self.over:
                self.enter("", when)
        elif kind in ("callback", "voicemail"):
            self.ending = kind
        elif kind == "hangup" and role == HUB:
            # The provider's whole seconds may put the end before it.
            self.hung_up = HUB
        elif self.over:
            return
        elif kind == "arrived":
            row.__dict__.update(
                direction=event.raw.get("direction", "inbound"),
                from_e164=event.raw.get("from", ""),
                to_e164=event.raw.get("to", ""),
            )
            self.enter("menu" if row.direction == "inbound" else "ring", when)
        elif kind == "queued":
            self.queued = True
            self.enter("wait", when)
        elif kind == "accepted":
            self.enter("ring", when)
        elif kind == "away":
            # Put through to somebody outside: they talk on without us, and no outcome of ours ends that.
            self.away = True
            self.enter("talk", when)
        elif kind == "hangup":
            self.hung_up = role
        elif kind in ("join", "leave", "hold", "unhold"):
            self._room(event)
        elif kind in _ENDINGS and role == LegRole.CUSTOMER:
            self.ending = self.ending or kind
            self.customer_in = False
            self._end(when)
        elif kind in _ENDINGS and role == LegRole.AGENT and event.leg_id in self.agents_in:
            self._agent_left(event.leg_id, when)
        elif kind == "wrapup" and self.phase in ("talk", "hold"):
            # The hub has ended the talk; the provider's own reports about it may be lost.
            self._tentative_end(when)

    def _room(self, event: CallEvent) -> None:
        when, role = event.happened_at, event.role
        if event.kind == "join":
            if role == LegRole.CUSTOMER:
                self.customer_in = True
            else:
                self.agents_in.add(event.leg_id)
                if event.user_id and event.user_id not in self.row.agents:
                    self.row.agents.append(event.user_id)
            if self.customer_in and self.agents_in:
                if self.row.answered_at is None:
                    self.row.__dict__["answered_at"] = when
                self.row.__dict__["ended_at"] = None
                self.first_leaver = ""
                self.enter("hold" if self.held else "talk", when)
        elif event.kind == "leave" and role == LegRole.CUSTOMER:
            self.customer_in = False
            # From a talk this is the end of the call. A customer whom we move back to the queue leaves the room while waiting.
            if self.phase in ("talk", "hold"):
                self.first_leaver = self.first_leaver or "customer"
                self._tentative_end(when)
        elif event.kind == "leave":
            self._agent_left(event.leg_id, when)
        elif role == LegRole.CUSTOMER:
            self.held = event.kind == "hold"
            if self.held and self.phase == "talk":
                self.row.__dict__["holds"] = self.row.holds + 1
            if self.customer_in and self.agents_in:
                self.enter("hold" if self.held else "talk", when)

    def _agent_left(self, leg_id: str, when: datetime) -> None:
        self.agents_in.discard(leg_id)
        if self.agents_in or self.phase not in ("talk", "hold"):
            return
        self.first_leaver = self.first_leaver or "agent"
        # The customer is still there without an agent: they wait again until somebody comes or they leave.
        self.enter("wait", when)

    def _tentative_end(self, when: datetime) -> None:
        self.row.__dict__["ended_at"] = when
        self.enter("wrap", when)

    def _end(self, when: datetime) -> None:
        self.over = True
        if self.phase in ("talk", "hold"):
            self.first_leaver = self.first_leaver or "customer"
        if self.phase != "wrap":
            self.row.__dict__["ended_at"] = when
            self.enter("wrap" if self.row.answered_at else "", when)

    def record(self, count: int) -> CallRecord:
        row = self.row
        answered = row.answered_at is not None
        reason = self.ending or ("completed" if answered else "")
        if row.ended_at and not answered and row.direction == "inbound" and self.ending in ("", "completed"):
            # Whoever the hub lets go after a wait was not served; whoever came to the end of a flow was.
            reason = "completed" if self.hung_up == HUB and not self.queued else "abandoned"
        times = {f"{name}_ms": round(value) for name, value in self.spent.items()}
        row.__dict__.update(
            times,
            hung_up_by=(self.hung_up or self.first_leaver or ("customer" if row.ended_at else "")),
            end_reason=reason if row.ended_at else "",
            events=count,
        )
        return row


_EVENTS = fixed(
    select(CallEvent).where(CallEvent.interaction_id == bindparam("id")).order_by(col(CallEvent.id)).limit(5000)
)
_FOLDED = [
    "direction", "from_e164", "to_e164", "started_at", "answered_at", "ended_at", "menu_ms", "wait_ms", "ring_ms", "talk_ms",
    "hold_ms", "wrap_ms", "hung_up_by", "end_reason", "agents", "holds", "disposition", "events",
]  # fmt: skip


async def refold(tx: Tx, interaction_id: str) -> CallRecord:
    """Fold all stored events again and store the record."""
    record = fold(interaction_id, await tx.all(_EVENTS, id=interaction_id))
    await tx.put(record, unique=["interaction_id"], update=_FOLDED)
    return record


_LEG = fixed(select(CallLeg).where(CallLeg.id == bindparam("id")))
_LEGS = fixed(
    select(CallLeg).where(CallLeg.interaction_id == bindparam("interaction_id")).order_by(col(CallLeg.created_at))
)


async def find_leg(tx: Tx, call_sid: str) -> CallLeg | None:
    """The leg of a CallSid."""
    leg: CallLeg | None = await tx.one(_LEG, id=call_sid)
    return leg


async def list_legs(tx: Tx, interaction_id: str) -> list[CallLeg]:
    """All legs of an interaction, oldest first."""
    return await tx.all(_LEGS, interaction_id=interaction_id)
