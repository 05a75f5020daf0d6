"""`hub check`, `hub check --live` and `hub twilio setup` look at the account and the mailboxes that the hub really uses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from crm_core.clock import FixedClock, SystemClock
from crm_core.db import open_database
from hub import channel_admin, doctor
from hub.channel_admin import MailboxInput, ProviderInput, ServerInput
from hub.channel_set import ChannelSet
from hub.doctor import Verdict, run_check
from hub.sandbox.config import MailboxConfig, SandboxConfig
from hub.sandbox.twin import running_sandbox
from hub.sealing import Sealer
from hub.settings import Settings, read_settings
from hub.twilio_setup import setup
from tests.databases import START

WRONG = {
    "TWILIO_ACCOUNT_SID": "AC" + "0" * 32, "TWILIO_AUTH_TOKEN": "0" * 32, "TWILIO_API_KEY_SID": "SK" + "0" * 32,
    "TWILIO_API_KEY_SECRET": "s" * 32,
}  # fmt: skip
SECRET = "secret enough"


@pytest.fixture
async def twin(tmp_path: Path) -> AsyncIterator[tuple[object, SandboxConfig]]:
    config = SandboxConfig(data_dir=str(tmp_path / "twin"), mailbox=MailboxConfig(password=SECRET))
    async with running_sandbox(config) as running:
        yield running, config


@pytest.fixture
def settings(tmp_path: Path, sqlite_url: str, twin: tuple[object, SandboxConfig]) -> Settings:
    """A hub whose environment names another account than its administrators have entered."""
    base: str = twin[0].base_url  # type: ignore[attr-defined]
    environ = {
        "HUB_DATA_DIR": str(tmp_path / "data"), "HUB_DATABASE_URL": sqlite_url, "HUB_SECRET_KEY": "k" * 40, "HUB_SANDBOX": "0",
        "HUB_INTERNAL_HOSTS": "127.0.0.1", "HUB_TWILIO_API_BASE": base, **WRONG,
    }  # fmt: skip
    return replace(read_settings(environ), public_url="https://hub.example.com", public_url_set=True)


async def enter(
    settings: Settings, config: SandboxConfig, twin: object, *, token: str = "", password: str = SECRET
) -> None:
    """What administrators do on screen: the provider account and a mailbox."""
    db, now = await open_database(settings.database_url), START
    channels = ChannelSet(settings, Sealer(settings.secret_key))
    given = ProviderInput(
        config.account_sid, auth_token=token or config.auth_token, api_key_sid=config.api_key_sid,
        api_key_secret=config.api_key_secret,
    )  # fmt: skip
    smtp, imap = urlsplit(twin.smtp_url), urlsplit(twin.imap_url)  # type: ignore[attr-defined]
    mailbox = MailboxInput(
        "support@example.test", "Support",
        smtp=ServerInput("127.0.0.1", str(smtp.port), "starttls", "support@example.test", password),
        imap=ServerInput("127.0.0.1", str(imap.port), "none", "support@example.test", password),
    )  # fmt: skip
    await db.write(lambda tx: channel_admin.save_provider(tx, channels, given, actor="test", now=now))
    await db.write(lambda tx: channel_admin.create_mailbox(tx, channels, mailbox, actor="test", now=now))
    await db.close()


async def look(settings: Settings) -> doctor.Finding:
    return await doctor.look_at_twilio(settings, SystemClock())


async def test_the_row_is_looked_at_before_the_environment(
    settings: Settings, twin: tuple[object, SandboxConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "copy them again" in (await look(settings)).text, "the environment's account is nobody's"
    assert await setup(settings, dry_run=True) == 1
    await enter(settings, twin[1], twin[0])
    assert (await look(settings)).verdict is Verdict.OK
    without = replace(settings, twilio=None, channels_off={"voice": "off", "sms": "off"})
    assert "sms" not in (await doctor.look_at_channels(without)).text, "what an administrator entered switches it on"
    capsys.readouterr()
    assert await setup(settings, dry_run=True) == 0
    told = capsys.readouterr().out
    assert "would create the TwiML App" in told
    assert "Provider account" in told
    assert "TWILIO_APP_SID" not in told, "where the row is used, the variable would change nothing"


async def test_a_wrong_row_says_where_it_was_entered(settings: Settings, twin: tuple[object, SandboxConfig]) -> None:
    await enter(settings, twin[1], twin[0], token="f" * 32)
    found = await look(settings)
    assert (found.verdict, "an administrator entered" in found.text) == (Verdict.FAULT, True)


async def test_live_logs_in_everywhere_and_says_one_sentence_each(
    settings: Settings, twin: tuple[object, SandboxConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    await enter(settings, twin[1], twin[0])
    found = {finding.what: finding for finding in await doctor.check_live(settings)}
    assert set(found) == {"twilio log-in", "support@example.test imap", "support@example.test smtp"}
    faults = [finding for finding in found.values() if finding.verdict is not Verdict.OK]
    assert [finding.what for finding in faults] in ([], ["support@example.test smtp"]), (
        faults
    )  # a certificate of its own
    await run_check(settings, live=True, clock=FixedClock(START))
    out = capsys.readouterr().out
    assert SECRET not in out
    assert out.count("log-in") + out.count("support@example.test ") >= 3


async def test_live_names_what_refuses(settings: Settings, twin: tuple[object, SandboxConfig]) -> None:
    await enter(settings, twin[1], twin[0], token="f" * 32, password="not the one")
    for finding in await doctor.check_live(settings):
        assert finding.verdict is Verdict.FAULT, finding
        assert len(finding.text) > 20
        assert "not the one" not in finding.text


async def test_nothing_configured_is_said_so(tmp_path: Path, sqlite_url: str) -> None:
    settings = read_settings(
        {"HUB_DATA_DIR": str(tmp_path), "HUB_DATABASE_URL": sqlite_url, "HUB_SECRET_KEY": "k" * 40}
    )
    assert [finding.what for finding in await doctor.check_live(settings)] == ["log-ins"]
