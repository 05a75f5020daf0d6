"""Numbers events in commit order and copies them to the Redis stream `hub:events`; one leased publisher does it.

The rows are the truth, the stream is their copy: an entry's stream id is its number, so a copy made twice is refused by Redis
itself, and after Redis lost everything the latest thousand are copied again from the rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import redis.asyncio as aioredis

from crm_core import events, leases
from crm_core.db import Database, Tx
from crm_core.events import Event
from crm_core.failpoints import failpoint
from hub.log import get_logger
from hub.redis_ports import Breaker, RedisDown, RedisWakeups, waited

log = get_logger(__name__)

STREAM = "hub:events"
KEPT = 100_000
AGAIN = 1000
LOOK_S = 1.0
LEASE = "publisher"

# Adds the entries whose number is one more than the stream's last; gives the last number then. A gap adds nothing, and the
# answer tells from where to copy. An empty stream takes whatever comes first when ARGV[2] says so.
COPY = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local number = 0
if #last > 0 then number = tonumber(string.match(last[1][1], '^(%d+)')) end
local start = 3
if number == 0 and ARGV[2] == 'start' and #ARGV >= start then number = tonumber(ARGV[start]) - 1 end
for i = start, #ARGV, 2 do
  local this = tonumber(ARGV[i])
  if this > number + 1 then break end
  if this == number + 1 then
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], this .. '-0', 'e', ARGV[i + 1])
    number = this
  end
end
return number
"""


def encoded(event: Event) -> str:
    """An event as it stands in the stream."""
    return json.dumps(
        {
            "seq": event.seq,
            "id": event.id,
            "kind": event.kind,
            "subject": event.subject_id,
            "version": event.version,
            "user": event.user_id,
            "queue": event.queue_id,
            "data": event.data,
            "at": event.created_at.isoformat(),
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )


class Publisher:
    """One process's publisher. `run` while holding the lease."""

    def __init__(self, db: Database, client: aioredis.Redis, wakeups: RedisWakeups) -> None:
        self._db = db
        self._wakeups = wakeups
        self._copy = client.register_script(COPY)
        self._breaker = Breaker()
        self._behind = True  # until the stream is known to hold everything numbered

    async def run(self, token: int) -> None:
        """Publish for ever, quoting the lease; ends by itself when somebody newer has taken over."""
        with self._wakeups.waiting(events.TOPIC) as woken:
            while True:
                woken.clear()
                numbered = await self.publish(token)
                if numbered is None:
                    return
                if numbered == 0:
                    await waited(woken, LOOK_S)

    async def publish(self, token: int | None = None) -> int | None:
        """Number what is new and copy it; how many were numbered, None when the lease is lost."""

        async def unit(tx: Tx) -> list[Event] | None:
            if token is not None and not await leases.holds(tx, LEASE, token=token):
                return None
            return await events.number_new(tx)

        async with self._db.reading() as tx:
            waiting = bool(await events.any_unnumbered(tx))
        fresh = await self._db.write(unit) if waiting else []
        if fresh is None:
            return None
        try:
            if fresh and not self._behind:
                self._behind = await self._send(fresh) < (fresh[-1].seq or 0)
            if self._behind or (not fresh and await self._lost()):
                await self._catch_up()
        except RedisDown:
            self._behind = True
        return len(fresh)

    async def _send(self, fresh: Sequence[Event], *, start: bool = False) -> int:
        arguments: list[Any] = [KEPT, "start" if start else ""]
        for event in fresh:
            arguments += [event.seq, encoded(event)]
        failpoint("publisher.before_copy")
        last = await self._breaker.call(lambda: self._copy(keys=[STREAM], args=arguments))
        failpoint("publisher.after_copy")
        return int(last)

    async def _lost(self) -> bool:
        """True when the stream ends before the rows do: somebody emptied Redis."""
        async with self._db.reading() as tx:
            newest = await events.last_number(tx)
        return newest > 0 and await self._send([]) < newest

    async def _catch_up(self) -> None:
        while True:
            at = await self._send([])
            async with self._db.reading() as tx:
                newest = await events.last_number(tx)
                rows = await events.list_since(tx, max(at, newest - AGAIN), limit=200)
            if not rows:
                self._behind = False
                return
            # Too far behind for a gapless copy: begin anew, so that a reader with an older id is told to resync.
            if at and at < newest - AGAIN:
                await self._breaker.call(lambda: self._copy.registered_client.delete(STREAM))
            reached = await self._send(rows, start=True)
            if reached < (rows[-1].seq or 0):
                log.warning("events: stream and rows disagree", stream=reached, rows=rows[-1].seq)
                await self._breaker.call(lambda: self._copy.registered_client.delete(STREAM))
