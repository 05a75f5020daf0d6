"""Contacts out into a file and in from one, for screens, API and command line alike.

Decides how much is held at once: a page of contacts, the head of a file. What a line means is crm_core/contact_imports.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from itertools import islice

from crm_core import audit, contact_files, contact_imports, csv_files
from crm_core.contact_files import Wanted
from crm_core.contact_imports import ContactImport, Preview, Verdict
from crm_core.contacts import Contact
from crm_core.csv_files import Row
from crm_core.db import Database
from crm_core.errors import Invalid
from crm_core.users import Role
from hub.files import Files

EXPORTERS = frozenset({Role.SUPERVISOR, Role.ADMIN})  # the whole customer base in one file
IMPORTERS = frozenset({Role.MARKETER, Role.SUPERVISOR, Role.ADMIN})
LARGEST = 32 * 1024 * 1024
SHOWN = 50  # lines of a preview

# --- out -------------------------------------------------------------------------------------------------------------


async def export(db: Database, wanted: Wanted, *, actor: str, now: datetime) -> tuple[int, AsyncIterator[bytes]]:
    """How many contacts, and the file piece by piece. The audit has its line before the first byte leaves."""
    names: set[str] = set()
    count = 0
    async for page in _pages(db, wanted):
        count += len(page)
        names |= {name for contact in page for name in contact.fields if name not in contact_files.COLUMNS}
    fields = sorted(names)[: contact_files.MOST_FIELDS]
    await db.write(
        lambda tx: audit.record(
            tx,
            actor=actor,
            action="contacts.exported",
            subject="contacts",
            now=now,
            count=count,
            filter=wanted.as_doc(),
        )
    )
    return count, _written(db, wanted, fields)


async def _pages(db: Database, wanted: Wanted) -> AsyncIterator[list[Contact]]:
    after = ""
    while True:
        async with db.reading(slow=True) as tx:
            page = await contact_files.page_of(tx, wanted, after=after)
        if not page:
            return
        yield page
        after = page[-1].id


async def _written(db: Database, wanted: Wanted, fields: list[str]) -> AsyncIterator[bytes]:
    yield (csv_files.BOM + csv_files.write([contact_files.head(fields)])).encode()
    async for page in _pages(db, wanted):
        async with db.reading(slow=True) as tx:
            lines = await contact_files.lines_of(tx, page, fields)
        yield csv_files.write(lines).encode()


async def refused(db: Database, found: ContactImport, told: Callable[[str], str]) -> AsyncIterator[bytes]:
    """The lines that were not taken, as they were written, with the file's line and the reason; to be mended and sent again."""
    yield (csv_files.BOM + csv_files.write([[*found.headers, "line", "reason"]])).encode()
    after, width = 0, len(found.headers)
    while True:
        async with db.reading() as tx:
            faults = await contact_imports.list_faults(tx, found.id, taken=False, after=after)
        if not faults:
            return
        lines = [[*(one.cells + [""] * width)[:width], str(one.line), told(one.message)] for one in faults]
        yield csv_files.write(lines).encode()
        after = faults[-1].row


# --- in --------------------------------------------------------------------------------------------------------------


async def upload(
    db: Database, files: Files, content: bytes, *, name: str, country: str, overwrite: bool, user_id: str, now: datetime
) -> ContactImport:
    """Look at a file and keep it; nothing is taken over yet. Invalid, with the reason, for what is no table."""
    if not content:
        raise Invalid("The file is empty.", fields={"file": "Choose another file."})
    if len(content) > LARGEST:
        raise Invalid("The file is larger than %(most)s MB; split it.", most=LARGEST // 1024 // 1024)
    look = await asyncio.to_thread(contact_files.look, content)
    total = await asyncio.to_thread(_count, content, look.encoding, look.delimiter)
    file_key = await files.put(content, folder="imports", now=now)
    return await db.write(
        lambda tx: contact_imports.register(
            tx, look, file_key=file_key, file_name=name, total_count=total, country=country, overwrite=overwrite,
            user_id=user_id, now=now,
        )
    )  # fmt: skip


def _count(content: bytes, encoding: str, delimiter: str) -> int:
    return sum(1 for _ in csv_files.read([content], encoding=encoding, delimiter=delimiter)) - 1


async def preview(db: Database, files: Files, found: ContactImport) -> list[tuple[Row, Verdict]]:
    """What would become of the first lines; nothing is changed."""
    content = await files.get(found.file_key)
    rows = csv_files.read([content], encoding=found.encoding, delimiter=found.delimiter)
    first = [row for row in islice(rows, SHOWN + 1) if row.number]
    ahead = Preview()
    async with db.reading(slow=True) as tx:
        return [(row, await ahead.judge(tx, found, row)) for row in first]
