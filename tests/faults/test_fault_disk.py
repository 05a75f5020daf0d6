"""A full disk: under the database, the file store and the log. Providers come again, reads go on, nothing half is left."""

from __future__ import annotations

import asyncio
import errno
import io
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from channels.contract import MailArrived
from crm_core.accounts import ChannelAccount
from crm_core.clock import FixedClock
from crm_core.db import Database
from crm_core.db_sqlite import SqliteDatabase
from crm_core.interactions import Interaction
from hub.files import FileMissing, Files, FilesUnavailable
from hub.log import configure_logging, get_logger
from tests.webhooks.conftest import Hub
from tests.webhooks.signing import ACCOUNT, call_fields, signed_headers
from webhooks import mail
from webhooks.receipts import WebhookReceipt

NOW = datetime(2026, 11, 18, 10, 0, tzinfo=UTC)


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def rows(db: Database, table: Any) -> list[Any]:
    async with db.reading() as tx:
        return list(await tx.all(select(table)))


async def post(hub: Hub, path: str, fields: dict[str, str]) -> tuple[int, str]:
    async with hub.client.post(path, data=fields, headers=signed_headers(path, fields)) as answer:
        return answer.status, await answer.text()


async def test_the_databases_disk_is_full(sqlite_hub: Hub) -> None:
    """A call is held, a text is answered 503, pages can be read; with room again the same deliveries are taken in, once."""
    hub = sqlite_hub
    assert isinstance(hub.db, SqliteDatabase)
    call = call_fields(1)
    text = {
        "MessageSid": f"SM{1:032x}", "AccountSid": ACCOUNT, "From": "+12025550101", "To": "+442079460000",
        "Body": "x" * 1600, "NumMedia": "0", "NumSegments": "1", "SmsStatus": "received",
    }  # fmt: skip
    pages = hub.db._connection.execute("PRAGMA page_count").fetchone()[0]
    hub.db._connection.execute(f"PRAGMA max_page_count={pages}")
    refused = 0
    async with asyncio.timeout(60):
        for number in range(1, 60):
            status, _ = await post(
                hub,
                "/webhooks/twilio/sms",
                {**text, "MessageSid": f"SM{number:032x}", "From": f"+120255501{number:02d}"},
            )
            refused += status == 503
        status, told = await post(hub, "/webhooks/twilio/voice", call)
    assert refused, "the disk never filled: nothing was tried"
    assert status == 200
    assert "Please hold the line." in told or "<Enqueue" in told
    acknowledged = 59 - refused
    assert len([one for one in await rows(hub.db, Interaction) if one.channel == "sms"]) == acknowledged
    hub.db._connection.execute("PRAGMA max_page_count=1000000")
    for number in range(1, 60):
        sent = {**text, "MessageSid": f"SM{number:032x}", "From": f"+120255501{number:02d}"}
        assert (await post(hub, "/webhooks/twilio/sms", sent))[0] == 200
    assert len([one for one in await rows(hub.db, Interaction) if one.channel == "sms"]) == 59
    assert len({one.event_key for one in await rows(hub.db, WebhookReceipt) if one.kind == "sms"}) == 59


@pytest.mark.parametrize("where", ["open", "fsync", "write"])
async def test_the_file_stores_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    files = Files(f"file://{tmp_path}/files")
    kept = await files.put(b"before", folder="mail", now=NOW)
    with monkeypatch.context() as patched:
        if where == "open":
            patched.setattr(os, "open", full)
        elif where == "fsync":
            patched.setattr(os, "fsync", full)
        else:

            class Full(io.BytesIO):
                def write(self, _: Any) -> int:
                    return int(full())

                def fileno(self) -> int:
                    return 0

            real = os.fdopen

            def fdopen(descriptor: int, *more: Any) -> Any:
                real(descriptor, *more).close()
                return Full()

            patched.setattr(os, "fdopen", fdopen)
        with pytest.raises(FilesUnavailable):
            await files.put(b"never", folder="mail", now=NOW)
    assert await files.get(kept) == b"before"
    left = [path for path in (tmp_path / "files").rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in left] == [b"before"], "half a file was left"
    assert await files.get(await files.put(b"after", folder="mail", now=NOW)) == b"after"


async def test_a_mail_that_cannot_be_kept_stays_on_the_server(
    db: Database, clock: FixedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cursor moves only with what is kept: bytes first, then their row, then the cursor."""
    account = await db.write(
        lambda tx: tx.add(
            ChannelAccount(id="box", channel="email", name="Box", address="box@example.test", created_at=NOW)
        )
    )
    one = MailArrived(
        event_key="mail:box:INBOX:1:1", message_id="<m1@example.com>", from_address="ana@example.com", from_name="Ana",
        to=("box@example.test",), cc=(), reply_to="", subject="Hello", sent_at=None, in_reply_to="", references=(), text="Hi",
        html="<p>Hi</p>", files=(), automatic="", headers={}, raw=b"raw",
    )  # fmt: skip
    files = Files(f"file://{tmp_path}/files")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(FilesUnavailable):
            await mail.keep(files, one, now=clock.now())
    assert await rows(db, WebhookReceipt) == []
    kept = await mail.keep(files, one, now=clock.now())
    assert (await mail.take(db, clock, account, one, kept, {"last_uid": 1})).outcome == "stored"


async def test_a_file_that_is_gone_or_unreadable_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files(f"file://{tmp_path}/files")
    key = await files.put(b"x" * 600_000, folder="mail", now=NOW)
    real = Path.open

    class Broken:
        """A disk that gives the first piece and then an error."""

        def __init__(self, handle: Any) -> None:
            self.handle, self.reads = handle, 0

        def read(self, size: int) -> bytes:
            self.reads += 1
            if self.reads > 1:
                raise OSError(errno.EIO, "Input/output error")
            return bytes(self.handle.read(size))

        def close(self) -> None:
            self.handle.close()

    monkeypatch.setattr(Path, "open", lambda self, *more: Broken(real(self, *more)))
    with pytest.raises(FilesUnavailable):
        [piece async for piece in files.stream(key)]
    monkeypatch.undo()
    await files.delete(key)
    with pytest.raises(FileMissing):
        await files.get(key)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), BrokenPipeError(), ValueError("closed")])
async def test_a_log_that_cannot_be_written_fails_nothing(error: Exception) -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise error

    before = logging.getLogger().handlers[:], logging.getLogger().level, logging.raiseExceptions
    try:
        configure_logging(process="test", stream=Full())
        get_logger("hub.test").warning("something happened", count=1)
        logging.getLogger("webhooks").error("webhook not stored")
    finally:
        root = logging.getLogger()
        root.handlers[:], logging.raiseExceptions = before[0], before[2]
        root.setLevel(before[1])
