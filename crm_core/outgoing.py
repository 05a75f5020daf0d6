"""How many calls and texts went out, what they cost, and the breaker that stops them: asked by the gate, counted with the touch.

The last touch that a limit allows stops its channel in the same transaction; only an administrator lets it go on, and then the
count begins anew. Parallel transactions do not see one another's touches, so close to a limit of the house they go one by one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, delete
from sqlmodel import Field, col, func, or_, select

from crm_core import audit, events, outgoing_rules
from crm_core.accounts import ChannelAccount
from crm_core.db import Tx
from crm_core.errors import Conflict
from crm_core.outgoing_rules import CHANNELS, TEXT, UNIT, VOICE, Rules
from crm_core.statements import fixed
from crm_core.tables import Table, at, doc
from crm_core.texts import Text

SHARDS = 8  # rows per count, so that parallel transactions do not queue for one row; read as a sum
KEY = "outgoing"
STOPPED, LIMIT = "outgoing_stopped", "outgoing_limit"
NEAR = 100  # touches before a limit of the house: more than are ever under way at once
LOOK_AGAIN = timedelta(minutes=15)  # when something that was stopped is tried again
KEPT = timedelta(days=100)
SYSTEM = "system"
WORDS = {VOICE: Text("Outgoing calls"), TEXT: Text("Outgoing texts")}


class OutgoingRules(Table, table=True):
    """One row: the rules, and for each channel whether it is stopped, since when and why."""

    __tablename__ = "outgoing_rules"

    id: str = Field(primary_key=True)
    rules: dict[str, Any] = doc()
    stops: dict[str, Any] = doc()  # by channel: at, by, reason; or released_at, released_by, credit
    changed_at: datetime = at()
    version: int = 1


class OutgoingCount(Table, table=True):
    """How many went out in an hour or on a day (UTC), by whom or whereto; a sum over shards."""

    __tablename__ = "outgoing_counts"

    period: str = Field(primary_key=True)  # 2026-11-22T01, 2026-11-22
    scope: str = Field(primary_key=True)  # empty: all; user:<id>; country:<XX>
    channel: str = Field(primary_key=True)
    shard: int = Field(primary_key=True)
    number: int = 0
    cost: int = 0  # estimated, in ten-thousandths of the currency


@dataclass(frozen=True, slots=True)
class Guard:
    """What the rules and counts are at one instant."""

    rules: Rules
    stops: dict[str, Any]
    home: frozenset[str]
    counts: dict[tuple[str, str, str], tuple[int, int]] = field(default_factory=dict)
    now: datetime = datetime(2000, 1, 1, tzinfo=UTC)
    version: int = 0

    def used(self, period: str, channel: str, scope: str = "") -> tuple[int, int]:
        """Number and cost counted in a period, less what was forgiven at the last release."""
        number, cost = self.counts.get((period, scope, channel), (0, 0))
        credit = (self.stops.get(channel) or {}).get("credit", {}).get(period, (0, 0)) if not scope else (0, 0)
        return number - int(credit[0]), cost - int(credit[1])

    def reached(self, channel: str) -> tuple[Text, int] | None:
        """The limit of the whole house that is used up (as a sentence), or None."""
        return next(((text, most) for text, most, left in self._limits(channel) if left <= 0), None)

    def room(self, channel: str) -> int:
        """How many more may go out now; a large number without limits, 0 when stopped."""
        if self.stopped(channel) is not None:
            return 0
        return max(0, min([left for _, _, left in self._limits(channel)], default=outgoing_rules.MOST))

    def stopped(self, channel: str) -> dict[str, Any] | None:
        """The stop of this channel (at, by, reason), or None."""
        found: dict[str, Any] | None = self.stops.get(channel)
        return found if found and "released_at" not in found else None

    def _limits(self, channel: str) -> list[tuple[Text, int, int]]:
        """Each limit in force: its sentence, itself, and how many more it allows."""
        rules, hour, day = self.rules, hour_of(self.now), day_of(self.now)
        calls = channel == VOICE
        in_hour, in_day = self.used(hour, channel)[0], self.used(day, channel)[0]
        counted = [
            (HOUR_CALLS if calls else HOUR_TEXTS, rules.call_hour if calls else rules.text_hour, in_hour),
            (DAY_CALLS if calls else DAY_TEXTS, rules.call_day if calls else rules.text_day, in_day),
        ]
        if rules.is_night(self.now):
            most = rules.night_call_hour if calls else rules.night_text_hour
            counted.append((NIGHT_CALLS if calls else NIGHT_TEXTS, most, in_hour))
        made = [(Text(text, most=most), most, most - used) for text, most, used in counted if most]
        dearest = max(1, rules.price(channel, "", self.home))
        for text, limit, period in ((HOUR_COST, rules.cost_hour, hour), (DAY_COST, rules.cost_day, day)):
            if limit:
                spent = sum(self.used(period, each)[1] for each in CHANNELS)
                left = round(limit * UNIT) - spent
                told = Text(text, most=f"{limit:.2f}", currency=rules.currency)
                made.append((told, round(limit), -(-left // dearest) if left > 0 else 0))
        return made


HOUR_CALLS = Text("%(most)s outgoing calls in one hour are the limit.")
HOUR_TEXTS = Text("%(most)s outgoing texts in one hour are the limit.")
DAY_CALLS = Text("%(most)s outgoing calls on one day are the limit.")
DAY_TEXTS = Text("%(most)s outgoing texts on one day are the limit.")
NIGHT_CALLS = Text("%(most)s outgoing calls in one hour of the night are the limit.")
NIGHT_TEXTS = Text("%(most)s outgoing texts in one hour of the night are the limit.")
HOUR_COST = Text("%(currency)s %(most)s in one hour are the limit.")
DAY_COST = Text("%(currency)s %(most)s on one day are the limit.")

_ROW = fixed(select(OutgoingRules).where(OutgoingRules.id == KEY))
_LOCK = fixed(select(OutgoingRules).where(OutgoingRules.id == KEY).with_for_update())
_HOME = fixed(
    select(ChannelAccount.country, ChannelAccount.settings).where(
        col(ChannelAccount.channel).in_(CHANNELS), col(ChannelAccount.deleted_at).is_(None)
    )
)
_C = OutgoingCount
_COLUMNS: Any = (_C.period, _C.scope, _C.channel, func.sum(_C.number), func.sum(_C.cost))
_SUMS = fixed(
    select(*_COLUMNS)
    .where(
        col(OutgoingCount.period).in_([bindparam("hour"), bindparam("day")]),
        or_(
            OutgoingCount.scope == "",
            OutgoingCount.scope == bindparam("who"),
            col(OutgoingCount.scope).like("country:%"),
        ),
    )
    .group_by(col(OutgoingCount.period), col(OutgoingCount.scope), col(OutgoingCount.channel))
)


def hour_of(now: datetime) -> str:
    """The hour's key, in UTC."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H")


