"""Attacks on the edges of the hub that no other test makes; docs/security.md names a test for each surface."""

from __future__ import annotations

import asyncio
import gzip
import pickle
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis import Redis
from rq.serializers import JSONSerializer
from sqlmodel import select

from crm_core.users import LoginFailure, Role, Session, User
from hub import jobs, passwords
from hub.demo import PASSWORD as DEMO_PASSWORD
from hub.middleware import cookie_name
from hub.runtime import Runtime
from hub.sessions import HOME, safe_next
from tests.apps import PASSWORD, Visitor, add_user
from tests.desktop import one_of_each
from tests.desktop.test_desk_pages import pages

ROOT = Path(__file__).parents[2]
ELSEWHERE = [
    "//evil.example.com", "/\\evil.example.com", "https://evil.example.com", "javascript:alert(1)", "/\t/evil.example.com",
    "/\r\n/evil.example.com", "/\x0b/evil", "\\\\evil", "", " /desk", "/desk\nSet-Cookie: a=b", "http:/desk", "/desk\x7f",
]  # fmt: skip


@pytest.mark.parametrize("target", ELSEWHERE)
def test_a_log_in_leads_nowhere_else(target: str) -> None:
    assert safe_next(target) == HOME


async def test_the_log_in_page_sends_nobody_elsewhere(runtime: Runtime, visitor: Visitor) -> None:
    await add_user(runtime, "amy", [Role.AGENT])
    for target in ELSEWHERE:
        form = {"login": "amy", "password": PASSWORD, "next": target}
        async with visitor.http.post(visitor.url + "/login", data=form, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, HOME), target


async def test_a_planted_session_is_not_the_one_that_is_opened(runtime: Runtime, visitor: Visitor) -> None:
    """Fixation: whatever cookie the browser brings, the log-in makes another, and logging out ends it on the server."""
    await add_user(runtime, "amy", [Role.AGENT])
    planted = "planted" * 8
    visitor.http.cookie_jar.update_cookies({cookie_name(runtime): planted})
    async with visitor.http.post(
        visitor.url + "/login", data={"login": "amy", "password": PASSWORD}, allow_redirects=False
    ) as answer:
        cookie = answer.cookies[cookie_name(runtime)]
    assert cookie.value != planted
    assert (cookie["httponly"], cookie["samesite"], cookie["path"], cookie["domain"]) == (True, "Lax", "/", "")
    assert await visitor.log_in("amy") == 303
    async with visitor.http.post(
        visitor.url + "/logout", data={"_csrf": visitor.csrf}, allow_redirects=False
    ) as answer:
        assert answer.status == 303
    async with runtime.db.reading() as tx:
        assert len(await tx.all(select(Session.id))) <= 1
    async with aiohttp.ClientSession(cookies={cookie_name(runtime): planted}) as other:
        assert (await Visitor(visitor.url, other).ask("GET", "/desk/profile"))[0] == 401


