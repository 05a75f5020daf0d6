"""What an agent does on the work screen: answer, note, finish, put away, say who it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from aiohttp import web
from sqlmodel import select

from channels.segments import segments
from crm_core import addresses, contacts, drafts, leads, recognition
from crm_core.addresses import Address, find_email, find_phone
from crm_core.conversations import Conversation
from crm_core.db import Tx
from crm_core.errors import Conflict, HubError, Invalid, Refused
from hub import rights
from hub.desktop import people, pictures, sent_once, work, worklist
from hub.desktop.render import render
from hub.desktop.templating import html, part, reader_of, respond, told
from hub.desktop.work import ID, WORKERS, WorkPage
from hub.i18n import Reader
from hub.web import STAFF, Route, now_of, runtime_of, user_of
from routing import callbacks, desk, entries, gate, replies
from routing.queues import QueueEntry

PICKED = 8


@dataclass(frozen=True, slots=True)
class Found:
    """People found while asking who it is."""

    conversation_id: str
    people: list[people.Candidate]
    query: str


def counted(reader: Reader, text: str) -> str:
    """How long a text message is, and how many parts it costs."""
    cost = segments(text.replace("\r\n", "\n").strip())  # as it is sent
    room = cost.per_part * max(cost.parts, 1)
    parts = reader.ngettext("%(num)s part", "%(num)s parts", cost.parts)
    alphabet = "" if cost.encoding == "GSM-7" else " · " + reader.gettext("special characters")
    return f"{cost.units}/{room} · {parts}{alphabet}"


async def _conversation(request: web.Request, tx: Tx) -> Conversation:
    return await rights.conversation(tx, user_of(request), request.match_info["conversation"])


async def _composer(request: web.Request, *, error: str = "", status: int = 200, event: str = "") -> web.Response:
    async with runtime_of(request).db.reading() as tx:
        conversation = await _conversation(request, tx)
        composer = await work.composer_of(tx, conversation, user_of(request).id, error=error)
    if composer.kind == "sms" and composer.body:
        composer = replace(composer, counter=counted(reader_of(request), composer.body))
    headers = {"HX-Trigger": event} if event else None
    return part(request, "work/composer.html", composer, status=status, headers=headers)


async def keep_draft(request: web.Request) -> web.StreamResponse:
    """Keep what is typed; answers with its length."""
    form = await request.post()
    body, subject = str(form.get("body", "")), str(form.get("subject", ""))
    user, now = user_of(request), now_of(request)
    wanted = request.match_info["conversation"]

    async def unit(tx: Tx) -> str:
        conversation = await rights.conversation(tx, user, wanted)
        await drafts.keep(tx, user_id=user.id, conversation_id=wanted, subject=subject, body=body, now=now)
        return conversation.channel

    channel = await runtime_of(request).db.write(unit)
    reader = reader_of(request)
    return respond(counted(reader, body) if channel == "sms" else reader.gettext("Draft kept") if body else "")


async def send_reply(request: web.Request) -> web.StreamResponse:
    """Send the answer. A refusal by a rule stands beside the field, and what was typed stays."""
    form = await request.post()
    body, subject = str(form.get("body", "")).strip(), str(form.get("subject", "")).strip()
    chosen = form.getall("pictures", [])
    user, now = user_of(request), now_of(request)
    wanted = request.match_info["conversation"]
    db = runtime_of(request).db
    reader = reader_of(request)

    async def keep(tx: Tx) -> None:
        await drafts.keep(tx, user_id=user.id, conversation_id=wanted, subject=subject, body=body, now=now)

    try:
        files = await pictures.take(request, chosen)
    except Invalid as error:
        await db.write(keep)
        return await _composer(request, error=told(request, error), status=422)
    if not body and not files:
        return await _composer(request, error=reader.gettext("Write something first."), status=422)

    async def unit(tx: Tx) -> str:
        await rights.conversation(tx, user, wanted)
        sent = await replies.reply(tx, wanted, agent_id=user.id, body=body, subject=subject, files=files, now=now)
        await drafts.drop(tx, user_id=user.id, conversation_id=wanted)
        return sent.id

    try:
        await db.write(lambda tx: sent_once.carry_out(request, tx, unit))
    except Refused as error:
        refused = error
        await db.write(keep)
        await db.write(lambda tx: gate.record_refusal(tx, refused, now=now))
        return await _composer(request, error=refusal(reader, error), status=422)
    except (Invalid, Conflict) as error:
        await db.write(keep)
        return await _composer(request, error=told(request, error), status=422)
    return await _composer(request, event="said")


def refusal(reader: Reader, error: Refused) -> str:
    """Why a rule forbids it, in the reader's language; the domain's own sentence says when and where."""
    _ = reader.gettext
    sentences = {
        "sender_stop": _("They answered STOP to this number, so nothing may be sent from it until they write START."),
        "opt_out": _("They opted out of our messages."),
        "do_not_call": _("They asked never to be called again."),
        "dead": _("This address does not work any more."),
        "erased": _("This person asked to be forgotten."),
        "complaint": _("They complained; nothing may be sent for now."),
        "consent": _("There is no proof of consent for this."),
        "hours": _("It is outside the hours allowed where they are."),
        "frequency": _("They were contacted too often these days."),
        "country": _("Calls to this country are not allowed."),
        "emergency": _("Emergency numbers cannot be called from here."),
        "budget": _("The day's budget is spent."),
    }
    known = sentences.get(error.rule)
    told = reader.tell(error.message)
    return f"{known} ({told})" if known and told != known else told


async def add_note(request: web.Request) -> web.StreamResponse:
    """Keep a remark for colleagues."""
    body = str((await request.post()).get("body", "")).strip()
    user, now, wanted = user_of(request), now_of(request), request.match_info["conversation"]

    async def unit(tx: Tx) -> str:
        await rights.conversation(tx, user, wanted)
        return (await replies.add_note(tx, wanted, agent_id=user.id, body=body, now=now)).id

    if body:
        await runtime_of(request).db.write(lambda tx: sent_once.carry_out(request, tx, unit))
    return await _composer(request, event="said")


async def finish(request: web.Request) -> web.StreamResponse:
    """End the wrap-up with a disposition, and make the next step with it."""
    form = {name: str(value) for name, value in (await request.post()).items()}
    user, now, wanted = user_of(request), now_of(request), request.match_info["conversation"]
    disposition, notes = form.get("disposition", ""), form.get("notes", "").strip()
    next_step, due = form.get("next_step", ""), form.get("due", "")
    db = runtime_of(request).db
    reader = reader_of(request)

    async def unit(tx: Tx) -> None:
        conversation = await rights.conversation(tx, user, wanted)
        entry = await entries.get(tx, form.get("entry", ""))
        mine = select(QueueEntry.id).where(QueueEntry.id == entry.id, work.of_conversation(wanted, user.id))
        if entry.agent_id != user.id or await tx.one(mine) is None:
            raise Conflict("This is not your work.")
        if not disposition:
            raise Invalid("Choose how it ended.")
        if next_step:
            await _next_step(
                tx, conversation, entry, next_step, due, zone=user.zone, user_id=user.id, note=notes, now=now
            )
        await desk.finish(tx, entry.id, agent_id=user.id, disposition=disposition, notes=notes, now=now)

    try:
        await db.write(unit)
    except (Invalid, Conflict) as error:
        async with db.reading() as tx:
            conversation = await _conversation(request, tx)
            panel = await work.wrapup_of(
                tx, conversation, user.id, now=now, opened=True, error=reader.tell(error.message), disposition=disposition,
                notes=notes, next_step=next_step, due=due,
            )  # fmt: skip
        return part(request, "work/wrapup.html", panel, status=422)
    async with db.reading() as tx:
        panel = await work.wrapup_of(tx, await _conversation(request, tx), user.id, now=now)
    return part(request, "work/wrapup.html", panel, headers={"HX-Trigger": "said"})


async def _next_step(
    tx: Tx,
    conversation: Conversation,
    entry: QueueEntry,
    step: str,
    due: str,
    *,
    zone: str,
    user_id: str,
    note: str,
    now: datetime,
) -> None:
    if step == "lead":
        if conversation.contact_id is None:
            raise Invalid("Say who it is first; a lead belongs to a contact.")
        await leads.create(
            tx, contact_id=conversation.contact_id, source="call" if entry.kind == "voice" else entry.kind, fields={},
            now=now, interaction_id=entry.interaction_id,
        )  # fmt: skip
        return
    number = find_phone(conversation.peer)
    if number is None:
        raise Invalid("There is no number to call back.")
    await callbacks.request(
        tx, number=number, queue_id=entry.queue_id, due_at=local_instant(due, zone), origin="agent", now=now,
        contact_id=conversation.contact_id, owner_id=user_id, note=note[:200], created_by=user_id,
    )  # fmt: skip


def local_instant(typed: str, zone: str) -> datetime:
    """What a datetime-local field holds, read in the user's zone. Invalid when it is empty or in no calendar."""
    try:
        naive = datetime.fromisoformat(typed)
    except ValueError as error:
        raise Invalid("Say when.") from error
    return naive.replace(tzinfo=ZoneInfo(zone or "UTC")).astimezone(UTC)


