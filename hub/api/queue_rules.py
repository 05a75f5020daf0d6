"""API for administrators: how a queue treats its work, reasons to pause. The same functions as the screens."""

from __future__ import annotations

from pydantic import BaseModel, Field
from sqlmodel import select

from crm_core.db import Tx
from crm_core.users import Role
from hub.api.operation import Call, Nothing, Operation, Shown, Strict, Version, operation
from hub.web import ADMINS
from routing import overflow, pauses, queue_settings, queues
from routing.overflow import Overflow
from routing.queues import Queue, QueueMember

AGENTS = frozenset({Role.AGENT, Role.TELEMARKETER, Role.SUPERVISOR, Role.ADMIN})
Name = Field(min_length=1, max_length=100)


class OverflowRule(Strict):
    """Where work goes that this queue cannot serve, and when; each condition stands alone, 0 means that it is not used."""

    queue_id: str = Field("", max_length=40, description="empty: it stays")
    after_s: int = Field(0, ge=0, le=overflow.LONGEST_S)
    waiting: int = Field(0, ge=0, le=overflow.MOST, description="more than so many wait: the last ones go")
    nobody: bool = Field(default=False, description="nobody who serves the queue is at work")
    written: bool = Field(default=False, description="texts and mails too")


class Figures(BaseModel):
    """Times in seconds, and counts."""

    offer_timeout_s: int
    accept_timeout_s: int
    refusal_cooloff_s: int
    wrapup_s: int
    service_level_s: int
    priority_credit_s: int
    callback_offer_after_s: int
    callback_max_attempts: int
    callback_retry_s: int
    max_wait_s: int
    ring_count: int
    preferred_wait_s: int
    vip_credit_s: int


class QueueRules(Strict, Figures):
    """Everything about a queue. `version` is the one you saw."""

    version: Version
    name: str = Name
    language: str = Field("en-GB", max_length=40)
    hours_id: str = Field("", max_length=40, description="empty: always open")
    skills: str = Field("", max_length=2000, description="spanish 4, chinese 2")
    relax: str = Field("", max_length=2000, description="60: spanish 2, one line per instant")
    preferred: str = Field("", pattern="^(|last|owner)$")
    overflow: OverflowRule = OverflowRule(queue_id="", after_s=0, waiting=0)
    members: list[str] = Field(default_factory=list, max_length=1000)


class QueueRulesShown(Shown, Figures):
    """A queue's rules."""

    id: str
    version: int
    name: str
    language: str
    hours_id: str
    skills: str
    relax: str
    preferred: str
    overflow: OverflowRule
    members: list[str]


class QueueIn(Strict):
    """A new queue."""

    name: str = Name


class Reasons(Strict):
    """Why agents may pause, in their order; none gives the usual five back."""

    items: list[str] = Field(max_length=pauses.MOST)


class ReasonsShown(Shown):
    """Why agents may pause."""

    items: list[str]


async def _shown(tx: Tx, queue: Queue) -> QueueRulesShown:
    members = await tx.all(select(QueueMember.user_id).where(QueueMember.queue_id == queue.id))
    rule = overflow.of(queue.overflow)
    return QueueRulesShown(
        id=queue.id, version=queue.version, name=queue.name, language=queue.language, hours_id=queue.hours_id or "",
        skills=queue_settings.write_skills(queue.skills), relax=queue_settings.write_relax(queue.relax),
        preferred=queue.preferred, members=sorted(members),
        overflow=OverflowRule(queue_id=rule.queue_id, after_s=rule.after_s, waiting=rule.waiting, nobody=rule.nobody,
                              written=rule.written),
        **{name: getattr(queue, name) for name in queue_settings.BOUNDS},
    )  # fmt: skip


@operation(
    "GET", "/api/v1/queues/{id}/rules", "A queue's rules", scope="admin:read", roles=ADMINS, answer=QueueRulesShown
)
async def get_queue_rules(call: Call[Nothing, Nothing]) -> QueueRulesShown:
    """Offers, overflow, skills, hours, members."""
    async with call.runtime.db.reading() as tx:
        return await _shown(tx, await queues.get(tx, call.path["id"]))


@operation(
    "PUT",
    "/api/v1/queues/{id}/rules",
    "Change a queue's rules",
    scope="admin:write",
    roles=ADMINS,
    body=QueueRules,
    answer=QueueRulesShown,
)
async def set_queue_rules(call: Call[Nothing, QueueRules]) -> QueueRulesShown:
    """All of them at once. 409 when it has another version than the one you saw; 422 for a circle of overflows."""
    body, queue_id, actor, now = call.body, call.path["id"], call.user.id, call.now

    async def unit(tx: Tx) -> QueueRulesShown:
        values = {name: getattr(body, name) for name in queue_settings.BOUNDS}
        await queue_settings.edit(
            tx, queue_id, version=body.version, actor=actor, now=now, name=body.name, values=values
        )
        skills = queue_settings.read_skills(body.skills)
        await queue_settings.set_rules(
            tx, queue_id, language=body.language, hours_id=body.hours_id, skills=skills,
            relax=queue_settings.read_relax(body.relax, skills), actor=actor, now=now,
        )  # fmt: skip
        rule = Overflow(**body.overflow.model_dump())
        await queue_settings.set_overflow(tx, queue_id, rule, preferred=body.preferred, actor=actor, now=now)
        await queue_settings.set_members(tx, queue_id, body.members, actor=actor, now=now)
        return await _shown(tx, await queues.get(tx, queue_id))

    return await call.runtime.db.write(unit)


@operation(
    "POST", "/api/v1/queues", "Create a queue", scope="admin:write", roles=ADMINS, body=QueueIn, answer=QueueRulesShown,
    status=201,
)  # fmt: skip
async def create_queue(call: Call[Nothing, QueueIn]) -> QueueRulesShown:
    """With the usual values. 409 when the name is taken."""

    async def unit(tx: Tx) -> QueueRulesShown:
        return await _shown(tx, await queue_settings.create(tx, name=call.body.name, actor=call.user.id, now=call.now))

    return await call.runtime.db.write(unit)


@operation("GET", "/api/v1/pause-reasons", "Reasons to pause", scope="work:read", roles=AGENTS, answer=ReasonsShown)
async def list_pause_reasons(call: Call[Nothing, Nothing]) -> ReasonsShown:
    """In their order."""
    async with call.runtime.db.reading() as tx:
        return ReasonsShown(items=await pauses.list_all(tx))


@operation(
    "PUT",
    "/api/v1/pause-reasons",
    "Set the reasons to pause",
    scope="admin:write",
    roles=ADMINS,
    body=Reasons,
    answer=ReasonsShown,
)
async def set_pause_reasons(call: Call[Nothing, Reasons]) -> ReasonsShown:
    """Exactly these from now on; what the ledger holds stays."""
    return ReasonsShown(
        items=await call.runtime.db.write(
            lambda tx: pauses.set_all(tx, call.body.items, actor=call.user.id, now=call.now)
        )
    )


OPERATIONS: list[Operation] = [
    get_queue_rules,
    set_queue_rules,
    create_queue,
    list_pause_reasons,
    set_pause_reasons,
]
