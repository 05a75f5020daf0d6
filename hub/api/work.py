"""API: an agent's own work: activity, offers, calls, wrap-up."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field
from sqlmodel import select

from crm_core.addresses import phone
from crm_core.calls import CallRecord
from crm_core.consent import Purpose
from crm_core.db import Tx
from crm_core.errors import NotFound
from crm_core.users import Role
from hub import rights
from hub.api.operation import Call, Nothing, Operation, Shown, Strict, operation
from routing import agents, desk, explain, offers, queues
from routing.agents import Activity
from routing.offers import OfferState

AGENTS = frozenset({Role.AGENT, Role.TELEMARKETER})
READERS = AGENTS | {Role.SUPERVISOR, Role.ADMIN}


class AgentShown(Shown):
    """An agent's session."""

    user_id: str
    activity: str
    reason: str
    next_activity: str
    since: datetime
    live_load: int
    live_capacity: int
    text_load: int
    text_capacity: int
    voice_ready: bool
    version: int


class ActivityIn(Strict):
    """What to do from now on; during live work it takes effect when that ends."""

    activity: str = Field(pattern="^(available|paused|offline)$")
    reason: str = Field("", max_length=100)


class OfferShown(Shown):
    """An offer of one piece of work."""

    id: str
    entry_id: str
    agent_id: str
    state: str
    opened_at: datetime
    deadline_at: datetime
    closed_at: datetime | None
    reason: str


class OfferList(Shown):
    """Live offers, oldest first."""

    items: list[OfferShown]


class Accepted(Shown):
    """What the browser's phone sends when it connects (calls only; `nonce` is empty for written work)."""

    offer: str
    nonce: str
    state: str


class WhyShown(Shown):
    """The trace that the deciding call returned: candidates, and why each was or was not chosen."""

    offer: str
    trace: dict[str, Any]


class CallIn(Strict):
    """A call to start. The gate is asked first."""

    number: str = Field(max_length=50)
    account_id: str = Field(max_length=40, description="our number to call from")
    country: str = Field("", max_length=2)
    purpose: Literal["service", "transactional", "telemarketing"] = "service"
    contact_id: str | None = Field(None, max_length=40)
    callback_id: str | None = Field(None, max_length=40)


class CallStarted(Shown):
    """An outgoing call; connect the browser's phone with `call` and `nonce`."""

    call: str
    nonce: str


class SwitchIn(Strict):
    """On or off."""

    on: bool


class FinishIn(Strict):
    """The end of a piece of work."""

    disposition: str = Field(max_length=100)
    notes: str = Field("", max_length=20_000)


class RecordShown(Shown):
    """The call detail record, in milliseconds."""

    interaction_id: str
    direction: str
    from_e164: str
    to_e164: str
    started_at: datetime | None
    answered_at: datetime | None
    ended_at: datetime | None
    menu_ms: int
    wait_ms: int
    ring_ms: int
    talk_ms: int
    hold_ms: int
    wrap_ms: int
    hung_up_by: str
    end_reason: str
    agents: list[str]
    holds: int
    disposition: str


@operation("GET", "/api/v1/me", "My session as an agent", scope="work:read", roles=AGENTS, answer=AgentShown)
async def get_me(call: Call[Nothing, Nothing]) -> AgentShown:
    """404 for somebody who never was an agent."""
    async with call.runtime.db.reading() as tx:
        agent = await agents.find(tx, call.user.id)
    if agent is None:
        raise NotFound("You are not an agent.")
    return AgentShown.model_validate(agent.model_dump(include=set(AgentShown.model_fields)))


@operation(
    "PUT",
    "/api/v1/me/activity",
    "Change my activity",
    scope="work:write",
    roles=AGENTS,
    body=ActivityIn,
    answer=AgentShown,
)
async def set_activity(call: Call[Nothing, ActivityIn]) -> AgentShown:
    """The server's state decides; `next_activity` tells what waits for the present work to end."""
    wanted = Activity(call.body.activity)
    agent = await call.runtime.db.write(
        lambda tx: desk.set_activity(tx, call.user.id, wanted, reason=call.body.reason, cause="api", now=call.now)
    )
    return AgentShown.model_validate(agent.model_dump(include=set(AgentShown.model_fields)))


@operation("GET", "/api/v1/me/offers", "My live offers", scope="work:read", roles=AGENTS, answer=OfferList)
async def list_offers(call: Call[Nothing, Nothing]) -> OfferList:
    """At most one call, several pieces of written work."""
    async with call.runtime.db.reading() as tx:
        live = await offers.list_live(tx, call.user.id)
    return OfferList(items=[OfferShown.model_validate(row.model_dump()) for row in live])


@operation("POST", "/api/v1/offers/{id}/accept", "Accept an offer", scope="work:write", roles=AGENTS, answer=Accepted)
async def accept_offer(call: Call[Nothing, Nothing]) -> Accepted:
    """409 with the reason when it is over. Accepting twice is once."""

    async def unit(tx: Tx) -> offers.Offer:
        known = await offers.get(tx, call.path["id"])
        if known.agent_id == call.user.id and known.state == OfferState.WON:
            return known
        return await desk.accept(tx, known.id, agent_id=call.user.id, now=call.now)

    offer = await call.runtime.db.write(unit)
    nonce = offer.nonce if offer.state == OfferState.ACCEPTING else ""
    return Accepted(offer=offer.id, nonce=nonce, state=offer.state)


