"""API: what may be done with a call beyond starting and ending it: where it may be transferred to, and the transfer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from crm_core import accounts, addresses, interactions
from crm_core.db import Tx
from hub.api.operation import Call, Nothing, Operation, Shown, Strict, operation
from hub.api.work import AGENTS
from routing import transfers


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


OPERATIONS: list[Operation] = [list_targets, transfer]
