"""API: the limits of what goes out, how much did, the stop and its release."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from crm_core import outgoing, outgoing_rules
from crm_core.addresses import phone
from crm_core.db import Tx
from hub.api.operation import Call, Nothing, Operation, Shown, Strict, operation
from hub.desktop import spending
from hub.web import ADMINS, SUPERVISORS

Count = int
Money = float


class LimitsIn(Strict):
    """Limits of calls and texts: 0 for none. Prices in the currency, per minute and per part of a text."""

    version: int = Field(0, ge=0, le=1_000_000_000, description="the one you saw; 0 when nothing was ever set")
    countries: list[str] | None = Field(None, max_length=250, description="beside those of your own numbers")
    prefixes: list[str] | None = Field(None, max_length=500)
    call_hour: Count | None = Field(None, ge=0, le=outgoing_rules.MOST)
    call_day: Count | None = Field(None, ge=0, le=outgoing_rules.MOST)
    text_hour: Count | None = Field(None, ge=0, le=outgoing_rules.MOST)
    text_day: Count | None = Field(None, ge=0, le=outgoing_rules.MOST)
    agent_call_hour: Count | None = Field(None, ge=0, le=outgoing_rules.MOST)
    agent_call_day: Count | None = Field(None, ge=0, le=outgoing_rules.MOST)
    agent_text_hour: Count | None = Field(None, ge=0, le=outgoing_rules.MOST)
    agent_text_day: Count | None = Field(None, ge=0, le=outgoing_rules.MOST)
    country_day: Count | None = Field(None, ge=0, le=outgoing_rules.MOST)
    night_from: int | None = Field(None, ge=0, le=23)
    night_to: int | None = Field(None, ge=0, le=23)
    night_call_hour: Count | None = Field(None, ge=0, le=outgoing_rules.MOST)
    night_text_hour: Count | None = Field(None, ge=0, le=outgoing_rules.MOST)
    cost_hour: Money | None = Field(None, ge=0, le=outgoing_rules.MOST)
    cost_day: Money | None = Field(None, ge=0, le=outgoing_rules.MOST)
    call_price: Money | None = Field(None, ge=0, le=1000)
    text_price: Money | None = Field(None, ge=0, le=1000)
    far_call_price: Money | None = Field(None, ge=0, le=1000)
    far_text_price: Money | None = Field(None, ge=0, le=1000)
    prices: dict[str, list[float]] | None = Field(None, description="by country: a minute, a part of a text")
    currency: str | None = Field(None, min_length=3, max_length=3)
    zone: str | None = Field(None, max_length=64)


class LaneShown(Shown):
    """One channel now."""

    channel: str
    hour: int
    day: int
    hour_cost: float
    day_cost: float
    stopped_at: datetime | None
    reason: str


class OutgoingShown(Shown):
    """The limits and what they have counted."""

    version: int
    limits: dict[str, object]
    home: list[str]
    channels: list[LaneShown]


class SwitchIn(Strict):
    """Stop, or let go on."""

    channel: Literal["voice", "sms"]
    act: Literal["stop", "release"]
    reason: str = Field("", max_length=200)


class ExplainIn(Strict):
    """A number."""

    number: str = Field(min_length=2, max_length=40)
    channel: Literal["voice", "sms"] = "voice"


class ExplainShown(Shown):
    """Whether it may be called or texted now by you, by these rules alone."""

    allowed: bool
    rule: str
    reason: str
    until: datetime | None


def _shown(guard: outgoing.Guard) -> OutgoingShown:
    lanes = [
        LaneShown(
            channel=lane.channel, hour=lane.hour, day=lane.day, hour_cost=lane.hour_cost, day_cost=lane.day_cost,
            stopped_at=lane.stopped_at, reason=str(lane.reason),
        )
        for lane in spending.lanes_of(guard)
    ]  # fmt: skip
    return OutgoingShown(
        version=guard.version, limits=guard.rules.as_doc(), home=sorted(guard.home), channels=lanes
    )  # fmt: skip


@operation("GET", "/api/v1/outgoing", "What goes out", scope="admin:read", roles=SUPERVISORS, answer=OutgoingShown)
async def get_outgoing(call: Call[Nothing, Nothing]) -> OutgoingShown:
    """Limits, counts of this hour and day (UTC) with their estimated cost, and what is stopped, since when and why."""
    async with call.runtime.db.reading() as tx:
        return _shown(await outgoing.load(tx, now=call.now))


@operation(
    "PATCH", "/api/v1/outgoing", "Change the limits of what goes out", scope="admin:write", roles=ADMINS, body=LimitsIn,
    answer=OutgoingShown,
)  # fmt: skip
async def change_outgoing(call: Call[Nothing, LimitsIn]) -> OutgoingShown:
    """Fields that are left out stay. 409 when they have another version than the one you saw."""
    given = call.body.model_dump(exclude={"version"}, exclude_none=True)

    async def unit(tx: Tx) -> OutgoingShown:
        guard = await outgoing.load(tx, now=call.now)
        rules = outgoing_rules.check({**guard.rules.as_doc(), **given})
        await outgoing.set_rules(tx, rules, version=call.body.version, actor=call.user.id, now=call.now)
        return _shown(await outgoing.load(tx, now=call.now))

    return await call.runtime.db.write(unit)


@operation(
    "POST", "/api/v1/outgoing/switch", "Stop calls or texts, or let them go on", scope="admin:write", roles=ADMINS,
    body=SwitchIn, answer=OutgoingShown,
)  # fmt: skip
async def switch_outgoing(call: Call[Nothing, SwitchIn]) -> OutgoingShown:
    """A stop holds for every way out: calls, texts, lists, campaigns. After a release the counts begin anew."""

    async def unit(tx: Tx) -> OutgoingShown:
        body = call.body
        if body.act == "stop":
            await outgoing.stop(tx, body.channel, reason=body.reason, actor=call.user.id, now=call.now)
        else:
            await outgoing.release(tx, body.channel, actor=call.user.id, now=call.now)
        return _shown(await outgoing.load(tx, now=call.now))

    return await call.runtime.db.write(unit)


@operation(
    "GET", "/api/v1/outgoing/explain", "May this number be called or texted?", scope="admin:read", roles=SUPERVISORS,
    query=ExplainIn, answer=ExplainShown,
)  # fmt: skip
async def explain_outgoing(call: Call[ExplainIn, Nothing]) -> ExplainShown:
    """By destination, stop and limits alone; consent and hours are the gate's other rules. 422 for an emergency number."""
    number = phone(call.query.number)
    async with call.runtime.db.reading() as tx:
        guard = await outgoing.load(tx, now=call.now, user_id=call.user.id)
    refused = outgoing.refusal(guard, number.value, channel=call.query.channel, user_id=call.user.id)
    if refused is None:
        return ExplainShown(allowed=True, rule="", reason="", until=None)
    return ExplainShown(allowed=False, rule=refused[0], reason=str(refused[1]), until=refused[2])


OPERATIONS: list[Operation] = [get_outgoing, change_outgoing, switch_outgoing, explain_outgoing]
