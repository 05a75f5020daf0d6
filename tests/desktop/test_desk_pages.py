"""Every page of the desktop, with the demo company in it: it answers, in every language, and no text is left unmarked."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from sqlmodel import select

from campaigns import call_lists, campaigns
from crm_core.accounts import ChannelAccount, Form
from crm_core.consent import Purpose
from crm_core.contacts import Contact
from crm_core.conversations import Conversation
from crm_core.db import Tx
from crm_core.ids import new_id
from crm_core.leads import Lead
from crm_core.users import Role, User
from hub.demo import PASSWORD, seed_demo
from hub.desktop.admin_more import SCOPES
from hub.desktop.routes import ROUTES
from hub.desktop.templating import TEMPLATES
from hub.i18n import LOCALES
from hub.runtime import Runtime
from routing.hours import Hours
from routing.queues import Queue
from tests.apps import Visitor, add_user

UNREAD = {"script", "style", "code", "kbd"}


class Texts(HTMLParser):
    """What a person reads or hears of a page: text, labels, placeholders, titles."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._skip = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in UNREAD:
            self._skip += 1
        self.found += [value for name, value in attrs if name in ("aria-label", "placeholder", "alt") and value]

    def handle_endtag(self, tag: str) -> None:
        if tag in UNREAD:
            self._skip -= 1

    def handle_data(self, data: str) -> None:
        if not self._skip and data.strip():
            self.found.append(" ".join(data.split()))


@pytest.fixture
async def company(runtime: Runtime) -> dict[str, str]:
    """The demo company with a campaign and a call list; an id of each noun."""
    assert await seed_demo(runtime.db, runtime.settings, now=runtime.clock.now())
    now = runtime.clock.now()

    async def more(tx: Tx) -> dict[str, str]:
        accounts = {row.channel: row.id for row in await tx.all(select(ChannelAccount))}
        ada = await tx.one(select(User).where(User.login == "ada"))
        assert ada is not None
        campaign = await campaigns.create(
            tx, name="Autumn", account_id=accounts["email"], purpose=Purpose.MARKETING, user_id=ada.id, now=now,
            audience={"tag": "newsletter"},
        )  # fmt: skip
        await tx.add(Hours(id=new_id(now), name="Office", zone="Europe/London", week={"0": [["09:00", "17:00"]]}))
        row = await call_lists.create(tx, name="Autumn calls", account_id=accounts["voice"], user_id=ada.id, now=now)
        found = {"campaign": campaign.id, "list": row.id, "user": ada.id, "account": accounts["email"]}
        for name, table in (("contact", Contact), ("conversation", Conversation), ("lead", Lead), ("queue", Queue),
                            ("form", Form), ("hours", Hours), ("account", ChannelAccount)):  # fmt: skip
            found[name] = str(await tx.one(select(table.id).limit(1)))
        return found

    return await runtime.db.write(more)


def pages(ids: dict[str, str]) -> list[str]:
    """Every page that an administrator who also supervises may open, its ids filled in."""
    found = []
    for route in ROUTES:
        path = route.path
        if route.method != "GET" or not path.startswith("/desk") or path in ("/desk", "/desk/events"):
            continue
        if any(
            word in path
            for word in (
                "{recording",
                "/phone/",
                "/why/",
                "/mail/",
                "/files/",
                "/pictures/",
                "/work/call",
                "/who",
                "{interaction",
                "/call",
            )
        ):
            continue
        path = path.replace("{field:[a-z_]+}", "name")
        for step in ("who", "what", "when", "check", "launch") if "{step" in path else ("",):
            filled = re.sub(r"\{step:[^}]*\}", step, path)
            if set(re.findall(r"\{(\w+):\[0-9a-z\]", filled)) - ids.keys():
                continue  # a noun of which the demo company has none; its own tests look at it
            filled = re.sub(r"\{(\w+):\[0-9a-z\]\{26\}\}", lambda hit: ids[hit[1]], filled)
            assert "{" not in filled, filled
            found.append(filled)
    return found


@pytest.fixture
async def ada(company: dict[str, str], visitor: Visitor) -> Visitor:
    """The administrator, logged in."""
    assert await visitor.log_in("ada", PASSWORD) == 303
    return visitor


