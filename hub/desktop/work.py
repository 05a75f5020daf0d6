"""Work: the agent's screen. The list at the left, one conversation in the middle, the person at the right."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from aiohttp import web
from sqlmodel import col, or_, select

from crm_core import accounts, drafts, interactions
from crm_core.conversations import Conversation
from crm_core.db import Tx
from crm_core.errors import NotFound
from crm_core.interactions import Disposition, Interaction
from crm_core.touches import Direction
from crm_core.users import Role
from hub import rights
from hub.desktop import mail_parts, people, timeline, worklist
from hub.desktop.mail_parts import MailParts
from hub.desktop.people import PersonPane
from hub.desktop.render import render
from hub.desktop.templating import part
from hub.desktop.timeline import TimelineItem
from hub.desktop.worklist import OfferCard, WorkList
from hub.web import STAFF, Route, now_of, roles_of, runtime_of, user_of
from routing import answered_by
from routing.entries import DEFAULT_DISPOSITION
from routing.queues import EntryState, Lane, Queue, QueueEntry

WORKERS = frozenset({Role.AGENT, Role.TELEMARKETER, Role.SUPERVISOR})
ID = "[0-9a-z]{26}"


@dataclass(frozen=True, slots=True)
class Choice:
    """A disposition with the two letters that pick it."""

    key: str
    label: str
    code: str
    flags: dict[str, object]


@dataclass(frozen=True, slots=True)
class WrapUp:
    """The wrap-up panel; `entry` None = nothing to finish."""

    entry: QueueEntry | None
    choices: list[Choice]
    number: str
    error: str
    disposition: str
    said: str  # by those who had it before, and by the user before
    notes: str
    next_step: str
    due: str
    conversation_id: str
    open: bool


@dataclass(frozen=True, slots=True)
class Composer:
    """The box at the foot of the pane."""

    conversation: Conversation
    kind: str  # sms, email, or note for channels that are not written
    subject: str
    body: str
    error: str
    quoted: str
    counter: str
    note_open: bool
    mail: MailParts | None  # what only a mail has


@dataclass(frozen=True, slots=True)
class Pane:
    """One conversation."""

    conversation: Conversation
    title: str
    channel: str
    account: str
    queue: str
    mine: bool
    call_id: str  # the live call's interaction, when it is here
    waiting_since: datetime | None
    items: list[TimelineItem]
    start: str  # as timeline.Shown has them
    earlier: bool
    composer: Composer
    wrapup: WrapUp
    person: PersonPane


@dataclass(frozen=True, slots=True)
class WorkPage:
    """The whole screen; `pane` None when nothing is chosen."""

    work: WorkList
    pane: Pane | None


@dataclass(frozen=True, slots=True)
class TimelinePart:
    """The timeline alone."""

    items: list[TimelineItem]
    start: str
    earlier: bool
    conversation_id: str


@dataclass(frozen=True, slots=True)
class OffersPart:
    """Offers outside the work screen."""

    offers: list[OfferCard]


def coded(rows: list[Disposition]) -> list[Choice]:
    """Two letters for each disposition, unique: the first letters of its words, else the first two letters that are free."""
    taken: set[str] = set()
    found = []
    for row in rows:
        letters = "".join(c for c in row.label.lower() if c.isalpha()) or row.key
        words = [word for word in row.label.lower().split() if word[0].isalpha()]
        wishes = ["".join(word[0] for word in words[:2])] if len(words) > 1 else []
        wishes += [
            letters[:2],
            *(letters[0] + other for other in letters[1:]),
            *(f"{letters[0]}{n}" for n in range(10)),
        ]
        code = next((wish for wish in wishes if len(wish) == 2 and wish not in taken), letters[:2])
        taken.add(code)
        found.append(Choice(row.key, row.label, code, row.flags))
    return found


async def dispositions(tx: Tx, *scopes: str) -> list[Choice]:
    """What may be chosen, in the order that the administrator gave."""
    rows = await tx.all(
        select(Disposition)
        .where(col(Disposition.retired).is_(False), col(Disposition.scope).in_(["", *scopes]))
        .order_by(col(Disposition.position), col(Disposition.key))
        .limit(100)
    )
    return coded(rows)


def of_conversation(conversation_id: str, user_id: str) -> Any:
    """Work of this conversation, or work begun elsewhere (a web form, a promise) for which the user called from here."""
    calls = select(Interaction.entry_id).where(
        Interaction.conversation_id == conversation_id, Interaction.agent_id == user_id,
        Interaction.direction == Direction.OUTBOUND, col(Interaction.entry_id).is_not(None),
    )  # fmt: skip
    return or_(col(QueueEntry.conversation_id) == conversation_id, col(QueueEntry.id).in_(calls))


async def held_entry(tx: Tx, conversation_id: str, user_id: str) -> QueueEntry | None:
    """The user's own unfinished work in this conversation."""
    found: QueueEntry | None = await tx.one(
        select(QueueEntry)
        .where(
            of_conversation(conversation_id, user_id),
            QueueEntry.agent_id == user_id,
            col(QueueEntry.state).in_([EntryState.CONNECTED, EntryState.WRAPUP]),
        )
        .order_by(col(QueueEntry.id).desc())
        .limit(1)
    )
    return found