def day_of(now: datetime) -> str:
    """The day's key, in UTC."""
    return now.astimezone(UTC).strftime("%Y-%m-%d")


async def load(tx: Tx, *, now: datetime, user_id: str = "", spend_on: str = "") -> Guard:
    """Rules, stops and counts as they are now.

    `spend_on`: the channel that this transaction means to use; close to a limit of the house it waits for those before it.
    """
    guard = await _load(tx, now=now, user_id=user_id)
    if not spend_on or not 0 < guard.room(spend_on) <= NEAR:
        return guard
    await _row(tx, now=now)
    await tx.one(_LOCK)
    return await _load(tx, now=now, user_id=user_id)


async def _load(tx: Tx, *, now: datetime, user_id: str) -> Guard:
    row: OutgoingRules | None = await tx.one(_ROW)
    home: set[str] = set()
    for country, settings in await tx.all(_HOME):
        home |= {str(country).upper(), *(str(code).upper() for code in (settings or {}).get("countries", ()))}
    sums = await tx.all(_SUMS, hour=hour_of(now), day=day_of(now), who=f"user:{user_id}")
    counts = {(period, scope, channel): (int(n), int(cost)) for period, scope, channel, n, cost in sums}
    return Guard(
        outgoing_rules.of(row.rules if row else {}), dict(row.stops) if row else {}, frozenset(home - {""}), counts, now,
        row.version if row else 0,
    )  # fmt: skip


