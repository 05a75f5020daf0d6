"""Heals what the provider's callbacks failed to tell: our calls and rooms are compared with its own lists.

Each function is one unit of work that brings one call or room up to what the provider shows, by the same steps that its
callbacks would have taken; a callback that comes late all the same changes nothing more. What only rises (an ended call, an
ended room) is believed at once; who sits in a room only when two looks in a row agree while nothing was told in between,
because a list is older than what was reported while it was being read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import bindparam
from sqlmodel import col, select

from channels.contract import CallArrived, CallProgress, RoomEvent, SeenCall, SeenRoom
from crm_core import accounts, addresses, calls, contacts, conversations, interactions, outbox, touches
from crm_core.calls import CallLeg, LegRole
from crm_core.db import Tx
from crm_core.ids import first_id, new_id
from crm_core.interactions import Interaction, InteractionState, Outcome
from crm_core.statements import fixed
from crm_core.touches import Direction
from routing import calls_in, legs, rooms, talks
from routing.matching import match
from routing.rooms import CallRoom

VOICE = "voice"
PATIENCE = timedelta(seconds=60)  # younger calls may still be on their way to us by the usual road
LEFT_OVER = timedelta(minutes=10)  # a leg that lives on so long after its call was over is hung up
ROOM_NAME = "room-"
ENDED = legs.TERMINAL

_OPEN_LEGS = fixed(
    select(CallLeg.id)
    .join(Interaction, col(Interaction.id) == col(CallLeg.interaction_id))
    .where(
        col(Interaction.state) != InteractionState.ENDED,
        Interaction.channel == VOICE,
        col(CallLeg.status).not_in(sorted(ENDED)),
        col(CallLeg.created_at) < bindparam("before"),
    )
    .order_by(col(CallLeg.created_at))
    .limit(500)
)
_OPEN_ROOMS = fixed(
    select(CallRoom)
    .join(Interaction, col(Interaction.id) == col(CallRoom.interaction_id))
    .where(col(Interaction.state) != InteractionState.ENDED, col(CallRoom.ended_at).is_(None))
    .order_by(col(CallRoom.created_at))
    .limit(500)
)


@dataclass(frozen=True, slots=True)
class Difference:
    """Somebody is, or is not, in a room, as the provider shows it and we do not. `version`: of our row when we looked."""

    room_id: str
    room: str
    kind: str  # join, leave, hold, unhold, mute, unmute
    call_id: str
    label: str
    version: int


async def list_open_legs(tx: Tx, *, now: datetime) -> list[str]:
    """CallSids that we believe to be alive, oldest first, but for those too young to judge."""
    return await tx.all(_OPEN_LEGS, before=now - PATIENCE)


async def list_open_rooms(tx: Tx) -> list[CallRoom]:
    """Rooms that we believe to be running."""
    return await tx.all(_OPEN_ROOMS)


async def need_healing(tx: Tx, seen: Sequence[SeenCall], *, now: datetime) -> list[SeenCall]:
    """Those of the provider's calls whose state here is not theirs."""
    known: dict[str, tuple[str, str]] = {}
    for start in range(0, len(seen), 200):
        ids = [each.call_id for each in seen[start : start + 200]]
        rows = await tx.all(
            select(CallLeg.id, CallLeg.status, Interaction.state)
            .join(Interaction, col(Interaction.id) == col(CallLeg.interaction_id))
            .where(col(CallLeg.id).in_(ids))
        )
        known.update({call_id: (status, state) for call_id, status, state in rows})
    found: list[SeenCall] = []
    for each in seen:
        if each.call_id not in known:
            if now - each.created_at >= PATIENCE and not each.from_raw.startswith("client:"):
                found.append(each)
            continue
        status, state = known[each.call_id]
        ended_there, ended_here = each.status in ENDED, status in ENDED
        if (ended_there and not ended_here) or (not ended_there and state == InteractionState.ENDED):
            found.append(each)
    return found


async def heal_call(tx: Tx, seen: SeenCall, *, now: datetime) -> str:
    """Bring one call up to what the provider shows; what was done, in a word, or empty."""
    leg = await calls.find_leg(tx, seen.call_id)
    if leg is None:
        return await _unknown(tx, seen, now=now)
    if seen.status in ENDED:
        if talks.over(leg):
            return ""
        await legs.call_progressed(tx, _progress(seen, now), now=now)
        return "ended"
    interaction = await interactions.get(tx, leg.interaction_id)
    wait = LEFT_OVER if leg.role == LegRole.CUSTOMER else PATIENCE
    left = interaction.ended_at is not None and now - interaction.ended_at > wait
    if interaction.state != InteractionState.ENDED or not left or "away" in interaction.data:
        return ""
    asked = await outbox.ask(
        tx, "call.end", interaction.id, lane="control", now=now, ordering=interaction.id,
        dedupe=f"call.end:{leg.id}:healed", call_id=leg.id,
    )  # fmt: skip
    return "hung up" if asked else ""


