"""An agent's work as one list: offers, work in hand, conversations, callbacks. Reads that join the nouns; decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnClause, literal_column
from sqlmodel import col, or_, select

from crm_core import contacts
from crm_core.contacts import Contact
from crm_core.conversations import Conversation, ConversationState
from crm_core.db import Tx
from crm_core.interactions import Interaction
from crm_core.leads import Lead, LeadStage
from crm_core.users import User
from hub.desktop import timeline
from routing import transfers
from routing.callbacks import Callback, CallbackState
from routing.entries import LANES
from routing.offers import LIVE, Offer
from routing.queues import EntryState, Lane, Queue, QueueEntry

OPEN_CALLBACKS = (CallbackState.REQUESTED, CallbackState.DUE, CallbackState.CLAIMED, CallbackState.DIALING)
# A talk is in hand while its work is; a written conversation until it is closed.
WRITTEN = sorted(kind for kind, (lane, _) in LANES.items() if lane == Lane.TEXT)
_CALLBACK_OPEN: ColumnClause[bool] = literal_column("callbacks.state IN ('requested','due','claimed','dialing')")


@dataclass(frozen=True, slots=True)
class OfferCard:
    """What an agent sees before they accept."""

    id: str
    state: str
    live: bool  # a caller is on the line: the browser phone fetches them
    channel: str
    deadline_at: datetime
    name: str
    number: str
    level: str
    certainty: int
    match_reason: str
    queue: str
    why_called: str
    waiting_since: datetime
    last_contact_at: datetime | None
    last_contact: str
    promises: int
    leads: int
    vip: bool
    conversation_id: str
    trace: dict[str, Any]
    menu: str = ""  # what the caller chose in the call flow's menus
    transferred: bool = False  # a colleague gives it away; `why_called` says who, and what they noted


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One line of the work list."""

    conversation_id: str
    channel: str
    name: str
    what: str
    at: datetime
    state: str  # connected, wrapup, open, snoozed
    wrapup_until: datetime | None
    ours: bool  # the last word was ours


@dataclass(frozen=True, slots=True)
class CallbackItem:
    """A promise in the work list."""

    id: str
    name: str
    number: str
    due_at: datetime
    note: str
    contact_id: str | None


@dataclass(frozen=True, slots=True)
class WorkList:
    """Everything in the left column."""

    offers: list[OfferCard]
    items: list[WorkItem]
    snoozed: list[WorkItem]
    callbacks: list[CallbackItem]
    current: str


async def names_of(tx: Tx, ids: Iterable[str | None]) -> dict[str, Contact]:
    """Contacts by id."""
    wanted = sorted({contact_id for contact_id in ids if contact_id})
    return await contacts.list_by_ids(tx, wanted) if wanted else {}


async def open_callbacks(tx: Tx, *, contact_id: str, numbers: Sequence[str]) -> list[Callback]:
    """What we promised this person, by the number it was promised to, or by name; soonest first."""
    mine = [col(Callback.contact_id) == contact_id] if contact_id else []
    if numbers:
        mine.append(col(Callback.number_e164).in_(numbers))
    if not mine:
        return []
    return await tx.all(select(Callback).where(_CALLBACK_OPEN, or_(*mine)).order_by(col(Callback.due_at)).limit(20))


async def list_offers(tx: Tx, user_id: str, *, now: datetime) -> list[OfferCard]:
    """The agent's live offers, oldest first."""
    rows = await tx.all(
        select(Offer, QueueEntry)
        .join(QueueEntry, col(QueueEntry.id) == col(Offer.entry_id))
        .where(Offer.agent_id == user_id, col(Offer.state).in_(LIVE))
        .order_by(col(Offer.id))
        .limit(10)
    )
    return [await _card(tx, offer, entry) for offer, entry in rows]


