"""Recording calls, with consent, pauses that end by themselves, and what the provider reports; voicemail becomes work.

A call's recording hangs on the customer's leg, so that hold, transfer and a lost agent do not break it. Nothing is recorded
unless the queue says so and the customer was told (announced), did not refuse (ask), or was asked by the agent (our own calls).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlmodel import col, select

from channels.contract import RecordingReady
from crm_core import audit, calls, events, interactions, outbox, recordings
from crm_core.calls import LegRole
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid, NotAllowed
from crm_core.ids import new_id
from crm_core.interactions import Interaction, InteractionState
from crm_core.recordings import Recording, RecordingState
from crm_core.touches import Direction
from routing import call_rules, entries, queues
from routing.queues import EntryState, Queue, QueueEntry

TOLD = ("announced", "given", "asked")
SHORTEST_S = 1  # shorter messages are silence
UNFETCHED = timedelta(seconds=30)  # a message is not offered before its sound is here, or this has passed
EXPIRED_AT_ONCE = 50
STATES = {
    "in-progress": RecordingState.RUNNING,
    "paused": RecordingState.PAUSED,
    "completed": RecordingState.DONE,
    "absent": RecordingState.EMPTY,
    "failed": RecordingState.FAILED,
}


async def begin(tx: Tx, interaction: Interaction, *, consent: str, now: datetime, by: str = "") -> Recording | None:
    """Have the call recorded from now on; None when it is already, or nobody is there to be recorded."""
    if consent not in TOLD or await recordings.running(tx, interaction.id) is not None:
        return None
    customer = [leg for leg in await calls.list_legs(tx, interaction.id) if leg.role == LegRole.CUSTOMER]
    if not customer:
        return None
    made = Recording(
        id=new_id(now), interaction_id=interaction.id, leg_id=customer[-1].id, kind="call", consent=consent,
        started_at=now,
    )  # fmt: skip
    await tx.add(made)
    await outbox.ask(
        tx, "recording.start", interaction.id, lane="control", now=now, ordering=interaction.id,
        dedupe=f"recording.start:{made.id}", recording_id=made.id, call_id=made.leg_id,
    )  # fmt: skip
    await _mark(tx, interaction, "recording-asked", made, by=by, now=now)
    return made


async def begin_if_due(tx: Tx, interaction: Interaction, queue_id: str, *, now: datetime) -> None:
    """The talk begins: record it where the queue says so and the customer knows."""
    consent = str(interaction.data.get("consent", ""))
    if consent in TOLD and call_rules.of(await queues.get(tx, queue_id)).record != "off":
        await begin(tx, interaction, consent=consent, now=now)


async def _mine(tx: Tx, interaction_id: str, agent_id: str) -> tuple[Interaction, QueueEntry]:
    interaction = await interactions.get(tx, interaction_id)
    entry = await entries.lock(tx, interaction.entry_id or "")
    if entry.agent_id != agent_id or entry.state != EntryState.CONNECTED:
        raise NotAllowed("This is not your call.")
    return await interactions.get(tx, interaction_id), entry


async def begin_by_agent(tx: Tx, interaction_id: str, *, agent_id: str, now: datetime) -> Recording | None:
    """The agent asked, and the customer agreed. Only where the queue allows recording, and not after a refusal by key."""
    interaction, entry = await _mine(tx, interaction_id, agent_id)
    if call_rules.of(await queues.get(tx, entry.queue_id)).record == "off":
        raise Invalid("Calls of this queue are not recorded.")
    if interaction.data.get("consent") == "refused":
        raise Conflict("The customer does not want to be recorded.")
    return await begin(tx, interaction, consent="asked", now=now, by=agent_id)


async def pause(tx: Tx, interaction_id: str, *, agent_id: str, now: datetime) -> Recording:
    """Stop recording for a while (a card number is read out). It goes on by itself after the queue's time."""
    interaction, entry = await _mine(tx, interaction_id, agent_id)
    found = await recordings.running(tx, interaction.id)
    if found is None:
        raise Conflict("This call is not being recorded.")
    if found.state == RecordingState.PAUSED:
        return found
    until = now + timedelta(seconds=call_rules.of(await queues.get(tx, entry.queue_id)).pause_s)
    await recordings.change(
        tx, found, state=RecordingState.PAUSED, pauses=found.pauses + 1, paused_until=until
    )  # fmt: skip
    told: dict[str, Any] = {"recording_id": found.id, "call_id": found.leg_id, "pause": found.pauses}
    await outbox.ask(
        tx, "recording.pause", interaction.id, lane="control", now=now, ordering=interaction.id,
        dedupe=f"recording.pause:{found.id}:{found.pauses}", **told,
    )  # fmt: skip
    # In no order with the rest of the call: what is due later would hold up what is due now.
    await outbox.ask(
        tx, "recording.resume", interaction.id, lane="control", now=now, due_at=until,
        dedupe=f"recording.resume:{found.id}:{found.pauses}:due", **told,
    )  # fmt: skip
    await _mark(tx, interaction, "recording-paused", found, by=agent_id, now=now)
    return found


