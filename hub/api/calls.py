"""API: calls beyond starting and ending them: transfer, recording, blocked callers, the agent's telephone."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from crm_core import accounts, addresses, blocked_callers, interactions, recordings
from crm_core.db import Tx
from crm_core.errors import NotFound
from crm_core.recordings import RecordingState
from hub import rights
from hub.api.operation import Call, Instant, Nothing, Operation, Shown, Strict, operation
from hub.api.work import AGENTS, READERS
from hub.web import SUPERVISORS
from routing import agent_phones, transfers
from routing import recordings as behaviour


class TargetsQuery(Strict):
    """Part of a name."""

    q: str = Field("", max_length=100)


class AgentTargetShown(Shown):
    """A colleague."""

    user_id: str
    name: str
    doing: str
    free: bool


class QueueTargetShown(Shown):
    """A queue."""

    id: str
    name: str
    waiting: int
    free: int
    open: bool


class TargetsShown(Shown):
    """Where a call may go; those who are free first."""

    agents: list[AgentTargetShown]
    queues: list[QueueTargetShown]


class TransferIn(Strict):
    """Where the call goes: `target` is a user id, a queue id, or a number."""

    kind: Literal["queue", "agent", "number"]
    target: str = Field(min_length=1, max_length=50)
    note: str = Field("", max_length=1000)


@operation(
    "GET",
    "/api/v1/transfer-targets",
    "Where a call may be transferred",
    scope="calls:read",
    roles=AGENTS,
    query=TargetsQuery,
    answer=TargetsShown,
)
async def list_targets(call: Call[TargetsQuery, Nothing]) -> TargetsShown:
    """Colleagues with their presence, queues with how many wait."""
    async with call.runtime.db.reading() as tx:
        found = await transfers.list_targets(tx, user_id=call.user.id, now=call.now, query=call.query.q)
    return TargetsShown(
        agents=[
            AgentTargetShown(user_id=each.user_id, name=each.name, doing=each.word, free=each.free)
            for each in found.agents
        ],
        queues=[
            QueueTargetShown(id=each.id, name=each.name, waiting=each.waiting, free=each.free, open=each.open)
            for each in found.queues
        ],
    )


@operation(
    "POST",
    "/api/v1/calls/{id}/transfer",
    "Transfer a call",
    scope="calls:write",
    roles=AGENTS,
    body=TransferIn,
    answer=None,
)
async def transfer(call: Call[Nothing, TransferIn]) -> None:
    """Your own talk only. It keeps its place and comes back to the front when nobody takes it; you wrap up."""
    body, call_id, agent_id = call.body, call.path["id"], call.user.id

    async def unit(tx: Tx) -> None:
        if body.kind == "queue":
            await transfers.to_queue(tx, call_id, agent_id=agent_id, queue_id=body.target, now=call.now, note=body.note)
        elif body.kind == "agent":
            await transfers.to_agent(
                tx, call_id, agent_id=agent_id, to_agent_id=body.target, now=call.now, note=body.note
            )
        else:
            account = await accounts.get(tx, (await interactions.get(tx, call_id)).account_id)
            number = addresses.phone(body.target, country=account.country)
            await transfers.to_number(tx, call_id, agent_id=agent_id, number=number, now=call.now, note=body.note)

    await call.runtime.db.write(unit)


class RecordingShown(Shown):
    """A recording. `media` is there once `state` is kept; it answers range requests."""

    id: str
    kind: str
    state: str
    consent: str
    duration_s: int | None
    started_at: datetime
    media: str


class RecordingList(Shown):
    """Oldest first."""

    items: list[RecordingShown]


class RecordIn(Strict):
    """start: the customer was asked and agrees. A pause ends by itself."""

    action: Literal["start", "pause", "resume"]


@operation(
    "GET",
    "/api/v1/calls/{id}/recordings",
    "Recordings of a call",
    scope="calls:read",
    roles=READERS,
    answer=RecordingList,
)
async def list_recordings(call: Call[Nothing, Nothing]) -> RecordingList:
    """Of a call, or of the message that was left."""
    async with call.runtime.db.reading() as tx:
        row = await rights.interaction(tx, call.user, call.path["id"])
        found = await recordings.list_of(tx, row.id)
    return RecordingList(
        items=[
            RecordingShown(
                id=each.id, kind=each.kind, state=each.state, consent=each.consent, duration_s=each.duration_s,
                started_at=each.started_at,
                media=f"/desk/recordings/{each.id}" if each.state == RecordingState.KEPT else "",
            )
            for each in found
        ]
    )  # fmt: skip


@operation(
    "POST",
    "/api/v1/calls/{id}/recording",
    "Begin, pause or go on recording",
    scope="calls:write",
    roles=AGENTS,
    body=RecordIn,
    answer=None,
)
async def record(call: Call[Nothing, RecordIn]) -> None:
    """Your own talk only, and only where its queue records."""
    acts = {"start": behaviour.begin_by_agent, "pause": behaviour.pause, "resume": behaviour.resume}
    wanted = acts[call.body.action]
    await call.runtime.db.write(lambda tx: wanted(tx, call.path["id"], agent_id=call.user.id, now=call.now))


class BlockedCallerShown(Shown):
    """A number whose calls are refused."""

    number: str
    reason: str
    until: datetime | None
    created_at: datetime


class BlockedCallers(Shown):
    """Newest first."""

    items: list[BlockedCallerShown]


class BlockIn(Strict):
    """A number to refuse, in E.164 or national with `country`."""

    number: str = Field(min_length=3, max_length=40)
    country: str = Field("", max_length=2)
    reason: str = Field("", max_length=200)
    until: Instant | None = None


@operation(
    "GET",
    "/api/v1/blocked-callers",
    "Blocked callers",
    scope="admin:read",
    roles=SUPERVISORS,
    answer=BlockedCallers,
)
async def list_blocked_callers(call: Call[Nothing, Nothing]) -> BlockedCallers:
    """At most 500."""
    async with call.runtime.db.reading() as tx:
        rows = await blocked_callers.list_all(tx)
    return BlockedCallers(
        items=[
            BlockedCallerShown(number=row.value, reason=row.reason, until=row.until_at, created_at=row.created_at)
            for row in rows
        ]
    )


@operation(
    "POST",
    "/api/v1/blocked-callers",
    "Block a caller",
    scope="admin:write",
    roles=SUPERVISORS,
    body=BlockIn,
    answer=None,
)
async def block_caller(call: Call[Nothing, BlockIn]) -> None:
    """They hear the busy tone from now on; twice is once."""
    body = call.body
    await call.runtime.db.write(
        lambda tx: blocked_callers.block(
            tx, body.number, user_id=call.user.id, now=call.now, reason=body.reason, until_at=body.until,
            country=body.country,
        )
    )  # fmt: skip


@operation(
    "DELETE",
    "/api/v1/blocked-callers/{number}",
    "Take a caller's calls again",
    scope="admin:write",
    roles=SUPERVISORS,
    answer=None,
)
async def unblock_caller(call: Call[Nothing, Nothing]) -> None:
    """404 when they were not blocked."""
    gone = await call.runtime.db.write(
        lambda tx: blocked_callers.unblock(tx, call.path["number"], user_id=call.user.id, now=call.now)
    )
    if not gone:
        raise NotFound("This number is not blocked.")


class PhoneIn(Strict):
    """A number in E.164; empty: in the browser."""

    number: str = Field("", max_length=40)


@operation(
    "PUT",
    "/api/v1/me/phone",
    "Take calls on a telephone",
    scope="work:write",
    roles=AGENTS,
    body=PhoneIn,
    answer=None,
)
async def put_phone(call: Call[Nothing, PhoneIn]) -> None:
    """From the next call on; 422 for numbers that this hub does not dial."""
    await call.runtime.db.write(
        lambda tx: agent_phones.set_number(tx, call.user.id, call.body.number, actor=call.user.id, now=call.now)
    )


OPERATIONS: list[Operation] = [
    put_phone,
    list_targets,
    transfer,
    list_recordings,
    record,
    list_blocked_callers,
    block_caller,
    unblock_caller,
]
