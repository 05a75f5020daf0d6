"""An uploaded table on its way into the database (recipients of a campaign, contacts): read in portions, its file let go in time.

Decides how much one transaction takes and how long a file is kept. What a line means is said by the imports that are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Protocol

from sqlalchemy import and_, or_
from sqlmodel import select

from crm_core import csv_files, outbox
from crm_core.clock import Clock
from crm_core.csv_files import ImportState, Row
from crm_core.db import Database
from crm_core.errors import Conflict, Invalid
from crm_core.tx import Tx

ROWS = 50  # in one transaction: matching and search words cost most
# A file holds people's data: it is kept for looking something up in it, not for good.
KEPT = timedelta(days=30)
UNUSED = timedelta(days=7)
FILES_AT_ONCE = 50
REMOVE = "file.remove"
FORGOTTEN = "Nobody began to read it within a week, and the file was deleted. Upload it again."


class Import(Protocol):
    """A file on its way; rows up to the cursor are taken."""

    id: str
    state: ImportState
    cursor: int
    encoding: str
    delimiter: str


class Imports(Protocol):
    """One kind of import: campaigns/imports.py or crm_core/contact_imports.py."""

    async def get(self, tx: Tx, import_id: str) -> Any: ...
    async def take_rows(self, tx: Tx, import_id: str, rows: Sequence[Row], *, now: datetime, last: bool) -> Any: ...
    async def fail(self, tx: Tx, import_id: str, *, error: str, now: datetime) -> None: ...


async def read_on(
    db: Database,
    imports: Imports,
    import_id: str,
    chunks: Callable[[], Iterable[bytes]],
    *,
    clock: Clock,
    until: datetime,
) -> bool:
    """Take rows in portions until the file ends or `until`; True when it is done (or cannot be read)."""
    async with db.reading() as tx:
        found: Import = await imports.get(tx, import_id)
    if found.state != ImportState.READING:
        return True
    try:
        rows = csv_files.read(chunks(), encoding=found.encoding, delimiter=found.delimiter)
        waiting = (row for row in rows if row.number > found.cursor)
        while True:
            some = list(islice(waiting, ROWS))

            async def take(tx: Tx, some: Sequence[Row] = some) -> Import:
                taken: Import = await imports.take_rows(tx, import_id, some, now=clock.now(), last=len(some) < ROWS)
                return taken

            if (await db.write(take)).state != ImportState.READING:
                return True
            if clock.now() >= until:
                return False
    except Conflict:
        return False  # another worker reads it
    except (Invalid, UnicodeDecodeError) as error:
        why = error.message if isinstance(error, Invalid) else "The file has bytes that are no text."
        await db.write(lambda tx: imports.fail(tx, import_id, error=why, now=clock.now()))
        return True


async def let_files_go(tx: Tx, table: type[Any], *, now: datetime) -> int:
    """Have the files of old imports taken out of the store, what they led to stays; how many, at most `FILES_AT_ONCE`.

    A file that nobody began to read for a week ends as failed: who comes back to it is told to upload it again.
    """
    ended = and_(table.state.in_((ImportState.READ, ImportState.FAILED)), table.ended_at < now - KEPT)
    unused = and_(table.state == ImportState.UPLOADED, table.created_at < now - UNUSED)
    old = select(table).where(table.file_key != "", or_(ended, unused)).order_by(table.id).limit(FILES_AT_ONCE)
    rows = await tx.all(old)
    for row in rows:
        changes: dict[str, Any] = {"file_key": "", "version": row.version + 1}
        if row.state == ImportState.UPLOADED:
            changes |= {"state": ImportState.FAILED, "error": FORGOTTEN, "ended_at": now}
        if await tx.change(table, changes, id=row.id, version=row.version) == 1:
            await outbox.ask(
                tx, REMOVE, row.id, lane="notice", now=now, dedupe=f"{REMOVE}:{row.file_key}", file_key=row.file_key
            )
    return len(rows)