async def resume(tx: Tx, interaction_id: str, *, agent_id: str, now: datetime) -> Recording:
    """Go on recording before the pause ends by itself."""
    interaction, _ = await _mine(tx, interaction_id, agent_id)
    found = await recordings.running(tx, interaction.id)
    if found is None:
        raise Conflict("This call is not being recorded.")
    if found.state == RecordingState.PAUSED:
        await resumed(tx, found, now=now, by=agent_id)
        await outbox.ask(
            tx, "recording.resume", interaction.id, lane="control", now=now, ordering=interaction.id,
            dedupe=f"recording.resume:{found.id}:{found.pauses}", recording_id=found.id, call_id=found.leg_id,
            pause=found.pauses, asked=True,
        )  # fmt: skip
    return found


async def resumed(tx: Tx, recording: Recording, *, now: datetime, by: str = "") -> None:
    """The pause is over: note it."""
    if recording.state != RecordingState.PAUSED:
        return
    await recordings.change(tx, recording, state=RecordingState.RUNNING, paused_until=None)
    await _mark(
        tx, await interactions.get(tx, recording.interaction_id), "recording-resumed", recording, by=by, now=now
    )


async def stop(tx: Tx, interaction: Interaction, *, now: datetime) -> None:
    """End the recording while the call goes on (it leaves the house)."""
    found = await recordings.running(tx, interaction.id)
    if found is not None:
        await outbox.ask(
            tx, "recording.stop", interaction.id, lane="control", now=now, ordering=interaction.id,
            dedupe=f"recording.stop:{found.id}", recording_id=found.id, call_id=found.leg_id,
        )  # fmt: skip


async def _mark(
    tx: Tx, interaction: Interaction, kind: str, recording: Recording, *, now: datetime, by: str = ""
) -> None:
    await calls.record_event(
        tx, interaction_id=interaction.id, kind=kind, event_key=f"hub:{recording.id}:{kind}:{recording.pauses}",
        happened_at=now, now=now, user_id=by, raw={"recording": recording.id, "consent": recording.consent},
    )  # fmt: skip
    await events.emit(tx, "recording.changed", interaction.id, now=now, recording=recording.id)


# --- what the provider reports ----------------------------------------------------------------------------------------


def is_voicemail(event: RecordingReady) -> bool:
    """True for the recording of a caller who left a message."""
    return (event.raw.get("RecordingSource") or event.raw.get("source")) == "RecordVerb"


