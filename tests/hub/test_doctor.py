"""`hub check` finds each thing that can be wrong, and says what to do."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from aiohttp import web

from crm_core.clock import FixedClock
from hub import doctor
from hub.doctor import Finding, Verdict, clock_skew_s, run_check
from hub.migrate import run_migrate
from hub.settings import Settings, read_settings

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
SID = "AC" + "0" * 32
TWILIO = {
    "TWILIO_ACCOUNT_SID": SID,
    "TWILIO_AUTH_TOKEN": "right-token",
    "TWILIO_API_KEY_SID": "SK" + "1" * 32,
    "TWILIO_API_KEY_SECRET": "key-secret",
    "TWILIO_APP_SID": "AP" + "2" * 32,
}
Serve = Callable[..., Awaitable[str]]


def settings(tmp_path: Path, **environ: str) -> Settings:
    return read_settings({"HUB_DATA_DIR": str(tmp_path / "var"), **environ})


async def look(tmp_path: Path, what: str, **environ: str) -> Finding:
    found = await doctor.check(settings(tmp_path, **environ), clock=FixedClock(NOW))
    return next(finding for finding in found if finding.what == what)


@pytest.fixture
async def account() -> AsyncIterator[Serve]:
    """Somebody who speaks the account resource of Twilio's REST API, with a clock of their own."""
    runners = []

    async def serve(*, ahead_s: float = 0, status: int = 200) -> str:
        async def handle(request: web.Request) -> web.Response:
            assert request.path == f"/2010-04-01/Accounts/{SID}.json"
            import aiohttp

            right = request.headers["Authorization"] == aiohttp.encode_basic_auth(SID, "right-token")
            date = format_datetime(NOW + timedelta(seconds=ahead_s), usegmt=True)
            return web.json_response({"sid": SID}, status=status if right else 401, headers={"Date": date})

        app = web.Application()
        app.router.add_get("/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield serve
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def greeter() -> AsyncIterator[Serve]:
    """A server that says one line."""
    servers = []

    async def serve(line: bytes) -> str:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(line)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        servers.append(server)
        return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    yield serve
    for server in servers:
        server.close()
        await server.wait_closed()


async def test_a_fresh_folder_lacks_only_its_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = settings(tmp_path)
    assert await run_check(mine) == 1
    out = capsys.readouterr().out
    assert [line.split()[1] for line in out.splitlines() if line.startswith("FAULT")] == ["tables"]
    assert "run `hub migrate`" in out
    assert out.endswith("1 fault.\n")
    assert await run_migrate(mine) == 0
    assert await run_check(mine) == 0
    out = capsys.readouterr().out
    assert "FAULT" not in out
    assert out.endswith("Everything needed is there.\n")
    assert len({line.index("  ", 8) > 0 for line in out.splitlines()[:-1]}) == 1


async def test_tables_of_a_later_version_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import sqlite3

    mine = settings(tmp_path)
    assert await run_migrate(mine) == 0
    with sqlite3.connect(tmp_path / "var" / "hub.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    assert await run_migrate(mine) == 1
    assert "made by a later version of the hub (revision 9999)" in capsys.readouterr().err
    assert (await look(tmp_path, "tables")).verdict is Verdict.FAULT


async def test_postgresql_too(tmp_path: Path, pg_server: object) -> None:
    url = pg_server.create()  # type: ignore[attr-defined]
    try:
        environ = {"HUB_DATABASE_URL": url, "HUB_SECRET_KEY": "k" * 40}
        assert (await look(tmp_path, "database", **environ)).text.startswith("PostgreSQL ")
        assert (await look(tmp_path, "tables", **environ)).verdict is Verdict.FAULT
        assert await run_migrate(settings(tmp_path, **environ)) == 0
        assert (await look(tmp_path, "tables", **environ)).verdict is Verdict.OK
    finally:
        pg_server.drop(url)  # type: ignore[attr-defined]


async def test_stores_that_do_not_answer(tmp_path: Path) -> None:
    environ = {
        "HUB_DATABASE_URL": "postgresql://hub:canary@127.0.0.1:1/hub",
        "HUB_SECRET_KEY": "k" * 40,
        "HUB_REDIS_URL": "redis://:canary@127.0.0.1:1/0",
        "HUB_FILES_URL": "file:///proc/files",
    }
    found = await doctor.check(settings(tmp_path, **environ), clock=FixedClock(NOW))
    assert {f.what for f in found if f.verdict is Verdict.FAULT} == {"database", "tables", "redis", "files"}
    assert "canary" not in repr(found)


async def test_redis_that_answers(tmp_path: Path, valkey_url: str) -> None:
    assert (await look(tmp_path, "redis", HUB_REDIS_URL=valkey_url)).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("ahead_s", "verdict", "word"),
    [(0, Verdict.OK, "clock agrees"), (-20, Verdict.NOTE, "+20 s"), (120, Verdict.FAULT, "-120 s")],
)
async def test_the_provider_and_the_clock(
    tmp_path: Path, account: Serve, ahead_s: float, verdict: Verdict, word: str
) -> None:
    base = await account(ahead_s=ahead_s)
    found = await look(tmp_path, "twilio", **TWILIO, HUB_TWILIO_API_BASE=base)
    assert (found.verdict, word in found.text) == (verdict, True), found


async def test_a_provider_that_refuses_or_is_gone(tmp_path: Path, account: Serve) -> None:
    base = await account()
    wrong = {**TWILIO, "TWILIO_AUTH_TOKEN": "wrong-token", "HUB_TWILIO_API_BASE": base}
    assert "copy them again" in (await look(tmp_path, "twilio", **wrong)).text
    broken = {**TWILIO, "HUB_TWILIO_API_BASE": await account(status=503)}
    assert "answers 503" in (await look(tmp_path, "twilio", **broken)).text
    gone = {**TWILIO, "HUB_TWILIO_API_BASE": "http://127.0.0.1:1"}
    assert "does not answer" in (await look(tmp_path, "twilio", **gone)).text


async def test_mail_servers(tmp_path: Path, greeter: Serve) -> None:
    smtp, imap = await greeter(b"220 mx.example.test ESMTP\r\n"), await greeter(b"* OK ready\r\n")
    environ = {"HUB_SMTP_URL": f"smtp://u:p@{smtp}", "HUB_IMAP_URL": f"imap://u:p@{imap}"}
    assert (await look(tmp_path, "smtp", **environ)).verdict is Verdict.OK
    assert (await look(tmp_path, "imap", **environ)).verdict is Verdict.OK
    swapped = {"HUB_SMTP_URL": f"smtp://u:p@{imap}", "HUB_IMAP_URL": f"imap://u:p@{smtp}"}
    assert "does not greet as SMTP does" in (await look(tmp_path, "smtp", **swapped)).text
    assert "does not greet as IMAP does" in (await look(tmp_path, "imap", **swapped)).text
    plain = {"HUB_SMTP_URL": f"smtps://u:p@{smtp}", "HUB_IMAP_URL": "imaps://u:p@127.0.0.1:1"}
    assert "does not speak TLS" in (await look(tmp_path, "smtp", **plain)).text
    assert "does not answer" in (await look(tmp_path, "imap", **plain)).text


async def test_a_public_name_that_dns_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)  # no question leaves this machine
    found = await look(tmp_path, "public address", HUB_PUBLIC_URL="https://hub.invalid")
    assert (found.verdict, "DNS" in found.text) == (Verdict.FAULT, True)


async def test_channels_that_are_off_are_a_note(tmp_path: Path) -> None:
    found = await look(tmp_path, "channels", HUB_SANDBOX="0")
    assert found.verdict is Verdict.NOTE
    assert "off: email, sms, voice." in found.text


async def test_a_look_that_breaks_or_hangs_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def breaks(_: Settings) -> Finding:
        raise LookupError("canary")

    async def hangs(_: Settings) -> Finding:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(doctor, "look_at_data", breaks)
    monkeypatch.setattr(doctor, "look_at_redis", hangs)
    monkeypatch.setattr(doctor, "STEP_S", 0.5)
    found = {f.what: f for f in await doctor.check(settings(tmp_path), clock=FixedClock(NOW))}
    assert found["data folder"] == Finding("data folder", Verdict.FAULT, "could not be looked at (LookupError)")
    assert found["redis"].verdict is Verdict.FAULT
    assert found["settings"].verdict is Verdict.OK


def test_clock_skew_of_headers_that_are_no_dates() -> None:
    assert clock_skew_s("", NOW) is None
    assert clock_skew_s("yesterday", NOW) is None
    assert clock_skew_s("Sat, 21 Nov 2026 10:00:00 GMT", NOW) == 0
