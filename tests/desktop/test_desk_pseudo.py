"""The demo company read in the pseudo language: whatever stands without its brackets is data, or was never marked.

Pages with people, work, campaigns and lists in them, refusals, explanations, and the pages for people outside.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlmodel import select

from campaigns import call_lists, campaigns
from campaigns.call_lists import CallList, ListEntry
from campaigns.campaigns import Campaign
from campaigns.deliveries import Delivery, DeliveryState
from crm_core import consent
from crm_core.accounts import ChannelAccount, Form
from crm_core.addresses import phone
from crm_core.consent import Purpose
from crm_core.contact_imports import ContactImport
from crm_core.contacts import Contact, ContactPoint, Organisation
from crm_core.conversations import Conversation
from crm_core.db import Tx
from crm_core.ids import new_id
from crm_core.interactions import Attachment, Disposition, Interaction, Note
from crm_core.saved_views import SavedView
from crm_core.sounds import Sound
from crm_core.users import User
from hub.demo import PASSWORD
from hub.desktop.admin_more import SCOPES
from hub.i18n import LOCALES, PSEUDO
from hub.runtime import Runtime
from routing.callbacks import Callback
from routing.flows import Flow, FlowVersion
from routing.hours import Hours
from routing.queues import Queue
from tests.apps import Visitor
from tests.desktop import one_of_each
from tests.desktop.test_desk_pages import pages, words_of

DATA: tuple[tuple[Any, str], ...] = (
    (Contact, "name"), (Contact, "tags"), (Contact, "fields"), (Contact, "zone"), (Organisation, "name"),
    (User, "name"), (User, "login"), (User, "zone"), (ContactPoint, "value"), (Conversation, "subject"), (Conversation, "peer"),
    (Interaction, "subject"),
    (Interaction, "body"), (Interaction, "notes"), (Interaction, "data"), (Note, "body"), (Queue, "name"),
    (ChannelAccount, "name"), (ChannelAccount, "address"), (Form, "slug"), (Form, "title"), (Form, "fields"),
    (Form, "consent_text"), (Form, "thanks"),
    (Disposition, "key"), (Callback, "note"), (Campaign, "name"), (CallList, "name"),
    (ListEntry, "name"), (ListEntry, "value"), (Flow, "name"), (FlowVersion, "steps"),
    (ContactImport, "file_name"), (ContactImport, "headers"),
    (Hours, "name"), (Hours, "zone"), (Sound, "name"), (SavedView, "name"), (Attachment, "name"),
)  # fmt: skip


def words(value: Any) -> list[str]:
    """Every string in a stored value."""
    if isinstance(value, dict):
        return [one for pair in value.items() for part in pair for one in words(part)]
    if isinstance(value, list | tuple):
        return [one for part in value for one in words(part)]
    return [value] if isinstance(value, str) and value else []


@pytest.fixture
async def data(runtime: Runtime) -> tuple[dict[str, str], list[str]]:
    """The demo company with a campaign, a list, a refusal and a failed delivery: ids by noun, and what people typed."""
    now = runtime.clock.now()
    ids = await one_of_each.fill(runtime)

    async def more(tx: Tx) -> dict[str, str]:
        accounts = {row.channel: row.id for row in await tx.all(select(ChannelAccount))}
        ada = await tx.one(select(User).where(User.login == "ada"))
        assert ada is not None
        campaign = await campaigns.create(
            tx, name="Αυτόματο", account_id=accounts["sms"], purpose=Purpose.MARKETING, user_id=ada.id, now=now,
            audience={"tag": "newsletter"},
        )  # fmt: skip
        verdict = await consent.may_contact(
            tx, purpose=Purpose.MARKETING, channel="sms", address=phone("+12025550142"), now=now
        )
        assert not verdict.allowed
        await tx.add(
            Delivery(
                id=new_id(now), campaign_id=campaign.id, kind="phone", value="+12025550142", state=DeliveryState.FAILED,
                rule="consent", reason=verdict.reason, error="The mail server answered 550.", error_code="30007",
                verdict=verdict.as_doc(), forecast="consent", attempt=1, content_version=1, due_at=now, updated_at=now,
            )
        )  # fmt: skip
        row = await call_lists.create(tx, name="Κλήσεις", account_id=accounts["voice"], user_id=ada.id, now=now)
        return {**ids, "campaign": campaign.id, "list": row.id}

    async def typed(tx: Tx) -> list[str]:
        found = ["Zoe", "Ana"]  # in the file that is to be imported
        for table, column in DATA:
            for value in await tx.all(select(getattr(table, column))):
                found += words(value)
        return found

    ids = await runtime.db.write(more)
    async with runtime.db.reading() as tx:
        return ids, await typed(tx)


# The same for every reader: names of languages in themselves, zones, keys, and the names of protocols.
ALIKE = {
    *LOCALES.values(), *SCOPES, "SMS", "CSV", "HTML", "VIP", "KB", "MB", "UTC", "TLS", "IMAP", "SMTP", "Twilio", "SID", "API",
    "en", "GB", "AM", "PM", "SQLite", "Spanish", "twilio", "smtp", "imap",
}  # fmt: skip


def unmarked(page: str, typed: list[str]) -> list[str]:
    """What a person would read in English: not marked as translated, and nothing that somebody typed."""
    known = {" ".join(one.split()) for one in typed}
    by_length = sorted((one for one in known if re.search("[A-Za-z]{2}", one)), key=len, reverse=True)
    found = []
    for told in words_of(page):
        if told.startswith(("<form", "<iframe", "<script")) or re.match(r"On \w{3}, \d\d \w{3} .* wrote: >", told):
            continue  # what an administrator copies into a page of their own; what goes out below an answer
        rest = told
        while "⟦" in rest and rest != (rest := re.sub(r"⟦[^⟦⟧]*⟧", " ", rest)):
            pass
        if not re.search("[A-Za-z]{2}", rest):
            continue
        cut = " ".join(rest.split()).removeprefix("→ ")
        if any(cut in one for one in known):
            continue
        rest = re.sub(r"(?:https?|unix|file)://?\S+|/forms/\S+", " ", rest)
        for one in by_length:
            rest = rest.replace(one, " ")
        rest = re.sub(
            r"\d+:\d\d|in \d+ \w+|\d+ \w+ ago|\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\b", " ", rest
        )
        left = [word for word in re.findall(r"[A-Za-zÀ-ÿ]{2,}", rest) if word not in ALIKE and not word.isupper()]
        if cut in ALIKE:
            continue
        if left:
            found.append(told)
    return found


async def get(visitor: Visitor, path: str, **headers: str) -> tuple[int, str]:
    """One page in the pseudo language."""
    joined = path + ("&" if "?" in path else "?") + f"lang={PSEUDO}"
    async with visitor.http.get(visitor.url + joined, headers=headers, allow_redirects=False) as answer:
        page = await answer.text("utf-8", "replace")
        return answer.status, page if answer.content_type == "text/html" else ""


async def test_no_page_with_work_in_it_holds_english(visitor: Visitor, data: tuple[dict[str, str], list[str]]) -> None:
    ids, typed = data
    await visitor.log_in("ada", PASSWORD)
    wrong = {}
    for path in [*pages(ids), "/desk/search?q=an", "/desk/admin/health"]:
        if path in ("/desk/admin/audit", "/desk/patterns") or path.startswith("/desk/mail/"):
            continue  # the acts' own words, a page for developers, and a mail as somebody else designed it
        status, text = await get(visitor, path)
        if status == 200 and (left := unmarked(text, typed)):
            wrong[path] = left[:8]
    assert not wrong, "\n".join(f"{path}: {left}" for path, left in wrong.items())


async def test_explanations_hold_no_english(visitor: Visitor, data: tuple[dict[str, str], list[str]]) -> None:
    ids, typed = data
    await visitor.log_in("ada", PASSWORD)
    for path in (
        f"/desk/campaigns/{ids['campaign']}/why?address=%2B12025550142",
        f"/desk/campaigns/{ids['campaign']}/why?address=%2B12025550143",
        f"/desk/campaigns/{ids['campaign']}/why?address=nothing",
        f"/desk/why/{ids['offer']}",
    ):
        status, text = await get(visitor, path)
        assert status == 200, path
        assert text.count("⟦") >= 1, path
        assert not unmarked(text, typed), path


async def test_refusals_are_told_in_the_readers_language(
    visitor: Visitor, data: tuple[dict[str, str], list[str]]
) -> None:
    ids, typed = data
    await visitor.log_in("ada", PASSWORD)
    posts: list[tuple[str, dict[str, str]]] = [
        ("/desk/contacts", {"name": "", "phone": "12", "email": "nobody"}),
        (f"/desk/contacts/{ids['contact']}/points", {"value": "12"}),
        (f"/desk/contacts/{ids['contact']}/field/name", {"value": "", "version": "1"}),
        ("/desk/campaigns", {"name": "", "account_id": "x", "purpose": "y"}),
        (f"/desk/campaigns/{ids['campaign']}/what", {"body": "{{ nobody }} {% for x in y %}{% endfor %}"}),
        (f"/desk/campaigns/{ids['campaign']}/what", {"body": "{{ first_name|shout }}"}),
        (f"/desk/campaigns/{ids['campaign']}", {"action": "pause"}),
        ("/desk/lists", {"name": "", "account_id": "x"}),
        (f"/desk/lists/{ids['list']}", {"action": "pause"}),
        ("/desk/callbacks", {"number": "12", "due": "yesterday"}),
        (f"/desk/admin/queues/{ids['queue']}", {"name": "", "version": "1", "wrapup_s": "-5", "max_wait_s": "0"}),
        ("/desk/admin/users", {"login": "amy", "name": "Amy", "password": "short", "roles": "agent"}),
        (f"/desk/work/{ids['conversation']}/reply", {"body": ""}),
    ]
    told = 0
    for path, form in posts:
        async with visitor.http.post(
            f"{visitor.url}{path}?lang={PSEUDO}", data=form, headers={"X-CSRF": visitor.csrf}, allow_redirects=False
        ) as answer:
            text = await answer.text()
        assert answer.status in (404, 405, 409, 422), (path, answer.status)
        assert not unmarked(text, [*typed, *form.values()]), path
        told += answer.status in (409, 422)
    assert told >= 9


async def test_pages_for_people_outside_hold_no_english(
    visitor: Visitor, data: tuple[dict[str, str], list[str]], runtime: Runtime
) -> None:
    _, typed = data
    async with runtime.db.reading() as tx:
        form = await tx.one(select(Form).limit(1))
    assert form is not None
    typed = [*typed, form.consent_text, form.thanks]
    for path in (f"/forms/{form.slug}", "/forms/nobody", "/u/nobody", "/nobody", "/login"):
        _, text = await get(visitor, path)
        assert "⟦" in text, path
        assert not unmarked(text, typed), path
    for path, post in (
        (f"/forms/{form.slug}", {"name": "", "email": "x"}),
        ("/u/nobody", {}),
        ("/login", {"login": "x"}),
    ):
        async with visitor.http.post(f"{visitor.url}{path}?lang={PSEUDO}", data=post) as answer:
            text = await answer.text()
        assert "⟦" in text, path
        assert not unmarked(text, typed), path
