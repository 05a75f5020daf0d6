"""Answering by mail: the draft with copies and files, answering all, sending, and sending a mail on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import web
from aiohttp.web_request import FileField
from sqlmodel import select

from crm_core import accounts, addresses, drafts
from crm_core.conversations import Conversation
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid, NotFound, Refused
from crm_core.interactions import Attachment, Interaction
from hub import rights
from hub.desktop import sent_once, work
from hub.desktop.mail_parts import DraftFiles
from hub.desktop.templating import part, reader_of, respond, told
from hub.desktop.work import ID, WORKERS
from hub.desktop.work_actions import back_to_work, refusal
from hub.web import STAFF, Route, now_of, runtime_of, user_of
from routing import gate, mails, replies
from routing.mails import StoredFile

FOLDER = "drafts"
UPLOAD_LIMIT = drafts.MOST_BYTES + 1024 * 1024


@dataclass(frozen=True, slots=True)
class Typed:
    """What stands in the box."""

    body: str
    subject: str
    cc: str
    bcc: str
    sender: str


async def _typed(request: web.Request) -> Typed:
    form = await request.post()
    return Typed(*(str(form.get(name, "")) for name in ("body", "subject", "cc", "bcc", "sender")))


async def _conversation(request: web.Request, tx: Tx) -> Conversation:
    found = await rights.conversation(tx, user_of(request), request.match_info["conversation"])
    if found.channel != mails.MAIL:
        raise NotFound("There is no such conversation.")
    return found


async def _keep(request: web.Request, tx: Tx, typed: Typed) -> None:
    conversation = await _conversation(request, tx)
    await drafts.keep(
        tx, user_id=user_of(request).id, conversation_id=conversation.id, subject=typed.subject, body=typed.body,
        cc=typed.cc, bcc=typed.bcc, now=now_of(request),
    )  # fmt: skip


async def _composer(
    request: web.Request, *, error: str = "", event: str = "", status: int = 200, sender: str = ""
) -> web.Response:
    async with runtime_of(request).db.reading() as tx:
        conversation = await _conversation(request, tx)
        composer = await work.composer_of(tx, conversation, user_of(request).id, error=error, sender=sender)
    headers = {"HX-Trigger": event} if event else None
    return part(request, "work/composer.html", composer, status=status, headers=headers)


async def keep_draft(request: web.Request) -> web.StreamResponse:
    """Keep what is typed, copies included."""
    typed = await _typed(request)
    await runtime_of(request).db.write(lambda tx: _keep(request, tx, typed))
    return respond(reader_of(request).gettext("Draft kept") if typed.body or typed.cc or typed.bcc else "")


async def answer_all(request: web.Request) -> web.StreamResponse:
    """Put everybody else who got their mail into the copies; what is typed stays."""
    typed = await _typed(request)
    user = user_of(request)

    async def unit(tx: Tx) -> None:
        conversation = await _conversation(request, tx)
        account = await accounts.get(tx, conversation.account_id)
        latest = await replies.latest_written(tx, conversation.id)
        others = replies.others_in(account, latest, await replies.answer_to(tx, conversation))
        named = [one.strip() for one in typed.cc.split(",") if one.strip()]
        copies = ", ".join(dict.fromkeys([*named, *others]))
        await drafts.keep(
            tx, user_id=user.id, conversation_id=conversation.id, subject=typed.subject, body=typed.body, cc=copies,
            bcc=typed.bcc, now=now_of(request),
        )  # fmt: skip

    await runtime_of(request).db.write(unit)
    return await _composer(request, sender=typed.sender)


async def send(request: web.Request) -> web.StreamResponse:
    """Send the answer with its copies and files. What stands in the way is said beside the field, and nothing typed is lost."""
    typed = await _typed(request)
    user, now, db, reader = user_of(request), now_of(request), runtime_of(request).db, reader_of(request)
    wanted = request.match_info["conversation"]

    async def unit(tx: Tx) -> str:
        await _conversation(request, tx)
        files = await drafts.list_files(tx, user_id=user.id, conversation_id=wanted)
        sent = await replies.reply(
            tx, wanted, agent_id=user.id, body=typed.body.strip(), subject=typed.subject.strip(), now=now,
            cc=mails.copies_in(typed.cc), bcc=mails.copies_in(typed.bcc), sender=typed.sender,
            files=[StoredFile(one.name, one.content_type, one.size, one.file_key) for one in files],
        )  # fmt: skip
        await drafts.drop(tx, user_id=user.id, conversation_id=wanted)
        return sent.id

    try:
        await db.write(lambda tx: sent_once.carry_out(request, tx, unit))
    except Refused as error:
        refused = error
        await db.write(lambda tx: _keep(request, tx, typed))
        await db.write(lambda tx: gate.record_refusal(tx, refused, now=now))
        who = str(error.data.get("value", ""))
        said = refusal(reader, error)
        return await _composer(request, error=f"{who}: {said}" if who else said, status=422, sender=typed.sender)
    except (Invalid, Conflict) as error:
        await db.write(lambda tx: _keep(request, tx, typed))
        return await _composer(request, error=told(request, error), status=422, sender=typed.sender)
    return await _composer(request, event="said")


# --- files -----------------------------------------------------------------------------------------------------------


async def _files(request: web.Request, *, error: str = "", status: int = 200) -> web.Response:
    async with runtime_of(request).db.reading() as tx:
        conversation = await _conversation(request, tx)
        files = await drafts.list_files(tx, user_id=user_of(request).id, conversation_id=conversation.id)
    shown = DraftFiles(conversation.id, files, drafts.MOST_BYTES // 2**20, error)
    return part(request, "work/draft_files.html", shown, status=status)


async def add_files(request: web.Request) -> web.StreamResponse:
    """Put files to the answer: each is in the store before its row. Those that fit stay, the first that does not is named."""
    async with runtime_of(request).db.reading() as tx:
        conversation = await _conversation(request, tx)
    for given in (await request.post()).getall("file", []):
        if not isinstance(given, FileField) or not given.filename:
            continue
        content = await asyncio.to_thread(given.file.read)
        try:
            await _put(request, conversation.id, given.filename, content)
        except Invalid as error:
            return await _files(
                request, error=f"{drafts.safe_name(given.filename)}: {told(request, error)}", status=422
            )
    return await _files(request)


async def _put(request: web.Request, conversation_id: str, name: str, content: bytes) -> None:
    runtime, mine = runtime_of(request), {"user_id": user_of(request).id, "conversation_id": conversation_id}
    now = now_of(request)
    async with runtime.db.reading() as tx:
        known = await drafts.list_files(tx, **mine)
    drafts.check_size(len(content), beside=sum(one.size for one in known), count=len(known))
    key = await runtime.files.put(content, folder=FOLDER, now=now)
    await runtime.db.write(lambda tx: drafts.add_file(tx, name=name, size=len(content), file_key=key, now=now, **mine))


async def remove_file(request: web.Request) -> web.StreamResponse:
    """Take a file away again."""
    runtime, user = runtime_of(request), user_of(request)

    async def unit(tx: Tx) -> str:
        conversation = await _conversation(request, tx)
        return await drafts.remove_file(
            tx, request.match_info["file"], user_id=user.id, conversation_id=conversation.id
        )

    await runtime.files.delete(await runtime.db.write(unit))
    return await _files(request)


# --- sending on ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Forwarding:
    """A mail to be sent on."""

    conversation_id: str
    mail_id: str
    subject: str
    files: list[str]
    to: str
    body: str
    error: str


async def _forwarding(
    request: web.Request, mail_id: str, *, to: str = "", body: str = "", error: str = ""
) -> web.Response:
    async with runtime_of(request).db.reading() as tx:
        original = await _original(request, tx, mail_id)
        names = await tx.all(select(Attachment.name).where(Attachment.interaction_id == original.id).limit(50))
    shown = Forwarding(original.conversation_id, original.id, original.subject, list(names), to, body, error)
    return part(request, "work/composer_forward.html", shown, status=422 if error else 200)


async def _original(request: web.Request, tx: Tx, mail_id: str) -> Interaction:
    conversation = await _conversation(request, tx)
    original = await rights.interaction(tx, user_of(request), mail_id)
    if original.conversation_id != conversation.id:
        raise NotFound("There is no such mail.")
    return original


async def ask_forward(request: web.Request) -> web.StreamResponse:
    """The form for sending a mail on, in place of the answer; what was typed there is kept."""
    return await _forwarding(request, request.query.get("mail", ""))


async def box(request: web.Request) -> web.StreamResponse:
    """The box for the answer, with what was typed."""
    return await _composer(request)


async def forward(request: web.Request) -> web.StreamResponse:
    """Send one of the conversation's mails on to somebody else."""
    form = {name: str(value) for name, value in (await request.post()).items()}
    to, body, mail_id = form.get("to", "").strip(), form.get("body", "").strip(), form.get("mail", "")
    user, now, reader = user_of(request), now_of(request), reader_of(request)
    db = runtime_of(request).db

    async def unit(tx: Tx) -> str:
        original = await _original(request, tx, mail_id)
        sent = await replies.forward(tx, original.id, agent_id=user.id, to=addresses.email(to), body=body, now=now)
        return sent.id

    try:
        await db.write(lambda tx: sent_once.carry_out(request, tx, unit))
    except Refused as error:
        refused = error
        await db.write(lambda tx: gate.record_refusal(tx, refused, now=now))
        return await _forwarding(request, mail_id, to=to, body=body, error=refusal(reader, error))
    except (Invalid, Conflict) as error:
        return await _forwarding(request, mail_id, to=to, body=body, error=told(request, error))
    return await _composer(request, event="said")


