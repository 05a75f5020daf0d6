"""API: contacts out into a CSV file and in from one."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Base64Bytes, BeforeValidator, ConfigDict, Field

from crm_core import contact_imports, contact_undo
from crm_core.contact_imports import ContactImport, Fate
from crm_core.contact_taking import Undo
from crm_core.csv_files import ImportState
from hub import contact_transfer
from hub.api.drafts import strictly
from hub.api.operation import Call, Nothing, Operation, Shown, Strict, operation, problems
from hub.contact_transfer import EXPORTERS, IMPORTERS, LARGEST
from hub.desktop import contact_transfer as pages
from hub.desktop.templating import reader_of
from hub.web import Route

BODY = LARGEST * 4 // 3 + 64 * 1024  # base64 within JSON
LEFT = 200  # names in one answer


class ContactFileIn(Strict):
    """A CSV file with a heading line; UTF-8, UTF-16 or Windows-1252, separated by comma, semicolon or tab, at most 32 MB."""

    model_config = ConfigDict(extra="forbid", str_max_length=BODY)

    name: str = Field(min_length=1, max_length=200)
    content: Annotated[Base64Bytes, BeforeValidator(strictly)] = Field(description="in base64")
    country: str = Field("", max_length=60, description="reads national phone numbers of lines that name none")
    overwrite: bool = Field(default=False, description="values of the file win; else only what is empty is filled in")


class MappingIn(Strict):
    """What the columns are, as corrected."""

    mapping: dict[str, Annotated[str, Field(max_length=60)]] = Field(
        max_length=100, description="header → use, the name of a field of your own, or empty to leave it out"
    )
    country: str = Field("", max_length=60)
    overwrite: bool = False


class ImportLine(Shown):
    """What would become of one line: new, matched or refused."""

    line: int
    fate: Fate
    reason: str
    column: str
    contact_id: str | None
    cells: list[str]


class ContactImportShown(Shown):
    """One file of contacts. `preview`: its first fifty lines, until it has begun."""

    id: str
    file_name: str
    state: ImportState
    country: str
    overwrite: bool
    headers: list[str]
    mapping: dict[str, str]
    total_count: int
    taken_count: int
    new_count: int
    matched_count: int
    refused_count: int
    consent_count: int
    error: str
    created_at: datetime
    ended_at: datetime | None
    undo_asked_at: datetime | None
    undone_at: datetime | None
    version: int
    preview: list[ImportLine]


class ImportsQuery(Strict):
    """A page of imports, newest first."""

    after: str = Field("", max_length=40, description="`next` of the page before")
    limit: int = Field(50, ge=1, le=200)


class ContactImportPage(Shown):
    """A page; `next` is null on the last one. `preview` is left out."""

    items: list[ContactImportShown]
    next: str | None


class LeftQuery(Strict):
    """Of those who are left alone, which come next."""

    after: str = Field("", max_length=40, description="`next` of the page before")


class LeftAlone(Shown):
    """Somebody whom an undo leaves as they are, and why."""

    contact_id: str
    name: str
    why: Undo


class UndoShown(Shown):
    """What an undo would do; once it was asked for, what it did and how many are still to come. `left`: the next 200 names."""

    possible: bool
    asked_at: datetime | None
    undone_at: datetime | None
    removed_count: int
    restored_count: int
    consented_count: int = Field(description="had nothing but a consent recorded, which ends")
    left_count: int
    to_come_count: int
    left: list[LeftAlone]
    next: str | None


async def _shown(call: Call[Any, Any], found: ContactImport) -> ContactImportShown:
    lines: list[ImportLine] = []
    if found.state == ImportState.UPLOADED:
        tell = reader_of(call.request).tell
        for row, one in await contact_transfer.preview(call.runtime.db, call.runtime.files, found):
            contact_id = one.contact.id if one.contact else None
            lines.append(
                ImportLine(
                    line=row.line, fate=one.fate, reason=tell(one.reason), column=one.column, contact_id=contact_id,
                    cells=row.cells,
                )
            )  # fmt: skip
    return _bare(found, lines)


def _bare(found: ContactImport, preview: list[ImportLine]) -> ContactImportShown:
    fields = found.model_dump(include=set(ContactImportShown.model_fields) - {"taken_count", "preview"})
    return ContactImportShown(**fields, taken_count=found.cursor, preview=preview)


@operation(
    "POST", "/api/v1/contact-imports", "Upload a file of contacts", scope="contacts:write", roles=IMPORTERS,
    body=ContactFileIn, answer=ContactImportShown, status=201, body_limit=BODY,
)  # fmt: skip
async def upload_contacts(call: Call[Nothing, ContactFileIn]) -> ContactImportShown:
    """Changes nobody yet: answers with a proposed mapping and what would become of the first lines."""
    body, runtime = call.body, call.runtime
    found = await contact_transfer.upload(
        runtime.db, runtime.files, body.content, name=body.name, country=body.country, overwrite=body.overwrite,
        user_id=call.user.id, now=call.now,
    )  # fmt: skip
    return await _shown(call, found)


@operation(
    "GET", "/api/v1/contact-imports/{id}", "A file of contacts", scope="contacts:read", roles=IMPORTERS,
    answer=ContactImportShown,
)  # fmt: skip
async def get_contact_import(call: Call[Nothing, Nothing]) -> ContactImportShown:
    """How far it is. The same file sent again makes nobody twice."""
    async with call.runtime.db.reading() as tx:
        found = await contact_imports.get(tx, call.path["id"])
    return await _shown(call, found)


@operation(
    "PUT", "/api/v1/contact-imports/{id}/mapping", "Say what the columns are", scope="contacts:write", roles=IMPORTERS,
    body=MappingIn, answer=ContactImportShown,
)  # fmt: skip
async def map_contact_import(call: Call[Nothing, MappingIn]) -> ContactImportShown:
    """Answers with what would become of the first lines now; 409 once it has begun."""
    body = call.body
    found = await call.runtime.db.write(
        lambda tx: contact_imports.choose(
            tx, call.path["id"], mapping=body.mapping, country=body.country, overwrite=body.overwrite
        )
    )
    return await _shown(call, found)


@operation(
    "POST", "/api/v1/contact-imports/{id}/start", "Take a file of contacts over", scope="contacts:write", roles=IMPORTERS,
    answer=ContactImportShown,
)  # fmt: skip
async def start_contact_import(call: Call[Nothing, Nothing]) -> ContactImportShown:
    """In the background; 409 when it has begun."""
    found = await call.runtime.db.write(
        lambda tx: contact_imports.begin(tx, call.path["id"], actor=call.user.id, now=call.now)
    )
    return await _shown(call, found)


@operation(
    "GET", "/api/v1/contact-imports", "List files of contacts", scope="contacts:read", roles=IMPORTERS, query=ImportsQuery,
    answer=ContactImportPage,
)  # fmt: skip
async def list_contact_imports(call: Call[ImportsQuery, Nothing]) -> ContactImportPage:
    """Newest first, by cursor."""
    async with call.runtime.db.reading() as tx:
        found = await contact_imports.list_recent(tx, after=call.query.after, limit=call.query.limit)
    more = len(found) == call.query.limit
    return ContactImportPage(items=[_bare(one, []) for one in found], next=found[-1].id if more else None)


async def _undo_of(call: Call[Any, Any], *, after: str = "") -> UndoShown:
    async with call.runtime.db.reading(slow=True) as tx:
        found = await contact_imports.get(tx, call.path["id"])
        did = await contact_undo.count(tx, found)
        left = await contact_undo.list_left(tx, found, after=after, limit=LEFT)
    return UndoShown(
        possible=contact_undo.possible(found), asked_at=found.undo_asked_at, undone_at=found.undone_at,
        removed_count=did.removed, restored_count=did.restored, consented_count=did.consented, left_count=did.left,
        to_come_count=did.to_come,
        left=[LeftAlone(contact_id=one, name=name, why=why) for one, name, why in left],
        next=left[-1][0] if len(left) == LEFT else None,
    )  # fmt: skip


@operation(
    "GET", "/api/v1/contact-imports/{id}/undo", "What undoing an import does", scope="contacts:read", roles=IMPORTERS,
    query=LeftQuery, answer=UndoShown,
)  # fmt: skip
async def look_at_undo(call: Call[LeftQuery, Nothing]) -> UndoShown:
    """Changes nothing."""
    return await _undo_of(call, after=call.query.after)


@operation(
    "POST", "/api/v1/contact-imports/{id}/undo", "Undo an import", scope="contacts:write", roles=IMPORTERS, answer=UndoShown,
)  # fmt: skip
async def undo_contact_import(call: Call[Nothing, Nothing]) -> UndoShown:
    """In the background; asked again, it happens once. 409 when it has not begun, or 30 days after it ended."""
    await call.runtime.db.write(lambda tx: contact_undo.begin(tx, call.path["id"], actor=call.user.id, now=call.now))
    return await _undo_of(call)


# --- files: no JSON, so no operations; the desktop's own, described by hand -------------------------------------------


def _described(summary: str, name: str, run: Any, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "summary": summary,
        "description": run.__doc__,
        "operationId": name,
        "tags": ["contacts"],
        "security": [{"token": ["contacts:read"]}],
        "parameters": parameters,
        "responses": {
            "200": {"description": "CSV", "content": {"text/csv": {"schema": {"type": "string"}}}},
            **problems("401", "403", "404", "503"),
        },
    }


def _query(name: str, told: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": told, "schema": {"type": "string"}}


FILES: dict[str, Any] = {
    "/api/v1/contacts.csv": _described(
        "Contacts as CSV", "export_contacts",
        pages.export,
        [_query("q", "as in the list: words, or a number in any notation"), _query("tag", "only who has it"),
         _query("owner", "a user's id, or me"), _query("sort", "oldest: oldest first")],
    ),
    "/api/v1/contact-imports/{import}/refused.csv": _described(
        "Lines that were refused, as CSV", "refused_contacts",
        pages.refused,
        [{"name": "import", "in": "path", "required": True, "schema": {"type": "string"}}],
    ),
}  # fmt: skip
ROUTES = [
    Route("GET", "/api/v1/contacts.csv", pages.export, roles=EXPORTERS, scope="contacts:read"),
    Route("GET", "/api/v1/contact-imports/{import}/refused.csv", pages.refused, roles=IMPORTERS, scope="contacts:read"),
]
OPERATIONS: list[Operation] = [
    list_contact_imports, upload_contacts, get_contact_import, map_contact_import, start_contact_import, look_at_undo,
    undo_contact_import,
]  # fmt: skip
