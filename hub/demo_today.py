"""What the demo company has to do today: promises for the afternoon, fresh enquiries, a call list and a campaign to work on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from campaigns import call_lists, campaigns
from crm_core import leads
from crm_core.accounts import ChannelAccount
from crm_core.addresses import Address
from crm_core.consent import Purpose
from crm_core.contacts import Contact
from crm_core.db import Tx
from crm_core.users import User
from routing import callbacks
from routing.queues import Queue

SCRIPT = """Hello {{ first_name }}, this is Northwind Bikes.

You brought your bicycle to our workshop earlier this year, and the spring check is due.
This week it costs 20 % less. May I book an hour for you?"""
SUBJECT = "Your bicycle in spring, {{ first_name }}"
BODY = """Hello {{ first_name }},

the days grow longer, and the workshop has free hours again. Until the end of the month the spring check costs 20 % less.

Northwind Bikes, 1 Harbour Street, London

No more of these, please: {{ unsubscribe_url }}"""


async def seed_today(
    tx: Tx,
    *,
    contacts: Sequence[tuple[Contact, Address, Address]],
    users: Mapping[str, User],
    queues: Mapping[str, Queue],
    voice: ChannelAccount,
    mailbox: ChannelAccount,
    now: datetime,
) -> None:
    """Make it, in one transaction."""
    for hours, at, owner in ((2, 12, "amy"), (3, 27, "ben"), (5, 33, "")):
        contact, number, _ = contacts[at]
        due = (now + timedelta(hours=hours)).replace(minute=30, second=0, microsecond=0)
        await callbacks.request(
            tx, number=number, queue_id=queues["Support"].id, due_at=due, origin="agent", now=now, account_id=voice.id,
            contact_id=contact.id, owner_id=users[owner].id if owner else None, until_at=due + timedelta(hours=1),
            note="Wants to know when the spare part arrives.", created_by=users["amy"].id,
        )  # fmt: skip
    for minutes, at in ((25, 41), (70, 52), (130, 63)):
        contact, number, mail = contacts[at]
        fields = {"name": contact.name, "phone": number.value, "email": mail.value, "topic": "A new bicycle"}
        asked = now - timedelta(minutes=minutes)
        await leads.create(tx, contact_id=contact.id, source="form:website", fields=fields, now=asked)
    row = await call_lists.create(
        tx, name="Spring check", account_id=voice.id, user_id=users["sam"].id, now=now, script=SCRIPT,
        source={"tag": "workshop"},
    )  # fmt: skip
    await call_lists.build(tx, row.id, source={"tag": "workshop"}, now=now)
    campaign = await campaigns.create(
        tx, name="Spring check by mail", account_id=mailbox.id, purpose=Purpose.MARKETING, user_id=users["mara"].id,
        now=now, audience={"tag": "newsletter"},
    )  # fmt: skip
    await campaigns.set_content(
        tx, campaign.id, subject=SUBJECT, body=BODY, html="", user_id=users["mara"].id, now=now,
        fields=frozenset({"name", "first_name"}),
    )  # fmt: skip
