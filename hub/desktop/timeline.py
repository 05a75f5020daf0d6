"""One conversation as its reader sees it: what was said, calls, forms, notes and what the hub did, in order. Reads only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlmodel import col, select

from channels.twilio_codes import explained
from crm_core import interactions
from crm_core.calls import CallRecord
from crm_core.conversations import Conversation
from crm_core.db import Tx
from crm_core.interactions import Attachment, Disposition, Interaction, Note
from crm_core.recordings import Recording
from crm_core.users import User
from routing import answered_by, mails, sound_quality
from routing.offers import Offer, OfferState
from routing.queues import Queue, QueueEntry
from routing.sound_quality import Quality

SHOWN = 60  # touches in one part
MOST = 1200  # touches that a reader who keeps going back gets at once
NOTED = 200  # notes and offers of a conversation that is shown whole

_CODE = re.compile(r"(?:[A-Z][A-Za-z]+ )?([1-9][0-9]{4})(?::|$)")


@dataclass(frozen=True, slots=True)
class File:
    """An attachment."""

    id: str
    name: str
    content_type: str
    size: int


@dataclass(frozen=True, slots=True)
class HandOver:
    """A call given away: by whom, to whom, what they noted for them, and what they chose in their own wrap-up."""

    who: str
    whom: str
    note: str
    disposition: str


@dataclass(frozen=True, slots=True)
class TimelineItem:
    """One entry: `kind` is text, mail, call, form, note or system."""

    kind: str
    id: str
    when: datetime
    mine: bool = False
    who: str = ""
    subject: str = ""
    body: str = ""
    html: bool = False
    delivery: str = ""
    delivery_error: str = ""
    outcome: str = ""
    state: str = ""
    disposition: str = ""
    notes: str = ""
    record: CallRecord | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[File] = ()
    awaited: Sequence[str] = ()  # files of a text that are still at the provider: awaited, failed, or empty
    why: Mapping[str, Any] = field(default_factory=dict)
    people: Sequence[tuple[str, str]] = ()  # a mail's heads: (from, to, cc or bcc; addresses)
    quoted: str = ""  # what follows the new part of a mail: folded
    robot: str = ""  # why nobody needs to answer it: bounce, auto-submitted …
    recordings: Sequence[Recording] = ()  # of a call, or the message that was left
    quality: Quality | None = None  # how a call sounded at the agent's end
    answered_by: str = ""  # a call of ours: machine, fax; empty for people and when nobody listened
    voicemail: bool = False  # a message that was left
    given: Sequence[HandOver] = ()
    menu: str = ""  # what the caller chose in the call flow's menus


KINDS = {"voice": "call", "email": "mail", "webform": "form"}


async def users_of(tx: Tx, ids: Sequence[str | None]) -> dict[str, str]:
    """User id → name."""
    wanted = sorted({user_id for user_id in ids if user_id})
    if not wanted:
        return {}
    return dict(await tx.all(select(User.id, User.name).where(col(User.id).in_(wanted))))


async def menus_of(tx: Tx, touches: Sequence[Interaction]) -> dict[str, str]:
    """Call → what its caller chose in menus, one level after the other: the key, and the option's words or its queue's name."""
    chosen = {touch.id: touch.data["menu"] for touch in touches if touch.data.get("menu")}
    wanted = {one.get("queue", "") for choices in chosen.values() for one in choices if not one["words"]} - {""}
    names: dict[str, str] = {}
    if wanted:
        names = dict(await tx.all(select(Queue.id, Queue.name).where(col(Queue.id).in_(sorted(wanted)))))
    return {
        call: " › ".join(
            f"{one['key']} {one['words'] or names.get(one.get('queue', ''), '')}".strip() for one in choices
        )
        for call, choices in chosen.items()
    }


async def disposition_labels(tx: Tx) -> dict[str, str]:
    """Disposition key → label."""
    return dict(await tx.all(select(Disposition.key, Disposition.label).limit(300)))


@dataclass(frozen=True, slots=True)
class Shown:
    """A part of a conversation, oldest first, and where it begins: `start` is empty for all of one that fits the first part."""

    items: list[TimelineItem]
    start: str
    earlier: bool  # there is something before it


async def read(tx: Tx, conversation: Conversation, *, start: str = "", more: bool = False) -> Shown:
    """The latest part of a conversation. `start` as given before: everything from there on; `more`: and a part before it.

    So a reader who went back to earlier parts keeps them when something new arrives. At most MOST touches.
    """
    touches = await _touches(tx, conversation.id, start, more=more)
    earlier = bool(touches) and bool(
        await interactions.list_timeline(tx, conversation_id=conversation.id, before=touches[0].id, limit=1)
    )
    since = touches[0].first_arrival_at if earlier else None
    ids = [touch.id for touch in touches]
    records: dict[str, CallRecord] = {}
    files: dict[str, list[File]] = {}
    sounds: dict[str, list[Recording]] = {}
    for some in batched(ids):
        heard = select(Recording).where(col(Recording.interaction_id).in_(some)).order_by(col(Recording.id))
        for sound in await tx.all(heard):
            sounds.setdefault(sound.interaction_id, []).append(sound)
        for record in await tx.all(select(CallRecord).where(col(CallRecord.interaction_id).in_(some))):
            records[record.interaction_id] = record
        rows = select(Attachment).where(col(Attachment.interaction_id).in_(some)).order_by(Attachment.id)
        for row in await tx.all(rows):
            if not row.content_id:
                files.setdefault(row.interaction_id, []).append(File(row.id, row.name, row.content_type, row.size))
    notes = await tx.all(
        _since(select(Note).where(Note.conversation_id == conversation.id), Note.created_at, since, Note.id)
    )
    offers = await _offers(tx, conversation.id, since)
    handed = {touch.id: touch.data.get("transfers") or [] for touch in touches}
    named = [one[end] for told in handed.values() for one in told for end in ("by", "to")]
    lines = dict(await tx.all(select(Queue.id, Queue.name).where(col(Queue.id).in_(named)))) if named else {}
    people = await users_of(
        tx, [*named, *(t.agent_id for t in touches), *(n.user_id for n in notes), *(o.agent_id for o in offers)]
    )
    labels, menus = await disposition_labels(tx), await menus_of(tx, touches)
    items = [_touch(touch, people, labels, records.get(touch.id), files.get(touch.id, [])) for touch in touches]
    items = [
        replace(
            item,
            recordings=sounds.get(item.id, ()),
            quality=sound_quality.of(touch),
            answered_by=answered_by.of(touch) if answered_by.by_machine(touch) else "",
            voicemail="voicemail_of" in touch.data,
            given=[_hand_over(one, people, lines, labels) for one in handed[item.id]],
            menu=menus.get(item.id, ""),
        )
        if item.kind == "call"
        else item
        for item, touch in zip(items, touches, strict=True)
    ]
    items += [
        TimelineItem(kind="note", id=note.id, when=note.created_at, who=people.get(note.user_id, ""), body=note.body)
        for note in notes
    ]
    items += [_offer(offer, people) for offer in offers]
    begins = touches[0].id if touches and (earlier or start) else ""
    return Shown(sorted(items, key=lambda item: (item.when, item.id)), begins, earlier)


async def _touches(tx: Tx, conversation_id: str, start: str, *, more: bool) -> list[Interaction]:
    """The touches of this part, oldest first."""
    if not start:
        found = await interactions.list_timeline(tx, conversation_id=conversation_id, limit=SHOWN)
        return found[::-1]
    later = await tx.all(
        select(Interaction)
        .where(Interaction.conversation_id == conversation_id, col(Interaction.id) >= start)
        .order_by(col(Interaction.id).desc())
        .limit(MOST)
    )
    before: list[Interaction] = []
    if more and len(later) < MOST:
        before = await interactions.list_timeline(
            tx, conversation_id=conversation_id, before=start, limit=min(SHOWN, MOST - len(later))
        )
    return [*later, *before][::-1]


def batched(ids: list[str]) -> list[list[str]]:
    """Few enough at a time for one statement."""
    return [ids[place : place + SHOWN] for place in range(0, len(ids), SHOWN)]


def _since(statement: Any, column: Any, since: datetime | None, order: Any) -> Any:
    """Notes and offers of the part that is shown; of a whole conversation the latest."""
    if since is not None:
        statement = statement.where(col(column) >= since)
    return statement.order_by(col(order).desc()).limit(MOST if since is not None else NOTED)


async def _offers(tx: Tx, conversation_id: str, since: datetime | None) -> list[Offer]:
    """How the work of this conversation found its agents."""
    found = (
        select(Offer)
        .join(QueueEntry, col(QueueEntry.id) == col(Offer.entry_id))
        .where(QueueEntry.conversation_id == conversation_id)
    )
    return list(await tx.all(_since(found, Offer.opened_at, since, Offer.id)))


def _offer(offer: Offer, people: Mapping[str, str]) -> TimelineItem:
    when = offer.closed_at or offer.opened_at
    state = "won" if offer.state == OfferState.WON else str(offer.state)
    return TimelineItem(
        kind="system", id=offer.id, when=when, who=people.get(offer.agent_id, ""), state=state, body=offer.reason,
        why=offer.trace,
    )  # fmt: skip


def _hand_over(
    told: Mapping[str, str], people: Mapping[str, str], lines: Mapping[str, str], labels: Mapping[str, str]
) -> HandOver:
    to, chosen = told["to"], told.get("disposition", "")
    return HandOver(
        people.get(told["by"], ""), people.get(to) or lines.get(to, to), told["note"], labels.get(chosen, chosen)
    )


def _touch(
    touch: Interaction,
    people: Mapping[str, str],
    labels: Mapping[str, str],
    record: CallRecord | None,
    files: Sequence[File],
) -> TimelineItem:
    form = touch.data.get("fields", {}) if isinstance(touch.data.get("fields"), dict) else {}
    item = TimelineItem(
        kind=KINDS.get(touch.channel, "text"), id=touch.id, when=touch.first_arrival_at,
        mine=touch.direction == "outbound", who=people.get(touch.agent_id or "", ""), subject=touch.subject,
        body=touch.body, html=bool(touch.html_key), delivery=touch.delivery, delivery_error=told_error(touch.delivery_error),
        outcome=touch.outcome, state=str(touch.state),
        disposition=labels.get(touch.disposition, touch.disposition), notes=touch.notes, record=record,
        fields=_labelled(form, touch.data.get("labels")), files=files, awaited=_awaited(touch),
    )  # fmt: skip
    return _mail(item, touch) if item.kind == "mail" else item


def _labelled(form: Mapping[str, Any], labels: Any) -> dict[str, str]:
    """What was filled in, by the labels that the form had; two of one label keep their names beside it."""
    known = labels if isinstance(labels, dict) else {}
    found: dict[str, str] = {}
    for name, value in form.items():
        label = str(known.get(name, name))
        if value not in ("", None):
            found[label if label not in found else f"{label} ({name})"] = str(value)
    return found


def _mail(item: TimelineItem, touch: Interaction) -> TimelineItem:
    """A mail with who got it, and its quoted part apart."""
    data = touch.data
    body, quoted, new = touch.body, "", int(data.get("new_chars") or 0)
    if item.mine:
        quoted = mails.text_of(touch)[len(touch.body.rstrip()) :].strip()
    elif 0 < new < len(body):
        body, quoted = body[:new].strip(), body[new:].strip("\n")
    to = [touch.to_address] if item.mine else [str(one) for one in data.get("to", ())] or [touch.to_address]
    name = str(data.get("from_name") or "")
    named = {"from": [f"{name} <{touch.from_address}>" if name else touch.from_address], "to": to}
    named |= {name: [str(one) for one in data.get(name, ())] for name in ("cc", "bcc")}
    return replace(
        item, body=body, quoted=quoted, robot=str(data.get("report") or data.get("automatic") or ""),
        people=[(name, ", ".join(listed[:20])) for name, listed in named.items() if listed],
    )  # fmt: skip


def told_error(stored: str) -> str:
    """Why a message did not go, as a sentence: reports keep the provider's bare code, refusals name it after their kind."""
    found = _CODE.match(stored)
    return explained(found[1]) if found else stored


def _awaited(touch: Interaction) -> list[str]:
    """The files of a text that are not here yet, each by how that stands."""
    listed = touch.data.get("media", [])
    states = [str(one.get("state", "")) for one in listed if isinstance(one, dict)]
    return [state for state in states if state != "kept"]