def _progress(seen: SeenCall, now: datetime) -> CallProgress:
    return CallProgress(
        seen.call_id, seen.status, seen.rank, seen.rank, seen.ended_at or now, f"{seen.call_id}:healed:{seen.status}",
        None, {"healed": "1"},
    )  # fmt: skip


async def leg_unknown_to_provider(tx: Tx, call_id: str, *, now: datetime) -> str:
    """The provider does not know this leg of ours: it cannot be alive."""
    leg = await calls.find_leg(tx, call_id)
    if leg is None or talks.over(leg):
        return ""
    rank = max(legs.RANK[status] for status in ENDED)
    event = CallProgress(call_id, "failed", rank, rank, now, f"{call_id}:healed:failed", None, {"healed": "1"})
    await legs.call_progressed(tx, event, now=now)
    return "ended"


# --- calls of which nothing was told ----------------------------------------------------------------------------------


async def _unknown(tx: Tx, seen: SeenCall, *, now: datetime) -> str:
    if seen.inbound:
        account = await accounts.find(tx, VOICE, seen.to_raw)
        if account is None or not account.enabled:
            return ""
        if seen.status in ENDED:
            await _missed(tx, account, seen, now=now)
            return "created"
        return await _arrive(tx, seen, now=now)
    return await _adopt(tx, seen, now=now)


async def _arrive(tx: Tx, seen: SeenCall, *, now: datetime) -> str:
    """They are on the line and we never heard of them: into the queue with them."""
    event = CallArrived(seen.call_id, seen.from_raw, seen.to_raw, f"{seen.call_id}:arrived", {}, {"healed": "1"})
    await calls_in.call_arrived(tx, event, now=now)
    leg = await calls.find_leg(tx, seen.call_id)
    if leg is None:
        return ""
    path = rooms.step_path(leg.interaction_id, "fallback", 0)
    await outbox.ask(
        tx, "call.move", leg.interaction_id, lane="control", now=now, ordering=leg.interaction_id,
        dedupe=f"call.move:{leg.interaction_id}:healed", call_id=seen.call_id, path=path,
    )  # fmt: skip
    return "fetched"


async def _missed(tx: Tx, account: accounts.ChannelAccount, seen: SeenCall, *, now: datetime) -> None:
    """A call that came and went while nobody could tell us: on the timeline as abandoned, at the time it happened."""
    caller = addresses.find_phone(seen.from_raw, country=account.country)
    matched = match(caller, await contacts.list_owners(tx, caller) if caller else [])
    conversation, _ = await conversations.open_thread(
        tx, channel=VOICE, account_id=account.id, thread_key=caller.value if caller else f"withheld:{seen.call_id}",
        peer=caller.value if caller else "", now=now, contact_id=matched.contact_id, queue_id=account.queue_id,
    )  # fmt: skip
    interaction = Interaction(
        id=new_id(seen.created_at), conversation_id=conversation.id, contact_id=matched.contact_id, channel=VOICE,
        direction=Direction.INBOUND, account_id=account.id, external_id=seen.call_id,
        from_address=caller.value if caller else seen.from_raw, to_address=account.address, queue_id=account.queue_id,
        state=InteractionState.MENU, match=matched.as_doc(), first_arrival_at=seen.created_at, created_at=now,
    )  # fmt: skip
    interaction.data = {"room": rooms.name_of(interaction.id), "healed": True}
    await interactions.create(tx, interaction, now=now)
    await tx.add(
        CallLeg(
            id=seen.call_id, interaction_id=interaction.id, role=LegRole.CUSTOMER, created_at=seen.created_at,
            conference=rooms.name_of(interaction.id), status="in-progress",
        )
    )  # fmt: skip
    await calls.record_event(
        tx, interaction_id=interaction.id, kind="arrived", event_key=f"hub:{interaction.id}:arrived",
        happened_at=seen.created_at, now=now, leg_id=seen.call_id, role=LegRole.CUSTOMER,
        raw={"from": interaction.from_address, "to": account.address, "direction": "inbound", "healed": "1"},
    )  # fmt: skip
    if caller is not None:
        await touches.record(
            tx, caller, direction=Direction.INBOUND, channel=VOICE, now=now, contact_id=matched.contact_id,
            interaction_id=interaction.id,
        )  # fmt: skip
    await interactions.advance(
        tx, interaction, InteractionState.ENDED, now=now, outcome=Outcome.ABANDONED, left_at=seen.ended_at or now
    )
    await legs.call_progressed(tx, _progress(seen, now), now=now)