def refusal(
    guard: Guard, e164: str, *, channel: str, user_id: str = "", spend: bool = True
) -> tuple[str, Text, datetime | None] | None:
    """(rule, sentence, until) when this number may not be called or texted now; `spend` false: only whereto is looked at."""
    wrong = outgoing_rules.destination(guard.rules, e164, guard.home)
    if wrong is not None:
        return *wrong, None
    if not spend:
        return None
    stop = guard.stopped(channel)
    again = guard.now + LOOK_AGAIN
    if stop is not None:
        told = Text(
            "%(what_text)s are stopped since %(since_at)s: %(reason_text)s An administrator can let them go on "
            "(Administration, Spending).",
            what_text=WORDS[channel], since_at=datetime.fromisoformat(stop["at"]), reason_text=stop["reason"],
        )  # fmt: skip
        return STOPPED, told, again
    used_up = guard.reached(channel)
    if used_up is not None:
        return STOPPED, used_up[0], again
    return _personal(guard, e164, channel=channel, user_id=user_id)


def _personal(guard: Guard, e164: str, *, channel: str, user_id: str) -> tuple[str, Text, datetime | None] | None:
    rules, now = guard.rules, guard.now
    hour, day = hour_of(now), day_of(now)
    next_hour = now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    next_day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    country = outgoing_rules.country_of(e164)
    if rules.country_day and country not in guard.home:
        there = sum(guard.used(day, each, f"country:{country}")[0] for each in CHANNELS)
        if there >= rules.country_day:
            told = Text(
                "%(most)s calls and texts to %(country)s on one day are the limit.", most=rules.country_day,
                country=country,
            )  # fmt: skip
            return LIMIT, told, next_day
    if not user_id:
        return None
    calls, who = channel == VOICE, f"user:{user_id}"
    for most, period, until, text in (
        (rules.agent_call_hour if calls else rules.agent_text_hour, hour, next_hour, PERSON_HOUR),
        (rules.agent_call_day if calls else rules.agent_text_day, day, next_day, PERSON_DAY),
    ):
        if most and guard.used(period, channel, who)[0] >= most:
            return LIMIT, Text(text, most=most), until
    return None


PERSON_HOUR = Text("You have reached the limit of %(most)s in one hour; it goes on with the next.")
PERSON_DAY = Text("You have reached the limit of %(most)s on one day (UTC); it goes on with the next.")


# --- counting and stopping ----------------------------------------------------------------------------------------------


async def count(
    tx: Tx, channel: str, e164: str, *, now: datetime, user_id: str = "", number: int = 1, units: int = 1
) -> None:
    """Count what goes out with this transaction; `units`: minutes of a call or parts of a text, `number` 0: more of it."""
    if channel not in CHANNELS:
        return
    country = outgoing_rules.country_of(e164)
    tx.add_up(_settle, (now.isoformat(), channel, country, user_id, "number"), number)
    tx.add_up(_settle, (now.isoformat(), channel, country, user_id, "units"), units)


async def _settle(tx: Tx, sums: Sequence[tuple[tuple[str, ...], int]]) -> None:
    """Write the counts, and stop what has reached a limit of the house by them."""
    if not sums:
        return  # what was added was taken off again
    when = max(datetime.fromisoformat(key[0]) for key, _ in sums)
    guard = await load(tx, now=when)
    totals: dict[tuple[str, str, str], list[int]] = {}
    for (at_text, channel, country, user_id, what), by in sums:
        now = datetime.fromisoformat(at_text)
        add = (by, 0) if what == "number" else (0, by * guard.rules.price(channel, country, guard.home))
        keys = [(hour_of(now), ""), (day_of(now), ""), (day_of(now), f"country:{country}")]
        if user_id:
            keys += [(hour_of(now), f"user:{user_id}"), (day_of(now), f"user:{user_id}")]
        for period, scope in keys:
            both = totals.setdefault((period, scope, channel), [0, 0])
            both[0] += add[0]
            both[1] += add[1]
    shard = random.randrange(SHARDS)  # noqa: S311 - spreads load, guards nothing
    for (period, scope, channel), (number, cost) in sorted(totals.items()):
        row = OutgoingCount(period=period, scope=scope, channel=channel, shard=shard, number=number, cost=cost)
        tx.later(row, unique=("period", "scope", "channel", "shard"), add=("number", "cost"))
        before = guard.counts.get((period, scope, channel), (0, 0))
        guard.counts[period, scope, channel] = (before[0] + number, before[1] + cost)
    for channel in CHANNELS:
        used_up = guard.reached(channel)
        if used_up is not None and guard.stopped(channel) is None:
            await _stop(tx, channel, reason=used_up[0], by=SYSTEM, now=when)
            guard = await load(tx, now=when)


