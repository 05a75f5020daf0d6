"""Conference rooms: who sits in them, when they start and end, and the events that Twilio's documents promise.

Source: Twilio docs, Conference noun, "statusCallbackEvent" and its parameters; Conference and Participant resources
(checked 2026-11). Two things the documents leave open, decided here: the second participant's `participant-join` comes
before `conference-start`; and when a room ends, every `participant-leave` comes before `conference-end`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

from hub.sandbox import recordings
from hub.sandbox.callbacks import Courier
from hub.sandbox.calls import Hangup, Interruption, Leg
from hub.sandbox.clock import rfc2822
from hub.sandbox.state import Hook, Recording, new_sid
from hub.sandbox.world import World

EVENT_GROUP = {
    "conference-start": "start",
    "conference-end": "end",
    "participant-join": "join",
    "participant-leave": "leave",
    "participant-mute": "mute",
    "participant-unmute": "mute",
    "participant-hold": "hold",
    "participant-unhold": "hold",
    "participant-modify": "modify",
    "participant-speech-start": "speaker",
    "participant-speech-stop": "speaker",
    "announcement-end": "announcement",
}
REASON_TEXT = {
    "conference-ended-via-api": "Conference ended via API",
    "last-participant-left": "Last participant left the conference",
    "last-participant-kicked": "Last participant was removed from the conference",
    "participant-with-end-conference-on-exit-left": "Participant with end_conference_on_exit left",
    "participant-with-end-conference-on-exit-kicked": "Participant with end_conference_on_exit was removed",
}


@dataclass(frozen=True)
class RoomSettings:
    """What the first to come decides for the whole room."""

    hook: Hook | None = None
    record: bool = False
    recording_hook: Hook | None = None
    max_participants: int = 250


@dataclass(eq=False)
class Seat:
    """One participant, from the moment that he is being called (`status` ringing) until he has left."""

    leg: Leg
    created_at: datetime
    updated_at: datetime
    muted: bool = False
    hold: bool = False
    coach: str = ""
    starts: bool = True
    ends: bool = False
    beep: bool = True
    beep_on_exit: bool = False
    label: str = ""
    status: str = "connected"
    out: asyncio.Event = field(default_factory=asyncio.Event)
    music: asyncio.Task[None] | None = None

    def stop_music(self) -> None:
        if self.music is not None:
            self.music.cancel()
            self.music = None


@dataclass(eq=False)
class Room:
    """A conference. `seats` holds those who sit in it, `coming` those who are still being called by REST."""

    sid: str
    name: str
    created_at: datetime
    updated_at: datetime
    settings: RoomSettings
    courier: Courier
    status: str = "init"
    seats: dict[str, Seat] = field(default_factory=dict)
    coming: dict[str, Seat] = field(default_factory=dict)
    reason: str | None = None
    ended_by: str | None = None
    sequence: int = 0
    recording: Recording | None = None


class LabelTaken(Exception):
    """A participant with this label already sits in the room (Twilio 16025)."""


class RoomFull(Exception):
    """The room has as many participants as it may have (Twilio 13232 family)."""


class Rooms:
    """Conferences by SID; at most one of a name is not over."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.by_sid: dict[str, Room] = {}

    def find(self, sid_or_name: str) -> Room | None:
        """A room by SID, or the running one of that name."""
        room = self.by_sid.get(sid_or_name)
        return room or next(
            (room for room in self.by_sid.values() if room.name == sid_or_name and room.status != "completed"), None
        )

    def open(self, name: str, settings: RoomSettings) -> Room:
        """The running room of that name, or a new one with these settings."""
        room = next((room for room in self.by_sid.values() if room.name == name and room.status != "completed"), None)
        if room is None:
            now = self.world.clock.now()
            room = Room(new_sid("CF"), name, now, now, settings, self.world.callbacks.courier())
            self.by_sid[room.sid] = room
        return room

    def check(self, room: Room, seat: Seat) -> None:
        """Raise LabelTaken or RoomFull when this seat cannot be had."""
        if seat.label and any(other.label == seat.label for other in room.seats.values()):
            raise LabelTaken(seat.label)
        if len(room.seats) >= room.settings.max_participants:
            raise RoomFull(room.name)

    def join(self, room: Room, seat: Seat) -> None:
        """Sit down; start the room when two are in it and one of them may start it."""
        room.coming.pop(seat.leg.call.sid, None)
        seat.status = "connected"
        room.seats[seat.leg.call.sid] = seat
        seat.leg.company = lambda: connected(room, seat)
        seat.leg.audience = lambda: hearers(room, seat)
        self._event(room, "participant-join", seat)
        self._beep(room, seat)
        if room.status == "init" and len(room.seats) >= 2 and any(each.starts for each in room.seats.values()):
            room.status = "in-progress"
            room.updated_at = self.world.clock.now()
            self._event(room, "conference-start", None)
            for each in room.seats.values():
                if not each.hold:
                    each.stop_music()
            self._start_recording(room)
        self.changed(room)

    def leave(self, room: Room, seat: Seat, reason: str, *, kicked: bool = False, call_status: str = "") -> None:
        """Get up. The room ends with a participant marked so, or with its last one."""
        if room.seats.pop(seat.leg.call.sid, None) is None:
            return
        self._gone(room, seat, reason, call_status)
        if seat.ends:
            verb = "kicked" if kicked else "left"
            self.end(room, f"participant-with-end-conference-on-exit-{verb}", by=seat)
        elif not room.seats:
            self.end(room, "last-participant-kicked" if kicked else "last-participant-left", by=seat)
        self.changed(room)

    def never_came(self, room: Room, seat: Seat) -> None:
        """The called participant did not answer: leave event with the call's status (changelog of 2023-10-25)."""
        if room.coming.pop(seat.leg.call.sid, None) is None:
            return
        self._failed(room, seat, seat.leg.call.status)
        if not room.seats and not room.coming:
            self.end(room, "last-participant-left", by=None)
        self.changed(room)

    def _failed(self, room: Room, seat: Seat, status: str) -> None:
        seat.status = "failed"
        why = [("ParticipantCallStatus", status), ("ReasonParticipantLeft", "participant_add_failed")]
        self._event(room, "participant-leave", seat, why)

    def end(self, room: Room, reason: str, *, by: Seat | None) -> None:
        """Everybody out, then the end."""
        if room.status == "completed":
            return
        room.status = "completed"
        room.reason = reason
        room.ended_by = by.leg.call.sid if by else None
        room.updated_at = self.world.clock.now()
        why = "conference_ended_via_api" if reason == "conference-ended-via-api" else "moderator_ended_conference"
        for seat in list(room.seats.values()):
            room.seats.pop(seat.leg.call.sid)
            self._gone(room, seat, why, "")
        for seat in list(room.coming.values()):
            room.coming.pop(seat.leg.call.sid)
            self._failed(room, seat, "canceled")
            seat.leg.interrupt(Hangup("api", "canceled"))
        if room.recording is not None:
            recordings.stop(self.world, room.courier, room.recording)
        extra = [("ReasonConferenceEnded", reason), ("Reason", REASON_TEXT.get(reason, reason))]
        if by is not None:
            extra.append(("CallSidEndingConference", by.leg.call.sid))
            if by.label:
                extra.append(("ParticipantLabelEndingConference", by.label))
        self._event(room, "conference-end", None, extra)
        self.changed(room)

    def _gone(self, room: Room, seat: Seat, reason: str, call_status: str) -> None:
        seat.stop_music()
        seat.status = "complete"
        seat.leg.company = list
        seat.leg.audience = None
        call = seat.leg.call
        status = call_status or ("completed" if reason == "participant_hung_up" else call.status)
        self._event(
            room, "participant-leave", seat, [("ParticipantCallStatus", status), ("ReasonParticipantLeft", reason)]
        )
        seat.out.set()

    # --- changes while it runs ---------------------------------------------------------------------------------------

    def set_muted(self, room: Room, seat: Seat, *, muted: bool) -> None:
        if seat.muted != muted:
            seat.muted = muted
            self._touch(room, seat, "participant-mute" if muted else "participant-unmute")

    def set_hold(self, room: Room, seat: Seat, *, hold: bool) -> None:
        if seat.hold != hold:
            seat.hold = hold
            if not hold:
                seat.stop_music()
            self._touch(room, seat, "participant-hold" if hold else "participant-unhold")

    def modify(self, room: Room, seat: Seat) -> None:
        self._touch(room, seat, "participant-modify")

    def announced(self, room: Room, seat: Seat | None, url: str) -> None:
        self._event(room, "announcement-end", seat, [("AnnounceUrl", url)])

    def _touch(self, room: Room, seat: Seat, event: str) -> None:
        seat.updated_at = room.updated_at = self.world.clock.now()
        self._event(room, event, seat)
        self.changed(room)

    def changed(self, room: Room) -> None:
        """Tell everybody in the room who is in it now (the browser line builds its sound connections on this)."""
        for seat in room.seats.values():
            seat.leg.legs.changed(seat.leg)
        self.world.tell("conference", sid=room.sid)

    def _beep(self, room: Room, seat: Seat) -> None:
        if not seat.beep:
            return
        for other in room.seats.values():
            if other is not seat:
                other.leg.hear("beep", "somebody joins")

    def _start_recording(self, room: Room) -> None:
        if room.settings.record and room.recording is None:
            first = next(iter(room.seats.values()))
            room.recording = recordings.start(
                self.world,
                room.courier,
                source="Conference",
                call_sid=first.leg.call.sid,
                conference_sid=room.sid,
                hook=room.settings.recording_hook,
            )

    def _event(self, room: Room, event: str, seat: Seat | None, extra: list[tuple[str, str]] | None = None) -> None:
        room.sequence += 1
        number, hook = room.sequence, room.settings.hook
        if hook is None or EVENT_GROUP[event] not in hook.events:
            return
        pairs = [
            ("ConferenceSid", room.sid),
            ("FriendlyName", room.name),
            ("AccountSid", self.world.config.account_sid),
            ("SequenceNumber", str(number)),
            ("Timestamp", rfc2822(self.world.clock.now())),
            ("StatusCallbackEvent", event),
        ]
        if seat is not None:
            pairs += [
                ("CallSid", seat.leg.call.sid),
                ("Muted", _text(seat.muted)),
                ("Hold", _text(seat.hold)),
                ("Coaching", _text(bool(seat.coach))),
                ("EndConferenceOnExit", _text(seat.ends)),
                ("StartConferenceOnEnter", _text(seat.starts)),
            ]
            if seat.label:
                pairs.append(("ParticipantLabel", seat.label))
        room.courier.send(event, hook.url, hook.method, pairs + (extra or []))


