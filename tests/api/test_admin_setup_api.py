"""Everything an administrator sets up, by API: numbers, mailboxes, forms, the provider account, hours, links."""

from __future__ import annotations

from typing import Any

from tests.api.conftest import House

SID = "AC" + "a" * 32
FIELDS: list[dict[str, Any]] = [
    {"name": "name", "label": "Name", "kind": "text", "maps": "contact.name"},
    {"name": "email", "label": "E-mail", "kind": "email", "required": True},
]


async def test_a_number_from_creation_to_restoration(either_house: House) -> None:
    ada = either_house.ada
    made = await ada.post("/accounts/numbers", {"number": "+44 20 7946 0777", "queue_id": "q"}, expect=201)
    assert [row["channel"] for row in made["items"]] == ["voice", "sms"]
    voice = made["items"][0]
    assert voice["address"] == "+442079460777"
    status, told = await ada.ask("POST", "/accounts/numbers", {"number": "+442079460777"})
    assert (status, "number" in told["fields"]) == (422, True)
    assert (await ada.ask("POST", "/accounts/numbers", {"number": "+442079460778", "queue_id": "none"}))[0] == 404
    path = f"/accounts/{voice['id']}"
    status, changed = await ada.ask("PATCH", path, {"version": 1, "name": "Main", "enabled": False})
    assert (status, changed["name"], changed["enabled"], changed["version"]) == (200, "Main", False, 2)
    assert (await ada.ask("PATCH", path, {"version": 1, "name": "Late"}))[0] == 409
    assert (await ada.ask("PATCH", path, {"version": 2, "address": "+1"}))[0] == 422
    assert (await ada.ask("DELETE", path))[0] == 204
    assert (await ada.ask("PATCH", path, {"version": 3, "name": "x"}))[0] == 409, "it is deleted"
    listed = {row["id"] for row in (await ada.get("/accounts"))["items"]}
    assert voice["id"] not in listed
    gone = (await ada.get("/accounts", deleted="true"))["items"]
    assert [row["id"] for row in gone] == [voice["id"]]
    restored = await ada.post(f"{path}/restore")
    assert (restored["enabled"], restored["deleted_at"]) == (False, None)
    assert (await ada.ask("POST", f"{path}/restore"))[0] == 409
    assert (await either_house.sam.ask("POST", "/accounts/numbers", {"number": "+442079460779"}))[0] == 403


async def test_a_mailbox_shows_no_secret(either_house: House) -> None:
    ada = either_house.ada
    server = {"host": "127.0.0.1", "port": 9, "security": "none", "user": "u", "password": "a canary secret"}
    body = {"address": "new@example.test", "imap": server}
    made = await ada.post("/accounts/mailboxes", body, expect=201)
    assert made["secrets"] == {"imap_password": "et"}
    assert "canary" not in str(made)
    assert made["settings"]["imap"] == {"host": "127.0.0.1", "port": 9, "security": "none", "user": "u"}
    tested = await ada.post(f"/accounts/{made['id']}/test")
    assert tested["items"] == [{"what": "imap", "good": False, "sentence": "Nothing listens on port 9 of 127.0.0.1."}]
    change = {**body, "version": 1, "address": "", "name": "Help", "imap": {**server, "password": ""}}
    status, changed = await ada.ask("PUT", f"/accounts/mailboxes/{made['id']}", change)
    assert (status, changed["name"], changed["address"]) == (200, "Help", "new@example.test")
    stolen = {**change, "version": 2, "imap": {**server, "password": "", "host": "localhost"}}
    status, told = await ada.ask("PUT", f"/accounts/mailboxes/{made['id']}", stolen)
    assert (status, list(told["fields"])) == (422, ["imap_password"])
    status, told = await ada.ask("POST", "/accounts/mailboxes", {**body, "imap": {**server, "host": "192.0.2.1"}})
    assert (status, list(told["fields"])) == (422, ["imap_host"])


