"""Click-to-be-called: a web form whose answer is a promise to phone the visitor, at once or at an hour that they choose.

Nothing is dialled because of a post: the promise goes through the queue, an agent takes it, their leg comes first and the
visitor's after it, each through the gate. What is checked here: that the number may be dialled at all, that it is not one
of ours or one that asked to be left alone, that the hour lies within the queue's opening hours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlmodel import col, select

from crm_core import accounts, consent
from crm_core.accounts import ChannelAccount, Form
from crm_core.addresses import Address, find_phone
from crm_core.blocked_callers import BlockedCaller
from crm_core.db import Tx
from crm_core.errors import Invalid
from crm_core.interactions import Interaction
from crm_core.texts import Text
from routing import callbacks, dialling, form_fields, hours, queues
from routing.agents import Agent
from routing.callbacks import Callback
from routing.hours import Hours
from routing.queues import Queue

VOICE = "voice"
AHEAD = timedelta(days=7)  # how far ahead an hour may be chosen
STEP = timedelta(hours=1)
NOTICE = timedelta(minutes=10)  # the next hour on offer begins this far ahead at least
MOST_SLOTS = 80
PER_NUMBER, NUMBER_WINDOW_S = (
    3,
    24 * 3600,
)  # requests that one number may get: a stranger cannot have anybody phoned all day
PER_NETWORK, NETWORK_WINDOW_S = 20, 3600


def is_one(account: ChannelAccount) -> bool:
    """True for a form that asks to be called."""
    return bool(account.settings.get("calls"))


async def hours_of(tx: Tx, account: ChannelAccount) -> Hours | None:
    """The opening hours of the form's queue; None: always open."""
    if account.queue_id is None:
        return None
    queue = await queues.get(tx, account.queue_id)
    return await hours.find(tx, queue.hours_id)


def slots(opening: Hours | None, now: datetime) -> list[datetime]:
    """Full hours that may be chosen, soonest first: open for the whole hour, from `now` up to a week ahead."""
    zone = ZoneInfo(opening.zone) if opening is not None else ZoneInfo("UTC")
    first = (now + NOTICE).astimezone(zone)
    at = first.replace(minute=0, second=0, microsecond=0).astimezone(now.tzinfo) + STEP
    found: list[datetime] = []
    while at < now + AHEAD and len(found) < MOST_SLOTS:
        if hours.is_open(opening, at) and hours.is_open(opening, at + STEP - timedelta(seconds=1)):
            found.append(at)
        at += STEP
    return found


def chosen(form: Form, values: Mapping[str, str]) -> datetime | None:
    """The hour that they chose; None: as soon as possible."""
    for field in form_fields.shown(form.fields, values):
        if field.get("kind") == "slot" and values.get(field["name"], "").strip():
            return form_fields.instant_of(values[field["name"]])
    return None


async def sender_of(tx: Tx, account: ChannelAccount) -> ChannelAccount:
    """The number of ours that calls them: of the form's queue where there is one."""
    known = [each for each in await accounts.list_channel(tx, VOICE) if each.enabled]
    fitting = [each for each in known if each.queue_id == account.queue_id] or known
    if not fitting:
        raise Invalid("There is no phone number to call from.")
    return fitting[0]


async def check(
    tx: Tx, form: Form, account: ChannelAccount, values: Mapping[str, str], *, now: datetime
) -> dict[str, str]:
    """A sentence for the field that keeps this call from being promised; a number must be one that the hub dials."""
    number, name = number_of(form, account, values)
    if number is None:
        return {name: Text("Please fill this in.")} if name else {}
    try:
        dialling.check(number, await sender_of(tx, account))
    except Invalid:
        return {name: Text("We cannot call this number. Give another one.")}
    wanted = chosen(form, values)
    # Whoever had the page open when the hour struck is not turned away: the hour is only a little past.
    near = wanted is None or now - STEP <= wanted <= now + AHEAD
    if wanted is not None and not (near and hours.is_open(await hours_of(tx, account), wanted)):
        return {_slot_name(form): Text("We are not there at that hour. Please choose another one.")}
    return {}


def _slot_name(form: Form) -> str:
    return next(str(field["name"]) for field in form.fields if field.get("kind") == "slot")


def number_of(form: Form, account: ChannelAccount, values: Mapping[str, str]) -> tuple[Address | None, str]:
    """The number to call, and the name of the field that holds it."""
    name = ""
    for field in form_fields.shown(form.fields, values):
        if field.get("kind") == "phone":
            name = name or str(field["name"])
            number = find_phone(values.get(field["name"], ""), country=account.country or form_fields.HOME)
            if number is not None:
                return number, str(field["name"])
    return None, name


async def why_held(tx: Tx, number: Address, *, now: datetime) -> str:
    """Why a person decides before this number is promised a call; empty when nothing speaks against it.

    A stranger's post proves nothing about whose number it is: it neither lifts a *never call again* nor a block.
    """
    if await accounts.is_ours(tx, number.value):
        return "own_number"
    blocked = await tx.one(select(BlockedCaller).where(BlockedCaller.value == number.value))
    if blocked is not None and (blocked.until_at is None or blocked.until_at > now):
        return "blocked"
    suppressed, _ = await consent.list_for(tx, number)
    if any(row.channel in ("*", VOICE) for row in suppressed):
        return "never_call"
    staff = await tx.one(select(Agent.user_id).where(col(Agent.phone_e164) == number.value).limit(1))
    return "own_number" if staff is not None else ""


async def promise(
    tx: Tx, form: Form, account: ChannelAccount, values: Mapping[str, str], interaction: Interaction, *, queue: Queue,
    number: Address, now: datetime,
) -> Callback:  # fmt: skip
    """The callback that this enquiry asks for. The enquiry is promised until it is kept; a second one for a number that waits
    already joins the first."""
    sender = await sender_of(tx, account)
    dialling.check(number, sender)  # also of what a person rescues
    wanted = chosen(form, values)
    due = wanted if wanted is not None and wanted > now else hours.next_open(await hours.find(tx, queue.hours_id), now)
    return await callbacks.request(
        tx, number=number, queue_id=queue.id, due_at=due or now, origin="form", now=now, account_id=sender.id,
        contact_id=interaction.contact_id, interaction=interaction,
        until_at=wanted + STEP if wanted is not None and wanted > now else None,
        note=interaction.subject[:500], created_by=f"form:{form.slug}",
    )  # fmt: skip


def offered(opening: Hours | None, now: datetime) -> Sequence[tuple[str, datetime]]:
    """What a page lets people choose: (value to send, instant)."""
    return [(at.isoformat(timespec="minutes").replace("+00:00", "Z"), at) for at in slots(opening, now)]


def zone_of(opening: Hours | None) -> Any:
    """The zone in which the hours are told."""
    return ZoneInfo(opening.zone if opening is not None else "UTC")
