"""Machines held back without riddles, signatures that carry their time, forms for other sites, posts read again. Both engines."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col, select

from crm_core.accounts import ChannelAccount, Form, FormVersion
from crm_core.audit import AuditEntry
from crm_core.consent import ConsentEvent
from crm_core.contacts import Contact
from crm_core.interactions import Interaction
from crm_core.leads import Lead
from tests.webhooks.conftest import Hub
from webhooks import form_guard, form_posts
from webhooks.form_guard import WORK_BITS, work_done
from webhooks.forms import HONEYPOT, KEY_FIELD, VERSION_FIELD, WORK_FIELD
from webhooks.routes import KINDS

POST, HOSTED = "/webhooks/forms/website", "/forms/website"
FILLED = {"name": "Dana Demo", "email": "dana@example.com", "message": "Call me"}


async def rows(hub: Hub, table: Any) -> list[Any]:
    async with hub.db.reading() as tx:
        return list(await tx.all(select(table)))


async def send(hub: Hub, path: str = POST, **how: Any) -> tuple[int, Any]:
    async with hub.client.post(path, **how) as response:
        return response.status, await response.json(content_type=None)


async def settings(hub: Hub, **values: Any) -> None:
    guard = update(ChannelAccount).where(col(ChannelAccount.address) == "website")
    await hub.db.write(lambda tx: tx.run(guard.values(settings=values)))


async def change(hub: Hub, **values: Any) -> None:
    await hub.db.write(lambda tx: tx.run(update(Form).where(col(Form.id) == "form").values(**values)))


def worked(key: str) -> str:
    return next(str(n) for n in range(1_000_000) if work_done(key, str(n)))


def test_work_is_found_and_nothing_else_passes() -> None:
    answer = worked("a-key")
    digest = hashlib.sha256(f"a-key:{answer}".encode()).digest()
    assert int.from_bytes(digest[:4], "big") >> (32 - WORK_BITS) == 0
    for other in ("", "x", "-1", "٣", "9" * 13, "1e3"):
        assert not work_done("a-key", other)
    assert not work_done("another key", answer) or worked("another key") == answer


def test_a_signature_that_carries_its_time_counts_for_five_minutes() -> None:
    now, body = datetime.fromtimestamp(1_800_000_000, UTC), b'{"a":1}'

    def header(at: int, secret: str = "s", said: bytes = body) -> dict[str, str]:
        digest = hmac.new(secret.encode(), f"{at}.".encode() + said, hashlib.sha256).hexdigest()
        return {"x-hub-signature": f"t={at},v1={digest}"}

    def passes(headers: dict[str, str], *, timed: bool = True) -> bool:
        return form_guard.signed(["other", "s"], headers, body, now=now, timed=timed)

    at = 1_800_000_000
    assert passes(header(at))
    assert passes(header(at - 300))
    assert passes(header(at + 300))
    assert not passes(header(at - 301))
    assert not passes(header(at - 301), timed=False), "too old stays too old"
    assert not passes(header(at, secret="wrong"))
    assert not passes(header(at, said=b"{}"))
    plain = {"x-hub-signature-256": "sha256=" + hmac.new(b"s", body, hashlib.sha256).hexdigest()}
    assert passes(plain, timed=False)
    assert not passes(plain)
    for broken in ("", "t=1", "v1=ab", "t=x,v1=" + "a" * 64, "t=1800000000,v1=" + "g" * 64):
        assert not passes({"x-hub-signature": broken})


async def test_a_strict_form_wants_a_page_that_was_looked_at(hub: Hub) -> None:
    await settings(hub, strict=True, min_seconds=2, hosted=True)
    status, told = await send(hub, HOSTED, data=FILLED)
    assert status == 422, "a machine that never saw the page"
    assert told["key"], "a person whose page had no key gets one, and everything that they typed"
    assert told["values"]["message"] == "Call me"
    key = told["key"]
    hub.clock.tick(3)
    assert (await send(hub, HOSTED, data={**FILLED, KEY_FIELD: key}))[0] == 422, "no work, and not looked at for long"
    assert (await send(hub, HOSTED, data={**FILLED, KEY_FIELD: key, WORK_FIELD: "1"}))[0] == 422
    status, told = await send(hub, HOSTED, data={**FILLED, KEY_FIELD: key, WORK_FIELD: worked(key)})
    assert (status, told["done"]) == (200, True)
    async with hub.client.get(HOSTED) as response:
        key = (await response.json())["key"]
    hub.clock.tick(15)
    patient = {**FILLED, "message": "No script here", KEY_FIELD: key}
    assert (await send(hub, HOSTED, data=patient))[0] == 200, "without script, patience is enough"
    assert (await send(hub, json={**FILLED, "message": "Unsigned"}))[0] == 422, "the webhook is no way round it"
    assert len(await rows(hub, Lead)) == 2
    async with hub.db.reading() as tx:
        held = await form_posts.list_posts(tx, ["website"], only="held")
        taken = await form_posts.list_posts(tx, ["website"], only="taken")
    assert {one.error for one in held} == {"no_key", "too_quick"}
    assert len(taken) == 2
    # Rescued: the one that its sender sent again with success is the same lead, the other one is new.
    for one in held:
        await form_posts.replay(hub.deps, KINDS, one.id, actor="test")
    assert sorted(lead.fields["message"] for lead in await rows(hub, Lead)) == ["Call me", "No script here", "Unsigned"]


async def test_only_named_sites_may_read_the_form(hub: Hub) -> None:
    await settings(hub, embed=["https://www.example.com"], hosted=True)
    ours, other = {"Origin": "https://www.example.com"}, {"Origin": "https://evil.example.com"}
    async with hub.client.get(f"{HOSTED}/fields.json", headers=ours) as response:
        assert response.headers["Access-Control-Allow-Origin"] == "https://www.example.com"
        told = await response.json()
    assert (told["title"], told["version"], told["work"]) == ("Write to us", 1, 0)
    assert told["fields"][0] == {"name": "name", "label": "Name", "kind": "text", "required": True}
    accepts = {"Accept": "application/json"}
    sent = {**FILLED, KEY_FIELD: told["key"], VERSION_FIELD: "1"}
    async with hub.client.post(HOSTED, data=sent, headers={**ours, **accepts}) as response:
        assert (response.status, (await response.json())["status"]) == (200, "received")
        assert response.headers["Access-Control-Allow-Origin"] == "https://www.example.com"
    async with hub.client.post(HOSTED, data={"name": ""}, headers={**ours, **accepts}) as response:
        assert (response.status, "email" in (await response.json())["fields"]) == (422, True)
        assert response.headers["Access-Control-Allow-Origin"] == "https://www.example.com"
    async with hub.client.options(POST, headers=ours) as response:
        assert response.headers["Access-Control-Allow-Headers"] == "Content-Type, Idempotency-Key"
    for method, path in (("GET", f"{HOSTED}/fields.json"), ("OPTIONS", POST), ("OPTIONS", HOSTED)):
        async with hub.client.request(method, path, headers=other) as response:
            assert "Access-Control-Allow-Origin" not in response.headers
            assert response.headers["Vary"] == "Origin"


async def test_a_post_is_read_again_after_the_mapping_was_mended(hub: Hub) -> None:
    await change(hub, consent_text="We may write.", consent_version="1")
    (form,) = await rows(hub, Form)
    seen = FormVersion(
        id="v1", form_id="form", number=1, title=form.title, fields=form.fields, consent_text="We may write.",
        consent_version="1", created_at=hub.clock.now(),
    )  # fmt: skip
    await hub.db.write(lambda tx: tx.add(seen))
    sent = {"name": "?", "email": "dana@example.com", "lead": {"tel": "+12025550177", "job": "Buyer"}, "agreed": "yes",
            VERSION_FIELD: "1"}  # fmt: skip
    status, told = await send(hub, json={**sent, "name": "Dana"})
    assert status == 200, told
    async with hub.db.reading() as tx:
        (receipt,) = await form_posts.list_posts(tx, ["website"])
    fields = [
        {**one, "also": ["lead.tel"]} if one["name"] == "phone" else one for one in form.fields
    ] + [{"name": "job", "label": "Job", "kind": "text", "maps": "contact.job_title", "also": ["lead.job"]}]  # fmt: skip
    await change(hub, fields=fields, version=2, consent_text="We may write and phone.", consent_version="2")
    hub.clock.tick(3600)
    again = await form_posts.replay(hub.deps, KINDS, receipt.id, actor="ada")
    assert again.state == "done", again.error
    assert [one["by"] for one in again.headers[form_posts.REPLAYS]] == ["ada"]
    (lead,) = await rows(hub, Lead)
    assert (lead.id, lead.fields["phone"], lead.fields["job"]) == (told["lead"], "+12025550177", "Buyer")
    person = next(one for one in await rows(hub, Contact) if one.id == lead.contact_id)
    assert person.job_title == "Buyer"
    (said,) = await rows(hub, Interaction)
    assert (said.data["replays"][0]["by"], said.data["labels"]["job"]) == ("ada", "Job")
    assert "Phone: +12025550177" in said.body
    assert await rows(hub, ConsentEvent) == [], "the tick box was not under its name, so nobody agreed"
    actions = [one.action for one in await rows(hub, AuditEntry)]
    assert actions.count("form.replayed") == 1
    # What a person wrote since then stays.
    await hub.db.write(lambda tx: tx.run(update(Contact).where(col(Contact.id) == person.id).values(job_title="Boss")))
    await form_posts.replay(hub.deps, KINDS, receipt.id, actor="ada")
    assert next(one for one in await rows(hub, Contact) if one.id == person.id).job_title == "Boss"
    assert len(await rows(hub, Lead)) == 1


async def test_a_refused_post_counts_once_its_form_takes_it(hub: Hub) -> None:
    assert (await send(hub, json={**FILLED, "topic": "weather"}))[0] == 422
    assert (await send(hub, json={**FILLED, HONEYPOT: "x"}))[0] == 200
    async with hub.db.reading() as tx:
        (refused,) = await form_posts.list_posts(tx, ["website"], only="refused")
    assert list(json.loads(refused.error)) == ["topic"]
    done = await form_posts.replay(hub.deps, KINDS, refused.id, actor="ada")
    assert done.state == "done", done.error
    (said,) = await rows(hub, Interaction)
    assert said.data["replays"][0]["by"] == "ada"
    assert (await form_posts.replay(hub.deps, KINDS, refused.id, actor="ada")).answer == done.answer
    assert len(await rows(hub, Lead)) == 1


@pytest.mark.parametrize("phone", ["+12025550142", ""])
async def test_a_field_is_asked_for_when_another_has_a_value(hub: Hub, phone: str) -> None:
    (form,) = await rows(hub, Form)
    when = {"name": "when", "label": "When", "kind": "text", "require_if": {"field": "phone", "is": ""}}
    await change(hub, fields=[*form.fields, when])
    status, told = await send(hub, json={**FILLED, "phone": phone})
    assert status == (422 if phone else 200)
    assert not phone or list(told["fields"]) == ["when"]
