"""Administrators set up numbers, mailboxes and the provider account on screen; what they enter works at once."""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import re
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from sqlmodel import select

from crm_core import accounts
from crm_core.accounts import ChannelAccount
from crm_core.audit import AuditEntry
from crm_core.clock import FixedClock
from crm_core.errors import Invalid
from crm_core.interactions import Interaction
from crm_core.users import Role
from hub import mailbox_troubles
from hub.connection_test import try_mailbox
from hub.outgoing_hosts import is_public, peer_rule, refuse_internal
from hub.runtime import Runtime
from hub.sandbox.config import MailboxConfig, SandboxConfig
from hub.sandbox.twin import running_sandbox
from hub.settings import channels_off, read_settings
from routing.queues import Queue
from tests.apps import AUTH_TOKEN, Visitor, add_user, test_environment

SID, OTHER_SID = "AC" + "0" * 32, "AC" + "a" * 32
CALLER, NUMBER = "+12025550142", "+442079460123"


@pytest.fixture
async def ada(runtime: Runtime, visitor: Visitor) -> Visitor:
    """An administrator in a hub with one queue and nothing else."""
    await add_user(runtime, "ada", [Role.ADMIN])
    await runtime.db.write(lambda tx: tx.add(Queue(id="0" * 26, name="Support")))
    assert await visitor.log_in("ada") == 303
    return visitor


async def page(visitor: Visitor, path: str) -> str:
    async with visitor.http.get(visitor.url + path) as answer:
        assert answer.status == 200, path
        return html.unescape(await answer.text())


async def post(visitor: Visitor, path: str, **fields: object) -> tuple[int, str, str]:
    """A form as the browser sends it; status, text, where it leads."""
    data = [
        (name, str(one)) for name, value in fields.items() for one in (value if isinstance(value, list) else [value])
    ]
    sent = [*data, ("_csrf", visitor.csrf)]
    async with visitor.http.post(visitor.url + path, data=sent, allow_redirects=False) as answer:
        return answer.status, html.unescape(await answer.text()), answer.headers.get("Location", "")


async def rows(runtime: Runtime, channel: str, *, deleted: bool = False) -> list[ChannelAccount]:
    async with runtime.db.reading() as tx:
        return await accounts.list_channel(tx, channel, deleted=deleted)


async def call(
    visitor: Visitor, *, number: str = NUMBER, token: str = AUTH_TOKEN, sid: str = SID, n: int = 1
) -> tuple[int, str]:
    """Somebody phones a number; the provider's webhook and what the hub answers."""
    fields = {
        "CallSid": f"CA{n:032x}", "AccountSid": sid, "From": CALLER, "To": number, "CallStatus": "ringing",
        "Direction": "inbound",
    }  # fmt: skip
    url = f"{visitor.signed_origin}/webhooks/twilio/voice"  # type: ignore[attr-defined]
    text = url + "".join(name + value for name, value in sorted(fields.items()))
    signature = base64.b64encode(hmac.new(token.encode(), text.encode(), hashlib.sha1).digest()).decode()
    headers = {"X-Twilio-Signature": signature, "Content-Type": "application/x-www-form-urlencoded"}
    async with visitor.http.post(
        f"{visitor.url}/webhooks/twilio/voice", data=urlencode(fields), headers=headers
    ) as answer:
        return answer.status, await answer.text()