async def reported(tx: Tx, event: RecordingReady, *, interaction_id: str, now: datetime) -> Recording | None:
    """A state of a recording, from its callback or from the provider's list; late or twice changes nothing."""
    state = STATES.get(event.status)
    leg = await calls.find_leg(tx, event.call_id) if event.call_id else None
    interaction_id = interaction_id or (leg.interaction_id if leg is not None else "")
    if state is None or not interaction_id:
        return None
    interaction = await interactions.get(tx, interaction_id)
    await calls.record_event(
        tx, interaction_id=interaction.id, kind="recording", event_key=event.event_key, happened_at=now, now=now,
        leg_id=event.call_id, raw={"id": event.recording_id, "status": event.status, "duration_s": event.duration_s},
    )  # fmt: skip
    found = await _known(tx, event, interaction, now=now)
    if found is None or found.state in (RecordingState.KEPT, RecordingState.DELETED) or state == RecordingState.PAUSED:
        return found
    before = found.state
    if state == RecordingState.RUNNING and before == RecordingState.PAUSED:
        return found
    ended = {} if state == RecordingState.RUNNING else {"ended_at": now, "duration_s": event.duration_s}
    if not await recordings.change(tx, found, state=state, **ended) or state == before:
        return found
    if state == RecordingState.DONE:
        await outbox.ask(
            tx, "recording.fetch", interaction.id, lane="notice", now=now, dedupe=f"recording.fetch:{found.id}",
            recording_id=found.id, external_id=event.recording_id,
        )  # fmt: skip
        if found.kind == "voicemail" and (event.duration_s or 0) >= SHORTEST_S:
            await _message_left(tx, found, interaction, now=now)
    await events.emit(tx, "recording.changed", interaction.id, now=now, recording=found.id)
    return found


async def _known(tx: Tx, event: RecordingReady, interaction: Interaction, *, now: datetime) -> Recording | None:
    found = await recordings.find_external(tx, event.recording_id)
    if found is not None:
        return found
    if not is_voicemail(event):
        # The report of a start may overtake its own answer: then it belongs to the one that was asked for.
        asked = await recordings.running(tx, interaction.id)
        if asked is not None and asked.external_id is None:
            await recordings.change(tx, asked, external_id=event.recording_id)
            return asked
    made = Recording(
        id=new_id(now), interaction_id=interaction.id, external_id=event.recording_id, leg_id=event.call_id,
        kind="voicemail" if is_voicemail(event) else "call", consent="own" if is_voicemail(event) else "",
        state=RecordingState.RUNNING, started_at=now,
    )  # fmt: skip
    await tx.add_new(made, unique=["external_id"])
    return await recordings.find_external(tx, event.recording_id)


async def started(tx: Tx, recording_id: str, *, external_id: str, error: str, now: datetime) -> None:
    """The provider took, or refused, to record."""
    found = await recordings.get(tx, recording_id)
    if not external_id:
        await recordings.change(tx, found, state=RecordingState.FAILED, error=error[:500], ended_at=now)
        return
    other = await recordings.find_external(tx, external_id)
    if other is None:
        await recordings.change(tx, found, state=RecordingState.RUNNING, external_id=external_id)


async def fetched(
    tx: Tx, recording_id: str, *, file_key: str, content_type: str, size: int, error: str, now: datetime
) -> None:
    """Our own copy is in the store, or it could not be had."""
    found = await recordings.get(tx, recording_id)
    if found.state == RecordingState.DELETED:
        if file_key:  # deleted while it was being fetched: the copy goes, too
            await _ask_removal(tx, found, file_key=file_key, now=now)
        return
    if file_key:
        await recordings.change(
            tx, found, state=RecordingState.KEPT, file_key=file_key, content_type=content_type, size=size, error=""
        )
    else:
        await recordings.change(tx, found, error=error[:500])
    if found.kind == "voicemail":
        interaction = await interactions.get(tx, found.interaction_id)
        entry = await entries.lock(tx, interaction.entry_id) if interaction.entry_id else None
        if entry is not None and entry.state == EntryState.WAITING and entry.not_before is not None:
            await entries.note(tx, entry, now=now, not_before=None)
    await events.emit(tx, "recording.changed", found.interaction_id, now=now, recording=found.id)


# --- voicemail --------------------------------------------------------------------------------------------------------


