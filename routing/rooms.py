"""Rooms: who sits in which conference of the provider, as its events told in whatever order; and our own names and paths.

A room is one conference of the provider (its id), tied to one interaction; after a rescue a call has a second room of the same
name. Per participant only the event with the highest sequence counts.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Index, bindparam, update
from sqlalchemy import text as sql_text
from sqlmodel import col, select

from channels.contract import RoomEvent
from crm_core import outbox
from crm_core.calls import LegRole
from crm_core.db import Tx
from crm_core.statements import fixed
from crm_core.tables import Table, at, doc, key, ref, text

HOLD_MUSIC = "/static/phone/sounds/hold.wav"


class CallRoom(Table, table=True):
    """One conference. `parties`: CallSid → {in, role, user, seq, held, muted}."""

    __tablename__ = "call_rooms"
    __table_args__ = (
        Index("ix_call_rooms_alone", "alone_since",
              sqlite_where=sql_text("alone_since IS NOT NULL"), postgresql_where=sql_text("alone_since IS NOT NULL")),
        Index("ix_call_rooms_open", "created_at",
              sqlite_where=sql_text("ended_at IS NULL"), postgresql_where=sql_text("ended_at IS NULL")),
    )  # fmt: skip

    id: str = key()  # the provider's id
    name: str = text()
    interaction_id: str = ref("interactions.id")
    parties: dict[str, Any] = doc()
    alone_since: datetime | None = at(nullable=True)  # exactly one is in it; null otherwise
    ended_at: datetime | None = at(nullable=True)
    created_at: datetime = at()
    version: int = 1


def name_of(interaction_id: str) -> str:
    """Our name of an interaction's room."""
    return f"room-{interaction_id}"


def step_path(interaction_id: str, step: str, number: int) -> str:
    """Where the provider asks for the next steps of this call."""
    return f"/webhooks/twilio/voice/step?i={interaction_id}&step={step}&n={number}"


def event_path(interaction_id: str) -> str:
    """Where the provider reports what happens in this interaction's room."""
    return f"/webhooks/twilio/voice/room?i={interaction_id}"


_LOCK = fixed(select(CallRoom).where(CallRoom.id == bindparam("id")).with_for_update())
_OF = fixed(
    select(CallRoom)
    .where(CallRoom.interaction_id == bindparam("id"))
    .order_by(col(CallRoom.created_at).desc())
    .limit(20)
)


async def list_rooms(tx: Tx, interaction_id: str) -> list[CallRoom]:
    """The interaction's rooms, latest first."""
    return await tx.all(_OF, id=interaction_id)


async def current(tx: Tx, interaction_id: str) -> CallRoom | None:
    """The interaction's room that is not over."""
    return next((room for room in await list_rooms(tx, interaction_id) if room.ended_at is None), None)


def present(room: CallRoom | None, role: LegRole, *, user_id: str = "") -> list[str]:
    """CallSids of those in the room in this role."""
    if room is None:
        return []
    return [
        call_id
        for call_id, party in room.parties.items()
        if party["in"] and party["role"] == role and (not user_id or party["user"] == user_id)
    ]


async def take_event(
    tx: Tx, event: RoomEvent, *, interaction_id: str, role: LegRole | None, user_id: str, now: datetime
) -> CallRoom | None:
    """Apply one event to its room; None when something newer is known already and nothing changed."""
    fresh = CallRoom(id=event.room_id, name=event.room, interaction_id=interaction_id, created_at=now)
    await tx.add_new(fresh, unique=["id"])
    room: CallRoom | None = await tx.one(_LOCK, id=event.room_id)
    if room is None or (room.ended_at is not None and event.kind != "end"):
        return None
    parties = {call_id: dict(party) for call_id, party in room.parties.items()}
    values: dict[str, Any] = {}
    if event.kind == "end":
        for party in parties.values():
            party["in"] = False
        values["ended_at"] = room.ended_at or now
    elif event.call_id and role is not None:
        party = parties.setdefault(
            event.call_id, {"in": False, "role": str(role), "user": user_id, "seq": -1, "held": False, "muted": False}
        )
        if event.sequence < party["seq"]:
            return None
        party["seq"] = event.sequence
        if event.kind in ("join", "leave"):
            party["in"] = event.kind == "join"
        elif event.kind in ("hold", "unhold"):
            party["held"] = event.kind == "hold"
        elif event.kind in ("mute", "unmute"):
            party["muted"] = event.kind == "mute"
    inside = sum(1 for party in parties.values() if party["in"])
    values |= {"parties": parties, "alone_since": (room.alone_since or now) if inside == 1 else None}
    guard = update(CallRoom).where(col(CallRoom.id) == room.id, col(CallRoom.version) == room.version)
    await tx.hit(guard.values(**values, version=room.version + 1))
    room.__dict__.update(values, version=room.version + 1)
    return room


async def ask_end(tx: Tx, interaction_id: str, *, now: datetime) -> None:
    """Have every room of this interaction ended that is not over."""
    for room in await list_rooms(tx, interaction_id):
        if room.ended_at is None:
            await outbox.ask(
                tx, "room.end", interaction_id, lane="control", now=now, ordering=interaction_id,
                dedupe=f"room.end:{room.id}", room_id=room.id,
            )  # fmt: skip


async def ask_hold(tx: Tx, interaction_id: str, *, on: bool, now: datetime) -> bool:
    """Have the customer put on hold with music, or taken back; False when they are in no room."""
    room = await current(tx, interaction_id)
    if room is None:
        return False
    for call_id in present(room, LegRole.CUSTOMER):
        await outbox.ask(
            tx, "call.hold", interaction_id, lane="control", now=now, ordering=interaction_id,
            room_id=room.id, call_id=call_id, on=on,
        )  # fmt: skip
        return True
    return False