async def snooze(request: web.Request) -> web.StreamResponse:
    """Put the conversation away for some hours."""
    hours = min(max(int(str((await request.post()).get("hours", "1"))), 1), 24 * 30)
    user, now, wanted = user_of(request), now_of(request), request.match_info["conversation"]
    until = now + timedelta(hours=hours)

    async def unit(tx: Tx) -> None:
        await rights.conversation(tx, user, wanted)
        await replies.snooze(tx, wanted, agent_id=user.id, until=until, now=now)

    await runtime_of(request).db.write(unit)
    return await back_to_work(request)


async def close(request: web.Request) -> web.StreamResponse:
    """Close the conversation; a new message opens a new one."""
    user, now, wanted = user_of(request), now_of(request), request.match_info["conversation"]

    async def unit(tx: Tx) -> None:
        await rights.conversation(tx, user, wanted)
        await replies.close(tx, wanted, agent_id=user.id, now=now)

    await runtime_of(request).db.write(unit)
    return await back_to_work(request)


async def back_to_work(request: web.Request) -> web.Response:
    """The work screen with nothing chosen."""
    async with runtime_of(request).db.reading() as tx:
        listed = await worklist.read(tx, user_of(request).id, now=now_of(request))
    return await render(
        request, "work/page.html", WorkPage(work=listed, pane=None), headers={"HX-Push-Url": "/desk/work"}
    )