async def _adopt(tx: Tx, seen: SeenCall, *, now: datetime) -> str:
    """A call that we placed, of which we never learnt the id (a process died in the middle): it belongs to its dial."""
    near = timedelta(minutes=3)
    rows: list[Interaction] = await tx.all(
        select(Interaction)
        .where(
            col(Interaction.id) >= first_id(seen.created_at - near),
            col(Interaction.id) < first_id(seen.created_at + near),
            Interaction.channel == VOICE,
            Interaction.direction == Direction.OUTBOUND,
            Interaction.from_address == seen.from_raw,
            Interaction.to_address == seen.to_raw,
        )
        .order_by(col(Interaction.id).desc())
        .limit(20)
    )
    for interaction in rows:
        if not interaction.data.get("placed"):
            continue
        if any(leg.role == LegRole.CUSTOMER for leg in await calls.list_legs(tx, interaction.id)):
            continue
        await legs.call_placed(tx, interaction.id, call_id=seen.call_id, now=now)
        if seen.status in ENDED:
            await legs.call_progressed(tx, _progress(seen, now), now=now)
        return "adopted"
    return ""


# --- rooms ------------------------------------------------------------------------------------------------------------


def interaction_of(room: str) -> str:
    """The interaction whose room has this name of ours; empty for a stranger's."""
    return room.removeprefix(ROOM_NAME) if room.startswith(ROOM_NAME) else ""


async def end_room(tx: Tx, seen: SeenRoom, *, now: datetime) -> str:
    """The provider says that a room is over, and nobody told us."""
    interaction_id = interaction_of(seen.room)
    known: CallRoom | None = await tx.one(select(CallRoom).where(CallRoom.id == seen.room_id))
    if known is None or known.ended_at is not None or known.interaction_id != interaction_id:
        return ""
    event = RoomEvent(
        seen.room,
        seen.room_id,
        "",
        "",
        "end",
        0,
        min(seen.updated_at, now),
        f"{seen.room_id}:healed:end",
        {"healed": "1"},
    )
    await legs.room_changed(tx, event, interaction_id=interaction_id, now=now)
    return "room ended"


async def differences(tx: Tx, seen: Iterable[SeenRoom]) -> list[Difference]:
    """Where the provider's running rooms and ours differ, now."""
    found: list[Difference] = []
    for room in seen:
        interaction_id = interaction_of(room.room)
        if room.over or not interaction_id:
            continue
        if await tx.one(select(Interaction.id).where(Interaction.id == interaction_id)) is None:
            continue
        known: CallRoom | None = await tx.one(select(CallRoom).where(CallRoom.id == room.room_id))
        if known is not None and known.ended_at is not None:
            continue
        parties = known.parties if known is not None else {}
        version = known.version if known is not None else 0
        there = {seat.call_id: seat for seat in room.seats}

        def note(kind: str, call_id: str, label: str = "", room: SeenRoom = room, version: int = version) -> None:
            found.append(Difference(room.room_id, room.room, kind, call_id, label, version))

        for call_id, seat in there.items():
            party = parties.get(call_id, {"in": False, "held": False, "muted": False})
            if not party["in"]:
                note("join", call_id, seat.label)
            if seat.held != party["held"]:
                note("hold" if seat.held else "unhold", call_id, seat.label)
            if seat.muted != party["muted"]:
                note("mute" if seat.muted else "unmute", call_id, seat.label)
        for call_id, party in parties.items():
            if party["in"] and call_id not in there:
                note("leave", call_id)
    return found


async def heal_seats(tx: Tx, seen: Sequence[Difference], *, now: datetime) -> str:
    """Bring one room's seats up to what the provider showed twice, unless something was told meanwhile."""
    interaction_id = interaction_of(seen[0].room)
    await talks.open_call(tx, interaction_id)
    known: CallRoom | None = await tx.one(select(CallRoom).where(CallRoom.id == seen[0].room_id).with_for_update())
    if (known.version if known is not None else 0) != seen[0].version:
        return ""
    for each in seen:
        party = known.parties.get(each.call_id) if known is not None else None
        # The number of the newest that is known: a later report of the provider's still counts, an older one does not.
        sequence = max(int(party["seq"]), 0) if party is not None else 0
        event = RoomEvent(
            each.room, each.room_id, each.call_id, each.label, each.kind, sequence, now,
            f"{each.room_id}:healed:{each.version}:{each.kind}:{each.call_id}", {"healed": "1"},
        )  # fmt: skip
        await legs.room_changed(tx, event, interaction_id=interaction_id, now=now)
    return "seats"
