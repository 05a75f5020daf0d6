"""Contacts out into a CSV file and in from one: upload, what its columns are, what would become of its lines, how far it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import web
from aiohttp.web_request import FileField

from crm_core import contact_imports, contact_undo
from crm_core.contact_files import USES, Wanted
from crm_core.contact_imports import ContactImport, ContactImportFault, Verdict
from crm_core.contact_taking import Undo
from crm_core.contact_undo import Figures
from crm_core.csv_files import ImportState, Row, slug
from crm_core.errors import Invalid
from hub import contact_transfer
from hub.contact_transfer import EXPORTERS, IMPORTERS, LARGEST
from hub.desktop.files import KEPT_APART, send
from hub.desktop.render import render
from hub.desktop.templating import reader_of, told
from hub.i18n import Reader
from hub.web import Route, now_of, runtime_of, user_of

FAULTS = 100  # shown; the file has them all
ID = "[0-9a-z]{26}"


@dataclass(frozen=True, slots=True)
class NewImportPage:
    """The form of an upload, and the files before."""

    country: str
    error: str
    recent: list[ContactImport]


@dataclass(frozen=True, slots=True)
class Undoing:
    """What an undo would do; once somebody has asked for it, what it did."""

    figures: Figures
    left: list[tuple[str, str, Undo]]  # contact, name, why


@dataclass(frozen=True, slots=True)
class UndoPage:
    """The question whether to undo an import, with what that would do."""

    row: ContactImport
    undoing: Undoing


@dataclass(frozen=True, slots=True)
class ImportPage:
    """A file before it is taken over, on the way, and after."""

    row: ContactImport
    options: list[tuple[str, str]]  # use → as people read it
    own: dict[str, str]  # header → the name of a custom field
    samples: dict[str, str]  # header → what its first lines hold
    lines: list[tuple[Row, Verdict]]
    faults: list[ContactImportFault]
    remarks: list[ContactImportFault]
    undoing: Undoing | None  # since somebody asked
    may_undo: bool
    error: str


def uses_of(reader: Reader) -> list[tuple[str, str]]:
    """What a column may be, as people read it."""
    _ = reader.gettext
    names = {
        "id": _("The hub's own id"), "name": _("Name"), "first_name": _("First name"), "last_name": _("Last name"),
        "organisation": _("Firm"), "job_title": _("Job title"), "phone": _("Phone number"),
        "more_phones": _("More phone numbers"), "email": _("Mail address"), "more_emails": _("More mail addresses"),
        "language": _("Language"), "zone": _("Time zone"), "country": _("Country"), "tags": _("Tags"), "vip": _("VIP"),
        "born_on": _("Born on"), "owner": _("Looked after by"), "notes": _("Notes"), "stopped": _("Must not be contacted"),
    }  # fmt: skip
    consents = {
        "sms_consent": _("Consent to texts"), "call_consent": _("Consent to calls"), "email_consent": _("Consent to mails"),
    }  # fmt: skip
    proofs = {"": "", "_at": _("when"), "_source": _("where"), "_text": _("what they agreed to")}
    for name, label in consents.items():
        names |= {f"{name}{end}": f"{label}: {word}" if word else label for end, word in proofs.items()}
    return [(use, names[use]) for use in USES]


async def export(request: web.Request) -> web.StreamResponse:
    """Contacts as CSV, one line each with addresses, fields and consents: all, or as the list filters.

    In UTF-8 with a byte order mark. A cell that a spreadsheet would compute begins with an apostrophe, which an import of
    ours takes away again. Each export is in the audit.
    """
    given, user, now = request.query, user_of(request), now_of(request)
    owner = given.get("owner", "")
    wanted = Wanted(
        query=given.get("q", "")[:200], tag=given.get("tag", "")[:60], owner_id=user.id if owner == "me" else owner[:40],
        oldest=given.get("sort") == "oldest",
    )  # fmt: skip
    _, pieces = await contact_transfer.export(runtime_of(request).db, wanted, actor=user.id, now=now)
    return await _csv(request, f"contacts-{now:%Y-%m-%d}.csv", pieces)


async def refused(request: web.Request) -> web.StreamResponse:
    """The lines that were not taken, as they were written, with their line and the reason: mend them and send them again."""
    found = await _found(request)
    pieces = contact_transfer.refused(runtime_of(request).db, found, reader_of(request).tell)
    return await _csv(request, "refused.csv", pieces)


async def _csv(request: web.Request, name: str, pieces: AsyncIterator[bytes]) -> web.StreamResponse:
    headers = {"Content-Type": "text/csv; charset=utf-8", "Content-Disposition": f'attachment; filename="{name}"'}
    return await send(request, web.StreamResponse(headers={**headers, **KEPT_APART}), pieces)


async def show_new(request: web.Request) -> web.StreamResponse:
    """The form."""
    return await _new(request)


async def _new(request: web.Request, *, country: str = "", error: str = "", status: int = 200) -> web.Response:
    async with runtime_of(request).db.reading() as tx:
        recent = await contact_imports.list_recent(tx)
    return await render(request, "contacts/import_new.html", NewImportPage(country, error, recent), status=status)


async def upload(request: web.Request) -> web.StreamResponse:
    """Keep the file and show what it holds; nobody is changed yet."""
    form = await request.post()
    given, country = form.get("file"), str(form.get("country", ""))[:60]
    runtime = runtime_of(request)
    try:
        if not isinstance(given, FileField) or not given.filename:
            raise Invalid("Choose a file.")
        content = await asyncio.to_thread(given.file.read)
        found = await contact_transfer.upload(
            runtime.db, runtime.files, content, name=given.filename, country=country, overwrite=bool(form.get("overwrite")),
            user_id=user_of(request).id, now=now_of(request),
        )  # fmt: skip
    except Invalid as error:
        return await _new(request, country=country, error=told(request, error), status=422)
    raise web.HTTPSeeOther(f"/desk/contacts/imports/{found.id}")


async def show(request: web.Request) -> web.StreamResponse:
    """Before: columns and what would become of the first lines. Then: how far it is, and what was refused."""
    return await _page(request)


async def _found(request: web.Request) -> ContactImport:
    async with runtime_of(request).db.reading() as tx:
        return await contact_imports.get(tx, request.match_info["import"])


async def _page(request: web.Request, *, error: str = "", status: int = 200) -> web.Response:
    runtime, found = runtime_of(request), await _found(request)
    lines: list[tuple[Row, Verdict]] = []
    faults: list[ContactImportFault] = []
    remarks: list[ContactImportFault] = []
    if found.state == ImportState.UPLOADED:
        lines = await contact_transfer.preview(runtime.db, runtime.files, found)
    else:
        async with runtime.db.reading() as tx:
            faults = await contact_imports.list_faults(tx, found.id, taken=False, limit=FAULTS)
            remarks = await contact_imports.list_faults(tx, found.id, taken=True, limit=FAULTS)
    samples = {
        header: " · ".join(dict.fromkeys(row.cells[n][:40] for row, _ in lines[:20] if row.cells[n:] and row.cells[n]))[
            :90
        ]
        for n, header in enumerate(found.headers)
    }
    own = {header: slug(header) for header in found.headers if slug(header) and slug(header) not in USES}
    undoing = await _undoing(request, found) if found.undo_asked_at else None
    page = ImportPage(
        found, uses_of(reader_of(request)), own, samples, lines, faults, remarks, undoing, contact_undo.possible(found), error
    )  # fmt: skip
    return await render(request, "contacts/import.html", page, status=status)


async def act(request: web.Request) -> web.StreamResponse:
    """Look again with other columns, or take the file over."""
    form = await request.post()
    found, user, now = await _found(request), user_of(request), now_of(request)
    mapping = {header: str(form.get(f"use-{n}", "")) for n, header in enumerate(found.headers)}
    country, overwrite = str(form.get("country", ""))[:60], bool(form.get("overwrite"))
    db = runtime_of(request).db
    try:
        await db.write(
            lambda tx: contact_imports.choose(tx, found.id, mapping=mapping, country=country, overwrite=overwrite)
        )
        if form.get("action") == "start":
            await db.write(lambda tx: contact_imports.begin(tx, found.id, actor=user.id, now=now))
    except Invalid as error:
        return await _page(request, error=told(request, error), status=422)
    raise web.HTTPSeeOther(f"/desk/contacts/imports/{found.id}")


async def _undoing(request: web.Request, found: ContactImport) -> Undoing:
    async with runtime_of(request).db.reading(slow=True) as tx:
        return Undoing(await contact_undo.count(tx, found), await contact_undo.list_left(tx, found, limit=FAULTS))


async def show_undo(request: web.Request) -> web.StreamResponse:
    """What an undo would do, with figures and names; it asks once."""
    found = await _found(request)
    if found.undo_asked_at is not None:
        raise web.HTTPSeeOther(f"/desk/contacts/imports/{found.id}")
    return await render(request, "contacts/import_undo.html", UndoPage(found, await _undoing(request, found)))


async def undo(request: web.Request) -> web.StreamResponse:
    """Have it undone in the background; a second click changes nothing."""
    found, user, now = await _found(request), user_of(request), now_of(request)
    await runtime_of(request).db.write(lambda tx: contact_undo.begin(tx, found.id, actor=user.id, now=now))
    raise web.HTTPSeeOther(f"/desk/contacts/imports/{found.id}")


ONE = f"/desk/contacts/imports/{{import:{ID}}}"
routes = [
    Route("GET", "/desk/contacts/export.csv", export, roles=EXPORTERS),
    Route("GET", "/desk/contacts/import", show_new, roles=IMPORTERS),
    Route("POST", "/desk/contacts/import", upload, roles=IMPORTERS, body_limit=LARGEST + 64 * 1024),
    Route("GET", ONE, show, roles=IMPORTERS),
    Route("POST", ONE, act, roles=IMPORTERS),
    Route("GET", f"{ONE}/undo", show_undo, roles=IMPORTERS),
    Route("POST", f"{ONE}/undo", undo, roles=IMPORTERS),
    Route("GET", f"{ONE}/refused.csv", refused, roles=IMPORTERS),
]
