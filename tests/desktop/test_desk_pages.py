"""Every page of the desktop, with the demo company in it: it answers, in every language, and no text is left unmarked."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from yarl import URL

from crm_core.users import Role
from hub.demo import PASSWORD
from hub.desktop.admin_more import SCOPES
from hub.desktop.routes import ROUTES
from hub.desktop.templating import TEMPLATES
from hub.i18n import LOCALES
from hub.runtime import Runtime
from tests.apps import Visitor, add_user
from tests.desktop import one_of_each

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
    """The demo company with a row of every noun; their ids."""
    return await one_of_each.fill(runtime)


# Not pages: an endless stream, and data for the phone's script; tests of their own look at them.
NO_PAGES = {
    "/desk/events", "/desk/phone/token", "/desk/phone/state", "/desk/contacts/export.csv",
    "/desk/contacts/imports/{import}/refused.csv",
}  # fmt: skip
# What stands in for a variable of the address that is no id.
WORDS = {"field": ["name"], "step": ["who", "what", "when", "check", "launch"]}
# What a page asks for besides its address, and where a noun must be of one kind.
ASKED = {
    "/desk/search": "?q=ana",
    "/desk/search/found": "?q=ana",
    "/desk/work/{conversation}/mail/forward": "?mail={mail}",
    "/desk/campaigns/{campaign}/why": "?address=ana@example.com",
}
KINDS = {"/desk/work/{conversation}/mail/forward": "email", "/desk/work/{conversation}/mail/box": "email"}
VARIABLE = re.compile(r"\{(\w+):(?:[^{}]|\{[^}]*\})*\}")


def pages(ids: dict[str, str]) -> list[str]:
    """Every page that an administrator who also supervises may open, its ids filled in; a noun without a row fails."""
    found = []
    for route in ROUTES:
        plain = VARIABLE.sub(r"{\1}", route.path)
        if route.method != "GET" or not plain.startswith("/desk") or plain in NO_PAGES:
            continue
        known = dict(ids)
        if plain in KINDS:
            known["conversation"] = ids[f"conversation.{KINDS[plain]}"]
        (variable, words), *_ = [each for each in WORDS.items() if f"{{{each[0]}}}" in plain] or [("", [""])]
        missing = set(re.findall(r"\{(\w+)\}", plain)) - known.keys() - {variable}
        assert not missing, f"{route.path}: make a row for {missing} in one_of_each.py"
        found += [(plain + ASKED.get(plain, "")).format_map({**known, variable: word}) for word in words]
        if plain == "/desk/admin/accounts/{account}":
            found += [plain.format(account=ids[f"account.{kind}"]) for kind in ("voice", "sms", "webform")]
        if plain == "/desk/work/{conversation}":
            found += [plain.format(conversation=ids[f"conversation.{kind}"]) for kind in ("sms", "email", "webform")]
    return found


# Leads elsewhere; to say where to is its whole answer.
LEADS_ON = ("/desk", "/desk/work/call")


def leads_on(path: str, ids: dict[str, str]) -> bool:
    """True for addresses that only send the reader to another page."""
    draft = f"/desk/campaigns/{ids['campaign']}"  # a draft's own page is its wizard
    form = f"/desk/admin/accounts/{ids['account.webform']}"  # a form has a page of its own
    return path in (*LEADS_ON, draft, form) or path.startswith("/desk/work/call/")


@pytest.fixture
async def ada(company: dict[str, str], visitor: Visitor) -> Visitor:
    """The administrator, logged in."""
    assert await visitor.log_in("ada", PASSWORD) == 303
    return visitor


async def page(visitor: Visitor, path: str, **more: str) -> tuple[int, str]:
    """One page as a browser asks for it."""
    async with visitor.http.get(URL(visitor.url + path).update_query(more), allow_redirects=False) as answer:
        return answer.status, await answer.text("utf-8", "replace")  # a sound and a picture are no text


async def test_every_page_answers_in_every_language(ada: Visitor, company: dict[str, str]) -> None:
    for path in pages(company):
        for locale in LOCALES:
            status, text = await page(ada, path, lang=locale)
            assert status == (303 if leads_on(path, company) else 200), (path, locale, status, text[:300])
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


@pytest.mark.parametrize("login", ["ada", "tina", "mara"])
async def test_every_page_answers_a_click_as_it_answers_its_address(
    company: dict[str, str], visitor: Visitor, login: str
) -> None:
    """Whoever may see it sees it both ways, and nobody gets a fault of ours."""
    assert await visitor.log_in(login, PASSWORD) == 303
    clicked = {"HX-Request": "true", "HX-Target": "main#page"}
    seen = 0
    for path in pages(company):
        answers = []
        for headers in ({}, clicked):
            async with visitor.http.get(visitor.url + path, headers=headers, allow_redirects=False) as answer:
                await answer.read()
                answers.append(answer.status)
        assert set(answers) < {200, 303, 403, 404}, (path, answers)
        assert answers[0] == answers[1], (path, answers)
        seen += answers[0] == 200
    assert seen > 15


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
            path in ("/desk", "/desk/admin", "/desk/admin/audit", "/desk/patterns", *NO_PAGES)
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
    """True for what was translated, and for what is data: numbers, times, names of languages, roles and zones, codes."""
    rest = re.sub(r"⟦[^⟦⟧]*(?:⟦[^⟦⟧]*⟧[^⟦⟧]*)*⟧", "", told)
    rest = re.sub(
        r"\d+:\d\d(?:\s?[AP]M)?|\b(?:Nov|Ada|ada|AD?|en|UTC|ok|VIP|PM|AM|USD)\b|\b(?:[A-Z]{2} ){3,}[A-Z]{2}\b", "", rest
    )
    return not re.search(r"[A-Za-z]{2}", rest) or rest.strip() in DATA


# Names of languages in themselves, a greeting's language, scopes of tokens: the same for every reader.
DATA = {*LOCALES.values(), "en-GB", *SCOPES, "Ana Example"}