async def _person(request: web.Request, *, status: int = 200, **typed: Any) -> web.Response:
    async with runtime_of(request).db.reading() as tx:
        person = await people.pane_of_conversation(tx, await _conversation(request, tx))
    return part(request, "work/person.html", replace(person, **typed), status=status)


async def identify(request: web.Request) -> web.StreamResponse:
    """The agent says which contact this is."""
    contact_id = str((await request.post()).get("contact", ""))
    user, now = user_of(request), now_of(request)

    async def unit(tx: Tx) -> None:
        conversation = await _conversation(request, tx)
        await recognition.settle(tx, conversation, await contacts.get(tx, contact_id), actor=user.id, now=now)

    await runtime_of(request).db.write(unit)
    return await _person(request)


async def new_contact(request: web.Request) -> web.StreamResponse:
    """Make the contact while talking; the conversation's address is theirs."""
    form = {name: str(value).strip() for name, value in (await request.post()).items()}
    user, now = user_of(request), now_of(request)

    async def unit(tx: Tx) -> None:
        if not form.get("name"):
            raise Invalid("Give a name.")
        conversation = await _conversation(request, tx)
        points: list[Address] = []
        if form.get("more"):
            more = find_email(form["more"]) if "@" in form["more"] else find_phone(form["more"])
            points = [more or addresses.phone(form["more"])]
        organisation = form.get("organisation", "")
        organisation_id = (await contacts.get_organisation(tx, organisation, now=now)).id if organisation else None
        contact = await contacts.create(
            tx, name=form["name"], now=now, source="agent", points=points, organisation_id=organisation_id
        )
        await recognition.settle(tx, conversation, contact, actor=user.id, now=now)

    try:
        await runtime_of(request).db.write(unit)
    except Invalid as error:
        return await _person(request, status=422, error=told(request, error), typed=form)
    return await _person(request)


async def who(request: web.Request) -> web.StreamResponse:
    """People by name or number, to pick from."""
    query = request.query.get("q", "")[:100]
    async with runtime_of(request).db.reading() as tx:
        await _conversation(request, tx)
        found = await contacts.search(tx, query, limit=PICKED)
        listed = await people.candidates_of(tx, [contact.id for contact in found])
    return part(request, "work/who.html", Found(request.match_info["conversation"], listed, query))


async def refuse_offer(request: web.Request) -> web.StreamResponse:
    """Not now: somebody else is asked."""
    offer_id, user, now = request.match_info["offer"], user_of(request), now_of(request)
    try:
        await runtime_of(request).refusals.refuse(offer_id, agent_id=user.id, now=now)
    except HubError as error:
        return _toast(request, told(request, error))
    return web.Response(status=204)


def _toast(request: web.Request, text: str) -> web.Response:
    @dataclass(frozen=True, slots=True)
    class Toast:
        text: str

    body = html(request, "parts/toast.html", Toast(text))
    return respond(body, headers={"HX-Retarget": "#toasts", "HX-Reswap": "beforeend"})


THREAD = f"/desk/work/{{conversation:{ID}}}"
routes = [
    Route("POST", f"{THREAD}/draft", keep_draft, roles=STAFF),
    Route("POST", f"{THREAD}/reply", send_reply, roles=WORKERS, body_limit=pictures.FORM_LIMIT),
    Route("POST", f"{THREAD}/note", add_note, roles=STAFF),
    Route("POST", f"{THREAD}/finish", finish, roles=WORKERS),
    Route("POST", f"{THREAD}/snooze", snooze, roles=WORKERS),
    Route("POST", f"{THREAD}/close", close, roles=WORKERS),
    Route("POST", f"{THREAD}/identify", identify, roles=WORKERS),
    Route("POST", f"{THREAD}/new-contact", new_contact, roles=WORKERS),
    Route("GET", f"{THREAD}/who", who, roles=WORKERS),
    Route("POST", f"/desk/offers/{{offer:{ID}}}/refuse", refuse_offer, roles=WORKERS),
]