def connected(room: Room, seat: Seat) -> list[Leg]:
    """Those with whom this participant shares sound: nobody while he is on hold, and nobody who is."""
    if seat.hold:
        return []
    return [other.leg for other in room.seats.values() if other is not seat and not other.hold]


def hearers(room: Room, seat: Seat) -> list[Leg]:
    """Those who hear what he says: nobody when he is muted, only the coached one when he coaches."""
    if seat.muted:
        return []
    return [leg for leg in connected(room, seat) if not seat.coach or leg.call.sid == seat.coach]


def _text(value: bool) -> str:  # noqa: FBT001 - the wire's spelling of a flag
    return "true" if value else "false"


async def sit(rooms: Rooms, room: Room, seat: Seat) -> None:
    """Sit in the room until one is out of it: hung up, redirected, removed, or the room ended."""
    leg = seat.leg

    async def get_up(interruption: Interruption) -> None:
        if isinstance(interruption, Hangup):
            rooms.leave(room, seat, "participant_hung_up")
        else:
            rooms.leave(room, seat, "participant_updated_via_api", call_status="in-progress")
        await room.courier.idle()

    leg.undo.append(get_up)
    rooms.join(room, seat)
    leg.doing(f"in conference {room.name}")
    await seat.out.wait()
    leg.undo.remove(get_up)
    await room.courier.idle()