async def page(visitor: Visitor, path: str, **more: str) -> tuple[int, str]:
    """One page as a browser asks for it."""
    async with visitor.http.get(visitor.url + path, params=more, allow_redirects=False) as answer:
        return answer.status, await answer.text()


async def test_every_page_answers_in_every_language(ada: Visitor, company: dict[str, str]) -> None:
    for path in pages(company):
        for locale in LOCALES:
            status, text = await page(ada, path, lang=locale)
            if status == 303 and "/campaigns/" in path:
                continue  # a draft's own page is its wizard
            assert status == 200, (path, locale, status)
            tag = "zh-Hans" if locale == "zh" else locale
            assert "<html" not in text or f'<html lang="{tag}"' in text  # parts of a page have no frame


async def test_the_same_page_comes_as_a_part_when_htmx_asks(ada: Visitor, company: dict[str, str]) -> None:
    headers = {"HX-Request": "true", "HX-Target": "main#page"}
    async with ada.http.get(f"{ada.url}/desk/contacts/{company['contact']}", headers=headers) as answer:
        text = await answer.text()
    assert text.lstrip().startswith("<title>")
    assert "<html" not in text
    # Going back in the browser's history wants the whole page again.
    headers["HX-History-Restore-Request"] = "true"
    async with ada.http.get(f"{ada.url}/desk/contacts", headers=headers) as answer:
        assert "hx-history-elt" in await answer.text()


async def test_no_text_is_unmarked(runtime: Runtime, visitor: Visitor) -> None:
    """An empty hub in the pseudo language: whatever stands there without its brackets was never marked."""
    user = await add_user(runtime, "ada", [Role.ADMIN, Role.SUPERVISOR, Role.AGENT])
    await visitor.log_in("ada")
    empty = [
        route.path
        for route in ROUTES
        if route.method == "GET" and route.path.startswith("/desk") and "{" not in route.path
    ]
    looked = 0
    for path in (*empty, f"/desk/admin/users/{user.id}"):
        if (
            path in ("/desk", "/desk/events", "/desk/admin", "/desk/admin/audit", "/desk/patterns")
            or "/phone/" in path
            or path == "/desk/work/call"
        ):
            continue  # no page of its own; health tells the machine's own sentences
        status, text = await page(visitor, path, lang="pseudo")
        assert status == 200, path
        unmarked = [told for told in words_of(text) if not marked(told)]
        assert not unmarked, (path, unmarked[:12])
        looked += 1
    assert looked > 20


@pytest.mark.parametrize(
    "template", sorted(TEMPLATES.rglob("*.html")), ids=lambda path: str(path.relative_to(TEMPLATES))
)
def test_templates_hold_no_text_of_their_own(template: Path) -> None:
    source = re.sub(r"\{#.*?#\}", "", template.read_text(), flags=re.DOTALL)
    source = re.sub(r"\{%.*?%\}|\{\{.*?\}\}", " ", source, flags=re.DOTALL)
    own = [
        told
        for told in words_of(source)
        if not re.match(r'[\w-]+="', told) and re.search(r"[A-Za-z]{2}", told) and told not in ALIKE
    ]
    assert not own


ALIKE = {"VIP", "KB", "POST /webhooks/forms/", "/forms/"}


def words_of(text: str) -> list[str]:
    """Everything readable on a page."""
    parser = Texts()
    parser.feed(text)
    return parser.found


def marked(told: str) -> bool:
    """True for what was translated, and for what is data: numbers, times, the names of languages, roles and zones."""
    rest = re.sub(r"⟦[^⟦⟧]*(?:⟦[^⟦⟧]*⟧[^⟦⟧]*)*⟧", "", told)
    rest = re.sub(r"\d+:\d\d(?:\s?[AP]M)?|\b(?:Nov|Ada|ada|AD?|en|UTC|ok|VIP|PM|AM)\b", "", rest)
    return not re.search(r"[A-Za-z]{2}", rest) or rest.strip() in DATA


# Names of languages in themselves, a greeting's language, scopes of tokens: the same for every reader.
DATA = {*LOCALES.values(), "en-GB", *SCOPES, "Ana Example"}