async def _card(tx: Tx, offer: Offer, entry: QueueEntry) -> OfferCard:
    interaction = await tx.one(select(Interaction).where(Interaction.id == entry.interaction_id))
    queue = await tx.one(select(Queue).where(Queue.id == entry.queue_id))
    contact_id = entry.contact_id or (interaction.contact_id if interaction else None)
    contact = await contacts.find(tx, contact_id) if contact_id else None
    last = None
    open_leads: list[Lead] = []
    if contact is not None:
        last = await tx.one(
            select(Interaction)
            .where(Interaction.contact_id == contact.id, col(Interaction.id) < entry.interaction_id)
            .order_by(col(Interaction.id).desc())
            .limit(1)
        )
        open_leads = await tx.all(
            select(Lead)
            .where(Lead.contact_id == contact.id, col(Lead.stage).not_in([LeadStage.WON, LeadStage.LOST]))
            .limit(20)
        )
    number = (interaction.from_address if interaction else "") or ""
    if interaction is not None and interaction.direction == "outbound":
        number = interaction.to_address
    promised = await open_callbacks(tx, contact_id=contact.id if contact else "", numbers=[number] if number else [])
    match = interaction.match if interaction else {}
    said = (interaction.subject or interaction.body.split("\n", 1)[0]) if interaction else ""
    given = transfers.last_of(interaction) if interaction else None
    menus = await timeline.menus_of(tx, [interaction] if interaction else [])
    if given is not None:
        giver = await tx.one(select(User.name).where(User.id == given["by"])) or ""
        said = f"{giver}: {given['note']}" if given["note"] else giver
    return OfferCard(
        id=offer.id, state=str(offer.state), live=entry.kind == "voice", channel=entry.kind,
        deadline_at=offer.deadline_at, name=contact.name if contact else "", number=number,
        level=str(match.get("level", "unknown")), certainty=int(match.get("certainty", 0)),
        match_reason=str(match.get("reason", "")), queue=queue.name if queue else "", why_called=said[:160],
        waiting_since=entry.first_arrival_at, last_contact_at=last.first_arrival_at if last else None,
        last_contact=last.channel if last else "", promises=len([p for p in promised if p.id != entry.callback_id]),
        leads=len(open_leads), vip=bool(contact and contact.vip), conversation_id=entry.conversation_id,
        trace=offer.trace, transferred=given is not None, menu=menus.get(interaction.id, "") if interaction else "",
    )  # fmt: skip


async def read(tx: Tx, user_id: str, *, now: datetime, current: str = "") -> WorkList:
    """The whole list of one agent."""
    entries = await tx.all(
        select(QueueEntry)
        .where(QueueEntry.agent_id == user_id, col(QueueEntry.state).in_([EntryState.CONNECTED, EntryState.WRAPUP]))
        .order_by(col(QueueEntry.connected_at))
        .limit(100)
    )
    held = {entry.conversation_id: entry for entry in entries}
    talks = await tx.all(
        select(Conversation)
        .where(
            or_(
                (col(Conversation.assigned_user_id) == user_id)
                & (col(Conversation.state) != ConversationState.CLOSED)
                & col(Conversation.channel).in_(WRITTEN),
                col(Conversation.id).in_(sorted(held)),
            )
        )
        .order_by(col(Conversation.last_at).desc())
        .limit(100)
    )
    people = await names_of(tx, [talk.contact_id for talk in talks])
    lasts: dict[str, Interaction] = {}
    for talk in talks[:40]:
        last = await tx.one(
            select(Interaction)
            .where(Interaction.conversation_id == talk.id)
            .order_by(col(Interaction.id).desc())
            .limit(1)
        )
        if last is not None:
            lasts[talk.id] = last
    items = [_item(talk, held.get(talk.id), people, lasts.get(talk.id)) for talk in talks]
    order = {"connected": 0, "wrapup": 0, "open": 1}
    working = sorted((i for i in items if i.state != "snoozed"), key=lambda item: order[item.state])
    promises = await tx.all(
        select(Callback).where(_CALLBACK_OPEN, Callback.owner_id == user_id).order_by(col(Callback.due_at)).limit(20)
    )
    owed = await names_of(tx, [promise.contact_id for promise in promises])
    return WorkList(
        offers=await list_offers(tx, user_id, now=now),
        items=working,
        snoozed=[item for item in items if item.state == "snoozed"],
        callbacks=[
            CallbackItem(
                id=promise.id,
                name=owed[promise.contact_id].name if promise.contact_id in owed else "",
                number=promise.number_e164,
                due_at=promise.due_at,
                note=promise.note,
                contact_id=promise.contact_id,
            )
            for promise in promises
        ],
        current=current,
    )


def _item(
    talk: Conversation, entry: QueueEntry | None, people: dict[str, Contact], last: Interaction | None
) -> WorkItem:
    person = people.get(talk.contact_id or "")
    what = talk.subject
    if last is not None and not what:
        what = last.body.replace("\n", " ")[:120]
    state = str(entry.state) if entry else str(talk.state)
    return WorkItem(
        conversation_id=talk.id, channel=entry.kind if entry else talk.channel,
        name=person.name if person else talk.peer, what=what,
        at=entry.first_arrival_at if entry and not last else (last.created_at if last else talk.last_at),
        state=state, wrapup_until=entry.wrapup_until if entry else None,
        ours=bool(last and last.direction == "outbound"),
    )  # fmt: skip
