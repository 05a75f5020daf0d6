"""Toll fraud and runaway spending: whereto the hub never calls, how many go out, and the breaker that only a person closes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from crm_core import outgoing, outgoing_rules, touches
from crm_core.accounts import ChannelAccount
from crm_core.addresses import Address, PointKind, phone
from crm_core.audit import AuditEntry
from crm_core.consent import Purpose, Verdict, may_contact
from crm_core.db import Database, Tx
from crm_core.errors import Conflict, Invalid
from crm_core.outgoing_rules import Rules
from crm_core.touches import Direction

NUMBER = phone("+12025550101")
NOW = datetime(2026, 11, 18, 17, 5, tzinfo=UTC)


async def our_number(db: Database, **settings: Any) -> None:
    await db.write(
        lambda tx: tx.add(
            ChannelAccount(
                id="acc", channel="voice", name="Main", address="+442079460000", country="GB", settings=settings, created_at=NOW
            )
        )
    )  # fmt: skip


async def rules(db: Database, **changed: Any) -> None:
    async def unit(tx: Tx) -> None:
        known = await outgoing.load(tx, now=NOW)
        made = outgoing_rules.check({**known.rules.as_doc(), **changed})
        await outgoing.set_rules(tx, made, version=known.version, actor="ada", now=NOW)

    await db.write(unit)


async def touch(
    db: Database, *, channel: str = "voice", now: datetime = NOW, user_id: str = "amy", to: Address = NUMBER
) -> Verdict:
    """Ask the gate and, when it allows, record the touch: one call or text."""

    async def unit(tx: Tx) -> Verdict:
        verdict = await may_contact(
            tx, purpose=Purpose.REPLY, channel=channel, address=to, now=now, user_id=user_id, sender="acc"
        )
        if verdict.allowed:
            await touches.record(
                tx, to, direction=Direction.OUTBOUND, channel=channel, now=now, purpose="reply",
                verdict=verdict.as_doc(), user_id=user_id or None,
            )  # fmt: skip
        return verdict

    return await db.write(unit)


@pytest.mark.parametrize(
    ("number", "rule"),
    [
        ("+442079460123", ""), ("+12025550101", ""), ("+4930123456", ""),
        ("+49112", "emergency"), ("+44999", "emergency"),
        ("+19005550101", "destination"), ("+449098790123", "destination"), ("+447012345678", "destination"),
        ("+443445550101", "destination"), ("+448435550101", "destination"),
        ("+18765550101", "destination"), ("+252615550101", "destination"), ("+8816123456789", "destination"),
        ("+9791234567890", "destination"),
    ],
)  # fmt: skip
def test_whereto_the_hub_never_calls(number: str, rule: str) -> None:
    found = outgoing_rules.destination(Rules(), number, {"GB"})
    assert (found[0] if found else "") == rule


def test_countries_and_prefixes_are_the_administrators() -> None:
    mine = outgoing_rules.check({"countries": ["gb"], "prefixes": ["+44 151"]})
    assert outgoing_rules.destination(mine, "+4930123456", {"GB"}) is not None
    assert outgoing_rules.destination(mine, "+4930123456", {"DE"}) is None, "the country of an own number is allowed"
    told = outgoing_rules.destination(mine, "+441514960000", {"GB"})
    assert told is not None
    assert "+44151" in told[1]
    for wrong in ({"countries": ["XX"]}, {"call_hour": -1}, {"zone": "Nowhere"}, {"prices": {"DE": [1.0]}},
                  {"night_from": 24}, {"prefixes": ["+1"]}, {"currency": "EURO"}):  # fmt: skip
        with pytest.raises(Invalid) as refused:
            outgoing_rules.check(wrong)
        assert list(refused.value.fields) == list(wrong)


@pytest.mark.parametrize(
    ("typed", "country"), [("112", "GB"), ("999", "GB"), ("911", "US"), ("110", "DE"), ("9-1-1", "")]
)
def test_an_emergency_number_is_refused_with_what_to_do(typed: str, country: str) -> None:
    with pytest.raises(Invalid, match="Use another telephone, now"):
        phone(typed, country=country)


async def test_the_last_call_allowed_stops_the_rest_until_a_person_releases_it(db: Database) -> None:
    await our_number(db)
    await rules(db, call_hour=3)
    assert [(await touch(db)).allowed for _ in range(4)] == [True, True, True, False]
    refused = await touch(db)
    assert refused.rule == outgoing.STOPPED
    assert "3 outgoing calls in one hour are the limit." in refused.reason
    assert "2026-11-18T17:05" in refused.reason
    assert refused.until == NOW + outgoing.LOOK_AGAIN
    assert (await touch(db, channel="sms")).allowed, "texts have limits of their own"
    later = NOW + timedelta(hours=2)
    assert not (await touch(db, now=later)).allowed, "an hour that is over releases nothing"
    async with db.reading() as tx:
        assert [(row.actor_id, row.subject) for row in await tx.all(_audit("outgoing.stopped"))] == [
            ("system", "voice")
        ]
    assert await db.write(lambda tx: outgoing.release(tx, "voice", actor="ada", now=NOW))
    assert not await db.write(lambda tx: outgoing.release(tx, "voice", actor="ada", now=NOW))
    assert [(await touch(db)).allowed for _ in range(4)] == [True, True, True, False]


def _audit(action: str) -> Any:
    from sqlmodel import select

    return select(AuditEntry).where(AuditEntry.action == action)


async def test_cost_night_person_and_country_have_limits(db: Database) -> None:
    await our_number(db)
    await rules(db, agent_call_hour=2, country_day=3, far_call_price=1.0, cost_hour=100.0)
    assert [(await touch(db)).rule for _ in range(3)] == ["", "", outgoing.LIMIT]
    once_more = await touch(db)
    assert once_more.until == datetime(2026, 11, 18, 18, 0, tzinfo=UTC)
    assert (await touch(db, user_id="ben")).allowed
    abroad = await touch(db, user_id="ben")
    assert (abroad.rule, "3 calls and texts to US" in abroad.reason) == (outgoing.LIMIT, True)
    assert (await touch(db, user_id="ben", to=phone("+442079460123"))).allowed
    async with db.reading() as tx:
        guard = await outgoing.load(tx, now=NOW)
    assert guard.used("2026-11-18T17", "voice") == (4, 30_200), "three of 1.00, one of 0.02"
    await rules(db, cost_hour=4.0, agent_call_hour=0, country_day=0)
    await touch(db)
    spent = await touch(db)
    assert (spent.rule, "USD 4.00 in one hour" in spent.reason) == (outgoing.STOPPED, True)
    night = NOW.replace(hour=23)
    assert Rules(zone="America/New_York").is_night(night) is False
    assert Rules(zone="Europe/London").is_night(night) is True
    assert Rules(night_from=1, night_to=5).is_night(NOW.replace(hour=5)) is False


async def test_night_is_told_as_night(sqlite_db: Database) -> None:
    await our_number(sqlite_db)
    await rules(sqlite_db, night_call_hour=1)
    night = NOW.replace(hour=23)
    assert (await touch(sqlite_db, now=night)).allowed
    assert "of the night" in (await touch(sqlite_db, now=night)).reason


async def test_many_at_once_stop_at_the_limit(db: Database) -> None:
    await our_number(db)
    await rules(db, text_hour=10)
    told = await asyncio.gather(*(touch(db, channel="sms", user_id=f"u{number}") for number in range(30)))
    went = sum(verdict.allowed for verdict in told)
    async with db.reading() as tx:
        guard = await outgoing.load(tx, now=NOW)
    assert guard.counts["2026-11-18T17", "", "sms"][0] == went
    assert went == 10
    assert guard.stopped("sms") is not None
    assert not (await touch(db, channel="sms")).allowed


async def test_a_stop_by_hand_and_rules_of_two_administrators(db: Database) -> None:
    await our_number(db)
    assert await db.write(lambda tx: outgoing.stop(tx, "sms", reason="Odd bills.", actor="ada", now=NOW))
    assert not await db.write(lambda tx: outgoing.stop(tx, "sms", reason="Again", actor="bob", now=NOW))
    refused = await touch(db, channel="sms")
    assert "Odd bills." in refused.reason
    async with db.reading() as tx:
        seen = (await outgoing.load(tx, now=NOW)).version
    await db.write(lambda tx: outgoing.set_rules(tx, Rules(call_day=9), version=seen, actor="ada", now=NOW))
    with pytest.raises(Conflict):
        await db.write(lambda tx: outgoing.set_rules(tx, Rules(call_day=8), version=seen, actor="bob", now=NOW))


async def test_old_counts_are_dropped(sqlite_db: Database) -> None:
    await our_number(sqlite_db)
    await touch(sqlite_db)
    assert await sqlite_db.write(lambda tx: outgoing.forget(tx, now=NOW + timedelta(days=50))) == 0
    assert await sqlite_db.write(lambda tx: outgoing.forget(tx, now=NOW + timedelta(days=120))) > 0


async def test_mail_is_not_counted(sqlite_db: Database) -> None:
    await our_number(sqlite_db)
    await touch(sqlite_db, channel="email", to=Address(PointKind.EMAIL, "a@example.test", "a@example.test"))
    async with sqlite_db.reading() as tx:
        assert (await outgoing.load(tx, now=NOW)).counts == {}
