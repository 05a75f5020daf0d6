"""Getting in: invitations and resets by mail, the second factor with recovery codes, and how tries are slowed down."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from crm_core import users
from crm_core.users import Role, SecondFactor, User
from hub import channel_admin, totp, user_mail
from hub.channel_admin import MailboxInput, ServerInput
from hub.relay import Relay
from hub.runtime import Runtime
from hub.sandbox.config import MailboxConfig, SandboxConfig
from hub.sandbox.twin import running_sandbox
from tests.apps import PASSWORD, Visitor, add_user

RFC_SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"


async def post(visitor: Visitor, path: str, **fields: str) -> tuple[int, str, str]:
    sent = {**fields, "_csrf": visitor.csrf} if visitor.csrf else fields
    async with visitor.http.post(visitor.url + path, data=sent, allow_redirects=False) as answer:
        return answer.status, html.unescape(await answer.text()), answer.headers.get("Location", "")


async def get(visitor: Visitor, path: str) -> tuple[int, str]:
    async with visitor.http.get(visitor.url + path, allow_redirects=False) as answer:
        return answer.status, html.unescape(await answer.text())


async def user_of(runtime: Runtime, login: str) -> User:
    async with runtime.db.reading() as tx:
        found = await users.find_login(tx, login)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("moment", "code"), [(59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")]
)
def test_codes_are_those_of_the_rfc(moment: int, code: str) -> None:
    assert totp.code_at(RFC_SECRET, moment // 30) == code


async def mail_out(runtime: Runtime, twin: Any) -> None:
    """The hub's first mailbox, on the sandbox's mail server."""
    from urllib.parse import urlsplit

    parts = urlsplit(twin.smtp_url)
    server = ServerInput(parts.hostname or "", str(parts.port), "starttls", "support@example.test", "secret enough")
    given = MailboxInput("support@example.test", "Support", smtp=server)
    now = runtime.clock.now()
    await runtime.db.write(lambda tx: channel_admin.create_mailbox(tx, runtime.channels, given, actor="test", now=now))


async def deliver(runtime: Runtime) -> None:
    relay = Relay(
        runtime.db,
        runtime.clock,
        runtime.wakeups,
        runtime.metrics,
        user_mail.executors(runtime.channels, runtime.clock),
    )
    await relay.run_once("notice")


async def newest_link(twin: Any, address: str) -> tuple[str, str]:
    """Path of the link in the newest mail to somebody, and the mail's subject."""
    box = await twin.request("GET", f"/outside/mails?address={address}")
    newest = box["mails"][-1]
    mail = await twin.request("GET", f"/outside/mails/{address}/{len(box['mails'])}")
    found = re.search(r"/account/\S+", mail["text"].replace("=\n", ""))
    assert found is not None, mail["text"]
    return found[0], newest["subject"]


async def test_an_invitation_lets_somebody_in_once(runtime: Runtime, visitor: Visitor, tmp_path: Path) -> None:
    await add_user(runtime, "ada", [Role.ADMIN])
    config = SandboxConfig(data_dir=str(tmp_path / "twin"), mailbox=MailboxConfig(password="secret enough"))
    async with running_sandbox(config) as twin:
        await mail_out(runtime, twin)
        await visitor.log_in("ada")
        fields = {"login": "new", "name": "Neu", "email": "new@example.com", "roles": "agent", "locale": "en"}
        (field,) = re.findall(r'<input[^>]+name="password"[^>]*>', (await get(visitor, "/desk/admin/users/new"))[1])
        assert "required" not in field, "left empty, the browser lets the invitation pass"
        status, text, where = await post(visitor, "/desk/admin/users/new", **{**fields, "email": "new@"})
        assert (status, "Write it as name@example.com." in text) == (422, True)
        status, _, where = await post(visitor, "/desk/admin/users/new", **fields)
        assert (status, where.endswith("?sent=1")) == (303, True)
        assert "on its way to new@example.com" in (await get(visitor, where))[1]
        await deliver(runtime)
        path, subject = await newest_link(twin, "new@example.com")
        assert subject == "Your access to the hub"
        visitor.http.cookie_jar.clear()
        visitor.csrf = ""
        assert await visitor.log_in("new", "") == 422, "nobody gets in without a password"
        for wrong in (path[:-1] + "0", path + "0", "/account/x", "/account/" + "0" * 26 + "." + "0" * 32):
            if wrong != path:
                assert (await get(visitor, wrong))[0] == 410, wrong
        status, text = await get(visitor, path)
        assert (status, "Your login is new." in text) == (200, True)
        assert (await get(visitor, path))[0] == 200, "looking uses nothing up"
        status, text, _ = await post(visitor, path, password="short", again="short")
        assert status == 422
        status, text, _ = await post(visitor, path, password="long enough now", again="long enough then")
        assert (status, "The two passwords differ." in text) == (422, True)
        status, text, _ = await post(visitor, path, password="long enough now", again="long enough now")
        assert (status, "The password is set." in text) == (200, True)
        assert (await get(visitor, path))[0] == 410
        assert (await post(visitor, path, password="another long one", again="another long one"))[0] == 422
        assert await visitor.log_in("new", "long enough now") == 303