async def test_a_new_number_is_routed_at_once_and_its_history_survives_its_deletion(
    ada: Visitor, runtime: Runtime
) -> None:
    ada.signed_origin = runtime.settings.public_url  # type: ignore[attr-defined]
    assert "<Reject" in (await call(ada, n=1))[1], "nobody has this number yet"
    status, text, _ = await post(ada, "/desk/admin/accounts/number", number="12", channels=["voice"])
    assert status == 422
    assert "Write the number with + and the country code" in text
    status, text, _ = await post(ada, "/desk/admin/accounts/number", number="+44 20 7946 0123")
    assert (status, "Choose at least one." in text) == (422, True)
    status, _, where = await post(
        ada, "/desk/admin/accounts/number", number="020 7946 0123", country="GB", name="Main line",
        channels=["voice", "sms"], queue_id="0" * 26,
    )  # fmt: skip
    assert (status, where) == (303, "/desk/admin/accounts")
    (voice,), (sms,) = await rows(runtime, "voice"), await rows(runtime, "sms")
    assert (voice.address, sms.address, voice.country, voice.name) == (NUMBER, NUMBER, "GB", "Main line")
    assert "<Enqueue" in (await call(ada, n=2))[1], "routed without a restart"
    status, text, _ = await post(ada, "/desk/admin/accounts/number", number=NUMBER, channels=["voice"])
    assert (status, "This number is there already." in text) == (422, True)

    status, _, where = await post(ada, f"/desk/admin/accounts/{voice.id}/delete")
    assert status == 303
    assert "Undo" in await page(ada, where)
    assert "<Reject" in (await call(ada, n=3))[1]
    assert await rows(runtime, "voice") == []
    async with runtime.db.reading() as tx:
        (kept,) = await tx.all(select(Interaction))
    assert kept.account_id == voice.id, "what came over it stays"
    assert (await post(ada, f"/desk/admin/accounts/{voice.id}/restore"))[0] == 303
    assert "<Enqueue" in (await call(ada, n=4))[1]
    await post(ada, f"/desk/admin/accounts/{voice.id}/switch")
    await post(ada, f"/desk/admin/accounts/{voice.id}/delete")
    await post(ada, f"/desk/admin/accounts/{voice.id}/restore")
    assert "<Reject" in (await call(ada, n=5))[1], "what was off comes back off"
    # Entered again after a deletion, it is the same account with its history.
    await post(ada, f"/desk/admin/accounts/{voice.id}/delete")
    await post(ada, "/desk/admin/accounts/number", number=NUMBER, channels=["voice"], queue_id="0" * 26)
    assert [row.id for row in await rows(runtime, "voice")] == [voice.id]
    async with runtime.db.reading() as tx:
        acts = {entry.action for entry in await tx.all(select(AuditEntry))}
    assert {"account.created", "account.changed", "account.deleted", "account.restored"} <= acts


def mail_fields(imap: str, smtp: str, **more: str) -> dict[str, str]:
    """The mailbox page filled in for two servers of this machine."""
    read, send = urlsplit(imap), urlsplit(smtp)
    return {
        "address": "support@example.test", "name": "Support", "imap_host": read.hostname or "", "imap_port": str(read.port),
        "imap_security": "none", "imap_user": "support@example.test", "imap_password": "canary secret 4711",
        "smtp_host": send.hostname or "", "smtp_port": str(send.port), "smtp_security": "starttls",
        "smtp_user": "support@example.test", "smtp_password": "canary secret 4711", "folder": "INBOX", **more,
    }  # fmt: skip