async def test_who_is_here_cannot_be_told_by_text_or_work(
    runtime: Runtime, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same answer, and one password hash computed, for a login that is there and one that is not."""
    await add_user(runtime, "amy", [Role.AGENT])
    hashed: list[str] = []
    right = passwords._HASHER.verify

    def verify(stored: str, password: str) -> Any:
        hashed.append(stored)
        return right(stored, password)

    monkeypatch.setattr(passwords, "_HASHER", type("Hasher", (), {"verify": staticmethod(verify)})())
    answers = set()
    for login in ("amy", "nobody"):
        async with visitor.http.post(visitor.url + "/login", data={"login": login, "password": "wrong"}) as answer:
            answers.add((answer.status, (await answer.text()).replace(f'value="{login}"', "")))
    assert len(answers) == 1
    assert len(hashed) == 2
    assert len({stored.rpartition("$")[0].rpartition("$")[0] for stored in hashed}) == 1, "of the same cost"


async def test_guessing_is_slowed_down_for_the_login_and_for_the_address(
    runtime: Runtime, visitor: Visitor, clock: Any
) -> None:
    await add_user(runtime, "amy", [Role.AGENT])
    for _ in range(5):
        assert await visitor.log_in("amy", "wrong") == 422
    assert await visitor.log_in("amy", "wrong") == 422
    waits = []
    for _ in range(12):
        assert await visitor.log_in("amy") == 429, "even the right password waits"
        assert await visitor.log_in("somebody") == 429, "and so does the address, for every login"
        async with runtime.db.reading() as tx:
            until = max(await tx.all(select(LoginFailure.until)))
        waits.append((until - clock.now()).total_seconds())
        clock.tick(waits[-1] + 1)
        assert await visitor.log_in("amy", "wrong") == 422
    assert waits[0] == 2
    assert all(later >= sooner for sooner, later in pairwise(waits))
    assert waits[-1] == 900, "a quarter of an hour at most: nobody is locked out for good"
    clock.tick(901)
    assert await visitor.log_in("amy") == 303
    assert await visitor.log_in("amy", "wrong") == 422, "counted from the beginning again"


async def test_nobody_makes_themselves_more_than_they_are(runtime: Runtime, visitor: Visitor) -> None:
    """Mass assignment: fields that an input does not have are refused or ignored, never stored."""
    amy = await add_user(runtime, "amy", [Role.AGENT])
    await visitor.log_in("amy")
    profile = {
        "locale": "de", "zone": "Europe/Berlin", "theme": "dark", "roles": "admin", "login": "root", "password_hash": "x",
        "totp_sealed": "x", "_csrf": visitor.csrf,
    }  # fmt: skip
    async with visitor.http.post(visitor.url + "/desk/profile", data=profile) as answer:
        assert answer.status == 200
    status, _ = await visitor.ask(
        "POST", "/api/v1/contacts", json={"name": "Bo", "id": "x", "owner_id": "y", "erased_at": 1}
    )
    assert status in (400, 422)
    async with runtime.db.reading() as tx:
        stored = await tx.one(select(User).where(User.id == amy.id))
    assert stored is not None
    assert (stored.roles, stored.login, stored.locale, stored.totp_sealed) == (["agent"], "amy", "de", None)
    assert stored.password_hash.startswith("$argon2id$")


HOSTILE_QUERIES = [
    "1' OR '1'='1", "'; SELECT pg_sleep(9);--", "name; DROP TABLE users", "-1", "9" * 40, "\x00", "../../etc/passwd", "[]",
    "é" * 300, "%00", "{{7*7}}", "<script>",
]  # fmt: skip
PARAMETERS = (
    "q", "sort", "columns", "tag", "stage", "owner", "view", "after", "before", "state", "address", "to", "page", "limit",
    "queue", "day", "date", "from", "field", "lang", "missed", "channel", "mail", "contact", "saved",
)  # fmt: skip


async def test_no_parameter_of_a_page_reaches_the_database_as_words(runtime: Runtime, visitor: Visitor) -> None:
    """Filters, orders and columns are taken from lists: whatever else is asked for is a page or a refusal, never an error."""
    ids = await one_of_each.fill(runtime)
    assert await visitor.log_in("ada", DEMO_PASSWORD) == 303
    wrong = []
    for number, path in enumerate(pages(ids)):
        plain = path.partition("?")[0]
        if plain == "/desk/admin/health":
            continue  # looks at stores, and takes nothing from its address
        value = HOSTILE_QUERIES[number % len(HOSTILE_QUERIES)]
        async with visitor.http.get(
            visitor.url + plain, params=dict.fromkeys(PARAMETERS, value), allow_redirects=False
        ) as answer:
            if answer.status >= 500:
                wrong.append(f"{plain} {value!r}: {answer.status}")
    for plain in ("/desk/contacts", "/desk/leads", "/desk/callbacks", "/desk/search", "/desk/campaigns", "/desk/lists"):
        for number, value in enumerate(HOSTILE_QUERIES):
            name = ("q", "sort", "columns", "after", "view", "tag", "stage")[number % 7]
            async with visitor.http.get(visitor.url + plain, params={name: value}, allow_redirects=False) as answer:
                if answer.status >= 500:
                    wrong.append(f"{plain} {name}={value!r}: {answer.status}")
    assert not wrong, wrong


async def raw(url: str, request: bytes) -> bytes:
    """What the server says to these very bytes, until it closes or has answered."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    try:
        async with asyncio.timeout(60):
            return await reader.read(4096)
    finally:
        writer.close()


async def test_requests_that_two_servers_would_read_differently_are_refused(hub_url: str) -> None:
    head = b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    for request in (
        head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
        head + b"Content-Length: +5\r\n\r\nabcde",
        head + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        head + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"GET /login HTTP/1.1\r\n\r\n",
        b"GET /login HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /login HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(300)) + b"\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):
        answer = await raw(hub_url, request)
        assert re.match(rb"HTTP/1\.[01] 4\d\d ", answer), (request[:80], answer[:80])


async def test_a_body_that_is_too_large_or_packed_is_refused_before_it_is_read(hub_url: str) -> None:
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    for path in (b"/webhooks/twilio/sms", b"/webhooks/forms/nothing", b"/forms/nothing"):
        answer = await raw(hub_url, head % path + b"Content-Length: 1073741824\r\n\r\n")
        assert re.match(rb"HTTP/1\.1 4\d\d ", answer), answer[:80]
        bomb = gzip.compress(b"a=" + b"0" * 50_000_000)
        sent = head % path + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb
        answer = await raw(hub_url, sent)
        assert re.match(rb"HTTP/1\.1 4\d\d ", answer), answer[:80]


class Boom:
    """Would write a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_queue_that_an_attacker_writes_runs_nothing_of_theirs(valkey_url: str, tmp_path: Path) -> None:
    """Jobs are read as JSON, so that a pickle in Redis is a fault of its own and no code."""
    with Redis.from_url(valkey_url) as client:
        assert jobs._queue("bulk", client).serializer is JSONSerializer
    with pytest.raises((ValueError, UnicodeDecodeError)):
        JSONSerializer.loads(pickle.dumps(Boom(tmp_path / "boom")))
    assert not (tmp_path / "boom").exists()


async def test_proxies_and_identities_are_not_believed_from_a_header(runtime: Runtime, visitor: Visitor) -> None:
    await add_user(runtime, "amy", [Role.AGENT])
    for name, value in (
        ("X-Remote-User", "amy"), ("Remote-User", "amy"), ("X-Forwarded-User", "amy"), ("X-Auth-Request-User", "amy"),
        ("Authorization", "Basic YW15OmEgcGFzc3dvcmQgZm9yIHRlc3Rz"), ("Authorization", "Bearer "), ("Cookie", "hub=amy"),
        ("X-HTTP-Method-Override", "DELETE"), ("X-Original-URL", "/desk/admin"), ("X-Rewrite-URL", "/desk/admin"),
    ):  # fmt: skip
        status, _ = await visitor.ask("GET", "/desk/profile", headers={name: value})
        assert status == 401, name


# --- the table of docs/security.md ----------------------------------------------------------------------------------------


def named_tests() -> list[tuple[str, str]]:
    """(file, test) of every proof that the page names."""
    return re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", (ROOT / "docs" / "security.md").read_text())


def test_every_proof_that_the_page_names_is_there() -> None:
    named = named_tests()
    assert len(named) > 60
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not re.search(
            rf"^(?:async )?def {test}\(", (ROOT / file).read_text() if (ROOT / file).exists() else "", re.M
        )
    ]
    assert not missing, missing