async def test_the_provider_account(either_house: House) -> None:
    ada = either_house.ada
    token, other = "first-token-000000000000000000000", "second-token-00000000000000000000"
    made = await ada.ask("PUT", "/provider", {"account_sid": SID, "auth_token": token})
    assert (made[0], made[1]["secrets"]) == (200, {"auth_token": "0000"})
    status, told = await ada.ask("PUT", "/provider", {"account_sid": "AC", "auth_token": token})
    assert (status, list(told["fields"])) == (422, ["account_sid"])
    status, told = await ada.ask("PUT", "/provider", {"account_sid": SID, "auth_token": other})
    assert set(told["secrets"]) == {"auth_token", "previous_auth_token"}
    assert either_house.runtime.channels.twilio is not None
    assert either_house.runtime.channels.twilio.auth_token == other
    await ada.post("/provider/rotate", {"act": "end"})
    assert (await ada.ask("POST", "/provider/rotate", {"act": "swap"}))[0] == 422


async def test_a_form_from_creation_to_replay(either_house: House) -> None:
    house, ada = either_house, either_house.ada
    body = {"title": "Offer", "fields": FIELDS, "queue_id": "q", "consent_text": "Yes."}
    form = await ada.post("/forms", body, expect=201)
    assert form["key"].startswith("offer-")
    assert f"/forms/{form['key']}" in form["snippet"]
    for wrong, at in (
        ({"fields": [{"name": "x"}]}, "fields.0.label"),
        (
            {"fields": [{"name": "email", "label": "E", "kind": "email", "options": 7, "show_if": "x"}, {"kind": 3}]},
            "fields.1.kind",
        ),
        ({"embed": ["https://a b"]}, "embed"),
    ):
        status, told = await ada.ask("POST", "/forms", {**body, **wrong})
        assert (status, at in told["fields"]) == (422, True), told

    async def machine(key: str, **fields: str) -> int:
        async with house.http.post(f"{house.url}/webhooks/forms/{key}", json=fields) as answer:
            return answer.status

    assert await machine(form["key"], email="dana@example.com") == 200
    assert await machine(form["key"], email="nobody") == 422
    posts = (await ada.get(f"/forms/{form['id']}/posts"))["items"]
    assert [one["state"] for one in posts] == ["discarded", "done"]
    house.runtime.clock.tick(60)  # type: ignore[attr-defined]
    assert (await ada.post(f"/posts/{posts[1]['id']}/replay"))["state"] == "done"
    assert (await ada.ask("POST", "/posts/none/replay"))[0] == 404
    status, changed = await ada.ask(
        "PUT", f"/forms/{form['id']}", {**body, "version": 1, "consent_text": "Yes, please."}
    )
    assert (status, changed["version"], changed["consent_version"]) == (200, 2, "2")
    assert (await ada.ask("PUT", f"/forms/{form['id']}", {**body, "version": 1}))[0] == 409
    turned = await ada.post(f"/forms/{form['id']}/turn", {"act": "new"})
    assert turned["secret"].startswith("whs_")
    assert await machine(form["key"], email="dana@example.com") == 403
    assert (await ada.get("/forms"))["items"][0]["secrets"] == {"signing_secret": turned["secret"][-4:]}
    turned = await ada.post(f"/forms/{form['id']}/turn", {"act": "key"})
    assert (turned["secret"], turned["key"] == form["key"]) == ("", False)


async def test_hours_and_links(either_house: House) -> None:
    ada = either_house.ada
    body = {"name": "Office", "zone": "Europe/London", "week": {"0": "09:00-12:00, 13:00-17:00"}, "days": "2026-12-25"}
    made = await ada.post("/hours", body, expect=201)
    assert made["week"] == {"0": "09:00-12:00, 13:00-17:00"}
    status, told = await ada.ask("POST", "/hours", {**body, "name": "Other", "week": {"0": "9 to 5"}})
    assert (status, "day-0" in told["fields"]) == (422, True)
    assert (await ada.ask("POST", "/hours", body))[0] == 409
    status, changed = await ada.ask("PUT", f"/hours/{made['id']}", {**body, "version": 1, "days": ""})
    assert (status, changed["days"], changed["version"]) == (200, "", 2)
    assert (await ada.ask("DELETE", f"/hours/{made['id']}"))[0] == 204
    assert (await ada.get("/hours"))["items"] == []
    status, told = await ada.ask("POST", f"/users/{either_house.amy.user.id}/link", {"purpose": "reset"})
    assert (status, told["fields"]) == (422, {"email": "Give a mail address first."})