async def spam(request: web.Request) -> web.StreamResponse:
    """Nobody wants this: close it as spam and block who sent it; administrators can undo the block."""
    user, now, wanted = user_of(request), now_of(request), request.match_info["conversation"]

    async def unit(tx: Tx) -> None:
        await _conversation(request, tx)
        await replies.spam(tx, wanted, agent_id=user.id, block=True, now=now)

    await runtime_of(request).db.write(unit)
    return await back_to_work(request)


THREAD = f"/desk/work/{{conversation:{ID}}}/mail"
routes = [
    Route("POST", THREAD, send, roles=WORKERS),
    Route("POST", f"{THREAD}/draft", keep_draft, roles=STAFF),
    Route("POST", f"{THREAD}/all", answer_all, roles=WORKERS),
    Route("POST", f"{THREAD}/files", add_files, roles=WORKERS, body_limit=UPLOAD_LIMIT),
    Route("POST", f"{THREAD}/files/{{file:{ID}}}/remove", remove_file, roles=WORKERS),
    Route("GET", f"{THREAD}/forward", ask_forward, roles=WORKERS),
    Route("POST", f"{THREAD}/spam", spam, roles=WORKERS),
    Route("GET", f"{THREAD}/box", box, roles=WORKERS),
    Route("POST", f"{THREAD}/forward", forward, roles=WORKERS),
]
