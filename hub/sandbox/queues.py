"""Call queues: made on demand by Enqueue, members in order of arrival, positions counted from 1."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from hub.sandbox.calls import Leg
from hub.sandbox.state import new_sid
from hub.sandbox.world import World

DEFAULT_MAX_SIZE = 1000


@dataclass(eq=False)
class Member:
    """One call waiting in a queue."""

    leg: Leg
    entered_at: datetime


@dataclass(eq=False)
class Queue:
    """One provider queue and who waits in it."""

    sid: str
    friendly_name: str
    created_at: datetime
    updated_at: datetime
    max_size: int = DEFAULT_MAX_SIZE
    members: list[Member] = field(default_factory=list)


class Queues:
    """The account's queues by SID."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.by_sid: dict[str, Queue] = {}

    def named(self, name: str) -> Queue | None:
        return next((queue for queue in self.by_sid.values() if queue.friendly_name == name), None)

    def create(self, name: str, max_size: int = DEFAULT_MAX_SIZE) -> Queue:
        now = self.world.clock.now()
        queue = Queue(new_sid("QU"), name, now, now, max_size)
        self.by_sid[queue.sid] = queue
        return queue

    def enter(self, queue: Queue, leg: Leg) -> Member | None:
        """A place at the end, or None when the queue is full."""
        if len(queue.members) >= queue.max_size:
            return None
        member = Member(leg, self.world.clock.now())
        queue.members.append(member)
        return member

    def leave(self, queue: Queue, member: Member) -> None:
        if member in queue.members:
            queue.members.remove(member)

    def wait_s(self, member: Member) -> int:
        return max(0, int((self.world.clock.now() - member.entered_at).total_seconds()))

    def average_wait_s(self, queue: Queue) -> int:
        waits = [self.wait_s(member) for member in queue.members]
        return round(sum(waits) / len(waits)) if waits else 0

    def wait_params(self, queue: Queue, member: Member) -> list[tuple[str, str]]:
        """The parameters of a request to the wait URL (Twilio docs, Enqueue, "waitUrl request parameters")."""
        position = queue.members.index(member) + 1 if member in queue.members else 0
        return [
            ("QueuePosition", str(position)),
            ("QueueSid", queue.sid),
            ("QueueTime", str(self.wait_s(member))),
            ("AvgQueueTime", str(self.average_wait_s(queue))),
            ("CurrentQueueSize", str(len(queue.members))),
            ("MaxQueueSize", str(queue.max_size)),
        ]
