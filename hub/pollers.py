"""Everything that happens by time or by itself: router, relay, publisher, sweeps, mailboxes, seals, checks.

What only one process may do runs under a lease (crm_core/leases.py) that fails over in seconds; the relay's lanes run in every
process, because each row is claimed by itself. `hub poll` runs all of it; `start_background` does the same inside another
process. A part that breaks is logged and begun again; the others go on.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import signal
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial

from campaigns import checks as campaign_checks
from campaigns.imports import RecipientImport
from crm_core import audit, contact_undo, csv_reading, leases, outbox, outgoing, users
from crm_core.contact_imports import ContactImport
from crm_core.db import DatabaseUnavailable, Tx
from hub import jobs, mailbox_troubles, mailbox_watch, mailboxes
from hub.executors import executors
from hub.intake_deps import intake_deps
from hub.log import get_logger
from hub.media import media_of
from hub.publisher import LEASE as PUBLISHER
from hub.publisher import Publisher
from hub.reconciler import EVERY_S as RECONCILE_S
from hub.reconciler import Reconciler
from hub.redis_ports import waited
from hub.relay import LANES, Relay
from hub.runtime import Runtime, running
from hub.settings import Settings
from hub.tasks import end_tasks
from hub.voice_executors import voice_executors
from routing import agents, engine, recordings
from routing.checks import check_invariants
from webhooks import intake, receipts
from webhooks.routes import KINDS

log = get_logger(__name__)

TTL_S = 5.0
RENEW_S = 1.5
ROUTER_LOOK_S = 1.0
SWEEP_S = 5.0
SEAL_S = 5.0
CHECK_S = 60.0
CLEAN_S = 600.0
AGAIN_S = (1.0, 30.0)

Work = Callable[[int], Awaitable[None]]  # is given the lease's token


class Singletons:
    """Runs each named work in at most one process: takes its lease, renews all of them in one unit, cancels what is lost."""

    def __init__(self, runtime: Runtime, works: dict[str, Work], *, holder: str = "") -> None:
        self._runtime = runtime
        self._works = works
        self.holder = holder or secrets.token_hex(8)
        self._tasks: dict[str, tuple[int, asyncio.Task[None]]] = {}

    def add(self, name: str, work: Work) -> None:
        """One more."""
        self._works.setdefault(name, work)

    def drop(self, name: str) -> None:
        """One less; its task is ended at the next turn."""
        self._works.pop(name, None)

    @property
    def held(self) -> set[str]:
        """Names of the leases this process holds."""
        return set(self._tasks)

    async def run(self) -> None:
        """For ever; on cancellation everything is stopped and given up, so that another process takes over at once."""
        try:
            while True:
                await self.turn()
                await asyncio.sleep(RENEW_S)
        finally:
            await self._stop(set(self._tasks))
            await self._release()

    async def turn(self) -> None:
        """Renew what is held, take what is free."""
        try:
            async with asyncio.timeout(TTL_S - RENEW_S):
                held = await self._runtime.db.write(self._take)
        except (DatabaseUnavailable, TimeoutError) as error:
            # Others may take over when the leases run out, so this process must not go on working as if it had them.
            log.warning("leases: database unavailable", reason=str(error) or type(error).__name__)
            held = {}
        lost = {name for name, (token, task) in self._tasks.items() if held.get(name) != token or task.done()}
        await self._stop(lost)
        for name, token in held.items():
            if name not in self._tasks:
                log.info("lease taken", lease=name)
                self._tasks[name] = (token, asyncio.create_task(guarded(name, self._works[name], token), name=name))

    async def _take(self, tx: Tx) -> dict[str, int]:
        now = self._runtime.clock.now()
        held: dict[str, int] = {}
        for name in sorted(self._works):
            token = await leases.take(tx, name, holder=self.holder, now=now, ttl_s=TTL_S)
            if token is not None:
                held[name] = token
        return held

    async def _stop(self, names: set[str]) -> None:
        await end_tasks([self._tasks.pop(name)[1] for name in names])

    async def _release(self) -> None:
        now = self._runtime.clock.now()

        async def unit(tx: Tx) -> None:
            for name in self._works:
                await leases.release(tx, name, holder=self.holder, now=now)

        try:
            await self._runtime.db.write(unit)
        except DatabaseUnavailable as error:
            log.warning("leases: not released, they run out by themselves", reason=str(error))


async def guarded(name: str, work: Callable[..., Awaitable[None]], *arguments: object) -> None:
    """Run a part for ever: what breaks is logged and begun again after a growing rest."""
    rest_s = AGAIN_S[0]
    while True:
        began = asyncio.get_running_loop().time()
        try:
            await work(*arguments)
        except Exception as error:
            # Nothing above this could do better than to begin again, and the other parts must not suffer.
            if isinstance(error, DatabaseUnavailable):
                log.warning("background part waits for the database", part=name, reason=str(error))
            else:
                log.exception("background part broke", part=name, error=type(error).__name__)
        if asyncio.get_running_loop().time() - began > AGAIN_S[1]:
            rest_s = AGAIN_S[0]
        await asyncio.sleep(rest_s * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, not a secret
        rest_s = min(rest_s * 2, AGAIN_S[1])


class Background:
    """The parts of one process."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.deps = intake_deps(runtime)
        self.publisher = Publisher(runtime.db, runtime.redis, runtime.wakeups)
        table = {
            **executors(runtime.channels, runtime.clock, media_of(runtime), runtime.files),
            **voice_executors(runtime.channels, runtime.clock, runtime.files),
        }
        table["mail.send"] = mailbox_troubles.watched(table["mail.send"], runtime.redis, runtime.clock)
        self.relay = Relay(
            runtime.db,
            runtime.clock,
            runtime.wakeups,
            runtime.metrics,
            table,
        )
        self.reconciler = Reconciler(runtime)
        self.singletons = Singletons(
            runtime,
            {
                "router": self._route,
                PUBLISHER: self.publisher.run,
                "receipts": every(SWEEP_S, self._sweep),
                "audit": every(SEAL_S, self._seal),
                "invariants": every(CHECK_S, self._check),
                "cleaner": every(CLEAN_S, self._clean),
                "mailboxes": every(mailboxes.LOOK_S, self._mailboxes),
                "jobs": self._jobs,
                "reconcile": every(RECONCILE_S, self._reconcile),
            },
        )

    def start(self) -> list[asyncio.Task[None]]:
        """Start everything; cancel the tasks to stop."""
        parts: dict[str, Callable[..., Awaitable[None]]] = {"singletons": self.singletons.run}
        tasks = [asyncio.create_task(guarded(name, work), name=name) for name, work in parts.items()]
        for lane in LANES:
            tasks.append(asyncio.create_task(guarded(f"relay-{lane}", self.relay.run_lane, lane), name=f"relay-{lane}"))
        return tasks

    async def _route(self, token: int) -> None:
        """The router's loop: woken by changes, at the instant the last pass named, and each second."""
        runtime = self.runtime
        with runtime.wakeups.waiting("router") as woken:
            while True:
                woken.clear()
                due = await engine.tick(runtime.db, clock=runtime.clock, holder=self.singletons.holder)
                wait_s = ROUTER_LOOK_S
                if due is not None:
                    wait_s = min(wait_s, max(0.0, (due - runtime.clock.now()).total_seconds()))
                if wait_s <= 0:
                    await asyncio.sleep(0)
                else:
                    await waited(woken, wait_s)

    async def _jobs(self, token: int) -> None:
        """Offer campaigns, files and lists that are due to the RQ workers."""
        await jobs.sweep_jobs(self.runtime)

    async def _sweep(self) -> None:
        await intake.sweep(self.deps, KINDS)
        await mailboxes.sweep_failed(self.runtime)

    async def _seal(self) -> None:
        async with self.runtime.db.reading() as tx:
            if not await audit.any_unsealed(tx):
                return
        await self.runtime.db.write(audit.seal)

    async def _check(self) -> None:
        runtime = self.runtime
        now = runtime.clock.now()
        async with runtime.db.reading(slow=True) as tx:
            wrong = await check_invariants(tx, now=now)
            owed = await receipts.count_states(tx)
            unsent = await campaign_checks.check_invariants(tx, now=now)
        runtime.metrics.invariants.labels("router").set(len(wrong))
        runtime.metrics.invariants.labels("receipts").set(owed.get("quarantined", 0))
        runtime.metrics.invariants.labels("campaigns").set(len(unsent))
        for sentence in [*wrong, *unsent][:20]:
            log.error("invariant broken", what=sentence)
        if owed:
            log.warning("receipts not done", **owed)
        await self._heal_clock()

    async def _heal_clock(self) -> None:
        """After a clock that was set back: nothing waits until the time it was written for comes round again."""
        now = self.runtime.clock.now()
        async with self.runtime.db.reading() as tx:
            if not await outbox.any_ahead(tx, now=now) and not await agents.any_ahead(tx, now=now):
                return

        async def unit(tx: Tx) -> int:
            return await outbox.heal_clock(tx, now=now) + await agents.heal_clock(tx, now=now)

        log.warning("the clock was set back", healed=await self.runtime.db.write(unit))

    async def _reconcile(self) -> None:
        await self.reconciler.look()

    async def _clean(self) -> None:
        now = self.runtime.clock.now()
        await self.runtime.db.write(lambda tx: users.drop_expired_sessions(tx, now=now))
        if roles := self.runtime.settings.second_factor:
            await self.runtime.db.write(lambda tx: users.drop_sessions_without_factor(tx, roles))
        await self.runtime.db.write(lambda tx: outgoing.forget(tx, now=now))
        while await self.runtime.db.write(lambda tx: recordings.expire(tx, now=now)):
            pass
        for table in (RecipientImport, ContactImport):
            while await self.runtime.db.write(partial(csv_reading.let_files_go, table=table, now=now)):
                pass
        while await self.runtime.db.write(contact_undo.forget):
            pass

    async def _mailboxes(self) -> None:
        """One lease and task per mailbox: those switched on meanwhile are added, those switched off end."""
        wanted = {f"mailbox:{account.id}": account.id for account in await mailboxes.list_mailboxes(self.runtime)}
        for name, account_id in wanted.items():
            self.singletons.add(name, partial(self._mailbox, account_id))

    async def _mailbox(self, account_id: str, token: int) -> None:
        await mailbox_watch.poll_as_set(self.runtime, account_id)


def every(seconds: float, work: Callable[[], Awaitable[None]]) -> Work:
    """`work` each `seconds` while the lease is held."""

    async def run(token: int) -> None:
        while True:
            await work()
            await asyncio.sleep(seconds)

    return run


async def start_background(runtime: Runtime) -> Callable[[], Awaitable[None]]:
    """Run everything inside this process; the function that stops it."""
    tasks = Background(runtime).start()

    async def stop() -> None:
        await end_tasks(tasks)

    return stop


async def run_poll(settings: Settings) -> int:
    """`hub poll`: everything in a process of its own until told to stop; the exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings) as runtime:
        end = await start_background(runtime)
        log.info("polling", ttl_s=timedelta(seconds=TTL_S).total_seconds())
        watch = asyncio.create_task(runtime.metrics.watch_loop())
        try:
            await stop.wait()
        finally:
            watch.cancel()
            await end()
    return 0
