"""An uploaded table read into the database in portions, each with its cursor: recipients of a campaign, contacts.

Decides how much one transaction takes. What a line means is said by the imports that are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Protocol

from crm_core import csv_files
from crm_core.clock import Clock
from crm_core.csv_files import ImportState, Row
from crm_core.db import Database
from crm_core.errors import Conflict, Invalid
from crm_core.tx import Tx

ROWS = 50  # in one transaction: matching and search words cost most


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
