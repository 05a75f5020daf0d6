"""Compares our open calls with the provider's lists each minute, so that callbacks which never came heal within minutes.

Network first, then one short unit of work per difference: nothing here waits for the provider inside a transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from itertools import groupby

from channels.contract import RecordingReady, SeenCall, SeenRoom
from channels.errors import ChannelError, Misconfigured
from crm_core.db import Tx
from crm_core.errors import Conflict, NotFound
from crm_core.failpoints import failpoint
from hub.log import get_logger
from hub.runtime import Runtime
from routing import reconcile, recordings
from routing.reconcile import Difference

log = get_logger(__name__)

EVERY_S = 60.0
FIRST_LOOK = timedelta(hours=24)  # after a start or a change of leader: as long as an outage may have lasted
OVERLAP = timedelta(minutes=15)
FETCHES = 100  # calls asked for one by one in one look


def _order(seen: Difference) -> tuple[str, bool, bool, str]:
    """By room; who left before who came, and both before who is held."""
    return seen.room_id, seen.kind != "leave", seen.kind != "join", seen.call_id


class Reconciler:
    """Remembers between looks how far back it has read, and which seats differed."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._since: datetime | None = None
        self._doubted: set[Difference] = set()

    async def look(self) -> dict[str, int]:
        """One comparison; how many of what were healed. A provider that does not answer is asked again next time."""
        try:
            voice = self._runtime.channels.voice()
        except Misconfigured:
            return {}
        now = self._runtime.clock.now()
        since = self._since or now - FIRST_LOOK
        healed: Counter[str] = Counter()
        failpoint("reconcile.before_lists")
        try:
            seen: list[SeenCall] = await voice.list_calls(since=since)
            rooms: list[SeenRoom] = await voice.list_running_rooms()
            failpoint("reconcile.after_lists")
            await self._calls(voice, seen, healed, now)
            await self._rooms(voice, rooms, healed)
            await self._recordings(voice, since, healed)
        except ChannelError as error:
            log.warning("calls not compared", reason=f"{type(error).__name__} {error.code}")
            return dict(healed)
        self._since = now - OVERLAP
        if healed:
            log.warning("calls healed from the provider's lists", **healed)
        return dict(healed)

    async def _calls(self, voice: object, seen: list[SeenCall], healed: Counter[str], now: datetime) -> None:
        listed = {each.call_id for each in seen}
        async with self._runtime.db.reading() as tx:
            wrong = await reconcile.need_healing(tx, seen, now=now)
            old = [call_id for call_id in await reconcile.list_open_legs(tx, now=now) if call_id not in listed]
        for call in wrong:
            await self._heal(healed, lambda tx, call=call: reconcile.heal_call(tx, call, now=self._now()))  # type: ignore[misc]
        for call_id in old[:FETCHES]:
            found: SeenCall | None = await voice.find_call(call_id)  # type: ignore[attr-defined]
            if found is None:
                await self._heal(
                    healed,
                    lambda tx, call_id=call_id: reconcile.leg_unknown_to_provider(tx, call_id, now=self._now()),  # type: ignore[misc]
                )
            else:
                await self._heal(healed, lambda tx, call=found: reconcile.heal_call(tx, call, now=self._now()))  # type: ignore[misc]

    async def _rooms(self, voice: object, running: list[SeenRoom], healed: Counter[str]) -> None:
        alive = {room.room_id for room in running}
        async with self._runtime.db.reading() as tx:
            gone = [room.id for room in await reconcile.list_open_rooms(tx) if room.id not in alive]
            doubted = set(await reconcile.differences(tx, running))
        for room_id in gone[:FETCHES]:
            found: SeenRoom | None = await voice.find_room(room_id)  # type: ignore[attr-defined]
            if found is not None and found.over:
                await self._heal(healed, lambda tx, room=found: reconcile.end_room(tx, room, now=self._now()))  # type: ignore[misc]
        sure = sorted(doubted & self._doubted, key=_order)
        for _, of_room in groupby(sure, key=lambda each: each.room_id):
            seats = list(of_room)
            await self._heal(healed, lambda tx, seats=seats: reconcile.heal_seats(tx, seats, now=self._now()))  # type: ignore[misc]
        self._doubted = doubted

    async def _recordings(self, voice: object, since: datetime, healed: Counter[str]) -> None:
        listed: list[RecordingReady] = await voice.list_recordings(since=since)  # type: ignore[attr-defined]
        async with self._runtime.db.reading() as tx:
            settled = await recordings.list_settled(tx, [each.recording_id for each in listed])
        for each in listed:
            if each.recording_id not in settled:
                await self._heal(healed, lambda tx, each=each: self._recording(tx, each))  # type: ignore[misc]

    async def _recording(self, tx: Tx, seen: RecordingReady) -> str:
        done = await recordings.reported(tx, seen, interaction_id="", now=self._now())
        return "recording" if done is not None else ""

    def _now(self) -> datetime:
        return self._runtime.clock.now()

    async def _heal(self, healed: Counter[str], unit: Callable[[Tx], Awaitable[str]]) -> None:
        try:
            done = await self._runtime.db.write(unit)
        except (Conflict, NotFound):
            return  # somebody was quicker, or the row went: the next look sees what is left
        if done:
            healed[done.replace(" ", "_")] += 1
