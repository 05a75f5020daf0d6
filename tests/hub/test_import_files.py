"""Uploaded files hold people's data: they leave the store when their time is over, and what they led to stays."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from campaigns import imports
from crm_core import contact_imports
from crm_core.addresses import PointKind
from crm_core.clock import FixedClock
from crm_core.contact_files import look
from crm_core.csv_files import ImportState
from crm_core.csv_reading import FORGOTTEN, KEPT, UNUSED, read_on
from crm_core.db import Tx
from crm_core.errors import Conflict
from hub import contact_transfer
from hub.files import FileMissing
from hub.pollers import Background
from hub.runtime import Runtime

CONTENT = b"name,phone\nAna,+12025550101\n"


async def upload(runtime: Runtime, kind: Any) -> str:
    """A file of this kind of import, not begun."""
    clock = runtime.clock
    if kind is contact_imports:
        found = await contact_transfer.upload(
            runtime.db, runtime.files, CONTENT, name="p.csv", country="", overwrite=False, user_id="", now=clock.now()
        )
        return found.id
    key, seen = await runtime.files.put(CONTENT, folder="imports", now=clock.now()), look(CONTENT)

    async def unit(tx: Tx) -> str:
        row = await imports.register(
            tx, file_key=key, file_name="p.csv", kind=PointKind.PHONE, encoding=seen.encoding, delimiter=seen.delimiter,
            headers=seen.headers, mapping={"name": "name", "phone": "address"}, country="", user_id="", now=clock.now(),
        )  # fmt: skip
        return row.id

    return await runtime.db.write(unit)


async def carry_out(runtime: Runtime, kind: Any, import_id: str) -> None:
    more = {"actor": ""} if kind is contact_imports else {}
    await runtime.db.write(lambda tx: kind.begin(tx, import_id, now=runtime.clock.now(), **more))
    until = runtime.clock.now() + timedelta(hours=1)
    assert await read_on(runtime.db, kind, import_id, lambda: [CONTENT], clock=runtime.clock, until=until)


async def row(runtime: Runtime, kind: Any, import_id: str) -> Any:
    async with runtime.db.reading() as tx:
        return await kind.get(tx, import_id)


async def clean(runtime: Runtime) -> int:
    """What the cleaner and the relay do by themselves; how many files were asked to be removed."""
    background = Background(runtime)
    await background._clean()
    return await background.relay.run_once("notice")


@pytest.mark.parametrize("kind", [contact_imports, imports], ids=["contacts", "recipients"])
async def test_a_file_that_was_read_goes_after_its_term_and_its_import_stays(
    runtime: Runtime, clock: FixedClock, kind: Any
) -> None:
    import_id = await upload(runtime, kind)
    await carry_out(runtime, kind, import_id)
    before = await row(runtime, kind, import_id)
    assert before.state == ImportState.READ
    clock.tick(KEPT.total_seconds() - 1)
    assert await clean(runtime) == 0
    assert await runtime.files.get(before.file_key) == CONTENT
    clock.tick(2)
    assert await clean(runtime) == 1
    with pytest.raises(FileMissing):
        await runtime.files.get(before.file_key)
    after = await row(runtime, kind, import_id)
    assert (after.file_key, after.state, after.cursor) == ("", ImportState.READ, 1)
    assert await clean(runtime) == 0


@pytest.mark.parametrize("kind", [contact_imports, imports], ids=["contacts", "recipients"])
async def test_a_file_that_nobody_began_ends_with_what_to_do(runtime: Runtime, clock: FixedClock, kind: Any) -> None:
    import_id = await upload(runtime, kind)
    key = (await row(runtime, kind, import_id)).file_key
    clock.tick(UNUSED.total_seconds() + 1)
    assert await clean(runtime) == 1
    with pytest.raises(FileMissing):
        await runtime.files.get(key)
    after = await row(runtime, kind, import_id)
    assert (after.state, after.error) == (ImportState.FAILED, FORGOTTEN)
    with pytest.raises(Conflict):
        await carry_out(runtime, kind, import_id)