async def _message_left(tx: Tx, recording: Recording, call: Interaction, *, now: datetime) -> None:
    """A message is work like everything else: in the queue, at the place that the call had."""
    told = call.data.get("voicemail")
    queue_id = (told or {}).get("queue") or call.queue_id
    if queue_id is None or recording.external_id is None:
        return
    queue = await queues.get(tx, queue_id)
    order_at = (told or {}).get("order_at")
    message = Interaction(
        id=new_id(now), conversation_id=call.conversation_id, contact_id=call.contact_id, channel=call.channel,
        direction=Direction.INBOUND, account_id=call.account_id, external_id=recording.external_id,
        from_address=call.from_address, to_address=call.to_address, state=InteractionState.WAITING, queue_id=queue.id,
        entry_id=new_id(now), match=call.match, first_arrival_at=now, created_at=now,
    )  # fmt: skip
    message.data = {"voicemail_of": call.id, "recording": recording.id}
    await interactions.create(tx, message, now=now)
    await recordings.change(tx, recording, interaction_id=message.id)
    await entries.enter(
        tx, queue=queue, kind="voicemail", interaction=message, now=now, entry_id=message.entry_id or "",
        order_at=datetime.fromisoformat(order_at) if order_at else None, not_before=now + UNFETCHED,
    )  # fmt: skip
    await events.emit(
        tx, "interaction.waiting", message.id, now=now, version=message.version, queue_id=queue.id,
        conversation=message.conversation_id,
    )  # fmt: skip


# --- deletion ---------------------------------------------------------------------------------------------------------


async def delete(tx: Tx, recording_id: str, *, actor: str, reason: str, now: datetime) -> Recording:
    """Nobody can hear it from now on; the sound is removed from our store and at the provider. Conflict while it runs."""
    found = await recordings.get(tx, recording_id)
    if found.state == RecordingState.DELETED:
        return found
    if found.state in recordings.OPEN:
        raise Conflict("This call is still being recorded.")
    file_key = found.file_key
    await recordings.change(tx, found, state=RecordingState.DELETED, file_key="", size=0, error="")
    await _ask_removal(tx, found, file_key=file_key, now=now)
    await audit.record(
        tx, actor=actor, action="recording.deleted", subject=f"recording:{found.id}", now=now, reason=reason[:200],
        interaction=found.interaction_id, kind=found.kind,
    )  # fmt: skip
    await events.emit(tx, "recording.changed", found.interaction_id, now=now, recording=found.id)
    return found


async def _ask_removal(tx: Tx, recording: Recording, *, file_key: str, now: datetime) -> None:
    await outbox.ask(
        tx, "recording.remove", recording.interaction_id, lane="notice", now=now,
        dedupe=f"recording.remove:{recording.id}:{file_key}", recording_id=recording.id,
        external_id=recording.external_id or "", file_key=file_key,
    )  # fmt: skip


async def expire(tx: Tx, *, now: datetime, limit: int = EXPIRED_AT_ONCE) -> int:
    """Delete what its queue keeps no longer: recordings by their call's end, messages once their work is done. How many."""
    done = 0
    for queue in await tx.all(select(Queue)):
        rules = call_rules.of(queue)
        for kind, days in (("call", rules.keep_days), ("voicemail", rules.voicemail_keep_days)):
            if not days or done >= limit:
                continue
            old = (
                select(Recording.id)
                .join(Interaction, col(Interaction.id) == col(Recording.interaction_id))
                .where(
                    Interaction.queue_id == queue.id,
                    Interaction.state == InteractionState.ENDED,
                    Recording.kind == kind,
                    col(Recording.state).in_((RecordingState.KEPT, RecordingState.DONE, RecordingState.FAILED)),
                    col(Recording.ended_at) < now - timedelta(days=days),
                )
                .order_by(col(Recording.id))
                .limit(limit - done)
            )
            for recording_id in await tx.all(old):
                await delete(tx, recording_id, actor="system", reason=f"kept for {days} days", now=now)
                done += 1
    return done


async def list_settled(tx: Tx, ids: list[str]) -> set[str]:
    """Of these recordings of the provider's, those that are settled here (fetched, being fetched, or nothing to fetch)."""
    settled = (
        RecordingState.DONE,
        RecordingState.KEPT,
        RecordingState.EMPTY,
        RecordingState.FAILED,
        RecordingState.DELETED,
    )
    found: set[str] = set()
    for start in range(0, len(ids), 200):
        part = ids[start : start + 200]
        rows = await tx.all(
            select(Recording.external_id).where(Recording.external_id.in_(part), Recording.state.in_(settled))  # type: ignore[union-attr,attr-defined]
        )
        found.update(rows)
    return found
