"""A provider in memory for the property tests: legs, rooms and the events about them, delivered when and in what order the test
likes. It knows nothing of the hub but the paths that it is given and the outbox rows that it executes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from channels.contract import CallProgress, RoomEvent
from channels.steps import DialConference, Enqueue, Gather, Hangup, Leave, Redirect, Reject, Step
from crm_core.clock import FixedClock
from crm_core.db import Database
from routing import router


@dataclass
class Leg:
    call_id: str
    interaction_id: str
    label: str = ""
    room: str = ""  # provider's id of the room it is in
    alive: bool = True
    queued: bool = False
    wait_path: str = ""
    ends_room: bool = False


@dataclass
class Room:
    room_id: str
    name: str
    interaction_id: str
    inside: list[str] = field(default_factory=list)
    over: bool = False


class Provider:
    """Executes what the hub asks for and tells what happened."""

    def __init__(self, db: Database, clock: FixedClock) -> None:
        self.db = db
        self.clock = clock
        self.legs: dict[str, Leg] = {}
        self.rooms: dict[str, Room] = {}
        self.ringing: dict[str, dict[str, Any]] = {}  # outgoing calls that nobody has answered yet, by CallSid
        self.pending: list[tuple[str, Any]] = []  # events on their way: (interaction id, event)
        self.numbers = itertools.count(1)
        self.sequence = itertools.count(1)

    def sid(self, prefix: str) -> str:
        return f"{prefix}{next(self.numbers):030d}"

    # --- what happens

    def tell_status(self, leg: Leg, status: str, rank: int) -> None:
        number = next(self.sequence)
        event = CallProgress(
            leg.call_id, status, rank, number, self.clock.now(), f"{leg.call_id}:{status}:{number}", None, {}
        )
        self.pending.append((leg.interaction_id, event))

    def tell_room(self, room: Room, kind: str, leg: Leg | None) -> None:
        number = next(self.sequence)
        call_id, label = (leg.call_id, leg.label) if leg else ("", "")
        event = RoomEvent(
            room.name, room.room_id, call_id, label, kind, number, self.clock.now(), f"{room.room_id}:{number}", {}
        )
        self.pending.append((room.interaction_id, event))

    def join(self, leg: Leg, step: DialConference) -> None:
        interaction_id = step.name.removeprefix("room-")
        room = next((r for r in self.rooms.values() if r.name == step.name and not r.over), None)
        if room is None:
            room = Room(self.sid("CF"), step.name, interaction_id)
            self.rooms[room.room_id] = room
        if any(self.legs[each].label == step.label for each in room.inside):
            self.hang_up(leg)  # a label is taken once
            return
        leg.queued, leg.room, leg.label, leg.ends_room = False, room.room_id, step.label, step.end_on_exit
        room.inside.append(leg.call_id)
        self.tell_room(room, "join", leg)

    def leave_room(self, leg: Leg) -> None:
        room = self.rooms.get(leg.room)
        leg.room = ""
        if room is None or leg.call_id not in room.inside:
            return
        room.inside.remove(leg.call_id)
        self.tell_room(room, "leave", leg)
        if leg.ends_room or not room.inside:
            self.end_room(room)

    def end_room(self, room: Room) -> None:
        if room.over:
            return
        room.over = True
        for call_id in list(room.inside):
            leg = self.legs[call_id]
            room.inside.remove(call_id)
            leg.room = ""
            self.tell_room(room, "leave", leg)
            self._complete(leg)
        self.tell_room(room, "end", None)

    def hang_up(self, leg: Leg) -> None:
        if not leg.alive:
            return
        self._complete(leg)
        self.leave_room(leg)

    def _complete(self, leg: Leg) -> None:
        if leg.alive:
            leg.alive = leg.queued = False
            self.tell_status(leg, "completed", 9)

    # --- what the hub answers

    async def obey(self, leg: Leg, steps: list[Step]) -> None:
        """Carry out an answer as far as the next thing that waits."""
        for step in steps:
            if isinstance(step, Enqueue):
                leg.queued, leg.wait_path = True, step.wait_url
            elif isinstance(step, DialConference):
                self.join(leg, step)
            elif isinstance(step, Gather):
                leg.wait_path = step.action
            elif isinstance(step, Redirect):
                continue
            elif isinstance(step, Leave):
                leg.queued = False
                self._complete(leg)
            elif isinstance(step, Hangup | Reject):
                self.hang_up(leg)

    async def ask(self, leg: Leg, path: str, **params: str) -> list[Step]:
        query = parse_qs(urlsplit(path).query)
        steps: list[Step] = await self.db.write(
            lambda tx: router.call_step(
                tx, interaction_id=query["i"][0], step=query["step"][0], number=int(query["n"][0]), params=params,
                now=self.clock.now(),
            )
        )  # fmt: skip
        return steps

    async def execute(self, task: Any) -> None:
        """One outbox row."""
        told = task.payload
        if task.kind == "call.move":
            leg = self.legs.get(told["call_id"])
            if leg is not None and leg.alive:
                leg.queued = False
                if leg.room:
                    self.leave_room(leg)
                if leg.alive:
                    await self.obey(leg, await self.ask(leg, told["path"]))
        elif task.kind == "call.end":
            if told["call_id"] in self.legs:
                self.ringing.pop(told["call_id"], None)
                self.hang_up(self.legs[told["call_id"]])
        elif task.kind == "room.end":
            room = self.rooms.get(told["room_id"])
            if room is not None:
                self.end_room(room)
        elif task.kind == "call.hold":
            room = self.rooms.get(told["room_id"])
            if room is not None and told["call_id"] in room.inside:
                self.tell_room(room, "hold" if told["on"] else "unhold", self.legs[told["call_id"]])
        elif task.kind == "call.place":
            leg = Leg(self.sid("CC"), told["interaction_id"], "customer")
            self.legs[leg.call_id] = leg
            self.ringing[leg.call_id] = told
            await self.db.write(
                lambda tx: router.call_placed(
                    tx, told["interaction_id"], call_id=leg.call_id, now=self.clock.now()
                )
            )  # fmt: skip

    async def answer(self, call_id: str) -> None:
        """Somebody picks up a phone that the hub rings."""
        told = self.ringing.pop(call_id)
        leg = self.legs[call_id]
        if leg.alive:
            self.tell_status(leg, "answered", 3)
            self.join(leg, DialConference(told["room"], told["label"], end_on_exit=True))

    async def deliver(self, event: Any, interaction_id: str) -> None:
        if isinstance(event, RoomEvent):
            await self.db.write(
                lambda tx: router.room_changed(tx, event, interaction_id=interaction_id, now=self.clock.now())
            )
        else:
            await self.db.write(lambda tx: router.call_progressed(tx, event, now=self.clock.now()))
