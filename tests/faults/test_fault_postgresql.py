"""PostgreSQL restarted, silent, full, read-only or crowded: everybody is answered in time, and it works again by itself."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from sqlalchemy import text
from sqlmodel import select

from channels.twilio_api import TwilioSettings
from channels.voice import VoiceChannel
from crm_core import postgres_pool
from crm_core.clock import FixedClock
from crm_core.db import Database, DatabaseUnavailable, open_database
from crm_core.events import Event
from tests.faults.wire import Line, broken_line
from tests.webhooks.conftest import seed
from tests.webhooks.signing import ACCOUNT, ORIGIN, TOKEN, call_fields, signed
from webhooks import intake, voice
from webhooks.intake import Deps
from webhooks.receipts import WebhookReceipt

NOW = datetime(2026, 11, 18, 10, 0, tzinfo=UTC)


@dataclass
class Wired:
    """A database behind a line that can break."""

    db: Database
    line: Line


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """Short, because the path of a unix socket is."""
    folder = Path(tempfile.mkdtemp(prefix="hub-l-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def wired(pg_url: str, socket_folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wired]:
    monkeypatch.setattr(postgres_pool, "SILENT_S", 1.0)
    monkeypatch.setattr(postgres_pool, "FREE_S", 0.5)
    monkeypatch.setattr(postgres_pool, "UNDO_S", 0.2)
    monkeypatch.setattr(postgres_pool, "CLOSE_S", 0.5)
    real = parse_qs(urlsplit(pg_url).query)["host"][0]
    async with broken_line(f"{real}/.s.PGSQL.5432", socket_folder / ".s.PGSQL.5432") as line:
        db = await open_database(pg_url.replace(real, str(socket_folder)), pool_size=4)
        yield Wired(db, line)
        async with asyncio.timeout(60):
            await db.close()


def adds(key: str, size: int = 1) -> Callable[[Any], Any]:
    return lambda tx: tx.add(Event(id=key, kind="t", subject_id="s", data={"x": "x" * size}, created_at=NOW))


async def kept(db: Database) -> set[str]:
    async with db.reading() as tx:
        return set(await tx.all(select(Event.id)))


async def test_a_server_that_says_nothing_more_holds_nobody_up(wired: Wired) -> None:
    await wired.db.write(adds("before"))
    wired.line.hang()
    async with asyncio.timeout(60):
        results = await asyncio.gather(
            *(wired.db.write(adds(f"n{n}")) for n in range(10)), kept(wired.db), return_exceptions=True
        )
    assert {type(one) for one in results} == {DatabaseUnavailable}, results
    wired.line.mend()
    await wired.db.write(adds("after"))
    found = await kept(wired.db)
    assert {"before", "after"} <= found
    # What was answered "unavailable" may have been stored after all: that is why whoever asks again brings the same key.
    assert found <= {"before", "after", *(f"n{n}" for n in range(10))}


async def test_who_gives_up_waiting_for_a_silent_server_is_let_go(wired: Wired) -> None:
    await wired.db.write(adds("before"))
    wired.line.hang()

    async def impatient(n: int) -> None:
        async with asyncio.timeout(0.1):
            await wired.db.write(adds(f"n{n}"))

    async with asyncio.timeout(60):
        results = await asyncio.gather(*(impatient(n) for n in range(6)), return_exceptions=True)
    assert all(isinstance(one, TimeoutError | DatabaseUnavailable) for one in results), results
    wired.line.mend()
    async with asyncio.timeout(60):
        await asyncio.gather(*(wired.db.write(adds(f"later{n}")) for n in range(8)))
    assert {f"later{n}" for n in range(8)} <= await kept(wired.db)


async def test_closing_does_not_wait_for_a_silent_server(wired: Wired) -> None:
    await wired.db.write(adds("before"))
    wired.line.hang()
    writing = asyncio.create_task(wired.db.write(adds("lost")))
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await wired.db.close()
        with pytest.raises(DatabaseUnavailable):
            await writing


async def test_a_cut_line_is_told_and_found_again(wired: Wired) -> None:
    await wired.db.write(adds("before"))
    wired.line.cut()
    async with asyncio.timeout(60):
        results = await asyncio.gather(*(wired.db.write(adds(f"n{n}")) for n in range(8)), return_exceptions=True)
    assert {type(one) for one in results} == {DatabaseUnavailable}, results
    wired.line.mend()
    async with asyncio.timeout(60):
        await asyncio.gather(*(wired.db.write(adds(f"later{n}")) for n in range(8)))
    assert await kept(wired.db) == {"before", *(f"later{n}" for n in range(8))}


async def test_restarted_under_load_nothing_acknowledged_is_lost(pg_url: str) -> None:
    """Every session is ended as a restart ends them, again and again while calls come in."""
    db = await open_database(pg_url, pool_size=5)
    await db.write(lambda tx: seed(tx, NOW))
    channels = {"voice": VoiceChannel(TwilioSettings(ACCOUNT, TOKEN, public_url=ORIGIN))}
    deps = Deps(db=db, clock=FixedClock(NOW), channels=channels, public_url=ORIGIN)
    admin = await asyncpg.connect(pg_url)
    outcomes: dict[int, str] = {}

    async def calls(first: int) -> None:
        for number in range(first, first + 20):
            answer = await intake.take(deps, voice.ARRIVED, signed(voice.BASE, call_fields(number), NOW))
            assert answer.status == 200
            assert "<Response>" in answer.body, "a caller hears something whatever happens"
            outcomes[number] = answer.outcome

    async with asyncio.timeout(60):
        load = asyncio.gather(*(calls(1 + 20 * n) for n in range(6)))
        while not load.done():
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'hub' AND pid <> pg_backend_pid()"
            )
            await asyncio.wait([load], timeout=0.05)
        await load
    await admin.close()
    assert set(outcomes.values()) <= {"stored", "unavailable", "repeated"}, outcomes
    assert "unavailable" in outcomes.values(), "the restarts met nobody: nothing was tried"
    async with db.reading() as tx:
        stored = set(await tx.all(select(WebhookReceipt.event_key)))
    acknowledged = {n for n, outcome in outcomes.items() if outcome == "stored"}
    assert {f"voice:{call_fields(n)['CallSid']}" for n in acknowledged} <= stored
    # Whoever was held comes back with the same key, and then every call is there once.
    async with asyncio.timeout(60):
        for number in sorted(outcomes):
            answer = await intake.take(deps, voice.ARRIVED, signed(voice.BASE, call_fields(number), NOW))
            assert answer.outcome in ("stored", "repeated")
    async with db.reading() as tx:
        assert len(await tx.all(select(WebhookReceipt.event_key))) == 120
    await db.close()


@pytest.mark.parametrize(
    "state",
    ["53100", "53200", "53300", "57P01", "57P02", "57P03", "57014", "58030", "25006", "55P03", "25P03"],
    ids=[
        "disk full", "out of memory", "too many connections", "shut down", "crashed", "starting", "cancelled", "disk error",
        "read only", "lock timeout", "idle too long",
    ],
)  # fmt: skip
async def test_what_the_server_cannot_do_now_is_an_outage_and_no_fault_of_ours(pg_url: str, state: str) -> None:
    """Providers are told 503 and come again, callers are held: not 500, and not "failed effects"."""
    db = await open_database(pg_url, pool_size=2)
    raises = f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}', MESSAGE = 'no'; END $$"

    async def unit(tx: Any) -> None:
        await adds("undone")(tx)
        await tx.run(text(raises))

    with pytest.raises(DatabaseUnavailable):
        await db.write(unit)
    with pytest.raises(DatabaseUnavailable):
        async with db.reading() as tx:
            await tx.run(text(raises))
    await db.write(adds("after"))
    assert await kept(db) == {"after"}
    await db.close()
