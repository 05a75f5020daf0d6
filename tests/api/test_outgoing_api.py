"""Limits of what goes out, by API and on screen: refused with the rule, stopped, released; a campaign pauses and says why."""

from __future__ import annotations

from datetime import timedelta

import aiohttp

from campaigns import campaigns
from campaigns.campaigns import CampaignState
from crm_core import outgoing, outgoing_rules
from crm_core.clock import FixedClock
from crm_core.db import Database
from crm_core.users import Role
from tests.api.conftest import ANA, House
from tests.apps import Visitor, add_user
from tests.campaigns import cast
from tests.campaigns.cast import Line, mobile


async def test_from_a_limit_to_its_release(either_house: House) -> None:
    ada, amy = either_house.ada, either_house.amy
    before = await ada.get("/outgoing")
    assert (before["version"], before["home"], before["limits"]["call_hour"]) == (0, ["GB"], 600)
    status, told = await ada.ask("PATCH", "/outgoing", {"version": 0, "text_hour": 2})
    assert (status, told["limits"]["text_hour"], told["version"]) == (200, 2, 2)
    assert (await ada.ask("PATCH", "/outgoing", {"version": 0, "text_hour": 3}))[0] == 409
    assert (await ada.ask("PATCH", "/outgoing", {"version": 2, "countries": ["ZZ"]}))[0] == 422
    body = {"account_id": "acc-sms", "to": ANA, "purpose": "service", "body": "Your bicycle is ready."}
    for _ in range(2):
        await amy.post("/conversations", body, expect=201)
    status, refused = await amy.ask("POST", "/conversations", body)
    assert (status, refused["rule"]) == (409, outgoing.STOPPED)
    assert "2 outgoing texts in one hour are the limit." in refused["detail"]
    lanes = {lane["channel"]: lane for lane in (await ada.get("/outgoing"))["channels"]}
    assert (lanes["sms"]["hour"], lanes["sms"]["stopped_at"] is not None, lanes["voice"]["stopped_at"]) == (
        2,
        True,
        None,
    )
    told = await ada.get("/outgoing/explain", number=ANA, channel="sms")
    assert (told["allowed"], told["rule"]) == (False, outgoing.STOPPED)
    assert (await either_house.sam.ask("POST", "/outgoing/switch", {"channel": "sms", "act": "release"}))[0] == 403
    await ada.post("/outgoing/switch", {"channel": "sms", "act": "release"})
    await amy.post("/conversations", body, expect=201)


async def test_calls_go_where_the_rules_allow(house: House) -> None:
    ada, amy = house.ada, house.amy
    for number, rule in (
        ("+18762345678", "destination"),
        ("+5511961234567", "destination"),
        ("+449098790123", "destination"),
        ("+49112", "emergency"),
    ):
        status, told = await amy.ask("POST", "/calls", {"number": number, "account_id": "acc-voice"})
        assert (status, told.get("rule")) == (409, rule), told
    status, told = await amy.ask("POST", "/calls", {"number": "112", "account_id": "acc-voice"})
    assert (status, "Use another telephone, now" in told["detail"]) == (422, True)
    await ada.ask("PATCH", "/outgoing", {"version": 0, "countries": ["US", "BR"]})
    assert (await ada.get("/outgoing/explain", number="+5511961234567"))["allowed"] is True
    await amy.post("/calls", {"number": "+5511961234567", "account_id": "acc-voice"}, expect=201)


async def test_a_campaign_stops_at_the_limit_and_says_why(db: Database, clock: FixedClock) -> None:
    clock.tick(timedelta(hours=6).total_seconds())
    row, ours = await cast.campaign(db, [mobile(number) for number in range(9)], now=clock.now())
    rules = outgoing_rules.check({"text_hour": 4})
    await db.write(lambda tx: outgoing.set_rules(tx, rules, version=0, actor="ada", now=clock.now()))
    line = Line()
    await cast.start(db, row.id, clock)
    assert await cast.run(db, row.id, cast.sending(line, ours, clock), clock) == CampaignState.PAUSED
    assert len(line.sent) == 4
    async with db.reading() as tx:
        paused = await campaigns.get(tx, row.id)
    assert "4 outgoing texts in one hour are the limit." in paused.reason
    await db.write(lambda tx: outgoing.release(tx, "sms", actor="ada", now=clock.now()))
    rules = outgoing_rules.check({})
    await db.write(lambda tx: outgoing.set_rules(tx, rules, version=4, actor="ada", now=clock.now()))
    await db.write(lambda tx: campaigns.resume(tx, row.id, now=clock.now()))
    assert await cast.run(db, row.id, cast.sending(line, ours, clock), clock) == CampaignState.FINISHED
    assert len(line.sent) == 9


async def test_the_screen_shows_the_stop_and_releases_it(house: House) -> None:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        await add_user(house.runtime, "olga", [Role.ADMIN])
        olga = Visitor(house.url, http)
        assert await olga.log_in("olga") == 303
        path = "/desk/admin/spending"
        status, page = await olga.ask("GET", path)
        assert (status, "going out" in page, "stopped" in page) == (200, True, False)
        await olga.ask("POST", f"{path}/switch", data={"channel": "voice", "act": "stop", "reason": "Odd bills"})
        _, page = await olga.ask("GET", path)
        assert ("Odd bills" in page, "Let them go on" in page) == (True, True)
        _, page = await olga.ask("GET", "/desk/admin")
        assert "Odd bills" in page
        await olga.ask("POST", f"{path}/switch", data={"channel": "voice", "act": "release"})
        _, page = await olga.ask("GET", path)
        assert "Let them go on" not in page
        status, page = await olga.ask("POST", path, data={"version": "3", "call_hour": "many", "countries": "GB US"})
        assert (status, "A whole number; 0 for no limit." in page) == (422, True)