LATE = timedelta(minutes=10)


async def late_entry(tx: Tx, conversation_id: str, user_id: str, *, now: datetime) -> QueueEntry | None:
    """Work of the user whose wrap-up ran out a moment ago without an outcome: what they still type is not lost."""
    found: QueueEntry | None = await tx.one(
        select(QueueEntry)
        .where(
            of_conversation(conversation_id, user_id),
            QueueEntry.agent_id == user_id,
            QueueEntry.state == EntryState.DONE,
            QueueEntry.lane == Lane.LIVE,
            col(QueueEntry.left_at) > now - LATE,
        )
        .order_by(col(QueueEntry.id).desc())
        .limit(1)
    )
    if found is None:
        return None
    first = await interactions.get(tx, found.interaction_id)
    return found if first.disposition in ("", DEFAULT_DISPOSITION) and first.agent_id == user_id else None


async def wrapup_of(
    tx: Tx,
    conversation: Conversation,
    user_id: str,
    *,
    now: datetime,
    opened: bool = False,
    shown: str = "",
    error: str = "",
    **typed: str,
) -> WrapUp:
    """The wrap-up panel of a conversation; `shown`: the work whose panel the page shows already, which stays open."""
    entry = await held_entry(tx, conversation.id, user_id)
    if entry is None:
        entry = await late_entry(tx, conversation.id, user_id, now=now)
    said, chosen = "", typed.get("disposition", "")
    choices = await dispositions(tx, "queue") if entry else []
    if entry is not None:
        first = await interactions.get(tx, entry.interaction_id)
        said = first.notes
        if not chosen and answered_by.by_machine(first):
            chosen = next((choice.key for choice in choices if answered_by.likely(choice.flags)), "")
    number = conversation.peer if conversation.peer.startswith("+") else ""
    return WrapUp(
        entry=entry, choices=choices, number=number, error=error, disposition=chosen, said=said,
        notes=typed.get("notes", ""), next_step=typed.get("next_step", ""),
        due=typed.get("due", ""), conversation_id=conversation.id,
        open=opened or bool(error)
        or bool(entry and (entry.id == shown or entry.state in (EntryState.WRAPUP, EntryState.DONE))),
    )  # fmt: skip


async def composer_of(
    tx: Tx, conversation: Conversation, user_id: str, *, error: str = "", sender: str = ""
) -> Composer:
    """The reply box with what was typed before; `sender`: the mailbox's address that was chosen."""
    draft = await drafts.find(tx, user_id=user_id, conversation_id=conversation.id)
    kind = conversation.channel if conversation.channel in ("sms", "email") else "note"
    quoted = ""
    subject = draft.subject if draft else ""
    mail: MailParts | None = None
    if kind == "email":
        mail, quoted = await mail_parts.read(tx, conversation, user_id, draft, sender=sender)
        bare = conversation.subject
        subject = subject or (bare if bare.lower().startswith("re:") else f"Re: {bare}" if bare else "")
    return Composer(
        conversation=conversation, kind=kind, subject=subject, body=draft.body if draft else "", error=error,
        quoted=quoted, counter="", note_open=kind == "note", mail=mail,
    )  # fmt: skip


async def _call_of(tx: Tx, entry: QueueEntry) -> str:
    """The call that the agent is in for this work; empty while a promised one is still to be dialled."""
    if entry.lane != Lane.LIVE or entry.state != EntryState.CONNECTED:
        return ""
    if entry.kind in ("voice", "outbound"):
        return entry.interaction_id
    calls = await interactions.list_entry(tx, entry.id)
    return next((c.id for c in calls if c.direction == "outbound" and "room" in c.data and c.state != "ended"), "")


async def pane_of(tx: Tx, conversation: Conversation, user_id: str, *, now: datetime) -> Pane:
    """Everything about one conversation."""
    account = await accounts.get(tx, conversation.account_id)
    person = await people.pane_of_conversation(tx, conversation)
    wrapup = await wrapup_of(tx, conversation, user_id, now=now)
    entry = wrapup.entry
    shown = await timeline.read(tx, conversation)
    queue = ""
    if conversation.queue_id:
        queue = await tx.one(select(Queue.name).where(Queue.id == conversation.queue_id)) or ""
    return Pane(
        conversation=conversation, title=person.contact.name if person.contact else "", channel=conversation.channel,
        account=account.name or account.address, queue=queue,
        mine=entry is not None or conversation.assigned_user_id == user_id,
        call_id=await _call_of(tx, entry) if entry is not None else "",
        waiting_since=entry.first_arrival_at if entry else None,
        items=shown.items, start=shown.start, earlier=shown.earlier, composer=await composer_of(tx, conversation, user_id),
        wrapup=wrapup, person=person,
    )  # fmt: skip