async def test_a_reset_is_mailed_and_nobody_learns_who_is_here(
    runtime: Runtime, visitor: Visitor, tmp_path: Path
) -> None:
    amy = await add_user(runtime, "amy", [Role.AGENT])
    now = runtime.clock.now()
    await runtime.db.write(lambda tx: users.change(tx, amy, actor="test", now=now, email="amy@example.com"))
    config = SandboxConfig(data_dir=str(tmp_path / "twin"), mailbox=MailboxConfig(password="secret enough"))
    async with running_sandbox(config) as twin:
        await mail_out(runtime, twin)
        answers = {
            (await post(visitor, "/login/forgot", login=who))[:2] for who in ("amy", "nobody", "AMY@example.com")
        }
        assert len(answers) == 1, "the same answer for all"
        assert (await post(visitor, "/login/forgot", login="amy"))[0] == 200
        assert (await post(visitor, "/login/forgot", login="amy"))[0] == 200
        await deliver(runtime)
        box = await twin.request("GET", "/outside/mails?address=amy@example.com")
        assert len(box["mails"]) == 1, "of three links asked for within the hour only the newest works and is mailed"
        path, subject = await newest_link(twin, "amy@example.com")
        assert subject == "A new password for the hub"
        runtime.clock.tick(2 * 3600 + 1)  # type: ignore[attr-defined]
        assert (await get(visitor, path))[0] == 410, "two hours"
        await post(visitor, "/login/forgot", login="amy")
        await deliver(runtime)
        path, _ = await newest_link(twin, "amy@example.com")
        assert (await post(visitor, path, password="my new password", again="my new password"))[0] == 200
        assert await visitor.log_in("amy") == 422
        assert await visitor.log_in("amy", "my new password") == 303
        statuses = [(await post(visitor, "/login/forgot", login="amy"))[0] for _ in range(10)]
        assert statuses[-1] == 429


async def set_up(runtime: Runtime, visitor: Visitor) -> tuple[str, list[str]]:
    """Switch the second factor on; the secret and the recovery codes."""
    _, text = await get(visitor, "/desk/profile/second")
    secret = re.search(r'<code class="fs-3">([A-Z2-7 ]+)</code>', text)
    ticket = re.search(r'name="ticket" value="([^"]+)"', text)
    assert secret is not None
    assert ticket is not None
    key = secret[1].replace(" ", "")
    status, text, _ = await post(visitor, "/desk/profile/second", ticket=ticket[1], code="000000")
    assert (status, secret[1] in text) == (422, True), "the same key is asked for again"
    step = int(runtime.clock.now().timestamp()) // 30
    status, text, _ = await post(visitor, "/desk/profile/second", ticket=ticket[1], code=totp.code_at(key, step))
    assert status == 200
    codes = re.findall(r"[a-z2-9]{5}-[a-z2-9]{5}", text.partition("<pre")[2].partition("</pre>")[0])
    assert len(codes) == 10
    return key, codes


async def ticket_of(visitor: Visitor, login: str) -> str:
    status, text, _ = await post(visitor, "/login", login=login, password=PASSWORD, next="/desk/profile")
    assert (status, "Second factor" in text) == (200, True)
    found = re.search(r'name="ticket" value="([^"]+)"', text)
    assert found is not None
    return found[1]


