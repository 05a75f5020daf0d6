"""What an agent does: accept, refuse, change activity, hold, hang up, finish. Used by the desktop and the API alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import update
from sqlmodel import col, select

from crm_core import addresses, calls, consent, contacts, interactions
from crm_core.calls import CallLeg, LegRole
from crm_core.consent import SuppressionReason
from crm_core.db import Rerun, Tx
from crm_core.errors import Conflict, Invalid, NotAllowed, NotFound
from crm_core.interactions import Disposition, Interaction, InteractionState, Outcome
from crm_core.texts import Text
from crm_core.touches import Direction
from routing import (
    agent_phones,
    agents,
    callbacks,
    entries,
    offer_ends,
    offering,
    offers,
    queues,
    rooms,
    talks,
    transfers,
)
from routing.agents import Activity, Agent
from routing.calls_agent import nonce_of
from routing.calls_out import start_call
from routing.entries import DEFAULT_DISPOSITION
from routing.offer_ends import Ending
from routing.offers import Offer, OfferState
from routing.queues import EntryState, Lane, QueueEntry

__all__ = [
    "Refused", "accept", "finish", "hang_up", "heartbeat", "hold", "mute", "refuse", "refuse_all", "rejoin", "set_activity",
    "start_call",
]  # fmt: skip


async def _mine(tx: Tx, offer_id: str, agent_id: str) -> tuple[Offer, QueueEntry]:
    seen = await offers.get(tx, offer_id)
    if seen.agent_id != agent_id:
        raise NotFound("There is no such offer.")
    entry = await entries.lock(tx, seen.entry_id)
    return await offers.get(tx, offer_id), entry


async def accept(tx: Tx, offer_id: str, *, agent_id: str, now: datetime) -> Offer:
    """Take an offer. A call: accepting, with the nonce that the browser's call must show, until both are in the room. Written
    work, callbacks and web forms: won at once. Conflict with the reason when it is over.
    """
    offer, entry = await _mine(tx, offer_id, agent_id)
    if offer.state == OfferState.ACCEPTING:
        return offer  # pressed twice: the same nonce again
    if offer.state != OfferState.OPEN:
        raise Conflict(_why_over(offer), reason=offer.reason or str(offer.state))
    if offer.deadline_at <= now:
        raise Conflict("This offer has run out.", reason="expired")
    interaction = await interactions.get(tx, entry.interaction_id)
    live_caller = interaction.state == InteractionState.OFFERED and "room" in interaction.data
    if not live_caller:
        await offering.accept(tx, entry, offer, deadline_at=None, now=now)
        await offering.win(tx, entry, offer, now=now)
        if entry.callback_id is not None:
            await callbacks.claimed(tx, entry.callback_id, agent_id=agent_id, now=now)
        return offer
    queue = await queues.get(tx, entry.queue_id)
    await offering.accept(
        tx, entry, offer, deadline_at=now + timedelta(seconds=queue.accept_timeout_s), now=now
    )  # fmt: skip
    await entries.tell_calls(tx, entry, "accepted", now=now, user_id=agent_id, key=offer.id)
    await agent_phones.ring(tx, interaction, agent_id, offer_id=offer.id, timeout_s=queue.accept_timeout_s - 2, now=now)
    return offer


def _why_over(offer: Offer) -> str:
    told = {
        OfferState.EXPIRED: Text("This offer has run out."),
        OfferState.WON: Text("You have this already."),
        OfferState.REFUSED: Text("You have refused this."),
    }
    return told.get(offer.state, Text("This offer is gone: %(why_text)s.", why_text=offer.reason or offer.state))


@dataclass(frozen=True, slots=True)
class Refused:
    """An agent's no to an offer."""

    offer_id: str
    agent_id: str
    reason: str = ""


async def refuse(tx: Tx, offer_id: str, *, agent_id: str, now: datetime, reason: str = "") -> None:
    """Say no; the work waits again at its place and this agent is not asked again during the queue's cool-off."""
    [wrong] = await refuse_all(tx, [Refused(offer_id, agent_id, reason)], now=now)
    if wrong is not None:
        raise wrong