@operation("POST", "/api/v1/offers/{id}/refuse", "Refuse an offer", scope="work:write", roles=AGENTS, answer=None)
async def refuse_offer(call: Call[Nothing, Nothing]) -> None:
    """It waits again, at its place."""
    await call.runtime.refusals.refuse(call.path["id"], agent_id=call.user.id, now=call.now)


@operation("GET", "/api/v1/offers/{id}/why", "Why this offer", scope="work:read", roles=READERS, answer=WhyShown)
async def why_offer(call: Call[Nothing, Nothing]) -> WhyShown:
    """Your own offers; supervisors see all."""
    async with call.runtime.db.reading() as tx:
        offer = await offers.get(tx, call.path["id"])
        if offer.agent_id != call.user.id and not rights.sees_everything(call.user):
            raise NotFound("There is no such offer.")
        return WhyShown(offer=offer.id, trace=await explain.explain(tx, offer.id))


@operation(
    "POST",
    "/api/v1/calls",
    "Start a call",
    scope="calls:write",
    roles=AGENTS,
    body=CallIn,
    answer=CallStarted,
    status=201,
)
async def start_call(call: Call[Nothing, CallIn]) -> CallStarted:
    """409 with `rule` when the gate refuses."""
    body = call.body
    to = phone(body.number, country=body.country)
    started = await call.runtime.db.write(
        lambda tx: desk.start_call(
            tx,
            agent_id=call.user.id,
            address=to,
            purpose=Purpose(body.purpose),
            account_id=body.account_id,
            now=call.now,
            contact_id=body.contact_id,
            callback_id=body.callback_id,
        )
    )
    return CallStarted(call=started.id, nonce=str(started.data["nonce"]))


@operation(
    "POST",
    "/api/v1/calls/{id}/hold",
    "Hold or take back",
    scope="calls:write",
    roles=AGENTS,
    body=SwitchIn,
    answer=None,
)
async def hold_call(call: Call[Nothing, SwitchIn]) -> None:
    """Your own call only."""
    await call.runtime.db.write(
        lambda tx: desk.hold(tx, call.path["id"], agent_id=call.user.id, on=call.body.on, now=call.now)
    )


@operation("POST", "/api/v1/calls/{id}/hang-up", "Hang up", scope="calls:write", roles=AGENTS, answer=None)
async def hang_up(call: Call[Nothing, Nothing]) -> None:
    """For everybody in it; wrap-up begins."""
    await call.runtime.db.write(lambda tx: desk.hang_up(tx, call.path["id"], agent_id=call.user.id, now=call.now))


@operation(
    "GET", "/api/v1/calls/{id}/record", "Call detail record", scope="calls:read", roles=READERS, answer=RecordShown
)
async def get_record(call: Call[Nothing, Nothing]) -> RecordShown:
    """Folded from the stored raw events."""
    async with call.runtime.db.reading() as tx:
        row = await rights.interaction(tx, call.user, call.path["id"])
        record = await tx.one(select(CallRecord).where(CallRecord.interaction_id == row.id))
    if record is None:
        raise NotFound("There is no call record.")
    return RecordShown.model_validate(record.model_dump())


@operation(
    "POST",
    "/api/v1/entries/{id}/finish",
    "End wrap-up or written work",
    scope="work:write",
    roles=AGENTS,
    body=FinishIn,
    answer=None,
)
async def finish_entry(call: Call[Nothing, FinishIn]) -> None:
    """Your own work only; 409 while the call goes on."""
    body = call.body
    await call.runtime.db.write(
        lambda tx: desk.finish(
            tx, call.path["id"], agent_id=call.user.id, disposition=body.disposition, notes=body.notes, now=call.now
        )
    )


class QueueShown(Shown):
    """A queue."""

    id: str
    name: str
    language: str
    service_level_s: int
    wrapup_s: int


class QueueList(Shown):
    """Queues by name."""

    items: list[QueueShown]


@operation("GET", "/api/v1/queues", "List queues", scope="work:read", roles=READERS, answer=QueueList)
async def list_queues(call: Call[Nothing, Nothing]) -> QueueList:
    """Those in use."""
    statement = select(queues.Queue).where(queues.Queue.retired == False).order_by(queues.Queue.name)  # noqa: E712
    async with call.runtime.db.reading() as tx:
        rows = await tx.all(statement)
    return QueueList(
        items=[QueueShown.model_validate(row.model_dump(include=set(QueueShown.model_fields))) for row in rows]
    )


OPERATIONS: list[Operation] = [
    get_me,
    set_activity,
    list_offers,
    accept_offer,
    refuse_offer,
    why_offer,
    start_call,
    hold_call,
    hang_up,
    get_record,
    finish_entry,
    list_queues,
]
