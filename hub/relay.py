"""Executes the outbox rows that people wait for: call control, agents' replies, notices. Never behind bulk.

Each row goes claim → commit → call → record → commit. Any number of processes may run this: the claim decides, the row's
token fences. What may be repeated is repeated after a doubt; what may not (a text, a mail, a call) becomes `unknown` and is
examined. One task's trouble never holds up another's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from channels.errors import ChannelError, Gone, OutcomeUnknown
from crm_core import outbox
from crm_core.clock import Clock
from crm_core.db import Database, DatabaseUnavailable, Rerun, Tx
from crm_core.failpoints import failpoint
from crm_core.outbox import OutboxState, OutboxTask
from hub.log import get_logger
from hub.metrics import Metrics
from hub.redis_ports import RedisWakeups, waited

log = get_logger(__name__)

LANES: Mapping[str, int] = {"control": 16, "reply": 8, "notice": 4}
LOOK_S = 1.0
CALL_S = 25.0
# A process that slept between its claim and its call may have been overtaken: past this it does not call any more.
FRESH_S = outbox.LEASE_S / 2
MAX_ATTEMPTS = 8
CRASHES = 3  # then the task itself is what ends its processes
BACKOFF_S = (1, 2, 4, 8, 15, 30, 60)


@dataclass(frozen=True, slots=True)
class Done:
    """What the call brought."""

    state: OutboxState
    value: Any = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Executor:
    """How one kind of task is executed.

    `prepare` reads what the call needs, in the transaction of the claim, and may refuse it there (returns a Done): the gate
    and the claim are one transaction. `call` talks to the outside. `record` writes what came of it with the task's end.
    """

    channel: str
    call: Callable[[OutboxTask, Any], Awaitable[Any]]
    repeatable: bool
    prepare: Callable[[Tx, OutboxTask], Awaitable[Any]] | None = None
    record: Callable[[Tx, OutboxTask, Any, Done], Awaitable[None]] | None = None


class Relay:
    """Runs the lanes of one process."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        wakeups: RedisWakeups,
        metrics: Metrics,
        executors: Mapping[str, Executor],
        *,
        lanes: Mapping[str, int] = LANES,
    ) -> None:
        self._db = db
        self._clock = clock
        self._wakeups = wakeups
        self._metrics = metrics
        self._executors = executors
        self._lanes = lanes

    async def run_lane(self, lane: str) -> None:
        """Execute this lane's tasks for ever; cancel to stop: what is under way is given its time to end."""
        running: set[asyncio.Task[None]] = set()
        with self._wakeups.waiting(outbox.TOPIC) as woken:
            try:
                while True:
                    woken.clear()
                    started = await self._start(lane, self._lanes[lane] - len(running), running)
                    if started and len(running) < self._lanes[lane]:
                        continue
                    await self._pause(woken, running)
            finally:
                if running:
                    await asyncio.wait(running, timeout=CALL_S)

    async def run_once(self, lane: str) -> int:
        """Execute what is due in this lane now and return when it is done; how many."""
        running: set[asyncio.Task[None]] = set()
        started = await self._start(lane, self._lanes[lane], running)
        if running:
            await asyncio.wait(set(running))
        return started

    async def _pause(self, woken: asyncio.Event, running: set[asyncio.Task[None]]) -> None:
        """Until woken, until a task ends when all hands are busy, or for a second."""
        look = asyncio.create_task(waited(woken, LOOK_S))
        try:
            await asyncio.wait({look, *running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            look.cancel()

    async def _start(self, lane: str, free: int, running: set[asyncio.Task[None]]) -> int:
        if free <= 0:
            return 0
        claimed_at = time.monotonic()
        try:
            async with self._db.reading() as tx:
                if not await outbox.any_due(tx, lane=lane, now=self._clock.now()):
                    return 0
            claimed = await self._db.write(lambda tx: self._claim(tx, lane, free))
        except DatabaseUnavailable as error:
            log.warning("outbox: database unavailable", lane=lane, reason=str(error))
            return 0
        for task, executor, prepared, doubtful in claimed:
            job = asyncio.create_task(
                self._guarded(task, executor, prepared, claimed_at, doubtful=doubtful), name=f"relay-{task.kind}"
            )
            running.add(job)
            job.add_done_callback(running.discard)
        return len(claimed)

    async def _claim(self, tx: Tx, lane: str, free: int) -> list[tuple[OutboxTask, Executor, Any, bool]]:
        now = self._clock.now()
        ready, doubtful = await outbox.claim(tx, lane=lane, now=now, limit=free)
        found: list[tuple[OutboxTask, Executor, Any, bool]] = []
        for task, in_doubt in [*((t, False) for t in ready), *((t, True) for t in doubtful)]:
            executor = self._executors.get(task.kind)
            if executor is None:
                await outbox.finish(tx, task, OutboxState.FAILED, now=now, error=f"no executor for {task.kind}")
                continue
            prepared: Any = None
            if executor.prepare is not None:
                try:
                    async with tx.savepoint():
                        prepared = await executor.prepare(tx, task)
                except (Rerun, DatabaseUnavailable):
                    raise
                except Exception as error:
                    # What cannot be prepared fails alone: a bad task must not keep the rest of its claim waiting.
                    log.exception("outbox: not prepared", kind=task.kind, task=task.id)
                    prepared = Done(OutboxState.FAILED, error=f"{type(error).__name__}: {error}")
            if isinstance(prepared, Done):
                await self._record(tx, task, executor, None, prepared)
                continue
            found.append((task, executor, prepared, in_doubt))
        return found

    async def _guarded(
        self, task: OutboxTask, executor: Executor, prepared: Any, claimed_at: float, *, doubtful: bool
    ) -> None:
        try:
            await self._execute(task, executor, prepared, claimed_at, doubtful=doubtful)
        except DatabaseUnavailable as error:
            # The call may have happened; the lease runs out and the next claim finds the task in doubt.
            log.error("outbox: result not stored", kind=task.kind, task=task.id, reason=str(error))
        except Exception:
            # A fault of one task must not end the lane; its lease runs out and it is seen again as doubtful.
            log.exception("outbox: task failed", kind=task.kind, task=task.id)

    async def _execute(
        self, task: OutboxTask, executor: Executor, prepared: Any, claimed_at: float, *, doubtful: bool
    ) -> None:
        if doubtful and not executor.repeatable:
            done = Done(OutboxState.UNKNOWN, error="its process ended in the middle of the call")
        elif doubtful and task.attempts > CRASHES:
            done = Done(OutboxState.FAILED, error=f"its process ended {CRASHES} times in the middle of it")
        elif time.monotonic() - claimed_at > FRESH_S:
            return
        else:
            failpoint("relay.before_call")
            done = await self._call(task, executor, prepared)
            failpoint("relay.after_call")
        if done.state is OutboxState.PENDING:
            due_at = self._clock.now() + timedelta(seconds=float(done.value))
            await self._db.write(lambda tx: outbox.retry(tx, task, due_at=due_at, error=done.error))
        else:
            await self._db.write(lambda tx: self._record(tx, task, executor, prepared, done))
        if done.state in (OutboxState.FAILED, OutboxState.UNKNOWN):
            log.warning("outbox: not done", kind=task.kind, task=task.id, state=str(done.state), error=done.error)

    async def _call(self, task: OutboxTask, executor: Executor, prepared: Any) -> Done:
        """The call's result as the task's next state; PENDING carries the seconds until the next try."""
        try:
            with self._metrics.provider_call(executor.channel):
                async with asyncio.timeout(CALL_S):
                    return Done(OutboxState.DONE, await executor.call(task, prepared))
        except Gone as error:
            # Hanging up or moving what is over: the state we wanted, or one that its own events will tell.
            return Done(OutboxState.DONE, error=f"gone: {error.message}")
        except ChannelError as error:
            return self._failed(task, executor, error)
        except TimeoutError:
            return self._failed(task, executor, OutcomeUnknown("The provider did not answer in time.", code="timeout"))

    def _failed(self, task: OutboxTask, executor: Executor, error: ChannelError) -> Done:
        told = f"{type(error).__name__} {error.code}: {error.message}"
        doubt = isinstance(error, OutcomeUnknown)
        if doubt and not executor.repeatable:
            return Done(OutboxState.UNKNOWN, error, told)
        if (error.retryable or doubt) and task.attempts < MAX_ATTEMPTS:
            wait = error.retry_after_s or BACKOFF_S[min(task.attempts, len(BACKOFF_S)) - 1]
            return Done(OutboxState.PENDING, min(float(wait), 300.0), told)
        return Done(OutboxState.FAILED, error, told)

    async def _record(self, tx: Tx, task: OutboxTask, executor: Executor, prepared: Any, done: Done) -> None:
        if not await outbox.finish(tx, task, done.state, now=self._clock.now(), error=done.error):
            log.warning("outbox: lease lost, nothing written", kind=task.kind, task=task.id)
            return
        if executor.record is not None:
            await executor.record(tx, task, prepared, done)


def lanes_of(relay: Relay, lanes: Sequence[str] = tuple(LANES)) -> dict[str, Callable[[], Awaitable[None]]]:
    """A runner per lane, by the name of its task."""
    return {f"relay-{lane}": (lambda lane=lane: relay.run_lane(lane)) for lane in lanes}  # type: ignore[misc]
