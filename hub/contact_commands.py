"""`hub export contacts` and `hub import contacts`: the same files by the same functions as on screen."""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

from crm_core import contact_imports, contact_undo, csv_reading, users
from crm_core.clock import Clock, SystemClock
from crm_core.contact_files import Wanted
from crm_core.contact_imports import ContactImport
from crm_core.csv_files import ImportState
from crm_core.db import Database
from crm_core.errors import Invalid, NotFound
from hub import contact_transfer
from hub.files import Files
from hub.settings import Settings
from hub.user_commands import ACTOR, with_database

OURS = timedelta(minutes=2)  # then a worker goes on with what this command has left
LISTED = 1000  # of those who are left alone


async def run_export(settings: Settings, arguments: Namespace, *, clock: Clock | None = None) -> int:
    """`hub export contacts FILE`; 1 with one sentence when it cannot."""

    async def work(db: Database, given: Namespace, at: Clock) -> None:
        owner_id = ""
        if given.owner:
            async with db.reading() as tx:
                owner = await users.find_login(tx, given.owner)
            if owner is None:
                raise NotFound("There is no such colleague.")
            owner_id = owner.id
        wanted = Wanted(query=given.search, tag=given.tag, owner_id=owner_id)
        count, pieces = await contact_transfer.export(db, wanted, actor=ACTOR, now=at.now())
        await _write(given.file, pieces)
        sys.stderr.write(f"{count} contacts.\n")

    return await with_database(settings, work, arguments, clock or SystemClock())


async def run_import(settings: Settings, arguments: Namespace, *, clock: Clock | None = None) -> int:
    """`hub import contacts FILE` or `--undo ID`; 1 with one sentence when it cannot, or when lines were refused."""

    async def work(db: Database, given: Namespace, at: Clock) -> None:
        if given.undo:
            return await take_back(db, given, at)
        await bring_in(db, Files(settings.files_url), given, at)

    return await with_database(settings, work, arguments, clock or SystemClock())


async def bring_in(db: Database, files: Files, given: Namespace, clock: Clock) -> None:
    """Look, and unless it is a dry run take over. Invalid when lines were refused."""
    content = await asyncio.to_thread(_read, given.file)
    found = await contact_transfer.upload(
        db, files, content, name=Path(given.file).name, country=given.country, overwrite=given.overwrite, user_id=ACTOR,
        now=clock.now(),
    )  # fmt: skip
    for header, use in found.mapping.items():
        sys.stderr.write(f"{header or '(no name)'} → {use or '(left out)'}\n")
    if given.dry_run:
        for row, verdict in await contact_transfer.preview(db, files, found):
            sys.stdout.write(f"{row.line}\t{verdict.fate}\t{verdict.reason}\n")
        return
    # The hub's workers leave it to this command, unless it dies.
    await db.write(
        lambda tx: contact_imports.begin(tx, found.id, actor=ACTOR, now=clock.now(), due_at=clock.now() + OURS)
    )
    ended = False
    while not ended:
        until = clock.now() + timedelta(seconds=5)
        ended = await csv_reading.read_on(db, contact_imports, found.id, lambda: [content], clock=clock, until=until)
        if not ended:
            # A worker of the running hub may read it now: look on five times a second, not in a spin.
            await asyncio.sleep(0.2)
    async with db.reading() as tx:
        done = await contact_imports.get(tx, found.id)
    sys.stderr.write(f"To take it back: hub import contacts --undo {done.id}\n")
    await _tell(db, done, given.refused)


async def take_back(db: Database, given: Namespace, clock: Clock) -> None:
    """Say what an undo of that import does, and unless it is a dry run do it."""
    async with db.reading(slow=True) as tx:
        found = await contact_imports.get(tx, given.undo)
    if not given.dry_run:
        due_at = clock.now() + OURS
        found = await db.write(lambda tx: contact_undo.begin(tx, found.id, actor=ACTOR, now=clock.now(), due_at=due_at))
        while not await db.write(lambda tx: contact_undo.undo_some(tx, found.id, now=clock.now())):
            pass
    async with db.reading(slow=True) as tx:
        did = await contact_undo.count(tx, found)
        left = await contact_undo.list_left(tx, found, limit=LISTED)
    for name in ("removed", "restored", "consented", "left"):
        sys.stdout.write(f"{name}\t{getattr(did, name)}\n")
    for contact_id, name, why in left:
        sys.stderr.write(f"left alone: {contact_id} {name} ({why})\n")


async def _tell(db: Database, done: ContactImport, refused_file: str) -> None:
    sys.stdout.write(f"new\t{done.new_count}\nmatched\t{done.matched_count}\nrefused\t{done.refused_count}\n")
    async with db.reading() as tx:
        remarks = await contact_imports.list_faults(tx, done.id, taken=True)
    for one in remarks:
        sys.stderr.write(f"line {one.line}: {one.message}\n")
    if done.state == ImportState.FAILED:
        raise Invalid(done.error)
    if not done.refused_count:
        return
    if refused_file:
        await _write(refused_file, contact_transfer.refused(db, done, str))
    else:
        async with db.reading() as tx:
            for fault in await contact_imports.list_faults(tx, done.id, taken=False):
                sys.stderr.write(f"line {fault.line}: {fault.message}\n")
    raise Invalid("Lines that were refused: %(number)s.", number=done.refused_count)


def _read(name: str) -> bytes:
    most = contact_transfer.LARGEST + 1
    try:
        if name == "-":
            return sys.stdin.buffer.read(most)
        with Path(name).open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise Invalid("%(file)s cannot be read: %(reason)s.", file=name, reason=error.strerror) from error


async def _write(name: str, pieces: AsyncIterator[bytes]) -> None:
    """To standard output for `-`; a file is never written over."""
    if name == "-":
        async for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    try:
        with await asyncio.to_thread(Path(name).open, "xb") as file:
            async for piece in pieces:
                await asyncio.to_thread(file.write, piece)
    except FileExistsError as error:
        raise Invalid("%(file)s is there already; nothing was written.", file=name) from error
    except OSError as error:
        raise Invalid("%(file)s cannot be written: %(reason)s.", file=name, reason=error.strerror) from error
