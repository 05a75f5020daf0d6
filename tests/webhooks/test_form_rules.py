"""Forms over HTTP: the version that was seen, conditions, least time, rates per network and number, secrets in turn, replay."""

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
from crm_core.consent import ConsentEvent
from crm_core.contacts import Contact
from crm_core.interactions import Interaction
from crm_core.leads import Lead
from tests.webhooks.conftest import Hub
from webhooks import form_posts, forms
from webhooks.form_guard import SIGNATURE_HEADER, network_of
from webhooks.forms import HONEYPOT, KEY_FIELD, VERSION_FIELD, seconds_open
from webhooks.routes import KINDS

POST, HOSTED = "/webhooks/forms/website", "/forms/website"
FILLED = {"name": "Dana Demo", "email": "dana@example.com", "topic": "sales", "message": "Call me"}


async def rows(hub: Hub, table: Any) -> list[Any]:
    async with hub.db.reading() as tx:
        return list(await tx.all(select(table)))


async def send(hub: Hub, path: str = POST, **how: Any) -> tuple[int, Any]:
    async with hub.client.post(path, **how) as response:
        return response.status, await response.json(content_type=None)


async def change(hub: Hub, **values: Any) -> None:
    await hub.db.write(lambda tx: tx.run(update(Form).where(col(Form.id) == "form").values(**values)))


async def settings(hub: Hub, **values: Any) -> None:
    guard = update(ChannelAccount).where(col(ChannelAccount.address) == "website")
    await hub.db.write(lambda tx: tx.run(guard.values(settings=values)))


async def test_consent_keeps_the_version_that_the_person_saw(hub: Hub) -> None:
    await change(hub, consent_text="We may write to you.", consent_version="1")
    (form,) = await rows(hub, Form)
    now = hub.clock.now()
    await hub.db.write(
        lambda tx: tx.add(
            FormVersion(
                id="v1", form_id="form", number=1, title=form.title, fields=form.fields, consent_text=form.consent_text,
                consent_version="1", created_at=now,
            )
        )
    )  # fmt: skip
    # The administrator changes the text and asks for a phone number while somebody has the page open.
    stricter = [{**one, "required": True} if one["name"] == "phone" else one for one in form.fields]
    await change(hub, consent_text="We may write and phone.", consent_version="2", version=2, fields=stricter)
    seen = {**FILLED, "consent": "yes", VERSION_FIELD: "1"}
    status, told = await send(hub, json=seen)
    assert status == 200, told
    (granted,) = await rows(hub, ConsentEvent)
    assert granted.evidence["text"] == "We may write to you."
    assert (granted.evidence["consent_version"], granted.evidence["form_version"]) == ("1", 1)
    (said,) = await rows(hub, Interaction)
    assert VERSION_FIELD not in said.data["fields"]
    for other in ("2", "99", "-1", "zero", ""):
        status, told = await send(hub, json={**FILLED, VERSION_FIELD: other, "message": other})
        assert (status, list(told["fields"])) == (422, ["phone"]), "checked against the form as it is now"


async def test_conditions_and_mapping_reach_the_lead(hub: Hub) -> None:
    fields = [
        {"name": "who", "label": "Who", "kind": "text", "maps": "contact.name"},
        {"name": "email", "label": "E-mail", "kind": "email", "required": True},
        {"name": "job", "label": "Job", "kind": "text", "maps": "contact.job_title"},
        {"name": "topic", "label": "Topic", "kind": "select", "options": ["sales", "support"], "maps": "subject"},
        {"name": "order", "label": "Order", "kind": "text", "required": True, "show_if": {"field": "topic", "is": "support"}},
        {"name": "from", "label": "", "kind": "hidden", "value": "autumn"},
    ]  # fmt: skip
    await change(hub, fields=fields)
    sent = {
        "who": "Dana Demo",
        "email": "dana@example.com",
        "job": "Buyer",
        "topic": "sales",
        "order": "hidden by its condition",
    }
    assert (await send(hub, json=sent))[0] == 200
    (lead,) = await rows(hub, Lead)
    assert "order" not in lead.fields
    assert lead.fields["from"] == "autumn"
    person = next(one for one in await rows(hub, Contact) if one.id == lead.contact_id)
    assert (person.name, person.job_title) == ("Dana Demo", "Buyer")
    (said,) = await rows(hub, Interaction)
    assert said.subject == "sales"
    assert (await send(hub, json={**sent, "topic": "support", "order": ""}))[0] == 422
    # A stranger who types a known address changes nothing about that person.
    assert (await send(hub, json={**sent, "who": "Somebody Else", "job": "Thief"}))[0] == 200
    person = next(one for one in await rows(hub, Contact) if one.id == lead.contact_id)
    assert (person.name, person.job_title) == ("Dana Demo", "Buyer")


