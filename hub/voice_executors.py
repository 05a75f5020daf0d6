"""How the outbox rows of recordings are executed: start, pause, go on, stop, and fetching the sound into our own store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from channels.contract import SendReceipt
from channels.errors import ChannelError
from crm_core import recordings
from crm_core.clock import Clock
from crm_core.db import Tx
from crm_core.outbox import OutboxState, OutboxTask
from crm_core.recordings import Recording, RecordingState
from hub.channel_set import ChannelSet
from hub.files import Files
from hub.relay import Done, Executor
from routing import agent_phones, rooms
from routing import recordings as behaviour
from routing.voicemail import RECORDING_PATH

LARGEST = 256 * 1024 * 1024


def voice_executors(channels: ChannelSet, clock: Clock, files: Files) -> Mapping[str, Executor]:
    """Every kind about recordings."""
    made = _VoiceExecutors(channels, clock, files)
    return {
        "agent.place": Executor("voice", made.ring_agent, repeatable=False, record=made.rung),
        "recording.start": Executor("voice", made.start, repeatable=False, record=made.started),
        "recording.pause": Executor("voice", made.pause, repeatable=True, prepare=made.known),
        "recording.resume": Executor(
            "voice", made.resume, repeatable=True, prepare=made.still_paused, record=made.resumed
        ),
        "recording.stop": Executor("voice", made.stop, repeatable=True, prepare=made.known),
        "recording.fetch": Executor("voice", made.fetch, repeatable=True, record=made.fetched),
        "recording.remove": Executor("voice", made.remove, repeatable=True),
    }


class _VoiceExecutors:
    """The functions of the table above, with what they share."""

    def __init__(self, channels: ChannelSet, clock: Clock, files: Files) -> None:
        self._channels = channels
        self._clock = clock
        self._files = files

    async def ring_agent(self, task: OutboxTask, _: Any) -> SendReceipt:
        asked = task.payload["told"]
        placed: SendReceipt = await self._channels.voice().ring(
            asked["to"], asked["from"], steps_url=rooms.step_path(task.subject_id, "handset", 0),
            status_url="/webhooks/twilio/voice/status", timeout_s=int(task.payload["timeout_s"]),
        )  # fmt: skip
        return placed

    async def rung(self, tx: Tx, task: OutboxTask, _: Any, done: Done) -> None:
        asked = task.payload["told"]
        call_id = done.value.external_id if isinstance(done.value, SendReceipt) else ""
        await agent_phones.placed(
            tx, task.subject_id, user_id=asked["user_id"], offer_id=asked["offer_id"], call_id=call_id, error=done.error,
            now=self._clock.now(),
        )  # fmt: skip

    async def start(self, task: OutboxTask, _: Any) -> str:
        asked = task.payload
        url = f"{RECORDING_PATH}?i={task.subject_id}"
        made: str = await self._channels.voice().start_recording(asked["call_id"], status_url=url)
        return made

    async def started(self, tx: Tx, task: OutboxTask, _: Any, done: Done) -> None:
        external_id = done.value if isinstance(done.value, str) else ""
        if not external_id and done.state is OutboxState.UNKNOWN:
            return  # it may run: its own reports, or the provider's list, will tell
        await behaviour.started(
            tx, task.payload["recording_id"], external_id=external_id, error=done.error, now=self._clock.now()
        )

    async def known(self, tx: Tx, task: OutboxTask) -> Recording | Done:
        found = await recordings.get(tx, task.payload["recording_id"])
        if found.external_id is None:
            return Done(OutboxState.FAILED, error="The provider never told the recording's id.")
        return found

    async def still_paused(self, tx: Tx, task: OutboxTask) -> Recording | Done:
        """A pause that its agent has ended, or that a newer one has followed, is not ended again."""
        found = await self.known(tx, task)
        if isinstance(found, Done) or task.payload.get("asked"):
            return found
        if found.state != RecordingState.PAUSED or found.pauses != task.payload["pause"]:
            return Done(OutboxState.DONE, error="over already")
        return found

    async def pause(self, task: OutboxTask, found: Recording) -> None:
        await self._channels.voice().set_recording(task.payload["call_id"], found.external_id, "paused")

    async def resume(self, task: OutboxTask, found: Recording) -> None:
        await self._channels.voice().set_recording(task.payload["call_id"], found.external_id, "in-progress")

    async def resumed(self, tx: Tx, task: OutboxTask, found: Recording | None, done: Done) -> None:
        if found is None or done.state is not OutboxState.DONE or done.error == "over already":
            return
        now = await recordings.get(tx, found.id)
        if now.pauses == task.payload["pause"]:
            await behaviour.resumed(tx, now, now=self._clock.now())

    async def stop(self, task: OutboxTask, found: Recording) -> None:
        await self._channels.voice().set_recording(task.payload["call_id"], found.external_id, "stopped")

    async def fetch(self, task: OutboxTask, _: Any) -> tuple[str, str, int]:
        """Bytes first, then the row: a row never names what is not there."""
        async with self._channels.voice().open_recording(task.payload["external_id"]) as sound:
            key, size = await self._files.receive(sound.pieces, folder="recordings", now=self._clock.now())
        return key, sound.content_type, size

    async def remove(self, task: OutboxTask, _: Any) -> None:
        """Out of our store, and at the provider; what is gone already is well."""
        if task.payload["file_key"]:
            await self._files.delete(task.payload["file_key"])
        if task.payload["external_id"]:
            await self._channels.voice().delete_recording(task.payload["external_id"])

    async def fetched(self, tx: Tx, task: OutboxTask, _: Any, done: Done) -> None:
        key, content_type, size = done.value if isinstance(done.value, tuple) else ("", "", 0)
        error = done.error
        if isinstance(done.value, ChannelError):
            error = done.value.message
        await behaviour.fetched(
            tx, task.payload["recording_id"], file_key=key, content_type=content_type, size=size, error=error,
            now=self._clock.now(),
        )  # fmt: skip


__all__ = ["voice_executors"]
