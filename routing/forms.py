"""Web forms in: a lead on a matched or new contact, its consent with proof, and one offer, however often it was sent."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import col, select

from channels.contract import FormArrived
from crm_core import accounts, consent, contacts, conversations, events, interactions, leads, touches
from crm_core.accounts import ChannelAccount, Form
from crm_core.addresses import Address, PointKind, find_email, find_phone
from crm_core.consent import Purpose
from crm_core.contacts import Contact
from crm_core.db import Tx
from crm_core.errors import Invalid
from crm_core.ids import new_id
from crm_core.interactions import Interaction, InteractionState
from crm_core.leads import Lead
from crm_core.touches import Direction
from routing import call_forms, entries, form_fields, matching, threads

SAME_WITHIN = timedelta(minutes=10)
WEB = "webform"
NEW_CONTACT = {"job_title": 100, "language": 35, "country": 2, "notes": 2000}  # mapped fields, and how long they may be
CONSENT_FIELD = "consent"  # the tick box that goes with the form's consent text


async def form_arrived(
    tx: Tx, event: FormArrived, *, form: Form, now: datetime, sent_at: datetime | None = None, replayed_by: str = ""
) -> Lead:
    """One post of a form. The same content again within ten minutes gives the lead that it gave the first time.

    `sent_at`: when it came, where that is not now. `replayed_by`: somebody has a stored post read again with the form as it
    is now; the lead that it led to is filled in anew and says so, and there is never a second one.
    """
    account = await accounts.get(tx, form.account_id)
    # PostgreSQL cannot store the character NUL, and nobody can type it.
    event = replace(event, fields={name: value.replace("\x00", "") for name, value in event.fields.items()})
    points = _points(form, event, account)
    if not points:
        raise Invalid("Give a phone number or an e-mail address, so that we can answer.")
    known = await interactions.find_external(tx, account.id, event.event_key)
    peer = points[0].value
    print_ = fingerprint(form, event)
    earlier = known or await _same_lately(tx, account, peer, print_, at=sent_at or now, now=now)
    if earlier is not None:
        lead = await tx.one(select(Lead).where(Lead.interaction_id == earlier.id))
        if lead is not None:
            if replayed_by:
                await _read_again(tx, lead, earlier, form, event, points, by=replayed_by, now=now)
            return lead
    contact, matched = await _who(tx, form, event, points, now=now)
    subject = form_fields.mapped(form.fields, event.fields).get("subject", "")[:200] or form.title
    conversation, _ = await conversations.open_thread(
        tx, channel=WEB, account_id=account.id, thread_key=peer, peer=peer, now=now,
        contact_id=contact.id, subject=subject, queue_id=account.queue_id,
    )  # fmt: skip
    if conversation.contact_id is None:  # opened above as a lock, before it was known whose it is
        await conversations.change(
            tx, conversation, now=now, event="conversation.changed", contact_id=contact.id, subject=subject
        )
    queue = await threads.queue_of(tx, account, conversation)
    interaction = Interaction(
        id=new_id(now), conversation_id=conversation.id, contact_id=contact.id, channel=WEB,
        direction=Direction.INBOUND, account_id=account.id, external_id=event.event_key, from_address=peer,
        to_address=account.address, state=InteractionState.WAITING, subject=subject, body=_as_text(form, event),
        queue_id=queue.id if queue else None, match=matched.as_doc(), first_arrival_at=now, created_at=now,
        data={
            "form": form.slug, "form_version": form.version, "fields": dict(event.fields), "labels": labels_of(form.fields),
            "print": print_, "remote": event.remote,
        },
    )  # fmt: skip
    if replayed_by:
        interaction.data["replays"] = [_replay(replayed_by, now)]
    if await _keep_consent(tx, form, event, points, contact, now=now):
        interaction.data["consent_version"] = form.consent_version
    await interactions.create(tx, interaction, now=now)
    await conversations.touch(tx, conversation.id, now=now)
    lead = await leads.create(
        tx, contact_id=contact.id, source=f"form:{form.slug}", fields=dict(event.fields), now=now,
        interaction_id=interaction.id,
    )  # fmt: skip
    for point in points:
        await touches.record(
            tx, point, direction=Direction.INBOUND, channel=WEB, now=now, contact_id=contact.id,
            interaction_id=interaction.id,
        )  # fmt: skip
    if queue is not None and call_forms.is_one(account):
        await call_forms.promise(tx, form, account, event.fields, interaction, queue=queue, number=points[0], now=now)
    elif queue is not None:
        entry = await entries.enter(tx, queue=queue, kind=WEB, interaction=interaction, now=now)
        await interactions.change(tx, interaction, now=now, entry_id=entry.id)
    return lead


def labels_of(fields: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Name → label, as people read them."""
    return {str(field["name"]): str(field.get("label") or field["name"]) for field in fields}


def _replay(by: str, now: datetime) -> dict[str, str]:
    return {"by": by, "at": now.isoformat()}


async def _read_again(
    tx: Tx,
    lead: Lead,
    said: Interaction,
    form: Form,
    event: FormArrived,
    points: list[Address],
    *,
    by: str,
    now: datetime,
) -> None:
    """The lead and the enquiry say what the post says by the form of today. A contact that this form brought gets what it
    lacks; what somebody knows or wrote since then stays."""
    told = form_fields.mapped(form.fields, event.fields)
    data = {
        **said.data, "form_version": form.version, "fields": dict(event.fields), "labels": labels_of(form.fields),
        "replays": [*said.data.get("replays", ()), _replay(by, now)][-20:],
    }  # fmt: skip
    await leads.change(tx, lead, now=now, fields=dict(event.fields))
    contact = await contacts.find(tx, lead.contact_id)
    if contact is not None and contact.source.startswith("form:"):
        await _complete(tx, contact, form, told, points, now=now)
    untold = "consent_version" not in data
    if contact is not None and untold and await _keep_consent(tx, form, event, points, contact, now=now):
        data["consent_version"] = form.consent_version
    subject = told.get("subject", "")[:200] or said.subject or form.title
    await interactions.change(tx, said, now=now, data=data, subject=subject, body=_as_text(form, event))
    await events.emit(tx, "lead.replayed", lead.id, now=now, version=lead.version, contact=lead.contact_id, by=by)


