"""Click-to-be-called: a promise instead of work, in hours, once for a number, and never to numbers that nobody should ring."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col, select

from crm_core import consent
from crm_core.accounts import ChannelAccount, Form
from crm_core.addresses import phone
from crm_core.blocked_callers import block
from crm_core.consent import SuppressionReason
from crm_core.interactions import Interaction, InteractionState
from crm_core.leads import Lead
from routing import call_forms
from routing.callbacks import Callback, CallbackState
from routing.checks import check_invariants
from routing.hours import Hours
from routing.queues import Queue, QueueEntry
from tests.webhooks.conftest import NUMBER, Hub
from webhooks import form_posts
from webhooks.routes import KINDS

POST = "/webhooks/forms/website"
VISITOR = "+442079460571"
CLOSED = {str(day): [] for day in range(7)}


@pytest.fixture
async def calls(hub: Hub) -> Hub:
    fields = [
        {"name": "name", "label": "Name", "kind": "text", "maps": "contact.name"},
        {"name": "phone", "label": "Phone", "kind": "phone", "required": True},
        {"name": "call_at", "label": "When", "kind": "slot"},
        {"name": "topic", "label": "Topic", "kind": "text", "maps": "subject"},
    ]
    await hub.db.write(lambda tx: tx.run(update(Form).where(col(Form.id) == "form").values(fields=fields)))
    guard = update(ChannelAccount).where(col(ChannelAccount.address) == "website")
    await hub.db.write(lambda tx: tx.run(guard.values(settings={"calls": True})))
    return hub


async def rows(hub: Hub, table: Any) -> list[Any]:
    async with hub.db.reading() as tx:
        return list(await tx.all(select(table)))


async def send(hub: Hub, **fields: str) -> tuple[int, Any]:
    async with hub.client.post(POST, json={"name": "Vera", "phone": VISITOR, **fields}) as response:
        return response.status, await response.json(content_type=None)


async def open_from(hub: Hub, week: dict[str, Any]) -> None:
    await hub.db.write(lambda tx: tx.add(Hours(id="hours", name="Day", zone="Europe/London", week=week, days={})))
    await hub.db.write(lambda tx: tx.run(update(Queue).values(hours_id="hours")))


async def test_at_once_is_a_callback_that_waits_now(calls: Hub) -> None:
    status, told = await send(calls, topic="A flat tyre")
    assert status == 200, told
    (callback,) = await rows(calls, Callback)
    assert (callback.state, callback.origin, callback.number_e164) == (CallbackState.DUE, "form", VISITOR)
    assert callback.account_id == "account-voice"
    (said,) = await rows(calls, Interaction)
    assert (said.state, said.subject) == (InteractionState.PROMISED, "A flat tyre")
    (entry,) = await rows(calls, QueueEntry)
    assert (entry.kind, entry.callback_id) == ("callback", callback.id)
    # The same again, and another enquiry of the same number: nobody is phoned twice.
    assert (await send(calls, topic="A flat tyre"))[0] == 200
    assert (await send(calls, topic="And the brakes"))[0] == 200
    assert len(await rows(calls, Callback)) == 1
    assert len(await rows(calls, Lead)) == 2
    async with calls.db.reading() as tx:
        assert await check_invariants(tx, now=calls.clock.now()) == []


async def test_one_number_is_asked_for_three_times_a_day(calls: Hub) -> None:
    for n in range(call_forms.PER_NUMBER):
        assert (await send(calls, topic=str(n)))[0] == 200
    assert (await send(calls, topic="once more"))[0] == 429
    async with calls.db.reading() as tx:
        (held,) = await form_posts.list_posts(tx, ["website"], only="held")
    assert held.error == "rate"


async def test_one_network_asks_for_a_few_calls_an_hour(calls: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_forms, "PER_NETWORK", 2)
    statuses = [(await send(calls, phone=f"+44207946058{n}"))[0] for n in range(3)]
    assert statuses == [200, 200, 429]
    assert len(await rows(calls, Callback)) == 2


async def test_hours_hold_for_now_and_for_what_is_chosen(calls: Hub) -> None:
    now = calls.clock.now()
    day = (now + timedelta(days=2)).weekday()
    await open_from(calls, {**CLOSED, str(day): [["09:00", "12:00"]]})
    async with calls.db.reading() as tx:
        opening = await tx.one(select(Hours))
    offered = call_forms.slots(opening, now)
    assert len(offered) == 3
    assert all(at.minute == 0 and at > now for at in offered)
    assert (await send(calls))[0] == 200
    (callback,) = await rows(calls, Callback)
    assert (callback.state, callback.due_at) == (CallbackState.REQUESTED, offered[0])
    chosen = offered[1].isoformat()
    assert (await send(calls, phone="+442079460572", call_at=chosen))[0] == 200
    later = next(one for one in await rows(calls, Callback) if one.number_e164 == "+442079460572")
    assert (later.due_at, later.until_at) == (offered[1], offered[2])
    for wrong in (offered[2] + timedelta(hours=1), now - timedelta(days=7), offered[0] + timedelta(days=14)):
        status, told = await send(calls, phone="+442079460573", call_at=wrong.isoformat())
        assert (status, list(told["fields"])) == (422, ["call_at"])
    for word in ("soon", "2026-11-30", "2026-11-30T09:00"):
        assert (await send(calls, phone="+442079460573", call_at=word))[0] == 422


async def test_numbers_that_nobody_should_ring(calls: Hub) -> None:
    now = calls.clock.now()
    await calls.db.write(lambda tx: block(tx, "+442079460574", user_id="ada", now=now))
    never = phone("+442079460575")
    await calls.db.write(
        lambda tx: consent.opt_out(
            tx,
            never,
            channel="voice",
            reason=SuppressionReason.DO_NOT_CALL,
            source="agent",
            evidence={},
            actor="amy",
            now=now,
        )
    )
    told = []
    # Premium, another country, one of ours, blocked, never again: the sentence tells a stranger nothing about any of them.
    for number in ("+449001234567", "+33142685300", NUMBER, "+442079460574", "+442079460575"):
        status, answer = await send(calls, phone=number)
        assert status == 422, number
        told.append(answer["fields"]["phone"])
    assert set(told) == {"We cannot call this number. Give another one."}
    assert await rows(calls, Callback) == []
    async with calls.db.reading() as tx:
        held = await form_posts.list_posts(tx, ["website"], only="held")
        refused = await form_posts.list_posts(tx, ["website"], only="refused")
    assert {one.error for one in held} == {"own_number", "blocked", "never_call"}
    # A person may decide otherwise for those that may be dialled at all, and for no others.
    done = await form_posts.replay(
        calls.deps, KINDS, next(one.id for one in held if one.error == "blocked"), actor="ada"
    )
    assert done.state == "done", done.error
    for one in refused:
        assert (await form_posts.replay(calls.deps, KINDS, one.id, actor="ada")).state == "discarded"
    assert [one.number_e164 for one in await rows(calls, Callback)] == ["+442079460574"]