async def test_a_mailbox_is_tested_for_real_and_its_password_never_comes_back(
    ada: Visitor, runtime: Runtime, tmp_path: Path
) -> None:
    config = SandboxConfig(data_dir=str(tmp_path / "twin"), mailbox=MailboxConfig(password="canary secret 4711"))
    async with running_sandbox(config) as twin:
        fields = mail_fields(twin.imap_url, twin.smtp_url)
        status, text, _ = await post(ada, "/desk/admin/accounts/mailbox", **fields, act="test")
        assert status == 200
        assert "Logged in; mail can be read." in text
        assert "Logged in; mail can be sent." in text
        assert "canary" not in text
        assert await rows(runtime, "email") == [], "a test stores nothing"
        # Tested, it is saved without typing the passwords again, but only for the servers they were typed for.
        typed = re.search(r'name="typed" value="([^"]+)"', text)
        assert typed is not None
        empty = {
            **fields,
            "imap_password": "",
            "smtp_password": "",
            "typed": typed[1],
            "address": "second@example.test",
        }
        status, text, _ = await post(ada, "/desk/admin/accounts/mailbox", **{**empty, "imap_port": "9"}, act="save")
        assert (status, "User name and password are both needed." in text) == (422, True)
        status, _, where = await post(ada, "/desk/admin/accounts/mailbox", **empty, act="save")
        assert status == 303
        (second,) = await rows(runtime, "email")
        assert "4711" in runtime.channels.secrets(second)["smtp_url"]
        await post(ada, f"/desk/admin/accounts/{second.id}/delete")

        async def told(**wrong: str) -> str:
            return (await post(ada, "/desk/admin/accounts/mailbox", **{**fields, **wrong}, act="test"))[1]

        text = await told(imap_password="wrong", smtp_password="wrong")
        assert "The mail server refuses the mailbox's user name or password." in text
        assert "Logged in" not in text
        assert "What answers on port" in await told(imap_port=fields["smtp_port"])
        assert "Nothing listens on port 9 of 127.0.0.1." in await told(smtp_port="9")
        assert "no such folder" in await told(folder="Nowhere")
        assert "The sandbox talks to this machine only." in await told(imap_host="192.0.2.1")
        assert "A port is a number" in await told(imap_port="mail")
        assert "User name and password are both needed." in await told(imap_password="")

        status, _, where = await post(ada, "/desk/admin/accounts/mailbox", **fields, act="save")
        assert status == 303, _
        (mailbox,) = await rows(runtime, "email")
        text = await page(ada, where)
        assert "ends in …4711" not in text, "a short password shows less of itself"
        assert "ends in …11" in text
        assert "canary" not in text + str(mailbox.settings) + (mailbox.sealed or "")
        status, text, _ = await post(ada, "/desk/admin/accounts/mailbox", **fields, act="save")
        assert (status, "This mailbox is there already." in text) == (422, True)

        # Changing the name keeps the password; pointing the stored password at another server is refused.
        kept = {**fields, "imap_password": "", "smtp_password": "", "enabled": "1", "version": str(mailbox.version)}
        assert (await post(ada, where.partition("?")[0], **{**kept, "name": "Help"}, act="save"))[0] == 303
        (mailbox,) = await rows(runtime, "email")
        assert mailbox.name == "Help"
        assert runtime.channels.secrets(mailbox)["imap_url"].count("canary%20secret%204711") == 1
        stolen = {**kept, "version": str(mailbox.version), "imap_port": "9"}
        for act in ("save", "test"):
            status, text, _ = await post(ada, f"/desk/admin/accounts/{mailbox.id}", **stolen, act=act)
            assert (status, "type the password again" in text) == (422, True), act
        status, text, _ = await post(ada, f"/desk/admin/accounts/{mailbox.id}", **kept, act="save")
        assert (status, "Somebody changed this account meanwhile." in text) == (422, True)