async def test_the_second_factor(runtime: Runtime, visitor: Visitor) -> None:
    amy = await add_user(runtime, "amy", [Role.AGENT])
    await visitor.log_in("amy")
    key, codes = await set_up(runtime, visitor)
    assert (await get(visitor, "/desk/profile"))[0] == 200, "the session that set it up goes on"
    stored = await user_of(runtime, "amy")
    assert key not in (stored.totp_sealed or "")
    async with runtime.db.reading() as tx:
        factor = await tx.one(select(SecondFactor).where(SecondFactor.user_id == amy.id))
    assert factor is not None
    assert not set(codes) & set(factor.recovery)
    visitor.http.cookie_jar.clear()
    visitor.csrf = ""

    def code(steps: int = 0) -> str:
        return totp.code_at(key, int(runtime.clock.now().timestamp()) // 30 + steps)

    ticket = await ticket_of(visitor, "amy")
    assert (await get(visitor, "/desk/profile"))[0] != 200, "the password alone opens nothing"
    assert (await post(visitor, "/login/code", ticket=ticket, code=code()))[0] == 422, "used when it was set up"
    runtime.clock.tick(60)  # type: ignore[attr-defined]
    assert (await post(visitor, "/login/code", ticket="forged", code=code()))[2] == "/login"
    status, _, where = await post(visitor, "/login/code", ticket=ticket, code=code())
    assert (status, where) == (303, "/desk/profile")
    assert (await get(visitor, "/desk/profile"))[0] == 200
    visitor.http.cookie_jar.clear()
    ticket = await ticket_of(visitor, "amy")
    assert (await post(visitor, "/login/code", ticket=ticket, code=code()))[0] == 422, "a code is good once"
    assert (await post(visitor, "/login/code", ticket=ticket, code=codes[0].upper()))[0] == 303
    visitor.http.cookie_jar.clear()
    ticket = await ticket_of(visitor, "amy")
    assert (await post(visitor, "/login/code", ticket=ticket, code=codes[0]))[0] == 422, "so is a recovery code"
    runtime.clock.tick(301)  # type: ignore[attr-defined]
    assert (await post(visitor, "/login/code", ticket=ticket, code=code()))[2] == "/login", "five minutes"

    ticket = await ticket_of(visitor, "amy")
    tries = [(await post(visitor, "/login/code", ticket=ticket, code="123456"))[0] for _ in range(8)]
    assert tries[:5] == [422] * 5
    assert tries[-1] == 429
    assert (await post(visitor, "/login/code", ticket=ticket, code=code()))[0] == 429, "the right one waits too"


async def test_an_administrator_takes_a_lost_factor_away(runtime: Runtime, visitor: Visitor) -> None:
    amy = await add_user(runtime, "amy", [Role.AGENT])
    await add_user(runtime, "ada", [Role.ADMIN])
    await visitor.log_in("amy")
    await set_up(runtime, visitor)
    status, _, _ = await post(visitor, "/desk/profile/second", act="off", password="wrong")
    assert status == 422
    visitor.http.cookie_jar.clear()
    visitor.csrf = ""
    await visitor.log_in("ada")
    assert (await post(visitor, f"/desk/admin/users/{amy.id}/access", act="factor"))[0] == 303
    assert (await user_of(runtime, "amy")).totp_sealed is None
    status, text, _ = await post(visitor, f"/desk/admin/users/{amy.id}/access", act="reset")
    assert (status, "Give a mail address first." in text) == (422, True)
    visitor.http.cookie_jar.clear()
    assert await visitor.log_in("amy") == 303


@pytest.mark.parametrize(
    ("asked", "headers", "page"),
    [
        ("/desk/search?q=ana&part=1", {}, "/desk/search?q=ana&part=1"),
        ("/desk/frame/queues", {"HX-Request": "true", "HX-Current-URL": "{url}/desk/work?view=mine"}, "/desk/work?view=mine"),
        ("/desk/frame/queues", {"HX-Request": "true"}, ""),
    ],
)  # fmt: skip
async def test_after_the_log_in_one_is_back_where_the_session_ended(
    runtime: Runtime, visitor: Visitor, asked: str, headers: dict[str, str], page: str
) -> None:
    await add_user(runtime, "amy", [Role.AGENT])
    sent = {name: value.format(url=visitor.url) for name, value in headers.items()}
    async with visitor.http.get(visitor.url + asked, headers=sent, allow_redirects=False) as answer:
        way = answer.headers["HX-Redirect" if headers else "Location"]
    if not page:
        assert way == "/login"
        return
    async with visitor.http.get(visitor.url + way) as shown:
        [carried] = re.findall(r'name="next" value="([^"]*)"', await shown.text())
    assert html.unescape(carried) == page
    form = {"login": "amy", "password": PASSWORD, "next": page}
    async with visitor.http.post(visitor.url + "/login", data=form, allow_redirects=False) as inside:
        assert inside.headers["Location"] == page
