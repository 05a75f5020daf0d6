"""Every stored string made hostile, every page that shows it opened in a real Chromium: no script runs, nothing is fetched.

The strings are found in the tables themselves: a column that is new tomorrow is hostile here from then on, unless it is named
below as a word of the machine. Three wires: the browser's own report of what its policy stopped, code that a string brought
along and that ran, and elements or addresses in the page that only a string could have brought.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page

from crm_core.clock import FixedClock
from crm_core.ids import new_id
from crm_core.interactions import Note
from crm_core.tables import Json, Word
from hub.app import serving
from hub.demo import PASSWORD
from hub.models import metadata
from hub.runtime import running
from hub.settings import read_settings
from tests.apps import test_environment
from tests.browser.conftest import PATIENCE_MS, PageFactory
from tests.databases import START
from tests.desktop import one_of_each
from tests.desktop.test_desk_pages import leads_on, pages

pytestmark = [pytest.mark.needs_chromium, pytest.mark.timeout(600)]

# Works as an address, in an attribute of either quote, in text, and out of every element that holds plain text.
HOSTILE = (
    "javascript:tripped('{at}')/*--></title></style></textarea></select></script></xmp></template></iframe>"
    "<svg/onload=tripped('{at}')><img src=https://evil.example.com/{at} onerror=tripped('{at}')><script>tripped('{at}')</script>"
    "\"onfocus=tripped('{at}') autofocus x='y'onmouseover=tripped('{at}') \u202e{{{{7*7}}}} «{at}»"
)
BODY = (
    "<h1>Dear all</h1><script>parent.tripped('mail')</script><img src=https://evil.example.com/pixel onerror=tripped('mail')>"
    "<link rel=stylesheet href=https://evil.example.com/a.css><style>@import 'https://evil.example.com/b.css';"
    "body{background:url(https://evil.example.com/c)}</style><iframe src=https://evil.example.com/d></iframe>"
    "<form action=https://evil.example.com/e><input autofocus onfocus=tripped('mail')></form>"
    "<meta http-equiv=refresh content='0;url=https://evil.example.com/f'><svg onload=tripped('mail')></svg>"
    "<a href=\"javascript:tripped('mail')\">here</a><base href=https://evil.example.com/>"
)
# Words of the machine: never typed by anybody, and pages lean on them.
MACHINE = {
    "channel", "kind", "lane", "scope", "direction", "purpose", "action", "state", "cause", "next_activity", "page", "noun",
    "delivery", "delivery_error", "forecast", "rule", "brake", "before", "origin", "status", "consent", "role", "roles",
    "locale", "theme", "language", "zone", "country", "preferred", "ending", "content_type", "encoding", "delimiter",
    "cursor", "address", "value", "number_e164", "phone_e164", "from_e164", "to_e164", "peer", "slug", "login", "actor",
    "subject_of_audit", "csrf", "sealed", "totp_sealed", "seal", "nonce", "ordering", "dedupe", "domain_of_keys", "disposition",
    "outcome", "thread_key", "thread_token", "external_id", "our_key", "column", "consent_version", "provider", "url",
}  # fmt: skip
NO_TABLES = {"leases", "outbox", "api_replays", "number_locks", "login_failures", "call_events", "events", "sessions"}
ENDINGS = ("_id", "_key", "_by", "_hash", "_e164")
# Bytes, not pages: how they go out is for tests/desktop/test_desk_mail.py.
NO_MARKUP = ("/desk/files/", "/desk/pictures/", "/desk/recordings/", "/desk/admin/sounds/", "/desk/sounds/")
# In a document: values of these names are for people; documents that people fill are theirs altogether.
TOLD = {
    "label", "hint", "text", "texts", "title", "note", "reason", "why", "subject", "from_name", "signature", "detail", "words",
    "help", "placeholder",
}  # fmt: skip
THEIRS = {
    ("contacts", "tags"), ("contacts", "fields"), ("leads", "fields"), ("list_entries", "fields"), ("recipients", "fields"),
    ("deliveries", "fields"), ("recipient_imports", "headers"), ("audit", "detail"),
}  # fmt: skip
SEEN_AT_LEAST = {
    "contacts.name", "contacts.tags", "contacts.notes", "organisations.name", "interactions.subject", "interactions.body",
    "interactions.notes", "attachments.name", "notes.body", "leads.fields", "queues.name", "users.name", "campaigns.name",
    "call_lists.name", "hours.name", "flows.name", "sounds.name", "saved_views.name", "forms.title", "forms.fields",
    "forms.consent_text", "dispositions.label", "callbacks.note", "conversations.subject", "channel_accounts.name",
}  # fmt: skip


def hostile(at: str) -> str:
    return HOSTILE.format(at=at)


def poisoned(value: Any, at: str, *, theirs: bool) -> Any:
    """A document with every string for people made hostile; its shape stays."""
    if isinstance(value, dict):
        return {
            name: hostile(at) if isinstance(part, str) and (theirs or name in TOLD)
            else poisoned(part, at, theirs=theirs or name in TOLD)
            for name, part in value.items()
        }  # fmt: skip
    if isinstance(value, list):
        return [
            hostile(at) if isinstance(part, str) and theirs else poisoned(part, at, theirs=theirs) for part in value
        ]
    return value


def poison(path: Path) -> int:
    """Make every stored string hostile, each naming its column; how many columns."""
    columns = 0
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for table in metadata.sorted_tables:
            if table.name in NO_TABLES:
                continue
            for column in table.columns:
                name, at = column.name, f"{table.name}.{column.name}"
                if column.primary_key or column.foreign_keys or name in MACHINE or name.endswith(ENDINGS):
                    continue
                if isinstance(column.type, Json):
                    theirs = (table.name, name) in THEIRS
                    for row, told in connection.execute(f'SELECT rowid, "{name}" FROM "{table.name}"').fetchall():
                        made = json.dumps(poisoned(json.loads(told), at, theirs=theirs)) if told else told
                        connection.execute(f'UPDATE "{table.name}" SET "{name}" = ? WHERE rowid = ?', [made, row])
                elif not isinstance(column.type, Word) and column.type.python_type is str:
                    said = f'UPDATE "{table.name}" SET "{name}" = ? || rowid WHERE "{name}" IS NOT NULL'
                    connection.execute(said, [hostile(at)])
                else:
                    continue
                columns += 1
        connection.execute("UPDATE audit SET subject = 'user:' || ?", [hostile("audit.subject")])
        connection.execute("UPDATE interactions SET delivery_error = ?", [hostile("interactions.delivery_error")])
    return columns


@pytest_asyncio.fixture(loop_scope="session")
async def house(
    sqlite_url: str, valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[str, dict[str, str], int]]:
    """The hub with one of each thing, all of it hostile: its address, ids, and how many columns."""
    monkeypatch.setattr(one_of_each, "MAIL", BODY.encode())
    settings = read_settings(test_environment(tmp_path / "data", sqlite_url, valkey_url))
    async with running(settings, clock=FixedClock(START)) as runtime:
        ids = await one_of_each.fill(runtime)
        note = Note(
            id=new_id(START), contact_id=ids["contact"], user_id=ids["user"], body="Likes bicycles", created_at=START
        )
        await runtime.db.write(lambda tx: tx.add(note))
        columns = poison(Path(sqlite_url.removeprefix("sqlite:///")))
        async with serving(runtime, host="127.0.0.1", port=0) as (_, port):
            yield f"http://127.0.0.1:{port}", ids, columns


# What only a string could have brought into a page of ours.
FOUND = """() => {
  const strange = [];
  for (const one of document.querySelectorAll('*')) {
    for (const name of one.getAttributeNames()) {
      const value = one.getAttribute(name);
      if (name.startsWith('on')) strange.push(`${one.tagName} ${name}`);
      if (['href', 'src', 'action', 'formaction', 'data', 'srcdoc'].includes(name) && /^\\s*javascript:/i.test(value))
        strange.push(`${one.tagName} ${name}=javascript:`);
      if (['src', 'srcset', 'poster'].includes(name) && /evil/.test(value)) strange.push(`${one.tagName} ${name}=evil`);
    }
    if (one.tagName === 'SCRIPT' && !one.src && one.type !== 'application/json') strange.push('inline script');
  }
  return {strange, ran: globalThis.hits || [], told: document.documentElement.outerHTML};
}"""


async def visit(page: Page, url: str) -> dict[str, Any]:
    """One page with what it loads by itself. A handler that waits for a click or a pointer is found by its attribute."""
    answer = await page.goto(url, wait_until="load", timeout=PATIENCE_MS)
    assert answer is not None
    assert answer.status < 500, url
    found: dict[str, Any] = await page.evaluate(FOUND)
    return found


async def test_no_stored_string_runs_or_fetches_anything(
    house: tuple[str, dict[str, str], int], page_factory: PageFactory
) -> None:
    url, ids, columns = house
    assert columns > 80
    page_factory.allow("Failed to load resource|EventSource")  # pages that refuse, and what is kept from loading below
    page = await page_factory()
    for unneeded in (
        "**/static/phone/**",
        "**/desk/events*",
    ):  # the line and its stream show no stored string by themselves
        await page.route(unneeded, lambda route: route.abort())
    await page.add_init_script("globalThis.hits = []; globalThis.tripped = (at) => { globalThis.hits.push(at); };")
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    await page.goto(f"{url}/login")
    await page.fill("input[name=login]", "ada")
    await page.fill("input[name=password]", PASSWORD)
    await page.press("input[name=password]", "Enter")
    await page.wait_for_url("**/desk/**", timeout=PATIENCE_MS)
    seen: set[str] = set()
    shown, wrong = 0, []
    outside = ["/login", "/login/forgot", "/forms/website"]
    for path in [*outside, *pages(ids)]:
        if leads_on(path, ids) or path.startswith(NO_MARKUP):
            continue
        found = await visit(page, url + path)
        shown += 1
        if found["strange"] or found["ran"]:
            wrong.append(f"{path}: {found['strange'][:3]} {found['ran'][:3]}")
        seen |= {part.partition("»")[0] for part in found["told"].split("«")[1:]}
    assert not wrong, "\n".join(wrong)
    assert not dialogs
    assert page_factory.foreign == [], "nothing is fetched from elsewhere"
    missing = SEEN_AT_LEAST - seen
    assert not missing, f"no page shows {missing}: the wire lies where nobody walks"
    assert shown > 60
    page_factory.check()
