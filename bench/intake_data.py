"""What the intake benchmark puts into the database, and the signed webhooks it sends."""

from __future__ import annotations

import base64
import hashlib
import hmac
import sqlite3
from collections import Counter
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import create_mock_engine
from sqlmodel import select

from crm_core import contacts
from crm_core.accounts import ChannelAccount
from crm_core.addresses import phone
from crm_core.db import Database, open_database
from crm_core.ids import new_id
from crm_core.interactions import Interaction
from hub.models import metadata
from routing.queues import Queue

ORIGIN = "https://hub.example.test"
PATH = "/webhooks/twilio/voice"
ACCOUNT_SID = "AC" + "0" * 32
TOKEN = "x" * 32
NUMBER = "+442079460000"
PEOPLE = 200


def caller(number: int) -> str:
    """One of 200 known people; every tenth caller is a stranger."""
    if number % 10 == 9:
        return f"+1415555{number % 10000:04d}"
    return f"+1202555{100 + number % PEOPLE:04d}"


def ddl(url: str) -> list[str]:
    """CREATE statements of every table."""
    statements: list[str] = []

    def keep(statement: Any, *_: Any, **__: Any) -> None:
        statements.append(str(statement.compile(dialect=engine.dialect)).strip())

    engine = create_mock_engine("sqlite://" if url.startswith("sqlite") else "postgresql+asyncpg://", keep)
    metadata.create_all(engine, checkfirst=False)
    return statements


async def prepare(url: str) -> None:
    """Tables, a number, a queue, 200 contacts with a phone number each."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        for statement in ddl(url):
            connection.execute(statement)
        connection.close()
    else:
        import asyncpg

        made = await asyncpg.connect(url)
        for statement in ddl(url):
            await made.execute(statement)
        await made.close()
    db = await open_database(url)
    await seed_people(db)
    await db.close()
    if not url.startswith("sqlite"):
        await analyse(url)


async def analyse(url: str) -> None:
    """What PostgreSQL does by itself within a minute: know how large the tables are."""
    import asyncpg

    made = await asyncpg.connect(url)
    await made.execute("ANALYZE")
    await made.close()


async def seed_people(db: Database) -> None:
    """A number, a queue, 200 contacts with a phone number each."""
    now = datetime.now(UTC)

    async def seed(tx: Any) -> None:
        queue = await tx.add(Queue(id=new_id(now), name="Support"))
        await tx.add(
            ChannelAccount(
                id=new_id(now),
                channel="voice",
                name="Main",
                address=NUMBER,
                country="GB",
                queue_id=queue.id,
                created_at=now,
            )
        )
        for number in range(PEOPLE):
            point = phone(f"+1202555{100 + number:04d}")
            await contacts.create(tx, name=f"Person {number}", source="bench", points=[point], now=now)

    await db.write(seed)


def signed_posts(start: int, count: int) -> list[tuple[str, str]]:
    """(body, signature) of `count` arriving calls, each with a CallSid of its own."""
    posts = []
    for number in range(start, start + count):
        fields = {
            "CallSid": f"CA{number:032x}", "AccountSid": ACCOUNT_SID, "From": caller(number), "To": NUMBER,
            "Caller": caller(number), "Called": NUMBER, "CallStatus": "ringing", "Direction": "inbound",
            "ApiVersion": "2010-04-01", "FromCity": "", "FromState": "DC", "FromZip": "", "FromCountry": "US",
            "ToCity": "", "ToState": "London", "ToZip": "", "ToCountry": "GB", "CallerName": "",
        }  # fmt: skip
        text = ORIGIN + PATH + "".join(name + fields[name] for name in sorted(fields))
        signature = base64.b64encode(hmac.digest(TOKEN.encode(), text.encode(), hashlib.sha1)).decode()
        posts.append((urlencode(fields), signature))
    return posts


async def stored_calls(url: str) -> dict[str, int]:
    """How many interactions each CallSid has."""
    db = await open_database(url)
    async with db.reading() as tx:
        found = Counter(await tx.all(select(Interaction.external_id)))
    await db.close()
    return dict(found)
