"""Recordings: started by a verb or by REST, ended with their call or conference, kept with a real WAV behind them."""

from __future__ import annotations

import io
import math
import struct
import wave

from hub.sandbox.callbacks import Courier
from hub.sandbox.clock import rfc2822
from hub.sandbox.state import Hook, Recording, new_sid
from hub.sandbox.world import World

SAMPLE_RATE = 8000
LONGEST_WAV_S = 600


def start(
    world: World,
    courier: Courier,
    *,
    source: str,
    call_sid: str,
    conference_sid: str | None = None,
    channels: int = 1,
    hook: Hook | None = None,
) -> Recording:
    """Begin a recording; `in-progress` is reported when subscribed."""
    recording = Recording(
        new_sid("RE"),
        call_sid,
        source,
        world.clock.now(),
        conference_sid=conference_sid,
        channels=channels,
        hook=hook,
    )
    world.recordings[recording.sid] = recording
    report(world, courier, recording, "in-progress")
    return recording


def stop(world: World, courier: Courier, recording: Recording) -> None:
    """End a recording and report it."""
    if recording.status in ("in-progress", "paused"):
        close(world, recording)
        report(world, courier, recording, recording.status)


def close(world: World, recording: Recording) -> None:
    """End a recording. One shorter than a tenth of a second has no audio: `absent`, as with the provider."""
    if recording.status not in ("in-progress", "paused"):
        return
    resume(world, recording)
    recording.ended_at = world.clock.now()
    seconds = (recording.ended_at - recording.started_at).total_seconds() - recording.paused_s
    recording.duration_s = max(1, round(seconds)) if seconds > 0.1 or recording.words else 0
    recording.status = "completed" if recording.duration_s else "absent"
    world.tell("recording", sid=recording.sid)


def pause(world: World, recording: Recording) -> None:
    if recording.status == "in-progress":
        recording.status = "paused"
        recording.paused_at = world.clock.now()


def resume(world: World, recording: Recording) -> None:
    if recording.status == "paused" and recording.paused_at is not None:
        recording.paused_s += (world.clock.now() - recording.paused_at).total_seconds()
        recording.paused_at = None
        recording.status = "in-progress"


def report(world: World, courier: Courier, recording: Recording, event: str) -> None:
    hook = recording.hook
    if hook is None or event not in (hook.events or ("completed",)):
        return
    pairs = [
        ("AccountSid", world.config.account_sid),
        ("CallSid", recording.call_sid),
        ("RecordingSid", recording.sid),
        ("RecordingUrl", media_url(world, recording)),
        ("RecordingStatus", event),
        ("RecordingChannels", str(recording.channels)),
        ("RecordingStartTime", rfc2822(recording.started_at)),
        ("RecordingSource", recording.source),
        ("RecordingTrack", "both"),
        ("ErrorCode", "0"),
    ]
    if recording.conference_sid:
        pairs.append(("ConferenceSid", recording.conference_sid))
    if recording.duration_s is not None:
        pairs.append(("RecordingDuration", str(recording.duration_s)))
    courier.send(f"recording-{event}", hook.url, hook.method, pairs)


def media_url(world: World, recording: Recording) -> str:
    return f"{world.base_url}/2010-04-01/Accounts/{world.config.account_sid}/Recordings/{recording.sid}"


def wav(recording: Recording) -> bytes:
    """Sound of the recording's length: a soft tone, so that a player shows and plays something real."""
    seconds = min(recording.duration_s or 0, LONGEST_WAV_S)
    frames = int(seconds * SAMPLE_RATE)
    tone = [int(1500 * math.sin(2 * math.pi * 330 * n / SAMPLE_RATE)) for n in range(SAMPLE_RATE)]
    second = struct.pack(f"<{SAMPLE_RATE}h", *tone)
    if recording.channels == 2:
        second = struct.pack(f"<{2 * SAMPLE_RATE}h", *(value for sample in tone for value in (sample, sample)))
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(recording.channels)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        whole, rest = divmod(frames, SAMPLE_RATE)
        file.writeframes(second * whole + second[: rest * 2 * recording.channels])
    return out.getvalue()
