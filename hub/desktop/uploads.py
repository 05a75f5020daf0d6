"""A CSV file of recipients as a browser sends it: looked at, kept, and handed to the import that reads it in the background."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiohttp import web
from aiohttp.web_request import FileField

from campaigns import imports
from crm_core import csv_files
from crm_core.addresses import PointKind
from crm_core.csv_files import Look
from crm_core.db import Tx
from crm_core.errors import Invalid
from hub.web import now_of, runtime_of

LARGEST = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that is in the store, and what its head shows."""

    name: str
    file_key: str
    kind: PointKind
    country: str
    look: Look


async def take(request: web.Request, given: Any, *, kind: str, country: str = "") -> Upload | None:
    """The uploaded file, or None when none was chosen. Invalid, with the reason, for what is no table."""
    if not isinstance(given, FileField) or not given.filename:
        return None
    content = await asyncio.to_thread(given.file.read)
    if not content:
        raise Invalid("The file is empty.", fields={"file": "Choose another file."})
    look = await asyncio.to_thread(csv_files.look, content, kind=PointKind(kind))
    if "address" not in look.mapping.values():
        raise Invalid(
            "No column of the file holds the address; name it phone or email.",
            fields={"file": "No column holds the address."},
        )
    file_key = await runtime_of(request).files.put(content, folder="imports", now=now_of(request))
    return Upload(given.filename, file_key, PointKind(kind), country, look)


async def begin(tx: Tx, upload: Upload, user_id: str, now: datetime) -> str:
    """Register the import and have it read; its id."""
    row = await imports.register(
        tx, file_key=upload.file_key, file_name=upload.name, kind=upload.kind, encoding=upload.look.encoding,
        delimiter=upload.look.delimiter, headers=upload.look.headers, mapping=upload.look.mapping,
        country=upload.country, user_id=user_id, now=now,
    )  # fmt: skip
    await imports.begin(tx, row.id, now=now)
    return row.id
