"""A second factor that a role must have, its QR code, where one is logged in, and a hub whose database holds nobody."""

from __future__ import annotations

import base64
import html
import re
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote_to_bytes

import aiohttp
import pytest
from sqlmodel import select

from crm_core import users
from crm_core.clock import FixedClock
from crm_core.users import Role, Session
from hub import totp
from hub.app import serving
from hub.runtime import Runtime, running
from hub.settings import SettingsFault, read_settings
from tests.apps import PASSWORD, Visitor, add_user, test_environment

HTTPS = {"HUB_PUBLIC_URL": "https://hub.example.com"}


@pytest.fixture
async def strict(
    sqlite_url: str, valkey_url: str, tmp_path: Path, clock: FixedClock
) -> AsyncIterator[tuple[Runtime, str]]:
    """A hub whose administrators must have a second factor."""
    environ = {**test_environment(tmp_path / "data", sqlite_url, valkey_url), "HUB_SECOND_FACTOR": "admin, supervisor"}
    async with (
        running(read_settings(environ), clock=clock) as runtime,
        serving(runtime, host="127.0.0.1", port=0) as (_, port),
    ):
        yield runtime, f"http://127.0.0.1:{port}"


async def post(visitor: Visitor, path: str, **fields: str) -> tuple[int, str, str]:
    sent = {**fields, "_csrf": visitor.csrf} if visitor.csrf else fields
    async with visitor.http.post(visitor.url + path, data=sent, allow_redirects=False) as answer:
        return answer.status, html.unescape(await answer.text()), answer.headers.get("Location", "")


def part(page: str, pattern: str) -> str:
    found = re.search(pattern, page)
    assert found is not None, page[-2000:]
    return found.group(1)


async def count(runtime: Runtime) -> int:
    async with runtime.db.reading() as tx:
        return len(await tx.all(select(Session.id)))


async def test_a_role_that_must_have_it_gets_no_session_without(strict: tuple[Runtime, str], clock: FixedClock) -> None:
    runtime, url = strict
    await add_user(runtime, "ada", [Role.ADMIN, Role.AGENT])
    await add_user(runtime, "amy", [Role.AGENT])
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        visitor = Visitor(url, http)
        assert await visitor.log_in("amy") == 303, "other roles as before"
        http.cookie_jar.clear()
        visitor.csrf, before = "", await count(runtime)
        status, page, _ = await post(visitor, "/login", login="ada", password=PASSWORD, next="/desk/admin")
        assert status == 200
        assert await count(runtime) == before, "the password alone opens nothing"
        ticket, secret = part(page, r'name="ticket" value="([^"]+)"'), part(page, r"<code[^>]*>([A-Z2-7 ]+)</code>")
        secret = secret.replace(" ", "")
        picture = part(page, r'<img src="(data:image/svg[^"]+)"')
        ET.fromstring(unquote_to_bytes(picture.partition(",")[2]))
        status, page, _ = await post(visitor, "/login/second", ticket=ticket, code="000000")
        assert status == 422
        assert await count(runtime) == before
        assert (await post(visitor, "/login/second", ticket="x" + ticket, code="1"))[2] == "/login"
        right = totp.code_at(secret, int(clock.now().timestamp()) // totp.STEP_S)
        status, page, _ = await post(visitor, "/login/second", ticket=ticket, code=right)
        assert status == 200
        assert len(re.findall(r"\b[a-z2-9]{5}-[a-z2-9]{5}\b", page)) == totp.RECOVERY_CODES
        assert 'href="/desk/admin"' in page
        assert await count(runtime) == before + 1
        async with http.get(url + "/desk/profile") as inside:
            assert inside.status == 200
            visitor.csrf = part(await inside.text(), r'name="csrf-token" content="([^"]+)"')
        status, page, _ = await post(visitor, "/desk/profile/second", act="off", password=PASSWORD)
        assert (status, "Your role must have a second factor" in page) == (422, True)
        assert (await post(visitor, "/login/second", ticket=ticket, code=right))[2] == "/login", "a ticket works once"


async def test_sessions_from_before_the_rule_end(strict: tuple[Runtime, str], clock: FixedClock) -> None:
    runtime, _ = strict
    for login, role in (("ada", Role.ADMIN), ("amy", Role.AGENT)):
        user = await add_user(runtime, login, [role])

        async def unit(tx: users.Tx, user: users.User = user) -> None:
            from hub.middleware import SESSION_LIFETIME

            await users.open_session(
                tx, user, secret=user.login, now=clock.now(), address="a", browser="b", lifetime=SESSION_LIFETIME
            )

        await runtime.db.write(unit)
    assert (
        await runtime.db.write(lambda tx: users.drop_sessions_without_factor(tx, runtime.settings.second_factor)) == 1
    )
    assert await count(runtime) == 1


async def test_one_sees_where_one_is_logged_in_and_signs_out_elsewhere(runtime: Runtime, hub_url: str) -> None:
    await add_user(runtime, "ada", [Role.ADMIN])
    amy = await add_user(runtime, "amy", [Role.AGENT])
    jars = [aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) for _ in range(4)]
    here, there, third, ada = [Visitor(hub_url, http) for http in jars]
    for visitor in (here, there, third):
        assert await visitor.log_in("amy") == 303
    assert await ada.log_in("ada") == 303

    async def inside(visitor: Visitor) -> bool:
        async with visitor.http.get(hub_url + "/desk/profile", allow_redirects=False) as answer:
            return answer.status == 200

    async with here.http.get(hub_url + "/desk/profile/sessions") as answer:
        page = await answer.text()
    ids = re.findall(r'name="session" value="([0-9a-f]{64})"', page)
    assert len(ids) == 2, "all but this one can be ended"
    assert "this one" in page
    foreign = re.findall(
        r'value="([0-9a-f]{64})"', await (await ada.http.get(hub_url + "/desk/profile/sessions")).text()
    )
    assert foreign == [], "nobody sees another's"
    assert (await post(ada, "/desk/profile/sessions", session=ids[0]))[0] == 200
    assert [await inside(one) for one in (here, there, third)] == [True, True, True], "nor ends them"
    assert (await post(here, "/desk/profile/sessions", session=ids[0]))[0] == 200
    assert sum([await inside(one) for one in (here, there, third)]) == 2
    assert await inside(here)
    assert (await post(here, "/desk/profile/sessions"))[0] == 200
    assert [await inside(one) for one in (here, there, third)] == [True, False, False]
    assert (await post(ada, f"/desk/admin/users/{amy.id}/sessions"))[0] == 303
    assert not await inside(here)
    assert await inside(ada)
    assert await here.log_in("amy") == 303
    assert (await ada.ask("DELETE", f"/api/v1/users/{amy.id}/sessions"))[0] == 204
    assert not await inside(here)
    for http in jars:
        await http.close()


