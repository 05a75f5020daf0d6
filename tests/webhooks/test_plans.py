"""What an arriving call, a turn of the waiting loop, the router's look, its offers and their ends ask of the database is found by
index, never by reading a whole table: what is fast in an empty database would stand still in a full one."""

from __future__ import annotations

import re
import sqlite3
from typing import Any

import pytest

from bench.intake_data import NUMBER, seed_people
from channels.twilio_api import TwilioSettings
from channels.voice import VoiceChannel
from crm_core import db_sqlite
from crm_core.clock import FixedClock
from crm_core.db import Database
from crm_core.tables import metadata
from routing import desk, engine
from tests.routing.floor import Floor, caller
from tests.webhooks.signing import ACCOUNT, ORIGIN, TOKEN, call_fields, signed
from webhooks import intake, voice
from webhooks.intake import Deps

# Tables with a row per queue, agent, setting, or line in which something waits: reading them whole is what is meant.
SMALL = {
    "queues",
    "queue_skills",
    "queue_members",
    "agents",
    "agent_skills",
    "users",
    "settings",
    "leases",
    "business_hours",
    "line_traces",
}
SCAN = re.compile(r"^SCAN (\w+)$")


@pytest.fixture
def statements(sqlite_db: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement from here on, with its values, of the writing connection and of those that read."""
    seen: list[str] = []
    plain = db_sqlite.connect

    def traced(path: str, *, read_only: bool = False) -> sqlite3.Connection:
        made = plain(path, read_only=read_only)
        made.set_trace_callback(seen.append)
        return made

    monkeypatch.setattr(db_sqlite, "connect", traced)
    sqlite_db._readers.clear()
    sqlite_db._connection.set_trace_callback(seen.append)
    return seen


def read_whole(connection: sqlite3.Connection, statements: list[str]) -> dict[str, str]:
    """Table → the statement that reads all of it."""
    found: dict[str, str] = {}
    for statement in statements:
        if not statement.lstrip().upper().startswith(("SELECT", "UPDATE", "DELETE", "INSERT", "WITH")):
            continue
        for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}"):
            scanned = SCAN.match(row[3])
            # What is no table is a part of the statement itself, whose tables are named beside it.
            if scanned and scanned[1] in metadata.tables and scanned[1] not in SMALL:
                found[scanned[1]] = statement
    return found


@pytest.fixture
def deps(sqlite_db: Database, clock: FixedClock) -> Deps:
    return Deps(
        db=sqlite_db, clock=clock, channels={"voice": VoiceChannel(TwilioSettings(ACCOUNT, TOKEN))}, public_url=ORIGIN
    )


async def test_a_call_reads_no_table_whole(deps: Deps, clock: FixedClock, statements: list[str]) -> None:
    await seed_people(deps.db)
    statements.clear()
    for number in range(2):
        request = signed("/webhooks/twilio/voice", call_fields(number, to=NUMBER), clock.now())
        assert (await intake.take(deps, voice.ARRIVED, request)).outcome == "stored"
    await engine.tick(deps.db, clock=clock, holder="router")
    asked = [one for one in statements if one.lstrip().upper().startswith("SELECT")]
    for table in ("conversations", "queue_entries", "offers", "callbacks"):
        assert any(table in one for one in asked), table
    connection: Any = deps.db
    assert read_whole(connection._connection, list(statements)) == {}


async def test_offers_and_what_ends_them_read_no_table_whole(
    sqlite_db: Any, clock: FixedClock, statements: list[str]
) -> None:
    floor = Floor(sqlite_db, clock)
    await floor.open("kim", "lee", "max", offer_timeout_s=20)
    for number in range(3):
        await floor.call(caller(number))
    statements.clear()
    await floor.tick()
    rung = await floor.live_offers()
    assert len(rung) == 3
    await floor.do(lambda tx: desk.refuse(tx, rung[0].id, agent_id=rung[0].agent_id, now=floor.now))
    await floor.accept(rung[1].agent_id, rung[1].id)
    await floor.later(21, beats=("kim", "lee", "max"))
    assert {offer.state for offer in await floor.offers()} >= {"refused", "failed", "expired"}
    changed = [one for one in statements if one.lstrip().upper().startswith(("UPDATE", "WITH"))]
    for table in ("agents", "agent_periods", "queue_entries", "interactions", "offers"):
        assert any(f"UPDATE {table} " in one for one in changed), table
    ours = [one for one in statements if "ORDER BY offers.opened_at" not in one]  # that one is the test's own
    assert read_whole(sqlite_db._connection, ours) == {}
