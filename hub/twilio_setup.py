"""`hub twilio setup`: the TwiML App that agents' browsers call, the numbers' URLs, and a TwiML Bin text for the fallback.

Only numbers that point nowhere, to Twilio's demo or to this hub are changed; one that serves something else is left alone and
named. Also seeds the hub's own rows for the numbers and for the mailbox of the environment.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from channels.errors import ChannelError
from channels.twilio_api import TwilioApi, TwilioSettings
from crm_core import accounts
from crm_core.accounts import ChannelAccount
from crm_core.addresses import country_of, find_email, find_phone
from crm_core.clock import SystemClock
from crm_core.db import Database, DatabaseUnavailable, Tx, open_database
from crm_core.ids import new_id
from hub.provider_in_use import provider_in_use
from hub.settings import Settings
from hub.twin import APP_NAME

VOICE = "/webhooks/twilio/voice"
CLIENT = f"{VOICE}/client"
STATUS = f"{VOICE}/status"
SMS = "/webhooks/twilio/sms"
DEMO_HOSTS = ("demo.twilio.com",)
# Twilio's own retries ("Connection overrides", copy seen 2026-11-21: rc is 0 to 5, 1 by default). That without `rp` a 503 or a
# slow answer is not tried again is as of the knowledge notes; unconfirmed.
OVERRIDES = "#rc=2&rp=all"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is changed, would be, or is left alone."""

    what: str
    done: bool  # False: left alone


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found and changed."""

    app_sid: str
    numbers: Sequence[str]  # E.164, those that now point here
    steps: Sequence[Step]


async def setup(settings: Settings, *, dry_run: bool = False) -> int:
    """Set the account up and say what was done; the exit code. `dry_run` says it and changes nothing."""
    twilio, from_row = await provider_in_use(settings)
    settings = replace(settings, twilio=twilio)
    if twilio is None:
        sys.stderr.write(
            "Twilio is not configured: enter the account under Admin, or set TWILIO_ACCOUNT_SID and its companions.\n"
        )
        return 2
    if not settings.public_url_set and not settings.sandbox:
        sys.stderr.write("Set HUB_PUBLIC_URL first: Twilio must know where the hub is.\n")
        return 2
    try:
        outcome = await arrange(settings, dry_run=dry_run)
    except ChannelError as error:
        sys.stderr.write(f"Twilio: {error.message}\n")
        return 1
    would = "would " if dry_run else ""
    for step in outcome.steps:
        sys.stdout.write(f"{would if step.done else 'left alone: '}{step.what}\n")
    app_sid = outcome.app_sid or "(known after the real run)"
    if from_row and twilio.app_sid != outcome.app_sid:
        sys.stdout.write(f"\nEnter this under Admin, Provider account, as TwiML App:\n  {app_sid}\n")
    elif not from_row:
        sys.stdout.write(f"\nSet this for the hub:\n  TWILIO_APP_SID={app_sid}\n")
    sys.stdout.write(
        f"\nCreate a TwiML Bin with this text and set it as each number's fallback:\n{fallback(settings)}\n"
    )
    if dry_run:
        return 0
    try:
        db = await open_database(settings.database_url)
    except DatabaseUnavailable as error:
        sys.stderr.write(f"The numbers point here, but their rows could not be written: {error}\n")
        return 1
    try:
        made = await seed_accounts(db, settings, SystemClock().now(), numbers=outcome.numbers)
    finally:
        await db.close()
    sys.stdout.write("".join(f"added: {line}\n" for line in made))
    return 0


def fallback(settings: Settings) -> str:
    """TwiML for the case that the hub does not answer: hold the line, then ask the hub once more."""
    url = f"{settings.public_url}{VOICE}"
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<Response>\n  <Say>Please hold the line.</Say>\n  <Pause length="5"/>\n'
        f'  <Redirect method="POST">{url}</Redirect>\n</Response>'
    )


async def arrange(settings: Settings, *, dry_run: bool = False) -> Outcome:
    """Create or correct the TwiML App and the numbers by REST. Raises a ChannelError."""
    twilio = settings.twilio
    assert twilio is not None
    base = {"api_base": twilio.api_base} if twilio.api_base else {}
    # Apps and numbers need the account's own login: an API key of the usual kind may not change them.
    api = TwilioApi(TwilioSettings(account_sid=twilio.account_sid, auth_token=twilio.auth_token, **base))
    steps: list[Step] = []
    try:
        app_sid = await _app(api, settings.public_url, steps, dry_run=dry_run)
        numbers = await _numbers(api, settings.public_url, steps, dry_run=dry_run)
    finally:
        await api.close()
    return Outcome(app_sid, numbers, steps)


async def _app(api: TwilioApi, origin: str, steps: list[Step], *, dry_run: bool) -> str:
    wanted = {"voice_url": f"{origin}{CLIENT}", "voice_method": "POST", "status_callback": f"{origin}{STATUS}"}
    found = await api.call(lambda client: client.applications.list_async(friendly_name=APP_NAME, limit=20))
    if not found:
        steps.append(Step(f"create the TwiML App {APP_NAME!r} for {wanted['voice_url']}", done=True))
        if dry_run:
            return ""
        made = await api.call(
            lambda client: client.applications.create_async(friendly_name=APP_NAME, **wanted), creates=True
        )
        return str(made.sid)
    app = found[0]
    if any(str(getattr(app, name) or "") != value for name, value in wanted.items()):
        steps.append(Step(f"point the TwiML App {app.sid} to {wanted['voice_url']}", done=True))
        if not dry_run:
            await api.call(lambda client: client.applications(app.sid).update_async(**wanted))
    return str(app.sid)


async def _numbers(api: TwilioApi, origin: str, steps: list[Step], *, dry_run: bool) -> list[str]:
    ours: list[str] = []
    found = await api.call(lambda client: client.incoming_phone_numbers.list_async(limit=1000))
    for number in found:
        e164 = str(number.phone_number)
        other = [url for url in (number.voice_url, number.sms_url) if _of_others(str(url or ""), origin)]
        if other:
            steps.append(Step(f"{e164} serves {urlsplit(str(other[0])).netloc}", done=False))
            continue
        wanted = {
            "voice_url": f"{origin}{VOICE}{OVERRIDES}", "voice_method": "POST", "sms_url": f"{origin}{SMS}{OVERRIDES}",
            "sms_method": "POST", "status_callback": f"{origin}{STATUS}{OVERRIDES}", "status_callback_method": "POST",
        }  # fmt: skip
        ours.append(e164)
        if any(str(getattr(number, name, "") or "") != value for name, value in wanted.items()):
            steps.append(Step(f"point {e164} to {origin}", done=True))
            if not dry_run:
                await _point(api, str(number.sid), wanted)
    return ours


async def _point(api: TwilioApi, sid: str, wanted: dict[str, str]) -> Any:
    return await api.call(lambda client: client.incoming_phone_numbers(sid).update_async(**wanted))


def _of_others(url: str, origin: str) -> bool:
    host = urlsplit(url).netloc
    return bool(host) and host not in DEMO_HOSTS and host != urlsplit(origin).netloc


async def seed_accounts(db: Database, settings: Settings, now: datetime, *, numbers: Sequence[str] = ()) -> list[str]:
    """Rows for these numbers (calls and texts) and for the mailbox of the environment, where there are none; what was added.

    The mailbox's row holds no secret: without servers of its own it uses those of the environment.
    """
    wanted: list[ChannelAccount] = []
    for raw in numbers:
        number = find_phone(raw)
        if number is not None:
            for channel in ("voice", "sms"):
                wanted.append(_row(channel, number.value, country_of(number.value), now))
    mailbox = mailbox_of(settings)
    if mailbox:
        wanted.append(_row("email", mailbox, "", now))

    async def unit(tx: Tx) -> list[str]:
        added = []
        for row in wanted:
            if await accounts.find(tx, row.channel, row.address) is None:
                await tx.add(row)
                added.append(f"{row.channel} {row.address}")
        return added

    return await db.write(unit)


def _row(channel: str, address: str, country: str, now: datetime) -> ChannelAccount:
    return ChannelAccount(
        id=new_id(now), channel=channel, name=address, address=address, country=country, created_at=now
    )  # fmt: skip


def mailbox_of(settings: Settings) -> str:
    """The address of the environment's mailbox: the user name of HUB_IMAP_URL or HUB_SMTP_URL where it is an address."""
    for url in (settings.imap_url, settings.smtp_url):
        user = unquote(urlsplit(url).username or "") if url else ""
        address = find_email(user) if "@" in user else None
        if address is not None:
            return address.value
    return ""