async def refuse_all(tx: Tx, said: Sequence[Refused], *, now: datetime) -> list[NotFound | Conflict | None]:
    """`refuse` for several at once: what is wrong with each, or None for those that are refused now."""
    held = await offer_ends.hold_all(tx, sorted({one.offer_id for one in said}))
    answers: list[NotFound | Conflict | None] = []
    endings: dict[str, Ending] = {}
    for one in said:
        known = held.get(one.offer_id)
        if known is None or known.offer.agent_id != one.agent_id:
            answers.append(NotFound("There is no such offer."))
        elif known.offer.state in offers.LIVE:
            endings.setdefault(one.offer_id, Ending(known, OfferState.REFUSED, one.reason[:200], remembered=True))
            answers.append(None)
        else:
            answers.append(None if known.offer.state == OfferState.REFUSED else Conflict(_why_over(known.offer)))
    accepted = [held[offer_id].entry for offer_id in endings if held[offer_id].offer.state == OfferState.ACCEPTING]
    await offer_ends.end_all(tx, list(endings.values()), now=now)
    for entry in accepted:
        await talks.end_legs(tx, entry.interaction_id, LegRole.AGENT, now=now)
        await entries.tell_calls(tx, entry, "queued", now=now)
    return answers


async def set_activity(
    tx: Tx, agent_id: str, activity: Activity | str, *, now: datetime, reason: str = "", cause: str = "agent"
) -> Agent:
    """Change what an agent does. During live work it is noted and takes effect when that ends; offers not yet accepted go back
    to the queue without blame. Going offline gives written work back, to be taken up by others.
    """
    wanted = Activity(activity)
    if await agents.find(tx, agent_id) is None:
        await agents.ensure(tx, agent_id, now=now)
    if wanted != Activity.AVAILABLE:
        said = Text("the agent is %(activity_text)s", activity_text=wanted.replace("_", " "))
        await offer_ends.withdraw_open(tx, agent_id, reason=said, now=now)
    if wanted == Activity.OFFLINE:
        await give_back_text(tx, agent_id, now=now)
    agent = await agents.lock(tx, agent_id)
    if wanted != Activity.AVAILABLE and any(
        one.state == OfferState.OPEN for one in await offers.list_live(tx, agent_id)
    ):
        raise Rerun("The router offered them something in this instant.")
    if wanted == Activity.AVAILABLE:
        await agents.change(
            tx, agent, now=now, by=cause, activity=wanted, reason="", next_activity="", next_reason="", misses=0,
            seen_at=now,
        )  # fmt: skip
    elif agent.live_load or agent.wrapups:
        await agents.change(tx, agent, now=now, next_activity=str(wanted), next_reason=reason[:200])
    else:
        await agents.change(
            tx, agent, now=now, by=cause, activity=wanted, reason=reason[:200], next_activity="", next_reason=""
        )
    return agent


async def give_back_text(tx: Tx, agent_id: str, *, now: datetime) -> int:
    """Put an agent's written work back in its queues, at its old place, to be offered to them first; how many pieces."""
    number = 0
    for seen in await entries.list_held(tx, agent_id):
        if seen.lane == Lane.TEXT and seen.state == EntryState.CONNECTED:
            entry = await entries.lock(tx, seen.id)
            if entry.state == EntryState.CONNECTED and entry.agent_id == agent_id:
                await entries.put_back(tx, entry, now=now, preferred_agent_id=agent_id)
                number += 1
    return number


async def heartbeat(tx: Tx, agent_id: str, *, voice_ready: bool, now: datetime) -> None:
    """The agent's tab lives, and whether its phone is registered."""
    await agents.beat(tx, agent_id, voice_ready=voice_ready, now=now)


async def _in_call(tx: Tx, interaction_id: str, agent_id: str) -> tuple[Interaction, QueueEntry]:
    interaction, entry = await talks.open_call(tx, interaction_id)
    if entry is None or entry.agent_id != agent_id:
        raise NotAllowed("This is not your call.")
    return interaction, entry


async def hold(tx: Tx, interaction_id: str, *, agent_id: str, on: bool, now: datetime) -> None:
    """Let the customer hear music, or take them back."""
    interaction, _ = await _in_call(tx, interaction_id, agent_id)
    if interaction.state != InteractionState.CONNECTED or not await rooms.ask_hold(tx, interaction.id, on=on, now=now):
        raise Conflict("Nobody is there to be put on hold.")
    await _mark(tx, interaction_id, LegRole.CUSTOMER, held=on)


