"""Units of work that put off all they write share one transaction: `combined` makes one write of several, `Groups` collects them.

Such a unit has read without locks and only appends, so it may stand beside others as it would on a busy PostgreSQL; whatever it
did not see, a constraint refuses, and then it runs again by itself. Under load there are fewer statements, fewer waits for the
disk, and counters that all of them change are changed once. Decides nothing about what is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from crm_core.statements import InsertPlan, Row
from crm_core.tx import DatabaseUnavailable, Rerun

Rows = tuple[InsertPlan, list[Row]]
Appends = Sequence[Rows]  # what one unit leaves to be written
Write = Callable[[Sequence[Appends]], Awaitable[None]]

UNITS = 32
# A group that waits for somebody's lock does not hold up the next ones for longer than this.
PATIENCE_S = 0.02
AT_ONCE = 4
# A statement for all costs PostgreSQL about 1 ms, and 0.2 ms for each. So a group begins this long after the last one's
# beginning at the soonest, unless it is full: whoever comes alone waits for nobody, and a crowd leaves the machine to others.
PACE_S = 0.02


class Refused(Rerun):
    """A constraint refused what was to be appended, and nothing of it was written: the unit runs again, under locks."""


def combined(units: Sequence[Appends]) -> list[Rows]:
    """The rows of all units by table, always in one order; what is added up under one key is one row, sorted by key."""
    rows: dict[InsertPlan, list[Row]] = {}
    for unit in units:
        for plan, given in unit:
            rows.setdefault(plan, []).extend(given)
    return [(plan, plan.added_up(rows[plan])) for plan in sorted(rows, key=lambda plan: plan.rank)]


class _Member:
    __slots__ = ("appends", "done")

    def __init__(self, appends: Appends, done: asyncio.Future[None]) -> None:
        self.appends = appends
        self.done = done

    def tell(self, failure: BaseException | None) -> None:
        if self.done.done():
            return  # whoever asked has gone
        if failure is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(failure)


class Groups:
    """One group is written at a time, and whoever comes meanwhile is in the next: the busier, the larger."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._waiting: list[_Member] = []
        self._running: set[asyncio.Task[None]] = set()
        self._due = False  # a start is on its way
        self._started = 0.0

    async def join(self, appends: Appends) -> None:
        """Back once it is committed. Raises Refused, or what became of the whole group."""
        loop = asyncio.get_running_loop()
        member = _Member(appends, loop.create_future())
        self._waiting.append(member)
        if not self._running:
            self._prepare()
        await member.done

    def _prepare(self) -> None:
        """See that a group begins, at its pace."""
        if self._due or not self._waiting:
            return
        self._due = True
        loop = asyncio.get_running_loop()
        wait = 0.0 if len(self._waiting) >= UNITS else self._started + PACE_S - loop.time()
        if wait > 0:
            loop.call_later(wait, self._start)
        else:
            loop.call_soon(self._start)  # those whose look-ups have just ended come along

    def _start(self) -> None:
        self._due = False
        if len(self._running) >= AT_ONCE:
            return  # the next one that ends goes on
        members = [one for one in self._waiting[:UNITS] if not one.done.cancelled()]
        del self._waiting[:UNITS]
        if not members:
            self._prepare()  # all of these have gone; perhaps not those behind them
            return
        loop = asyncio.get_running_loop()
        self._started = loop.time()
        task = loop.create_task(self._run(members), name="write-group")
        impatient = loop.call_later(PATIENCE_S, self._prepare)
        self._running.add(task)
        task.add_done_callback(lambda ended: self._ended(ended, impatient))

    def _ended(self, task: asyncio.Task[None], impatient: asyncio.TimerHandle) -> None:
        impatient.cancel()
        self._running.discard(task)
        self._prepare()

    async def _run(self, members: Sequence[_Member]) -> None:
        failure: BaseException | None = None
        try:
            await self._write([one.appends for one in members])
        except Refused as refused:
            if len(members) > 1:
                for one in members:  # one of them is to blame: each by itself
                    await self._run([one])
                return
            failure = refused
        except Exception as error:
            failure = error
        except BaseException:
            failure = DatabaseUnavailable("The database is closed.")
            raise
        finally:
            for one in members:
                one.tell(failure)

    async def close(self) -> None:
        """Finish what is under way or waits."""
        while self._running or self._waiting:
            if not self._running:
                self._start()
            await asyncio.gather(*self._running, return_exceptions=True)
