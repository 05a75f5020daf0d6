"""Writing to somebody first: the form behind “Write”, from a contact's card or to an address that is nobody's yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from crm_core import contacts
from crm_core.addresses import Address, PointKind, find_email, find_phone, shown
from crm_core.consent import Purpose
from crm_core.contacts import Contact
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid, NotFound, Refused
from crm_core.users import User
from hub import rights
from hub.desktop import pictures, sent_once
from hub.desktop.render import render
from hub.desktop.templating import part, reader_of, told
from hub.desktop.work import WORKERS
from hub.desktop.work_actions import counted, refusal
from hub.i18n import Reader
from hub.web import Route, now_of, runtime_of, user_of
from routing import gate, starts


@dataclass(frozen=True, slots=True)
class PurposeChoice:
    """Why we write, and what follows from it."""

    key: str
    label: str
    meaning: str


@dataclass(frozen=True, slots=True)
class WriteForm:
    """The form. `kind` is empty while nobody can be written to."""

    contact: Contact | None
    points: list[tuple[str, str]]  # their addresses: value, as shown
    to: str
    kind: str  # phone or email
    senders: list[tuple[str, str]]
    sender: str
    sticky: bool  # the sender they know
    joins: str  # conversation that this message would join
    purposes: list[PurposeChoice]
    purpose: str
    subject: str
    body: str
    counter: str
    once: str  # the same form sent twice is sent once
    error: str = ""
    advice: str = ""
    errors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WritePage:
    """The page around the form."""

    form: WriteForm


def purpose_choices(reader: Reader, allowed: list[Purpose]) -> list[PurposeChoice]:
    """The purposes in the reader's language, in the order given."""
    _ = reader.gettext
    words = {
        Purpose.REPLY: (_("Reply"), _("They wrote to us and the conversation is open.")),
        Purpose.SERVICE: (
            _("Service"),
            _("About something they have with us. No texts at night, and nothing after a complaint or “no more messages”."),
        ),
        Purpose.TRANSACTIONAL: (
            _("Transaction"),
            _("A code, a receipt, a change of an appointment: something they set in motion. No texts at night."),
        ),
        Purpose.MARKETING: (
            _("Marketing"),
            _("An offer or an invitation. Only with their proven consent, not too often, and texts by day."),
        ),
    }  # fmt: skip
    return [PurposeChoice(str(purpose), *words[purpose]) for purpose in allowed]


def advice(reader: Reader, refused: Refused) -> str:
    """What can be done instead, where a rule forbids it."""
    _ = reader.gettext
    return {
        "sender_stop": _("Phone them or write a mail instead. Only their START opens this number again."),
        "opt_out": _("Nothing may be sent for this purpose. When they want to hear from us again, they say so themselves."),
        "do_not_call": _("Write a mail instead, if they have an address."),
        "dead": _("Ask for a new number or address, and add it to the contact."),
        "complaint": _("Let a supervisor settle the complaint first."),
        "consent": _("If this is no advertisement, choose the purpose that fits; otherwise ask for their consent first."),
        "hours": _("Write a mail, or send this again at a time that is allowed where they are."),
        "frequency": _("Wait some days."),
    }.get(refused.rule, "")  # fmt: skip


def _address(typed: str, country: str) -> Address | None:
    return find_email(typed) if "@" in typed else find_phone(typed, country=country)


async def _form(
    request: web.Request, tx: Tx, given: Mapping[str, str], *, contact_id: str = "", **faults: Any
) -> WriteForm:
    reader, user = reader_of(request), user_of(request)
    contact = await contacts.get(tx, contact_id) if contact_id else None
    points: list[tuple[str, str]] = []
    if contact is not None:
        points = [(point.value, point.value) for point, _ in await contacts.list_points(tx, contact.id)]
    to = given.get("to", "").strip()[:320] or (points[0][0] if points else "")
    address = _address(to, contact.country if contact else "")
    to = address.value if address else to
    senders, sender, sticky = await _senders(tx, user, address, given.get("sender", ""))
    allowed: list[Purpose] = []
    joins = ""
    if address is not None and sender:
        account = await rights.sender(tx, user, sender)
        allowed = await starts.list_purposes(tx, account, address)
        thread = await starts.open_thread(tx, account, address)
        joins = thread.id if thread is not None and await rights.may_see(tx, user, thread) else ""
    chosen = given.get("purpose", "")
    moved = bool(given.get("was")) and given["was"] != f"{to} {sender}"  # another address or sender was chosen just now
    if chosen not in [str(purpose) for purpose in allowed] or (moved and chosen == Purpose.SERVICE):
        chosen = str(allowed[0]) if allowed else ""
    body, kind = given.get("body", ""), str(address.kind) if address else ""
    return WriteForm(
        contact=contact, points=points, to=to, kind=kind, senders=senders, sender=sender,
        sticky=sticky, joins=joins, purposes=purpose_choices(reader, allowed), purpose=chosen,
        subject=given.get("subject", "")[:500], body=body,
        counter=counted(reader, body) if kind == PointKind.PHONE and body else "",
        once=sent_once.key_of(given.get("once", "")), **faults,
    )  # fmt: skip