async def mute(tx: Tx, interaction_id: str, *, agent_id: str, on: bool, now: datetime) -> None:
    """Note that the agent's microphone is off or on; the browser has done it already."""
    await _in_call(tx, interaction_id, agent_id)
    await _mark(tx, interaction_id, LegRole.AGENT, muted=on)


async def _mark(tx: Tx, interaction_id: str, role: LegRole, **flags: bool) -> None:
    mine = (col(CallLeg.interaction_id) == interaction_id) & (col(CallLeg.role) == role)
    await tx.run(update(CallLeg).where(mine).values(**flags))


async def hang_up(tx: Tx, interaction_id: str, *, agent_id: str, now: datetime) -> None:
    """End the call for everybody; wrap-up begins. Twice is once."""
    interaction, entry = await _in_call(tx, interaction_id, agent_id)
    key = f"hub:{interaction.id}:hangup:{entry.version}"
    if (
        interaction.state in (InteractionState.CONNECTED, InteractionState.WAITING)
        and entry.state == EntryState.CONNECTED
    ):
        await calls.record_event(
            tx, interaction_id=interaction.id, kind="hangup", event_key=key, happened_at=now, now=now, role=LegRole.AGENT,
            user_id=agent_id,
        )  # fmt: skip
    if interaction.state == InteractionState.CONNECTED:
        await talks.talk_over(tx, interaction, entry, now=now)
    elif talks.dialing(interaction):
        await talks.unreached(tx, interaction, entry, now=now, reason="canceled")
    elif entry.state == EntryState.OFFERED:
        await talks.fail_accept(tx, interaction, entry, reason="the agent hung up", now=now)


async def finish(tx: Tx, entry_id: str, *, agent_id: str, disposition: str, now: datetime, notes: str = "") -> None:
    """End wrap-up or written work with an outcome and notes. Conflict while the call goes on."""
    entry = await entries.lock(tx, entry_id)
    if entry.agent_id != agent_id:
        raise NotAllowed("This is not your work.")
    if entry.kind == "transfer":
        await transfers.wrapped_up(tx, entry, disposition=disposition, notes=notes, now=now)
    if entry.state == EntryState.DONE:
        await _note_after(tx, entry, disposition, notes, now=now)
        return
    chosen = await tx.one(select(Disposition).where(Disposition.key == disposition)) if disposition else None
    if disposition and chosen is None and disposition != DEFAULT_DISPOSITION:
        raise Invalid("There is no such outcome.", fields={"disposition": "Choose one of the list."})
    await _end_work(tx, entry, disposition, notes, now=now)
    await apply_flags(tx, entry, chosen.flags if chosen else {}, agent_id=agent_id, now=now)


async def close_wrapup(tx: Tx, entry: QueueEntry, *, now: datetime) -> None:
    """The time for wrap-up is over: the default outcome."""
    if entry.state == EntryState.WRAPUP:
        await _end_work(tx, entry, DEFAULT_DISPOSITION, "", now=now)


async def _end_work(tx: Tx, entry: QueueEntry, disposition: str, notes: str, *, now: datetime) -> None:
    for interaction in (await interactions.hold_entries(tx, [entry.id]))[entry.id]:
        if interaction.direction != Direction.OUTBOUND or "room" not in interaction.data:
            continue
        if interaction.state in (InteractionState.CONNECTED, InteractionState.WAITING):
            raise Conflict("The call goes on; hang up first.")
        if interaction.state == InteractionState.WRAPUP:
            await interactions.advance(
                tx, interaction, InteractionState.ENDED, now=now, outcome=Outcome.HANDLED, disposition=disposition,
                notes=notes,
            )  # fmt: skip
        elif disposition or notes:
            await interactions.change(tx, interaction, now=now, disposition=disposition, notes=notes)
    if entry.kind == "voice" and entry.state == EntryState.CONNECTED:
        raise Conflict("The call goes on; hang up first.")
    await entries.close(tx, entry, outcome=Outcome.HANDLED, now=now, disposition=disposition, notes=notes)
    if entry.callback_id is not None:
        # Given back without having dialed: the promise stands, and comes again in a minute.
        callback = await callbacks.lock(tx, entry.callback_id)
        if callback.entry_id == entry.id:
            await callbacks.postpone(tx, entry.callback_id, due_at=now + timedelta(seconds=60), now=now)