async def test_a_silent_server_is_named_within_the_limit(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from hub import connection_test

    monkeypatch.setattr(connection_test, "STEP_S", 0.3)
    open_ones: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda reader, writer: open_ones.append(writer), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    try:
        (tested,) = await try_mailbox(runtime.settings, {"imap_url": f"imap://u:p@127.0.0.1:{port}"})
    finally:
        for writer in open_ones:
            writer.close()
        silent.close()
        await silent.wait_closed()
    assert not tested.good
    assert tested.sentence == f"The server says nothing on port {port}: it may want TLS there."


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("192.0.2.1", False), ("10.1.2.3", False), ("127.0.0.1", False), ("169.254.169.254", False), ("100.64.0.1", False),
        ("::1", False), ("fe80::1%eth0", False), ("::ffff:10.0.0.1", False), ("64:ff9b::a00:1", False), ("224.0.0.1", False),
        ("2002:0a00:0001::", False), ("nonsense", False), ("8.8.8.8", True), ("2606:4700::1111", True),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


async def test_only_the_deployment_opens_the_network_inside(tmp_path: Path) -> None:
    environ = {
        "HUB_DATA_DIR": str(tmp_path), "HUB_SANDBOX": "0", "HUB_INTERNAL_HOSTS": "localhost, Mail.Internal",
        "HUB_IMAP_URL": "imaps://u:p@10.0.0.5:993",
    }  # fmt: skip
    settings = read_settings(environ)
    assert settings.internal_hosts == {"localhost", "mail.internal", "10.0.0.5"}
    await refuse_internal(settings, "localhost", field="imap_host")
    assert peer_rule(settings, "MAIL.internal") is None
    rule = peer_rule(settings, "mail.example.com")
    assert rule is not None
    assert not rule("10.0.0.5"), "a name that leads inside is refused at the connection too"
    for host in ("127.0.0.1", "10.0.0.6", "2130706433", "[::1]", "a b", "localhost.localdomain:25"):
        with pytest.raises(Invalid) as told:
            await refuse_internal(settings, host, field="imap_host")
        assert "imap_host" in told.value.fields


async def test_tokens_are_turned_without_losing_a_webhook(ada: Visitor, runtime: Runtime) -> None:
    ada.signed_origin = runtime.settings.public_url  # type: ignore[attr-defined]
    first, second = "first-token-000000000000000000000", "second-token-00000000000000000000"
    assert (await call(ada, n=1))[0] == 200
    status, text, _ = await post(ada, "/desk/admin/provider", account_sid="AC12", auth_token="short")
    assert status == 422
    assert "It begins with AC and has 32 characters" in text
    assert "copy it again, without blanks" in text
    fields = {"account_sid": OTHER_SID, "app_sid": "AP" + "1" * 32}
    status, text, _ = await post(ada, "/desk/admin/provider", **fields)
    assert (status, "The auth token is needed." in text) == (422, True)
    assert (await post(ada, "/desk/admin/provider", **fields, auth_token=first))[0] == 303
    assert runtime.channels.provider_from_row
    assert (await call(ada, n=2, token=first, sid=OTHER_SID))[0] == 200
    assert (await call(ada, n=3))[0] == 403, "the environment's account is not used any more"
    assert (await post(ada, "/desk/admin/provider", **fields, auth_token=second))[0] == 303
    for n, token in ((4, first), (5, second)):
        assert (await call(ada, n=n, token=token, sid=OTHER_SID))[0] == 200, "both while it is turned"
    text = await page(ada, "/desk/admin/provider")
    assert first not in text
    assert second not in text
    assert "ends in …0000" in text
    assert (await post(ada, "/desk/admin/provider", act="swap"))[0] == 303
    assert runtime.channels.twilio is not None
    assert runtime.channels.twilio.auth_token == first
    assert (await post(ada, "/desk/admin/provider", act="swap"))[0] == 303
    assert (await post(ada, "/desk/admin/provider", act="end"))[0] == 303
    assert (await call(ada, n=6, token=first, sid=OTHER_SID))[0] == 403
    assert (await call(ada, n=7, token=second, sid=OTHER_SID))[0] == 200
    (row,) = await rows(runtime, "provider")
    assert second not in (row.sealed or "")
    assert (await post(ada, f"/desk/admin/accounts/{row.id}/switch"))[0] == 303
    await runtime.adopt_provider()
    assert (await call(ada, n=8))[0] == 200, "switched off, the environment's account serves again"


async def test_another_process_takes_the_provider_account_over(
    ada: Visitor, runtime: Runtime, sqlite_url: str, valkey_url: str, tmp_path: Path
) -> None:
    import asyncio

    from hub.runtime import running

    settings = read_settings(test_environment(tmp_path / "data", sqlite_url, valkey_url))
    async with running(settings, clock=runtime.clock) as other:
        assert not other.channels.provider_from_row
        token = "first-token-000000000000000000000"
        assert (await post(ada, "/desk/admin/provider", account_sid=OTHER_SID, auth_token=token))[0] == 303
        async with asyncio.timeout(60):
            while not other.channels.provider_from_row:
                await asyncio.sleep(0.05)
        assert other.channels.twilio is not None
        assert other.channels.twilio.account_sid == OTHER_SID


def test_no_page_holds_a_password_field_with_a_value() -> None:
    folder = Path(__file__).parents[2] / "hub" / "desktop" / "templates" / "admin"
    for template in folder.glob("*.html"):
        for found in re.findall(r"field\([^)]*kind=\"password\"", template.read_text(encoding="utf-8")):
            assert '""' in found, f"{template.name}: {found}"


async def test_a_mailbox_is_made_with_access_by_token_and_no_password(ada: Visitor, runtime: Runtime) -> None:
    fields = mail_fields("imap://127.0.0.1:1143", "smtp://127.0.0.1:1587", imap_password="", smtp_password="")
    tokens = {
        "log_in": "token", "token_url": "https://127.0.0.1:9/token", "client_id": "client-1", "scope": "mail offline_access",
        "client_secret": "canary secret", "refresh_token": "canary refresh",
    }  # fmt: skip
    new = "/desk/admin/accounts/mailbox"
    status, text, _ = await post(ada, new, **fields, **{**tokens, "refresh_token": ""}, act="save")
    assert (status, "needs an https address, the client and the refresh token" in text) == (422, True)
    assert "canary" not in text
    assert "client-1" in text, "what is no secret need not be typed again"
    status, text, where = await post(ada, new, **fields, **tokens, act="save")
    assert status == 303, text
    (mailbox,) = await rows(runtime, "email")
    secrets = runtime.channels.secrets(mailbox)
    assert secrets["imap_url"] == "imap://support%40example.test@127.0.0.1:1143"
    assert secrets["oauth_refresh_token"] == "canary refresh"
    built = runtime.channels.mail(mailbox).settings
    assert built.imap.tokens is built.smtp.tokens is not None
    text = await page(ada, where)
    assert "canary" not in text
    assert re.search(r'<option value="token" selected>', text)

    def changed(**more: str) -> dict[str, str]:
        return {
            **fields, **tokens, "client_secret": "", "refresh_token": "", "enabled": "1", "version": str(mailbox.version), **more
        }  # fmt: skip

    # A stored token goes to no other server than the one it was given for.
    status, text, _ = await post(ada, where.partition("?")[0], **changed(imap_port="1144"), act="save")
    assert (status, "Type the refresh token again, or a password" in text) == (422, True)
    status, text, _ = await post(ada, where.partition("?")[0], **changed(name="Help"), act="save")
    assert status == 303, text
    (mailbox,) = await rows(runtime, "email")
    assert runtime.channels.secrets(mailbox) == secrets
    # Back to passwords: the token goes, and without a password nobody could log in.
    status, text, _ = await post(ada, where.partition("?")[0], **changed(log_in="password"), act="save")
    assert (status, "User name and password are both needed." in text) == (422, True)
    again = changed(log_in="password", imap_password="a", smtp_password="b")
    status, text, _ = await post(ada, where.partition("?")[0], **again, act="save")
    assert status == 303, text
    (mailbox,) = await rows(runtime, "email")
    assert not any(name.startswith("oauth_") for name in runtime.channels.secrets(mailbox))


async def test_what_is_off_is_told_in_the_readers_language_and_until_it_is_on(
    ada: Visitor, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    off = channels_off(None, smtp_url=None, imap_url=None)
    monkeypatch.setattr(runtime.channels, "off", lambda: dict(off))
    told = await page(ada, "/desk/admin/accounts?lang=de")
    assert "Anrufe: Twilio ist nicht eingerichtet" in told
    assert "Mail: Es ist kein Postfach eingerichtet" in told
    sealed = runtime.channels.seal({"imap_url": "imaps://a:b@mail.example.com"})
    now = runtime.clock.now()
    await runtime.db.write(
        lambda tx: tx.add(
            ChannelAccount(id="box", channel="email", name="", address="a@example.com", sealed=sealed, created_at=now)
        )
    )
    told = await page(ada, "/desk/admin/accounts?lang=de")
    assert "Anrufe: Twilio ist nicht eingerichtet" in told
    assert "Es ist kein Postfach eingerichtet" not in told


async def test_a_mailbox_that_cannot_be_read_is_told_where_its_administrator_looks(
    ada: Visitor, runtime: Runtime, clock: FixedClock
) -> None:
    now = clock.now()
    await runtime.db.write(
        lambda tx: tx.add(ChannelAccount(id="box", channel="email", name="", address="a@example.com", created_at=now))
    )
    for reason in ("The mail server refuses the mailbox's user name or password.", "[Errno 111]"):
        await mailbox_troubles.note(runtime.redis, "box", reason, now=clock.now())
        clock.tick(3600)
    for path in ("/desk/admin/accounts", "/desk/admin"):
        assert "Not read since Nov 18, 10:00\u202fAM: [Errno 111]" in await page(ada, path), path
    refused = "The mail server answered 535 5.7.8."
    await mailbox_troubles.note(runtime.redis, "box", refused, now=clock.now(), half=mailbox_troubles.Half.SENDING)
    for path in ("/desk/admin/accounts", "/desk/admin"):
        told = await page(ada, path)
        assert "Not read since Nov 18" in told, path
        assert f"Mails do not go out since Nov 18, 12:00\u202fPM: {refused}" in told, path
    await mailbox_troubles.clear(runtime.redis, "box")
    await mailbox_troubles.clear(runtime.redis, "box", mailbox_troubles.Half.SENDING)
    for path in ("/desk/admin/accounts", "/desk/admin"):
        told = await page(ada, path)
        assert "Not read since" not in told, path
        assert "do not go out" not in told, path