async def test_a_hosted_form_that_is_filled_in_too_quickly_is_asked_for_once_more(hub: Hub) -> None:
    await settings(hub, min_seconds=3)
    async with hub.client.get(HOSTED) as response:
        key = (await response.json())["key"]
    status, told = await send(hub, HOSTED, data={**FILLED, KEY_FIELD: key})
    assert status == 422
    assert "once more" in told["sentence"]
    assert told["key"] == key, "the second try counts from the same instant"
    hub.clock.tick(3)
    status, told = await send(hub, HOSTED, data={**FILLED, KEY_FIELD: key})
    assert (status, told["done"]) == (200, True)
    assert len(await rows(hub, Lead)) == 1
    assert (await send(hub, json={**FILLED, "message": "A machine"}))[0] == 200, "machines need no time"


def test_only_our_own_keys_tell_the_time() -> None:
    now = datetime.fromtimestamp(1000, UTC)
    deps: Any = type("Deps", (), {"sign": staticmethod(lambda text: "right")})
    assert seconds_open(deps, "id.990.right", now) == 10
    for key in ("", "id", "id.990.wrong", "id.soon.right", "id..right", "." * 200):
        assert seconds_open(deps, key, now) is None


@pytest.mark.parametrize(
    ("remote", "network"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("?", "?"),
    ],
)
def test_networks(remote: str, network: str) -> None:
    assert network_of(remote) == network


async def test_one_number_is_not_posted_for_ever(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "PER_POINT", 3)
    for n in range(3):
        assert (await send(hub, json={**FILLED, "message": str(n)}))[0] == 200
        assert (await send(hub, json={**FILLED, "message": str(n)}))[0] == 200, "a repeat is not counted"
    status, told = await send(hub, json={**FILLED, "message": "one more", "email": "Dana@Example.com"})
    assert status == 429, "however the address is written"
    assert "dana" not in json.dumps(told).lower()
    assert (await send(hub, json={**FILLED, "email": "other@example.com"}))[0] == 200


async def test_a_secret_is_turned_without_refusing_anybody(hub: Hub) -> None:
    body = json.dumps(FILLED).encode()

    def signed(secret: str) -> dict[str, str]:
        digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        return {SIGNATURE_HEADER: f"sha256={digest}", "Content-Type": "application/json"}

    hub.secrets["website"] = "new"
    assert (await send(hub, data=body, headers=signed("old")))[0] == 403
    hub.secrets["website"] = "new\nold"
    assert (await send(hub, data=body, headers=signed("old")))[0] == 200
    assert (await send(hub, data=body, headers=signed("new")))[0] == 200
    assert (await send(hub, data=body, headers=signed("")))[0] == 403
    # The hosted page cannot sign; it is open as long as the administrator keeps it open.
    assert (await send(hub, HOSTED, data={**FILLED, "message": "by hand"}))[0] == 200
    await settings(hub, hosted=False)
    async with hub.client.get(HOSTED) as response:
        assert response.status == 404
    async with hub.client.post(HOSTED, data=FILLED) as response:
        assert response.status == 404
    assert (await send(hub, data=body, headers=signed("new")))[0] == 200


async def test_what_was_refused_is_kept_and_can_be_made_to_count(hub: Hub) -> None:
    trapped = {**FILLED, HONEYPOT: "filled in by a password manager"}
    assert (await send(hub, HOSTED, data=trapped))[0] == 200, "a machine is not told"
    assert (await send(hub, json={**FILLED, "email": "dana@"}))[0] == 422
    assert await rows(hub, Lead) == []
    async with hub.db.reading() as tx:
        wrong, spam = await form_posts.list_posts(tx, ["website"])
    assert (spam.state, spam.error) == ("discarded", "honeypot")
    assert "email" in json.loads(wrong.error)
    hub.clock.tick(60)
    again = await form_posts.replay(hub.deps, KINDS, spam.id, actor="test")
    assert again.state == "done", again.error
    (lead,) = await rows(hub, Lead)
    assert lead.fields["message"] == "Call me"
    assert HONEYPOT not in lead.fields
    # Twice is the same lead; and so is a post that had counted already, under a key that has been replaced since.
    await form_posts.replay(hub.deps, KINDS, spam.id, actor="test")
    assert len(await rows(hub, Lead)) == 1
    await change(hub, slug="website-2")
    await settings(hub, former_keys=["website"])
    again = await form_posts.replay(hub.deps, KINDS, spam.id, actor="test")
    assert again.state == "done", again.error
    assert len(await rows(hub, Lead)) == 1
    assert (await send(hub, json=FILLED))[0] == 404, "the old key is refused"
