"""Calls through Twilio: what its webhooks say about calls and rooms, and the commands that place, move and end them.

Sources: Twilio's "TwiML voice request parameters", "Conference: statusCallback" and "Conference participant resource" (copies
seen 2026-11-21); "Call resource: statusCallback" as of the knowledge notes, its fields as in payloads that others
published. Rendering of call-flow steps is in channels/twiml.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any

from channels import voice_lists
from channels.contract import (
    AccountConfig,
    Arrival,
    CallArrived,
    CallProgress,
    Download,
    OutboundCall,
    RawRequest,
    RecordingReady,
    RoomEvent,
    SeenCall,
    SeenRoom,
    SendReceipt,
)
from channels.errors import AnswerUnreadable, Gone, Misconfigured, RecipientInvalid
from channels.twilio_api import (
    OWN_NAME,
    TwilioApi,
    TwilioSettings,
    instant,
    is_signed,
    needed,
    phone_token,
    read_form,
    settings_from,
    whole,
)

# Twilio's word -> ours and its rank. Ranks only rise; all ends share one, so the first end stands.
STATUSES: dict[str, tuple[str, int]] = {
    "queued": ("initiated", 1),
    "initiated": ("initiated", 1),
    "ringing": ("ringing", 2),
    "in-progress": ("answered", 3),
    "answered": ("answered", 3),
    "completed": ("completed", 4),
    "busy": ("busy", 4),
    "no-answer": ("no-answer", 4),
    "failed": ("failed", 4),
    "canceled": ("canceled", 4),
}
ENDS = frozenset(word for word, (_, rank) in STATUSES.items() if rank == 4)
ROOM_EVENTS = {
    "conference-start": "start",
    "conference-end": "end",
    "participant-join": "join",
    "participant-leave": "leave",
    "participant-hold": "hold",
    "participant-unhold": "unhold",
    "participant-mute": "mute",
    "participant-unmute": "unmute",
}
# Of no consequence to us, but genuine: not asked for, and sent all the same when an account is set so.
ROOM_NOISE = frozenset(
    {
        "participant-modify",
        "participant-speech-start",
        "participant-speech-stop",
        "announcement-end",
        "announcement-fail",
    }
)
CALL_EVENTS = ("initiated", "ringing", "answered", "completed")
ROOM_SUBSCRIPTIONS = ("start", "end", "join", "leave", "mute", "hold")
PLAYABLE = re.compile(r"https?://[\x21-\x7e]{1,2000}")
PARTY = re.compile(r"\+[1-9][0-9]{6,14}|client:[A-Za-z0-9_.-]{1,120}")
ROOM_SID = re.compile(r"CF[0-9a-f]{32}")
CALL_SID = re.compile(r"CA[0-9a-f]{32}")
RECORDING_SID = re.compile(r"RE[0-9a-f]{32}")


class VoiceChannel:
    """Calls of one Twilio account. Receives and PlacesCalls."""

    kind = "voice"

    def __init__(self, settings: TwilioSettings, *, api: TwilioApi | None = None) -> None:
        self.settings = settings
        self._api = api or TwilioApi(settings)

    @property
    def secrets(self) -> Sequence[str]:
        """Values that must never be logged."""
        return self.settings.secrets

    async def close(self) -> None:
        """Close the connections to Twilio."""
        await self._api.close()

    # --- in ---

    def verify(self, request: RawRequest) -> bool:
        """True when Twilio signed it."""
        return is_signed(request, self.settings)

    def read(self, request: RawRequest) -> Mapping[str, str]:
        """The fields of any voice webhook, checked one by one: for the hub's own step URLs. AnswerUnreadable."""
        return read_form(request)

    def parse(self, request: RawRequest) -> list[Arrival]:
        """What the webhook says: an arriving call, a leg's progress, a room event or a recording; told by its fields.

        Empty for a genuine event of no consequence. AnswerUnreadable; its code is unknown_status for a new word.
        """
        return self.parse_fields(read_form(request))

    def parse_fields(self, fields: Mapping[str, str]) -> list[Arrival]:
        """`parse` of fields already read."""
        if fields.get("RecordingSid") and fields.get("RecordingStatus"):
            return [recording_ready(fields)]
        if fields.get("StatusCallbackEvent") and fields.get("ConferenceSid"):
            event = room_event(fields)
            return [event] if event else []
        if is_progress(fields):
            return [call_progress(fields)]
        return [call_arrived(fields)]

    def phone_token(self, identity: str, ttl_s: int = 3600) -> str:
        """An access token for a browser phone; Misconfigured without an API key or TwiML App."""
        return phone_token(self.settings, identity, ttl_s=ttl_s)

    # --- out ---

    async def place_call(self, call: OutboundCall) -> SendReceipt:
        """Dial somebody into the room named `call.room`, which is made if need be. The receipt's id is the call's.

        `detail["room_id"]` is the provider's id of the room. Raises a ChannelError; OutcomeUnknown means it may ring.
        """
        if not PARTY.fullmatch(call.to_address):
            raise RecipientInvalid("This is not a number that can be dialled.", code="not_e164")
        if not PARTY.fullmatch(call.from_address):
            raise Misconfigured("Calls must come from one of our own numbers.", code="not_e164")
        listening: dict[str, Any] = (
            {
                "machine_detection": "Enable",
                "amd_status_callback": self._absolute(call.answered_by_url),
                "amd_status_callback_method": "POST",
            }
            if call.answered_by_url
            else {}
        )
        made = await self._api.call(
            lambda client: client.conferences(call.room).participants.create_async(
                from_=call.from_address,
                to=call.to_address,
                label=call.label,
                timeout=max(5, min(call.timeout_s, 600)),
                beep="false",
                start_conference_on_enter=True,
                end_conference_on_exit=call.end_on_exit,
                early_media=True,
                status_callback=self._absolute(call.status_url),
                status_callback_method="POST",
                status_callback_event=list(CALL_EVENTS),
                conference_status_callback=self._absolute(call.room_status_url),
                conference_status_callback_method="POST",
                conference_status_callback_event=list(ROOM_SUBSCRIPTIONS),
                **listening,
            ),
            creates=True,
        )
        status = STATUSES.get(str(made.status), ("initiated", 1))[0]
        return SendReceipt(str(made.call_sid), status, {"room_id": str(made.conference_sid or "")})

    async def ring(self, to: str, from_: str, *, steps_url: str, status_url: str, timeout_s: int) -> SendReceipt:
        """Call somebody who then hears the steps of `steps_url`. The receipt's id is the call's.

        "Create a Call resource" (twilio.com/docs/voice/api/call-resource#create-a-call-resource). Raises a ChannelError;
        OutcomeUnknown means it may ring.
        """
        if not PARTY.fullmatch(to):
            raise RecipientInvalid("This is not a number that can be dialled.", code="not_e164")
        made = await self._api.call(
            lambda client: client.calls.create_async(
                to=to,
                from_=from_,
                url=self._absolute(steps_url),
                method="POST",
                timeout=max(5, min(timeout_s, 600)),
                status_callback=self._absolute(status_url),
                status_callback_method="POST",
                status_callback_event=list(CALL_EVENTS),
            ),
            creates=True,
        )
        return SendReceipt(str(made.sid), STATUSES.get(str(made.status), ("initiated", 1))[0])

    async def move_call(self, call_id: str, url: str) -> None:
        """Have a live call go on with the steps of `url` (absolute, or a path of ours). Gone when it is over."""
        target = self._absolute(url)
        await self._api.call(lambda client: client.calls(_call(call_id)).update_async(url=target, method="POST"))

    async def end_call(self, call_id: str) -> None:
        """Hang a leg up; already gone is success."""
        try:
            await self._api.call(lambda client: client.calls(_call(call_id)).update_async(status="completed"))
        except Gone:
            return

    async def hold(self, room_id: str, call_id: str, *, on: bool, music_url: str) -> None:
        """Put one participant on hold (they hear `music_url`, fetched by GET; empty: Twilio's own) or back."""
        music: dict[str, Any] = (
            {"hold_url": self._absolute(music_url), "hold_method": "GET"} if on and music_url else {}
        )
        room = await self._room(room_id)
        await self._api.call(
            lambda client: client.conferences(room).participants(_call(call_id)).update_async(hold=on, **music)
        )

    async def mute(self, room_id: str, call_id: str, *, on: bool) -> None:
        """Silence one participant, or let them speak again."""
        room = await self._room(room_id)
        await self._api.call(
            lambda client: client.conferences(room).participants(_call(call_id)).update_async(muted=on)
        )

    async def announce(self, room_id: str, url: str, *, call_id: str = "") -> None:
        """Play what `url` says to a whole room, or to one participant only."""
        room, target = await self._room(room_id), self._absolute(url)
        if call_id:
            await self._api.call(
                lambda client: (
                    client.conferences(room)
                    .participants(_call(call_id))
                    .update_async(announce_url=target, announce_method="POST")
                )
            )
        else:
            await self._api.call(
                lambda client: client.conferences(room).update_async(announce_url=target, announce_method="POST")
            )

    async def end_room(self, room_id: str) -> None:
        """End a conference for everybody; already over, or never begun, is success."""
        try:
            room = await self._room(room_id)
            await self._api.call(lambda client: client.conferences(room).update_async(status="completed"))
        except Gone:
            return

    async def start_recording(self, call_id: str, *, status_url: str) -> str:
        """Record a leg, both sides on a channel of their own; the recording's id. OutcomeUnknown: it may run."""
        made = await self._api.call(
            lambda client: client.calls(_call(call_id)).recordings.create_async(
                recording_channels="dual",
                recording_track="both",
                recording_status_callback=self._absolute(status_url),
                recording_status_callback_method="POST",
                recording_status_callback_event=["in-progress", "completed", "absent"],
            ),
            creates=True,
        )
        return str(made.sid)

    async def set_recording(self, call_id: str, recording_id: str, status: str) -> None:
        """`paused` (silence meanwhile), `in-progress` again, or `stopped`. Gone when it is over already."""
        behaviour = {"pause_behavior": "silence"} if status == "paused" else {}
        await self._api.call(
            lambda client: (
                client.calls(_call(call_id))
                .recordings(_recording(recording_id))
                .update_async(status=status, **behaviour)
            )
        )

    def open_recording(self, recording_id: str) -> AbstractAsyncContextManager[Download]:
        """The sound as it comes, and its content type. Gone when Twilio has it no more."""
        return self._api.open(f"/Recordings/{_recording(recording_id)}.wav")

    async def delete_recording(self, recording_id: str) -> None:
        """Have Twilio delete the sound; already gone is success.

        "Delete a Recording resource" (twilio.com/docs/voice/api/recording): the media are deleted, metadata stay 40 days.
        """
        try:
            await self._api.call(lambda client: client.recordings(_recording(recording_id)).delete_async())
        except Gone:
            return

    async def call_status(self, call_id: str) -> tuple[str, int]:
        """What Twilio says of a leg now, as (our status, rank): heals a callback that never came. Gone if unknown."""
        found = await self._api.call(lambda client: client.calls(_call(call_id)).fetch_async())
        return _status(str(found.status))

    # --- the provider's own lists: what heals callbacks that never came ---

    async def list_calls(self, *, since: datetime) -> list[SeenCall]:
        """Calls made since then, newest first."""
        return await voice_lists.list_calls(self._api, since=since, status_of=_status)

    async def find_call(self, call_id: str) -> SeenCall | None:
        """One call; None when Twilio does not know it."""
        return await voice_lists.find_call(self._api, _call(call_id), _status)

    async def list_running_rooms(self) -> list[SeenRoom]:
        """Rooms that are not over, with those in them."""
        return await voice_lists.list_running_rooms(self._api)

    async def find_room(self, room_id: str) -> SeenRoom | None:
        """One room by the provider's id; None when Twilio does not know it."""
        return await voice_lists.find_room(self._api, room_id) if ROOM_SID.fullmatch(room_id) else None

    async def list_recordings(self, *, since: datetime) -> list[RecordingReady]:
        """Finished recordings made since then, newest first."""
        return await voice_lists.list_recordings(self._api, since=since)

    async def _room(self, room_id: str) -> str:
        """The provider's id of a running room, from that id or from our own name of it. Gone when none runs."""
        if ROOM_SID.fullmatch(room_id):
            return room_id
        found = await self._api.call(
            lambda client: client.conferences.list_async(friendly_name=room_id, limit=20, page_size=20)
        )
        for room in found:
            if str(room.status) != "completed":
                return str(room.sid)
        raise Gone("This room is already over.", code="no_room")

    def _absolute(self, url: str) -> str:
        whole_url = self.settings.public_url + url if url.startswith("/") else url
        if not PLAYABLE.fullmatch(whole_url):
            raise Misconfigured("Twilio needs an absolute URL of the hub: set its public URL.", code="no_url")
        return whole_url