async def home(request: web.Request) -> web.StreamResponse:
    """GET /desk: each role's own first screen."""
    mine = roles_of(user_of(request))
    order = [
        (Role.AGENT, "/desk/work"), (Role.TELEMARKETER, "/desk/lists"), (Role.SUPERVISOR, "/desk/wallboard"),
        (Role.MARKETER, "/desk/campaigns"), (Role.ADMIN, "/desk/admin"),
    ]  # fmt: skip
    raise web.HTTPSeeOther(next((path for role, path in order if role in mine), "/desk/profile"))


async def show_work(request: web.Request) -> web.StreamResponse:
    """The screen, with a conversation or without."""
    user, now = user_of(request), now_of(request)
    wanted = request.match_info.get("conversation", "")
    async with runtime_of(request).db.reading() as tx:
        work = await worklist.read(tx, user.id, now=now, current=wanted)
        pane = None
        if wanted:
            pane = await pane_of(tx, await rights.conversation(tx, user, wanted), user.id, now=now)
    return await render(request, "work/page.html", WorkPage(work=work, pane=pane))


async def show_list(request: web.Request) -> web.StreamResponse:
    """The left column."""
    async with runtime_of(request).db.reading() as tx:
        work = await worklist.read(
            tx, user_of(request).id, now=now_of(request), current=request.query.get("current", "")
        )
    return part(request, "work/list.html", work)


async def show_offers(request: web.Request) -> web.StreamResponse:
    """Live offers, for every page that is not Work."""
    async with runtime_of(request).db.reading() as tx:
        offers = await worklist.list_offers(tx, user_of(request).id, now=now_of(request))
    return part(request, "work/offers.html", OffersPart(offers))


async def show_timeline(request: web.Request) -> web.StreamResponse:
    """The timeline anew, from where its reader had gone back to; `more`: and the part before it."""
    async with runtime_of(request).db.reading() as tx:
        conversation = await rights.conversation(tx, user_of(request), request.match_info["conversation"])
        start, more = request.query.get("start", ""), "more" in request.query
        shown = await timeline.read(tx, conversation, start=start[:26], more=more)
    return part(request, "work/timeline.html", TimelinePart(shown.items, shown.start, shown.earlier, conversation.id))


async def show_person(request: web.Request) -> web.StreamResponse:
    """The right column."""
    async with runtime_of(request).db.reading() as tx:
        conversation = await rights.conversation(tx, user_of(request), request.match_info["conversation"])
        person = await people.pane_of_conversation(tx, conversation)
    return part(request, "work/person.html", person)


async def show_wrapup(request: web.Request) -> web.StreamResponse:
    """The wrap-up panel; empty when there is nothing to finish."""
    async with runtime_of(request).db.reading() as tx:
        conversation = await rights.conversation(tx, user_of(request), request.match_info["conversation"])
        wrapup = await wrapup_of(
            tx, conversation, user_of(request).id, now=now_of(request), opened="open" in request.query,
            shown=request.query.get("entry", ""),
        )  # fmt: skip
    return part(request, "work/wrapup.html", wrapup)


async def show_call(request: web.Request) -> web.StreamResponse:
    """From a call to its conversation: the one named, or the one that this agent is in."""
    user = user_of(request)
    async with runtime_of(request).db.reading() as tx:
        wanted = request.match_info.get("interaction", "")
        if wanted:
            conversation_id = (await rights.interaction(tx, user, wanted)).conversation_id
        else:
            found = await tx.one(
                select(QueueEntry)
                .where(QueueEntry.agent_id == user.id, col(QueueEntry.state) == EntryState.CONNECTED)
                .order_by(col(QueueEntry.lane), col(QueueEntry.id).desc())
                .limit(1)
            )
            if found is None:
                raise NotFound("There is no call now.")
            conversation_id = found.conversation_id
    raise web.HTTPSeeOther(f"/desk/work/{conversation_id}")


routes = [
    Route("GET", "/desk", home, roles=STAFF),
    Route("GET", "/desk/work", show_work, roles=WORKERS),
    Route("GET", "/desk/work/list", show_list, roles=WORKERS),
    Route("GET", "/desk/work/call", show_call, roles=WORKERS),
    Route("GET", f"/desk/work/call/{{interaction:{ID}}}", show_call, roles=WORKERS),
    Route("GET", "/desk/frame/offers", show_offers, roles=WORKERS),
    Route("GET", f"/desk/work/{{conversation:{ID}}}", show_work, roles=STAFF),
    Route("GET", f"/desk/work/{{conversation:{ID}}}/timeline", show_timeline, roles=STAFF),
    Route("GET", f"/desk/work/{{conversation:{ID}}}/person", show_person, roles=STAFF),
    Route("GET", f"/desk/work/{{conversation:{ID}}}/wrapup", show_wrapup, roles=WORKERS),
]