async def _senders(tx: Tx, user: User, address: Address | None, wanted: str) -> tuple[list[tuple[str, str]], str, bool]:
    """Those this user may write from, the one to begin with, and whether it is the one that this person knows."""
    if address is None:
        return [], "", False
    listed = await rights.senders(tx, user, starts.CHANNEL_OF[address.kind])
    ids = [account.id for account in listed]
    known = await starts.last_sender(tx, address)
    first = next((one for one in (wanted, known, *ids) if one in ids), "")
    named = [(one, shown(one.address) if one.address.startswith("+") else one.address) for one in listed]
    choices = [(one.id, at if one.name in ("", one.address) else f"{one.name} · {at}") for one, at in named]
    return choices, first, bool(first) and first == known


async def show(request: web.Request) -> web.StreamResponse:
    """The page, for a contact (`?contact=`) or an address (`?to=`)."""
    async with runtime_of(request).db.reading() as tx:
        form = await _form(request, tx, dict(request.query), contact_id=request.query.get("contact", ""))
    return await render(request, "messages/new.html", WritePage(form))


async def look(request: web.Request) -> web.StreamResponse:
    """The form again after another address or sender was chosen; what was typed stays."""
    given = {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
    async with runtime_of(request).db.reading() as tx:
        form = await _form(request, tx, given, contact_id=given.get("contact", ""))
    return part(request, "messages/form.html", form)


async def send(request: web.Request) -> web.StreamResponse:
    """Send it and show the conversation. A rule's refusal says which, and what to do; what was typed stays."""
    form = await request.post()
    given = {name: value for name, value in form.items() if isinstance(value, str)}
    user, now, db, reader = user_of(request), now_of(request), runtime_of(request).db, reader_of(request)
    try:
        files = await pictures.take(request, form.getall("pictures", []))
    except Invalid as error:
        return await _again(request, given, error=told(request, error), errors=error.fields)
    contact_id = given.get("contact", "")

    async def unit(tx: Tx) -> str:
        contact = await contacts.get(tx, contact_id) if contact_id else None
        address = _address(given.get("to", ""), contact.country if contact else "")
        if address is None:
            raise Invalid("Give a phone number with its country code, or a mail address.", fields={"to": "Whom?"})
        account = await _sender(tx, user, given.get("sender", ""), address)
        begun = await starts.start(
            tx, account_id=account, address=address, purpose=_purpose(given.get("purpose", "")),
            subject=given.get("subject", ""), body=given.get("body", "").strip(), user_id=user.id, now=now,
            contact_id=contact.id if contact else None, files=files,
        )  # fmt: skip
        return begun.conversation.id

    try:
        conversation_id = await db.write(lambda tx: sent_once.carry_out(request, tx, unit))
    except Refused as error:
        refused = error
        await db.write(lambda tx: gate.record_refusal(tx, refused, now=now))
        return await _again(request, given, error=refusal(reader, error), advice=advice(reader, error))
    except (Invalid, Conflict) as error:
        fields = error.fields if isinstance(error, Invalid) else {}
        return await _again(request, given, error=told(request, error), errors=fields)
    raise web.HTTPSeeOther(f"/desk/work/{conversation_id}")


async def _sender(tx: Tx, user: User, sender_id: str, address: Address) -> str:
    """The chosen sender, when the user may use it and may see what the message would join."""
    if not sender_id:
        raise Invalid("Choose a sender.", fields={"sender": "Choose a sender."})
    try:
        account = await rights.sender(tx, user, sender_id)
    except NotFound as error:
        raise Invalid("You may not write from this sender.", fields={"sender": "Choose another sender."}) from error
    await rights.may_join(tx, user, await starts.open_thread(tx, account, address))
    return account.id


def _purpose(word: str) -> Purpose:
    try:
        return Purpose(word)
    except ValueError as error:
        raise Invalid("Choose why you write.", fields={"purpose": "Choose why you write."}) from error


async def _again(request: web.Request, given: Mapping[str, str], **faults: Any) -> web.StreamResponse:
    async with runtime_of(request).db.reading() as tx:
        form = await _form(request, tx, given, contact_id=given.get("contact", ""), **faults)
    return await render(request, "messages/new.html", WritePage(form), status=422)


routes = [
    Route("GET", "/desk/messages/new", show, roles=WORKERS),
    Route("POST", "/desk/messages/form", look, roles=WORKERS, body_limit=pictures.FORM_LIMIT),
    Route("POST", "/desk/messages/new", send, roles=WORKERS, body_limit=pictures.FORM_LIMIT),
]
