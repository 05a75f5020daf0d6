"""The person pane: who this is, how we know, what is open, what was before. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlmodel import col, select

from crm_core import consent, contacts, interactions, leads
from crm_core.addresses import Address, PointKind
from crm_core.contacts import Contact, ContactLink, ContactPoint, Organisation
from crm_core.conversations import Conversation
from crm_core.db import Tx
from crm_core.interactions import Note
from crm_core.leads import Lead
from hub.desktop.timeline import users_of
from hub.desktop.worklist import open_callbacks
from routing import replies
from routing.callbacks import Callback


@dataclass(frozen=True, slots=True)
class PointLine:
    """One address and what we may do with it."""

    kind: str
    value: str
    label: str
    verified: bool
    stops: list[str]  # reasons of active suppressions
    grants: list[tuple[str, str]]  # purpose and channel with a consent that nothing stops, "*" for all


@dataclass(frozen=True, slots=True)
class HistoryLine:
    """One earlier touch."""

    id: str
    conversation_id: str
    channel: str
    outbound: bool
    what: str
    when: datetime
    outcome: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """Somebody whom this address may belong to."""

    id: str
    name: str
    organisation: str
    points: list[str]


@dataclass(frozen=True, slots=True)
class PersonPane:
    """The right column of the work screen, and the top of a contact's own page."""

    contact: Contact | None
    organisation: str
    owner: str
    points: list[PointLine]
    callbacks: list[Callback]
    leads: list[Lead]
    history: list[HistoryLine]
    notes: list[Note]
    candidates: list[Candidate]
    level: str
    certainty: int
    reason: str
    conversation_id: str
    peer: str
    error: str = ""
    typed: Mapping[str, str] = field(default_factory=dict)  # a new contact; to begin with, the name their mail gives


async def point_lines(tx: Tx, rows: Sequence[tuple[ContactPoint, ContactLink]]) -> list[PointLine]:
    """Addresses with their stops and their consent."""
    lines = []
    for point, link in rows[:20]:
        stops, ledger = await consent.list_for(tx, Address(point.kind, point.value, point.value))
        latest: dict[tuple[str, str], str] = {}
        for entry in ledger:
            latest.setdefault((entry.purpose, entry.channel), str(entry.action))
        lines.append(
            PointLine(
                kind=str(point.kind), value=point.value, label=link.label, verified=link.verified_at is not None,
                stops=sorted({str(stop.reason) for stop in stops}),
                grants=sorted(
                    (purpose, channel)
                    for (purpose, channel), word in latest.items()
                    if word == "granted" and not consent.is_stopped(stops, channel=channel, purpose=purpose)
                ),
            )
        )  # fmt: skip
    return lines


async def history_of(tx: Tx, contact_id: str, *, limit: int = 15, before: str = "") -> list[HistoryLine]:
    """All channels, newest first."""
    rows = await interactions.list_timeline(tx, contact_id=contact_id, limit=limit, before=before)
    return [
        HistoryLine(
            id=row.id, conversation_id=row.conversation_id, channel=row.channel, outbound=row.direction == "outbound",
            what=(row.subject or row.body or row.notes).replace("\n", " ")[:90], when=row.first_arrival_at,
            outcome=row.outcome,
        )
        for row in rows
    ]  # fmt: skip


async def candidates_of(tx: Tx, ids: Sequence[str]) -> list[Candidate]:
    """Those who may be speaking, in the order that matching gave."""
    known = await contacts.list_by_ids(tx, list(ids)) if ids else {}
    found = []
    for contact_id in ids:
        person = known.get(contact_id)
        if person is not None:
            points = await contacts.list_points(tx, person.id)
            name = await organisation_name(tx, person)
            found.append(Candidate(person.id, person.name, name, [point.value for point, _ in points][:3]))
    return found


async def organisation_name(tx: Tx, contact: Contact) -> str:
    """The firm's name, or nothing."""
    if not contact.organisation_id:
        return ""
    return await tx.one(select(Organisation.name).where(Organisation.id == contact.organisation_id)) or ""


async def pane_of_contact(tx: Tx, contact: Contact) -> PersonPane:
    """The pane of somebody known."""
    points = await contacts.list_points(tx, contact.id)
    numbers = [point.value for point, _ in points if point.kind == PointKind.PHONE]
    owner = (await users_of(tx, [contact.owner_id])).get(contact.owner_id or "", "")
    notes = await tx.all(select(Note).where(Note.contact_id == contact.id).order_by(col(Note.id).desc()).limit(10))
    return PersonPane(
        contact=contact, organisation=await organisation_name(tx, contact), owner=owner,
        points=await point_lines(tx, points), callbacks=await open_callbacks(tx, contact_id=contact.id, numbers=numbers),
        leads=await leads.list_for(tx, contact.id), history=await history_of(tx, contact.id), notes=notes,
        candidates=[], level="", certainty=0, reason="", conversation_id="", peer="",
    )  # fmt: skip


async def pane_of_conversation(tx: Tx, conversation: Conversation) -> PersonPane:
    """Who is at the other end of this conversation: known, one of several, or nobody yet."""
    from dataclasses import replace

    latest = next(
        (row for row in await interactions.list_timeline(tx, conversation_id=conversation.id, limit=10) if row.match),
        None,
    )
    match = latest.match if latest else {}
    told = {
        "level": str(match.get("level", "")), "certainty": int(match.get("certainty", 0)),
        "reason": str(match.get("reason", "")), "conversation_id": conversation.id, "peer": conversation.peer,
    }  # fmt: skip
    contact = await contacts.find(tx, conversation.contact_id) if conversation.contact_id else None
    if contact is not None:
        return replace(await pane_of_contact(tx, contact), **told)  # type: ignore[arg-type]
    numbers = [conversation.peer] if conversation.peer.startswith("+") else []
    written = await replies.latest_written(tx, conversation.id)
    named = str(written.data.get("from_name") or "") if written is not None else ""
    return PersonPane(
        contact=None, organisation="", owner="", points=[],
        callbacks=await open_callbacks(tx, contact_id="", numbers=numbers), leads=[], history=[], notes=[],
        candidates=await candidates_of(tx, match.get("candidates", [])), typed={"name": "" if "@" in named else named}, **told,  # type: ignore[arg-type]
    )  # fmt: skip
