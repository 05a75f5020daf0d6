"""A leg: one telephone's connection to the provider, from the first ring to the last callback.

A leg runs one step at a time (a TwiML document, a bridge, a seat in a conference). Whoever wants something else from
it interrupts: a hang-up, or a redirect to new instructions. Each step registers what its end means (leaving a queue or
a room, ending a child leg), so that an interruption at any instant has the documented consequences, in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from hub.sandbox.callbacks import Answer, Courier
from hub.sandbox.clock import rfc2822
from hub.sandbox.state import API_VERSION, FINAL_CALL_STATUSES, Call, Hook
from hub.sandbox.twiml import Source
from hub.sandbox.world import World, country_of
from hub.tasks import end_tasks

EVENT_OF_STATUS = {"initiated": "initiated", "ringing": "ringing", "in-progress": "answered"}


class EndCall(Exception):
    """The leg is to end here. `status` replaces the ordinary one (Reject: busy or no-answer)."""

    def __init__(self, status: str = "completed") -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True)
class Hangup:
    """Somebody ended the leg: `caller` (the telephone itself), `api`, `peer` (other leg) or `line` (socket gone)."""

    by: str
    status: str = "completed"


@dataclass(frozen=True)
class Redirect:
    """The leg leaves what it does and runs these instructions."""

    source: Source


Interruption = Hangup | Redirect
Running = Coroutine[Any, Any, None]
Step = Callable[["Leg"], Running]
Run = Callable[["Leg", Source], Running]
Undo = Callable[[Interruption], Awaitable[None]]


class Leg:
    """A live call. Made by `Legs.open`, set going by `live`."""

    def __init__(self, legs: Legs, call: Call) -> None:
        self.legs = legs
        self.world = legs.world
        self.call = call
        self.courier: Courier = legs.world.callbacks.courier()
        self.undo: list[Undo] = []
        self.typed: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.listening = asyncio.Event()
        self.answered = asyncio.Event()
        self.ended = asyncio.Event()
        self.pickup: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.company: Callable[[], list[Leg]] = list
        self.audience: Callable[[], list[Leg]] | None = None
        self.speak: Callable[[str], None] | None = None
        self.ringing_to: dict[str, Any] = {}
        self.amd: Hook | None = None
        self._interruptions: deque[Interruption] = deque()
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving = ""
        self.fallback: tuple[str, str] = ("", "POST")
        self._recordings_end: list[Callable[[], None]] = []

    # --- what is known of the leg ------------------------------------------------------------------------------------

    def is_client(self) -> bool:
        """Whether this leg's telephone is a browser, not a number."""
        return self.device().startswith("client:")

    def device(self) -> str:
        """The address of the telephone at this leg's far end."""
        return self.call.from_ if self.call.direction == "inbound" else self.call.to

    def params(self) -> list[tuple[str, str]]:
        """The standard parameters of a voice request, empty ones included (they are signed too)."""
        call = self.call
        status = self._leaving or ("in-progress" if call.status == "queued" else call.status)
        pairs = [
            ("CallSid", call.sid),
            ("AccountSid", self.world.config.account_sid),
            ("ApiVersion", API_VERSION),
            ("Direction", call.direction),
            ("CallStatus", status),
            ("From", call.from_),
            ("To", call.to),
            ("Caller", call.from_),
            ("Called", call.to),
        ]
        if not call.from_.startswith("client:"):
            for side, value in (("From", call.from_), ("Caller", call.from_), ("To", call.to), ("Called", call.to)):
                pairs += [(f"{side}Country", country_of(value))]
                pairs += [(f"{side}{part}", "") for part in ("City", "State", "Zip")]
        if call.parent_sid:
            pairs.append(("ParentCallSid", call.parent_sid))
        if call.forwarded_from:
            pairs.append(("ForwardedFrom", call.forwarded_from))
        if call.caller_name:
            pairs.append(("CallerName", call.caller_name))
        if call.answered_by:
            pairs.append(("AnsweredBy", call.answered_by))
        if call.application_sid:
            pairs.append(("ApplicationSid", call.application_sid))
        return pairs

    # --- what happens to it ------------------------------------------------------------------------------------------

    def set_status(self, status: str) -> None:
        call, now = self.call, self.world.clock.now()
        if call.over:
            return
        call.status = status
        call.updated_at = now
        if status == "in-progress" and call.started_at is None:
            call.started_at = now
            self.answered.set()
        if status in FINAL_CALL_STATUSES:
            call.ended_at = now
            call.doing = ""
        self.legs.changed(self)

    def fire(self, event: str) -> None:
        """A call progress event. Every event takes a sequence number; only subscribed ones are sent."""
        call, hook = self.call, self.call.hook
        number = call.sequence
        call.sequence += 1
        if hook is None or not hook.url or event not in (hook.events or ("completed",)):
            return
        pairs = self.params()
        if event == "initiated":
            pairs = [(name, "initiated" if name == "CallStatus" else value) for name, value in pairs]
        if event == "completed":
            seconds = call.duration_s()
            pairs += [("CallDuration", str(seconds)), ("Duration", str(-(-seconds // 60)))]
        pairs += [
            ("Timestamp", rfc2822(self.world.clock.now())),
            ("CallbackSource", "call-progress-events"),
            ("SequenceNumber", str(number)),
        ]
        self.courier.send(f"call-{event}", hook.url, hook.method, pairs)

    def hear(self, kind: str, text: str) -> None:
        """Something is audible on this leg: kept for the outside page and for tests."""
        self.call.heard.append({"at": self.world.clock.now().isoformat(), "kind": kind, "text": text})
        self.legs.changed(self)

    def doing(self, what: str) -> None:
        self.call.doing = what
        self.legs.changed(self)

    def answer(self) -> None:
        """An inbound call is answered when its first verb begins."""
        if self.call.status == "ringing":
            self.set_status("in-progress")

    def interrupt(self, interruption: Interruption) -> None:
        """Stop what the leg does. Interruptions are served in order; nothing is served after a hang-up."""
        if self.call.over:
            return
        self._interruptions.append(interruption)
        self._wake.set()

    def type_(self, kind: str, text: str) -> None:
        """A key or a sentence from this leg's telephone; heard by those it is connected with, too."""
        self.typed.put_nowait((kind, text))
        if kind == "speech" and self.speak is not None:
            self.speak(text)
        for other in (self.audience or self.company)():
            other.hear("keys" if kind == "digits" else "voice", text)

    def at_end(self, callback: Callable[[], None]) -> None:
        self._recordings_end.append(callback)

    async def ask(self, kind: str, url: str, method: str, extra: list[tuple[str, str]]) -> Answer:
        return await self.courier.ask(kind, url, method, self.params() + extra)

    def spawn(self, work: Running) -> asyncio.Task[None]:
        """Work that goes on beside the step and dies with the leg (music, an announcement)."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def within(self, step: Running) -> Interruption | None:
        """Run a step until it ends or somebody interrupts; then carry out what its end means."""
        if self._interruptions:
            step.close()
            return await self._serve()
        task = asyncio.create_task(step)
        waker = asyncio.create_task(self._wake.wait())
        try:
            await asyncio.wait({task, waker}, return_when=asyncio.FIRST_COMPLETED)
            if task.done() and not self._interruptions:
                self.undo.clear()
                await task
                return None
            while not task.done():  # a library may swallow one cancellation; it does not swallow them all
                task.cancel()
                await asyncio.wait({task}, timeout=0.05)
            if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, EndCall):
                raise error
            return await self._serve()
        finally:
            waker.cancel()
            if not task.done():
                task.cancel()

    async def _serve(self) -> Interruption:
        """Take the next interruption and carry out what it means for the step that it ended, innermost first."""
        interruption = self._interruptions.popleft()
        if not self._interruptions:
            self._wake.clear()
        if isinstance(interruption, Hangup) and self.call.started_at is not None:
            self._leaving = interruption.status
        for undo in reversed(self.undo[:]):
            await undo(interruption)
        self.undo.clear()
        return interruption

    async def live(self, step: Step, run: Run) -> None:
        """Run the leg to its end. `run` executes a TwiML source; it is needed when the leg is redirected."""
        next_step: Running | None = step(self)
        status = "completed"
        try:
            while next_step is not None:
                try:
                    interruption = await self.within(next_step)
                except EndCall as end:
                    status = end.status
                    break
                except Exception as exc:
                    self.world.fault(0, f"the twin failed: {exc!r}", call_sid=self.call.sid)
                    status = "failed"
                    break
                if isinstance(interruption, Redirect):
                    self.answer()
                    next_step = run(self, interruption.source)
                    continue
                if isinstance(interruption, Hangup):
                    status = interruption.status
                next_step = None
        finally:
            self.finish(status)

    def finish(self, status: str) -> None:
        """End the leg once: recordings, status, the last callback."""
        if self.call.over:
            return
        if self.call.started_at is None and status == "completed":
            status = "no-answer" if self.call.direction == "inbound" else "canceled"
        for task in list(self._tasks):
            task.cancel()
        self._leaving = ""
        self.set_status(status)
        for callback in self._recordings_end:
            callback()
        self.fire("completed")
        self.ended.set()
        self.legs.closed(self)


class Legs:
    """All legs that are alive, by SID; and the account's book of calls."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.live: dict[str, Leg] = {}
        self._watchers: list[Callable[[Leg, str], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, watcher: Callable[[Leg, str], None]) -> None:
        """Be told `changed` and `closed` for every leg (the browser line and the outside page)."""
        self._watchers.append(watcher)

    def open(self, call: Call) -> Leg:
        leg = Leg(self, call)
        self.world.calls[call.sid] = call
        self.live[call.sid] = leg
        self.changed(leg)
        return leg

    def start(self, leg: Leg, step: Step, run: Run) -> None:
        task = asyncio.create_task(leg.live(step, run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def changed(self, leg: Leg) -> None:
        for watcher in self._watchers:
            watcher(leg, "changed")
        self.world.tell("call", sid=leg.call.sid)

    def closed(self, leg: Leg) -> None:
        self.live.pop(leg.call.sid, None)
        for watcher in self._watchers:
            watcher(leg, "closed")
        self.world.tell("call", sid=leg.call.sid)

    async def close(self) -> None:
        await end_tasks(self._tasks)


def hook_from(
    url: str, method: str, events: str | list[str], *, default: tuple[str, ...] = ("completed",)
) -> Hook | None:
    """A subscription, or None without a URL. Events come as one text or as repeated fields; both may hold several."""
    if not url:
        return None
    words = events.split() if isinstance(events, str) else [word for part in events for word in part.split()]
    return Hook(url, method or "POST", tuple(words) or default)