def _call(call_id: str) -> str:
    """The id, for the path of a request: anything else could name another resource."""
    if not CALL_SID.fullmatch(call_id):
        raise Gone("There is no such call.", code="not_a_call")
    return call_id


def _recording(recording_id: str) -> str:
    if not RECORDING_SID.fullmatch(recording_id):
        raise Gone("There is no such recording.", code="not_a_recording")
    return recording_id


def _status(word: str) -> tuple[str, int]:
    if word not in STATUSES:
        raise AnswerUnreadable("Twilio reports a call status that we do not know.", code="unknown_status")
    return STATUSES[word]


def is_progress(fields: Mapping[str, str]) -> bool:
    """True for a status callback; the request for a call's first or next steps carries none of these marks."""
    return bool(
        fields.get("CallbackSource")
        or fields.get("SequenceNumber")
        or (fields.get("CallStatus") in ENDS and fields.get("CallDuration") and not fields.get("DialCallStatus"))
    )


def call_arrived(fields: Mapping[str, str]) -> CallArrived:
    """A call that asks for its first steps; `params` are those of a browser's connect()."""
    call_id, from_raw = needed(fields, "CallSid"), fields.get("From", "")
    own = {name: value for name, value in fields.items() if OWN_NAME.fullmatch(name)}
    return CallArrived(
        call_id=call_id,
        from_raw=from_raw,
        to_raw=fields.get("To", ""),
        event_key=f"{call_id}:arrived",
        params=own if from_raw.startswith("client:") else {},
        raw=fields,
    )