async def _row(tx: Tx, *, now: datetime) -> OutgoingRules:
    await tx.add_new(OutgoingRules(id=KEY, changed_at=now), unique=["id"])
    found: OutgoingRules | None = await tx.one(_ROW)
    assert found is not None  # written just now
    return found


async def _stop(tx: Tx, channel: str, *, reason: str, by: str, now: datetime) -> bool:
    row = await _row(tx, now=now)
    known = row.stops.get(channel)
    if known and "released_at" not in known:
        return False
    stops = {**row.stops, channel: {"at": now.isoformat(), "by": by, "reason": str(reason)}}
    values = {"stops": stops, "version": row.version + 1, "changed_at": now}
    if await tx.change(OutgoingRules, values, id=KEY, version=row.version) != 1:
        return False  # somebody else stopped it in this instant
    await audit.record(tx, actor=by, action="outgoing.stopped", subject=channel, now=now, reason=str(reason))
    await events.emit(tx, "outgoing.stopped", channel, now=now, version=row.version + 1)
    return True


async def stop(tx: Tx, channel: str, *, reason: str, actor: str, now: datetime) -> bool:
    """Stop a channel by hand; False when it was stopped already."""
    told = reason.strip()[:200] or Text("Stopped by hand.")
    if told[-1] not in ".!?。":
        told += "."  # it stands before another sentence
    return await _stop(tx, channel, reason=told, by=actor, now=now)


async def release(tx: Tx, channel: str, *, actor: str, now: datetime) -> bool:
    """Let it go on, the counts of this hour and day beginning anew; False when it was not stopped."""
    guard = await load(tx, now=now)
    if guard.stopped(channel) is None:
        return False
    row = await _row(tx, now=now)
    spent: dict[str, list[int]] = {}
    stops = dict(row.stops)
    for period in (hour_of(now), day_of(now)):
        spent[period] = list(guard.counts.get((period, "", channel), (0, 0)))
    stops[channel] = {"released_at": now.isoformat(), "released_by": actor, "credit": spent}
    values = {"stops": stops, "version": row.version + 1, "changed_at": now}
    if await tx.change(OutgoingRules, values, id=KEY, version=row.version) != 1:
        raise Conflict
    await audit.record(tx, actor=actor, action="outgoing.released", subject=channel, now=now)
    await events.emit(tx, "outgoing.released", channel, now=now, version=row.version + 1)
    return True


async def set_rules(tx: Tx, rules: Rules, *, version: int, actor: str, now: datetime) -> None:
    """Other rules from now on. Conflict when somebody changed them since `version` (0: there are none yet)."""
    row = await _row(tx, now=now)
    if row.version != max(1, version):
        raise Conflict("Somebody changed these limits meanwhile; the newer values are shown.")
    values = {"rules": rules.as_doc(), "version": row.version + 1, "changed_at": now}
    if await tx.change(OutgoingRules, values, id=KEY, version=row.version) != 1:
        raise Conflict("Somebody changed these limits meanwhile; the newer values are shown.")
    before = outgoing_rules.of(row.rules).as_doc()
    changed = {name: value for name, value in rules.as_doc().items() if before[name] != value}
    await audit.record(tx, actor=actor, action="outgoing.rules", subject=KEY, now=now, changed=changed)


async def forget(tx: Tx, *, now: datetime) -> int:
    """Drop counts of long ago."""
    return await tx.run(delete(OutgoingCount).where(col(OutgoingCount.period) < day_of(now - KEPT)))