async def _complete(
    tx: Tx, contact: Contact, form: Form, told: Mapping[str, str], points: list[Address], *, now: datetime
) -> None:
    linked = {point.value for point, _ in await contacts.list_points(tx, contact.id)}
    for point in points:
        if point.value not in linked and not await contacts.list_owners(tx, point):
            await contacts.link_point(tx, contact.id, point, now=now, source=f"form:{form.slug}")
    changes = {part: value for part, value in _told_of(told).items() if not getattr(contact, part)}
    if contact.name in linked and told.get("contact.name"):  # the address stood in for a name that nobody gave
        changes["name"] = told["contact.name"][:200]
    if changes:
        await contacts.edit(tx, contact.id, version=contact.version, now=now, **changes)


def fingerprint(form: Form, event: FormArrived) -> str:
    """What was said, whatever the spacing: the same person sending the same twice."""
    said = {name: " ".join(value.split()).casefold() for name, value in event.fields.items() if value.strip()}
    return hashlib.sha256(json.dumps([form.id, said], sort_keys=True).encode()).hexdigest()[:32]


async def _same_lately(
    tx: Tx, account: ChannelAccount, peer: str, print_: str, *, at: datetime, now: datetime
) -> Interaction | None:
    # Two posts at the same instant: the conversation's row is the lock, so that the second sees the first.
    conversation, _ = await conversations.open_thread(
        tx, channel=WEB, account_id=account.id, thread_key=peer, peer=peer, now=now, queue_id=account.queue_id
    )
    await conversations.touch(tx, conversation.id, now=now)
    recent = await tx.all(
        select(Interaction)
        .where(
            Interaction.conversation_id == conversation.id,
            col(Interaction.created_at) > at - SAME_WITHIN,
            col(Interaction.created_at) < at + SAME_WITHIN,
        )
        .order_by(col(Interaction.id).desc())
        .limit(20)
    )
    return next((each for each in recent if each.data.get("print") == print_), None)


def _points(form: Form, event: FormArrived, account: ChannelAccount) -> list[Address]:
    """Addresses in the fields of kind phone and email, phones first: they are called back."""
    phones: list[Address] = []
    mails: list[Address] = []
    for field in form.fields:
        value = event.fields.get(field["name"], "").strip()
        if field.get("kind") == "phone" and value:
            number = find_phone(value, country=account.country or form_fields.HOME)
            phones += [number] if number else []
        elif field.get("kind") == "email" and value:
            mail = find_email(value)
            mails += [mail] if mail else []
    return phones + mails


async def _who(
    tx: Tx, form: Form, event: FormArrived, points: list[Address], *, now: datetime
) -> tuple[Contact, matching.Match]:
    """The one person whom an address names, or a new contact. An address that several share names nobody."""
    seen: list[matching.Match] = []
    for point in points:
        matched = matching.match(point, await contacts.list_owners(tx, point))
        seen.append(matched)
        if matched.contact_id is not None:
            contact = await contacts.get(tx, matched.contact_id)
            # Typed by a stranger: what else was typed is kept on the lead, and not written onto the person.
            return contact, matched
    told = form_fields.mapped(form.fields, event.fields)
    name = told.get("contact.name", "")[:200] or points[0].value
    contact = await contacts.create(tx, name=name, now=now, source=f"form:{form.slug}", points=points, **_told_of(told))
    shared = next((match for match in seen if match.level == "shared"), None)
    return contact, shared or seen[0]


def _told_of(told: Mapping[str, str]) -> dict[str, str]:
    """The contact's fields that the mapping fills, as long as they may be."""
    more = {part: told[f"contact.{part}"][:limit] for part, limit in NEW_CONTACT.items() if told.get(f"contact.{part}")}
    if not re.fullmatch("[A-Za-z]{2}", told.get("contact.country", "")):
        more.pop("country", None)  # a country is its ISO code; "England" says nothing to the dialling rules
    return more


def _as_text(form: Form, event: FormArrived) -> str:
    labels = labels_of(form.fields)
    return "\n".join(f"{labels.get(name, name)}: {value}" for name, value in event.fields.items() if value.strip())


async def _keep_consent(
    tx: Tx, form: Form, event: FormArrived, points: list[Address], contact: Contact, *, now: datetime
) -> bool:
    """Keep what they agreed to, with the exact text and its version; False when they did not."""
    ticked = event.fields.get(CONSENT_FIELD, "").strip().casefold() in form_fields.TICKED
    if not ticked or not form.consent_text:
        return False
    evidence: dict[str, Any] = {
        "form": form.slug, "form_version": form.version, "consent_version": form.consent_version,
        "text": form.consent_text, "remote": event.remote,
    }  # fmt: skip
    for point in points:
        channels = ("email",) if point.kind == PointKind.EMAIL else ("sms", "voice")
        for channel in channels:
            purpose = Purpose.TELEMARKETING if channel == "voice" else Purpose.MARKETING
            await consent.grant(
                tx, point, channel=channel, purpose=purpose, source=f"form:{form.slug}", evidence=evidence,
                actor="customer", now=now, contact_id=contact.id,
            )  # fmt: skip
    return True
