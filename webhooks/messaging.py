"""Endpoints of text messages: those that come in, and what became of those we sent."""

from __future__ import annotations

from datetime import datetime

from campaigns import reports
from channels.contract import Arrival, DeliveryReport, MessageArrived
from crm_core import accounts, addresses
from crm_core.db import Tx
from crm_core.errors import NotFound
from routing import messages, router
from webhooks.intake import Deps, Kind, Post, one

NOTHING = '<?xml version="1.0" encoding="UTF-8"?><Response/>'


async def _arrived(deps: Deps, tx: Tx, arrivals: list[Arrival], post: Post, now: datetime) -> None:
    for event in arrivals:
        if isinstance(event, MessageArrived):
            await router.message_arrived(tx, event, now=now)
            said = messages.keyword(event)
            if said is not None and said.word == "STOP":
                await _count_stop(tx, event, now)


async def _count_stop(tx: Tx, event: MessageArrived, now: datetime) -> None:
    """A STOP soon after a campaign's text is that campaign's opt-out: its counts and its brake hear it."""
    account = await accounts.find(tx, messages.TEXT, event.to_raw)
    sender = addresses.find_phone(event.from_raw, country=account.country) if account is not None else None
    if account is not None and sender is not None:
        await reports.note_opt_out(tx, sender, account_id=account.id, now=now)


async def _reported(deps: Deps, tx: Tx, arrivals: list[Arrival], post: Post, now: datetime) -> None:
    for event in arrivals:
        if not isinstance(event, DeliveryReport):
            continue
        known = await router.delivery_reported(tx, event, now=now)
        if not known and not await reports.apply_report(tx, event, now=now):
            raise NotFound("No message of ours has this id.")


ARRIVED = Kind("sms", "sms", lambda post: one(post, "MessageSid"), _arrived, empty=NOTHING)
# A message passes several states, and the same state with another error code is news.
REPORTED = Kind(
    "sms_status",
    "sms",
    lambda post: f"{one(post, 'MessageSid')}:{one(post, 'MessageStatus')}:{post.fields.get('ErrorCode', '')[:10]}",
    _reported,
    content_type="text/plain",
)
KINDS = (ARRIVED, REPORTED)