def test_the_picture_is_a_code_of_the_whole_address() -> None:
    address = totp.address(totp.new_secret(), login="ana.example", issuer="Hub")
    picture = totp.picture(address)
    assert picture.startswith("data:image/svg+xml")
    head, _, body = picture.partition(",")
    drawn = base64.b64decode(body) if head.endswith("base64") else unquote_to_bytes(body)
    assert b"<script" not in drawn
    assert ET.fromstring(drawn).tag.endswith("svg")
    assert totp.picture(address) == picture
    assert totp.picture(totp.address(totp.new_secret(), login="ana.example", issuer="Hub")) != picture


def read(tmp_path: Path, **environ: str) -> str:
    try:
        read_settings({"HUB_DATA_DIR": str(tmp_path), **environ})
    except SettingsFault as fault:
        return "\n".join(fault.faults)
    return ""


def test_the_sandbox_is_never_on_in_production_by_accident(tmp_path: Path) -> None:
    assert "shows its log-ins to everybody" in read(tmp_path, **HTTPS, HUB_SANDBOX="1")
    assert read(tmp_path, **HTTPS, HUB_SANDBOX="public") == "", "said so explicitly"
    assert read(tmp_path, **HTTPS) == ""
    assert not read_settings({"HUB_DATA_DIR": str(tmp_path), **HTTPS}).sandbox, "a public address switches it off"
    assert read(tmp_path, HUB_SANDBOX="1", HUB_PUBLIC_URL="http://127.0.0.1:8080") == ""
    assert "HUB_SECOND_FACTOR names boss" in read(tmp_path, HUB_SECOND_FACTOR="admin,boss")


async def test_an_empty_production_hub_lets_nobody_in_until_an_administrator_is_made(
    runtime: Runtime,
    sqlite_url: str,
    valkey_url: str,
    tmp_path: Path,
    clock: FixedClock,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from argparse import Namespace

    from hub import user_commands

    production = replace(runtime.settings, sandbox=False)
    object.__setattr__(runtime, "settings", production)
    async with (
        serving(runtime, host="127.0.0.1", port=0) as (_, port),
        aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http,
    ):
        visitor = Visitor(f"http://127.0.0.1:{port}", http)
        async with http.get(visitor.url + "/") as answer:  # the bare address leads to the log-in
            page = await answer.text()
            assert (answer.status, answer.url.path) == (200, "/login")
        assert "Demo log-ins" not in page
        assert "hub user add LOGIN --role admin" in page
        for login, password in (("ada", "demo"), ("admin", "admin"), ("", "")):
            assert await visitor.log_in(login, password) == 422
        clock.tick(3600)
        made = Namespace(login="boss", role=["admin"], name="Boss", email="", language="en", zone="UTC", generate=True)
        await user_commands.add_user(runtime.db, made, clock)
        password = capsys.readouterr().out.split("shown once: ")[1].strip()
        assert "hub user add" not in (await visitor.ask("GET", "/login"))[1]
        assert await visitor.log_in("boss", password) == 303
        assert (await visitor.ask("GET", "/desk/admin"))[0] == 200