async def _note_after(tx: Tx, entry: QueueEntry, disposition: str, notes: str, *, now: datetime) -> None:
    """The wrap-up ran out while the agent still wrote: what they chose replaces the default."""
    for interaction in await interactions.list_entry(tx, entry.id):
        if interaction.state == InteractionState.ENDED and interaction.disposition in ("", DEFAULT_DISPOSITION):
            await interactions.change(tx, interaction, now=now, disposition=disposition, notes=notes)
            if "room" in interaction.data:
                await calls.record_event(
                    tx, interaction_id=interaction.id, kind="disposed", event_key=f"hub:{interaction.id}:disposed:late",
                    happened_at=now, now=now, user_id=entry.agent_id or "", raw={"disposition": disposition},
                )  # fmt: skip
                await calls.refold(tx, interaction.id)


async def apply_flags(tx: Tx, entry: QueueEntry, flags: dict[str, Any], *, agent_id: str, now: datetime) -> None:
    """What an outcome does beyond its name: never call again, the customer does not want the callback."""
    if flags.get("refused") and entry.callback_id is not None:
        await callbacks.refused(tx, entry.callback_id, now=now)
    if not flags.get("do_not_call"):
        return
    for interaction in await interactions.list_entry(tx, entry.id):
        theirs = interaction.to_address if interaction.direction == Direction.OUTBOUND else interaction.from_address
        number = addresses.find_phone(theirs)
        if number is not None:
            await consent.opt_out(
                tx, number, reason=SuppressionReason.DO_NOT_CALL, source="agent", actor=agent_id, now=now,
                evidence={"interaction": interaction.id}, contact_id=interaction.contact_id,
            )  # fmt: skip
            return


async def rejoin(tx: Tx, *, agent_id: str, now: datetime) -> dict[str, Any] | None:
    """The agent's call as the desktop shows it after a reload, with what the browser needs to join again; None without one."""
    for entry in await entries.list_held(tx, agent_id):
        if entry.lane != Lane.LIVE or entry.state not in (EntryState.OFFERED, EntryState.CONNECTED):
            continue
        for interaction in reversed(await interactions.list_entry(tx, entry.id)):
            if "room" not in interaction.data or interaction.state in (InteractionState.ENDED, InteractionState.WRAPUP):
                continue
            params = {"call": interaction.id, "nonce": await nonce_of(tx, interaction, entry)}
            if entry.state == EntryState.OFFERED:
                offer = await offers.find_live(tx, entry.id)
                if offer is None or offer.state != OfferState.ACCEPTING:
                    continue
                params = {"offer": offer.id, "nonce": offer.nonce}
            shown = await _as_shown(tx, interaction, entry, agent_id, params)
            # On a telephone the browser has nothing to join.
            return {**shown, "rejoin_params": None} if await agent_phones.number_of(tx, agent_id) else shown
    return None


async def _as_shown(
    tx: Tx, interaction: Interaction, entry: QueueEntry, agent_id: str, params: dict[str, str]
) -> dict[str, Any]:
    legs = await calls.list_legs(tx, interaction.id)
    customer = next((leg for leg in reversed(legs) if leg.role == LegRole.CUSTOMER), None)
    mine = next((leg for leg in reversed(legs) if leg.user_id == agent_id), None)
    contact = await contacts.find(tx, interaction.contact_id) if interaction.contact_id else None
    outbound = interaction.direction == Direction.OUTBOUND
    since = interaction.connected_at or interaction.created_at
    return {
        "interaction_id": interaction.id,
        "entry_id": entry.id,
        "direction": "out" if outbound else "in",
        "state": "ringing" if interaction.state != InteractionState.CONNECTED else "connected",
        "customer": {
            "name": contact.name if contact else "",
            "address": interaction.to_address if outbound else interaction.from_address,
            "contact_id": interaction.contact_id,
        },
        "since": since.isoformat(),
        "held": bool(customer and customer.held),
        "muted": bool(mine and mine.muted),
        "rejoin_params": params,
    }