def call_progress(fields: Mapping[str, str]) -> CallProgress:
    """One status of one leg. Keyed by call and sequence number, or by source and status when no number came."""
    call_id, word = needed(fields, "CallSid"), needed(fields, "CallStatus")
    status, rank = _status(word)
    number = whole(fields, "SequenceNumber")
    source = fields.get("CallbackSource", "")
    key = f"{call_id}:{number}" if number is not None else f"{call_id}:{source}:{status}"
    duration = whole(fields, "CallDuration")
    return CallProgress(
        call_id=call_id,
        status=status,
        rank=rank,
        sequence=rank if number is None else number,
        happened_at=instant(fields),
        event_key=key,
        duration_s=duration,
        raw=fields,
    )


def room_event(fields: Mapping[str, str]) -> RoomEvent | None:
    """Something in a conference; None for an event of no consequence."""
    word, room_id = needed(fields, "StatusCallbackEvent"), needed(fields, "ConferenceSid")
    if word in ROOM_NOISE:
        return None
    if word not in ROOM_EVENTS:
        raise AnswerUnreadable("Twilio reports a room event that we do not know.", code="unknown_status")
    number, call_id = whole(fields, "SequenceNumber"), fields.get("CallSid", "")
    key = f"{room_id}:{number}" if number is not None else f"{room_id}:{word}:{call_id}:{fields.get('Timestamp', '')}"
    return RoomEvent(
        room=fields.get("FriendlyName", ""),
        room_id=room_id,
        call_id=call_id,
        label=fields.get("ParticipantLabel", ""),
        kind=ROOM_EVENTS[word],
        sequence=number or 0,
        happened_at=instant(fields),
        event_key=key,
        raw=fields,
    )


def recording_ready(fields: Mapping[str, str]) -> RecordingReady:
    """A recording's new state. Its URL wants the account's login: fetch it server-side."""
    recording_id, status = needed(fields, "RecordingSid"), needed(fields, "RecordingStatus")
    return RecordingReady(
        recording_id=recording_id,
        call_id=fields.get("CallSid", ""),
        room_id=fields.get("ConferenceSid", ""),
        status=status,
        url=fields.get("RecordingUrl", ""),
        duration_s=whole(fields, "RecordingDuration"),
        event_key=f"{recording_id}:{status}",
        raw=fields,
    )


def build(config: AccountConfig) -> VoiceChannel:
    """The voice channel of an account row. Misconfigured when credentials are missing."""
    return VoiceChannel(settings_from(config))
