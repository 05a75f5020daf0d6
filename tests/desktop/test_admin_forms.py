"""The form builder on screen: nothing typed is lost, what is saved can be filled in at once, old versions are kept."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
from sqlmodel import select

from crm_core.accounts import Form, FormVersion
from crm_core.consent import ConsentEvent
from crm_core.leads import Lead
from crm_core.users import Role
from hub.runtime import Runtime
from routing.queues import Queue
from tests.apps import Visitor, add_user


@pytest.fixture
async def ada(runtime: Runtime, visitor: Visitor) -> Visitor:
    """An administrator in a hub with one queue."""
    await add_user(runtime, "ada", [Role.ADMIN])
    await runtime.db.write(lambda tx: tx.add(Queue(id="0" * 26, name="Support")))
    assert await visitor.log_in("ada") == 303
    return visitor


async def page(visitor: Visitor, path: str) -> tuple[int, str, str]:
    """Status, text and policy."""
    async with visitor.http.get(visitor.url + path) as answer:
        return answer.status, html.unescape(await answer.text()), answer.headers.get("Content-Security-Policy", "")


async def post(visitor: Visitor, path: str, fields: dict[str, str]) -> tuple[int, str, str]:
    sent = {**fields, "_csrf": visitor.csrf}
    async with visitor.http.post(visitor.url + path, data=sent, allow_redirects=False) as answer:
        return answer.status, html.unescape(await answer.text()), answer.headers.get("Location", "")


async def rows(runtime: Runtime, table: Any) -> list[Any]:
    async with runtime.db.reading() as tx:
        return list(await tx.all(select(table).order_by(table.id)))


BUILT = {
    "title": "Ask for an offer", "queue_id": "0" * 26, "consent_text": "You may write to me.", "min_seconds": "0",
    "hosted": "1", "enabled": "1", "embed": "https://www.example.com", "version": "0", "places": "0 1 2", "thanks": "",
    "f0_name": "who", "f0_label": "Your name", "f0_kind": "text", "f0_maps": "contact.name", "f0_required": "1",
    "f1_name": "email", "f1_label": "E-mail", "f1_kind": "email", "f1_required": "1",
    "f2_name": "topic", "f2_label": "Topic", "f2_kind": "select", "f2_options": "sales\nsupport",
}  # fmt: skip


async def test_a_form_from_the_first_field_to_the_first_lead(ada: Visitor, runtime: Runtime) -> None:
    assert "Your name" not in (await page(ada, "/desk/admin/forms/new"))[1]
    status, text, _ = await post(ada, "/desk/admin/forms/new", {**BUILT, "act": "up-1"})
    assert status == 200
    assert text.index('value="E-mail"') < text.index('value="Your name"'), "moved, and nothing lost"
    status, text, _ = await post(ada, "/desk/admin/forms/new", {**BUILT, "act": "add"})
    assert 'name="f3_label"' in text
    assert 'value="Your name"' in text
    status, text, _ = await post(ada, "/desk/admin/forms/new", {**BUILT, "act": "remove-2"})
    assert 'name="f2_label"' not in text
    assert await rows(runtime, Form) == [], "the builder's buttons store nothing"

    wrong = {
        **BUILT,
        "f0_name": "Your name",
        "f2_options": "",
        "min_seconds": "many",
        "embed": "javascript:1",
        "title": "",
    }
    status, text, _ = await post(ada, "/desk/admin/forms/new", wrong)
    assert status == 422
    for sentence in (
        "A name is small letters, digits and underscores", "Give at least one choice.", "Between 0 and 600.",
        "Write each site as https://www.example.com", "Give a title.",
    ):  # fmt: skip
        assert sentence in text, sentence

    status, text, where = await post(ada, "/desk/admin/forms/new", BUILT)
    assert status == 303, text
    (form,) = await rows(runtime, Form)
    assert re.fullmatch(r"ask-for-an-offer-[a-z2-9]{10}", form.slug)
    status, text, policy = await page(ada, f"/forms/{form.slug}")
    assert status == 200
    assert "frame-ancestors 'self' https://www.example.com" in policy
    assert "unsafe-inline" not in policy
    answer = {"who": "Dana Demo", "email": "dana@example.com", "topic": "sales", "consent": "yes", "_version": "1"}
    status, text, _ = await post(ada, f"/forms/{form.slug}", answer)
    assert "Thank you" in text
    (lead,) = await rows(runtime, Lead)
    assert lead.fields["who"] == "Dana Demo"

    # The consent text changes; who still has the first page open consented to the first text.
    path = where.partition("?")[0]
    changed = {**BUILT, "version": "1", "consent_text": "You may write to me and phone me."}
    assert (await post(ada, path, changed))[0] == 303
    status, text, _ = await post(ada, path, changed)
    assert (status, "Somebody changed this form meanwhile." in text) == (422, True)
    assert "You may write to me and phone me." in text
    await post(ada, f"/forms/{form.slug}", {**answer, "topic": "support"})
    texts = [one.evidence["text"] for one in await rows(runtime, ConsentEvent)]
    assert texts == ["You may write to me."] * 2
    assert [(v.number, v.consent_version) for v in await rows(runtime, FormVersion)] == [(1, "1"), (2, "2")]
    status, text, _ = await page(ada, f"{path}/posts")
    assert text.count("taken") >= 2
    assert "Dana Demo" in text


async def test_key_and_secret_are_turned_on_screen(ada: Visitor, runtime: Runtime) -> None:
    _, _, where = await post(ada, "/desk/admin/forms/new", BUILT)
    path = where.partition("?")[0]
    (form,) = await rows(runtime, Form)
    body = {"who": "Dana", "email": "dana@example.com"}

    async def machine(slug: str) -> int:
        async with ada.http.post(f"{ada.url}/webhooks/forms/{slug}", json=body) as answer:
            return answer.status

    assert await machine(form.slug) == 200
    status, text, _ = await post(ada, f"{path}/turn", {"act": "new"})
    secret = re.search(r"whs_[0-9a-f]{48}", text)
    assert status == 200
    assert secret is not None
    assert await machine(form.slug) == 403, "unsigned posts are refused now"
    _, text, _ = await page(ada, path)
    assert secret[0] not in text, "shown once"
    assert f"ends in …{secret[0][-4:]}" in text
    await post(ada, f"{path}/turn", {"act": "none"})
    assert await machine(form.slug) == 200
    await post(ada, f"{path}/turn", {"act": "key"})
    assert await machine(form.slug) == 404
    (form,) = await rows(runtime, Form)
    assert await machine(form.slug) == 200
    assert (await post(ada, f"{path}/turn", {"act": "burn"}))[0] == 422
    # Deleted and brought back from the list like every other account.
    assert (await post(ada, f"/desk/admin/accounts/{form.account_id}/delete", {}))[0] == 303
    assert await machine(form.slug) == 404
    assert "This form is deleted" in (await page(ada, path))[1]
    await post(ada, f"/desk/admin/accounts/{form.account_id}/restore", {})
    assert await machine(form.slug) == 200


async def test_the_snippet_holds_no_script_and_what_was_typed_is_text_in_it(ada: Visitor, runtime: Runtime) -> None:
    evil = {**BUILT, "f0_label": '"><script>alert(1)</script>', "consent_text": "<b>yes</b>", "title": "A <i>form</i>"}
    _, _, where = await post(ada, "/desk/admin/forms/new", evil)
    async with ada.http.get(ada.url + where) as answer:
        raw = await answer.text()
    assert "<script>alert" not in raw
    assert "<b>yes</b>" not in raw
    from hub import form_snippets

    (form,) = await rows(runtime, Form)
    made = form_snippets.snippet(form, origin="https://hub.example.com")
    assert "<script" not in made
    assert " style=" not in made
    assert 'action="https://hub.example.com/forms/' in made
    assert "&lt;b&gt;yes" in made
    # What the snippet posts is taken: no key, no instant, the version it was made from.
    sent = {"_version": "1", "who": "Dana", "email": "dana@example.com", "consent": "yes"}
    assert "Thank you" in (await post(ada, f"/forms/{form.slug}", sent))[1]
