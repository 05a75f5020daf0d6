"""A mail fetched from a mailbox, in the same order as a webhook: raw bytes kept, then one unit of receipt, effects and cursor.

The cursor moves in the transaction that keeps the receipt: nothing is fetched twice into two conversations, and nothing that
was fetched is forgotten. Duplicates are told by the hash of the raw mail, never by a Message-ID, which a stranger chooses.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import bindparam, update
from sqlmodel import col

from channels.contract import MailArrived, MailFile, MailUnreadable
from crm_core import accounts
from crm_core.accounts import ChannelAccount
from crm_core.clock import Clock
from crm_core.db import Database, DatabaseUnavailable, Rerun, Tx
from crm_core.errors import Conflict
from crm_core.interactions import Interaction
from crm_core.statements import fixed
from routing import router
from routing.router import StoredFile
from webhooks import mail_reports, receipts
from webhooks.intake import LAST, Answer
from webhooks.receipts import ReceiptState

log = logging.getLogger(__name__)

PROVIDER = "mail"
KIND = "mail"
RAW = "x-hub-raw"  # object-store keys, kept with the receipt
ACCOUNT = "x-hub-account"
# Why a mail is nobody's work, beside the adapter's reasons.
OWN, STOPPED = "own", "unsubscribed"

_CURSOR = fixed(
    update(ChannelAccount).where(col(ChannelAccount.id) == bindparam("account_id")).values(cursor=bindparam("place"))
)


class Store(Protocol):
    """The object store."""

    async def put(self, content: bytes, *, folder: str, now: datetime) -> str:
        """Keep the bytes; their key."""
        ...


@dataclass(frozen=True, slots=True)
class Kept:
    """What of a mail is in the object store."""

    raw_key: str
    html_key: str
    files: Sequence[StoredFile]


async def keep(store: Store, mail: MailArrived | MailUnreadable, *, now: datetime, raw_key: str = "") -> Kept:
    """Put the raw mail, its HTML and its files into the store, before any row names them."""
    raw_key = raw_key or await store.put(mail.raw, folder="mail", now=now)
    if isinstance(mail, MailUnreadable):
        return Kept(raw_key, "", ())
    html_key = await store.put(mail.html.encode("utf-8", "replace"), folder="html", now=now) if mail.html else ""
    return Kept(raw_key, html_key, [await _stored(store, file, now) for file in mail.files])


async def _stored(store: Store, file: MailFile, now: datetime) -> StoredFile:
    key = await store.put(file.content, folder="mail", now=now)
    return StoredFile(file.name, file.content_type, len(file.content), key, file.content_id)


def key_of(account: ChannelAccount, mail: MailArrived | MailUnreadable) -> str:
    """The receipt's key: this mailbox and these very bytes."""
    digest = hashlib.sha256(mail.raw)
    if isinstance(mail, MailUnreadable):
        digest.update(f"{mail.size}:{mail.event_key}".encode())
    return f"{account.id}:{digest.hexdigest()}"


async def take(
    db: Database, clock: Clock, account: ChannelAccount, mail: MailArrived | MailUnreadable, kept: Kept,
    cursor: Mapping[str, Any], *, secret: str = "",
) -> Answer:  # fmt: skip
    """One unit: receipt, effects in a savepoint, the mailbox's cursor. A mail whose effects fail is kept and tried again.

    `secret` is the hub's: what proves that a returned mail was a campaign's; without it no report on one is believed.
    """
    for turn in range(LAST + 1):
        try:
            return await db.write(
                lambda tx: _unit(tx, clock, account, mail, kept, cursor, secret=secret, turn=turn)  # noqa: B023
            )
        except Conflict:
            if turn == LAST:
                raise
    raise AssertionError("unreachable")


async def _unit(
    tx: Tx, clock: Clock, account: ChannelAccount, mail: MailArrived | MailUnreadable, kept: Kept,
    cursor: Mapping[str, Any], *, secret: str, turn: int,
) -> Answer:  # fmt: skip
    now = clock.now()
    await tx.run_later(_CURSOR, account_id=account.id, place=dict(cursor))
    key = key_of(account, mail)
    # Nearly every mail is new, so the first turn does not ask: the receipt's unique key undoes the turn of one that is not.
    if turn and await receipts.find(tx, PROVIDER, key) is not None:
        return Answer(200, "repeated")
    if isinstance(mail, MailUnreadable):
        outcome, state, error = "quarantined", ReceiptState.QUARANTINED, str(mail.reason)
    else:
        outcome, state, error = await _effects(tx, account, mail, kept, secret=secret, now=now, last=turn == LAST)
    receipts.keep(
        tx, provider=PROVIDER, event_key=key, kind=KIND, url=mail.event_key,
        headers={RAW: kept.raw_key, ACCOUNT: account.id}, body=b"", state=state, error=error, answer=None, now=now,
    )  # fmt: skip
    return Answer(200, outcome)


async def _effects(
    tx: Tx, account: ChannelAccount, mail: MailArrived, kept: Kept, *, secret: str, now: datetime, last: bool
) -> tuple[str, ReceiptState, str]:
    """What a mail brings about, in a savepoint: the outcome's word, the receipt's state and what went wrong."""
    try:
        async with tx.savepoint():
            return await _arrived(tx, account, mail, kept, secret=secret, now=now), ReceiptState.DONE, ""
    except (Rerun, DatabaseUnavailable):
        raise
    except Exception as error:
        # One mail must never stop a mailbox: it is kept, tried again by the sweep, and quarantined after five tries.
        if isinstance(error, Conflict) and not last:
            raise
        log.exception("mail effects failed", extra={"mail": mail.event_key}, exc_info=error)
        return "failed", ReceiptState.FAILED, f"{type(error).__name__}: {error}"


async def _arrived(
    tx: Tx, account: ChannelAccount, mail: MailArrived, kept: Kept, *, secret: str, now: datetime
) -> str:
    """What a mail brings about: a report goes to what it speaks of, the rest to the router; the outcome's word."""
    about: Interaction | str = ""
    if mail.automatic != OWN and await _ours(tx, mail.from_address):
        mail = replace(mail, automatic=OWN)
    if mail.report is not None:
        about = await mail_reports.apply(tx, mail.report, secret=secret, now=now)
        if isinstance(about, str) and about:
            return "reported"  # the campaign's ledger has it; ten thousand of them are no conversations
    elif not mail.automatic and await mail_reports.stopped(tx, mail, secret=secret, now=now):
        mail = replace(mail, automatic=STOPPED)
    await router.mail_arrived(
        tx, mail, account=account, html_key=kept.html_key, files=kept.files, now=now,
        about=about if isinstance(about, Interaction) else None,
    )  # fmt: skip
    return "stored" if mail.report is None or not about else "reported"


async def _ours(tx: Tx, address: str) -> bool:
    """Whether an address is one of our mailboxes', with or without a detail behind a plus."""
    local, _, domain = address.lower().partition("@")
    bare = f"{local.partition('+')[0]}@{domain}"
    return any(bare in addresses_of(row) for row in await accounts.list_channel(tx, "email"))


def addresses_of(account: ChannelAccount) -> set[str]:
    """Every address a mailbox is known under: its own, its aliases, and what else its settings name as ours."""
    own = account.settings.get("own_addresses") or ()
    return {*accounts.mail_addresses(account), *(str(one).lower() for one in own)}


async def retry(
    db: Database, clock: Clock, account: ChannelAccount, mail: MailArrived | MailUnreadable, kept: Kept, receipt_id: str,
    *, secret: str = "",
) -> Answer:  # fmt: skip
    """Make the effects of a stored mail that failed before."""

    async def unit(tx: Tx) -> Answer:
        if await receipts.lock_unfinished(tx, receipt_id) is None:
            return Answer(200, "repeated")
        if isinstance(mail, MailUnreadable):
            await receipts.quarantine(tx, receipt_id, reason=mail.reason, now=clock.now())
            return Answer(200, "quarantined")
        now = clock.now()
        outcome, state, error = await _effects(tx, account, mail, kept, secret=secret, now=now, last=True)
        if state is ReceiptState.DONE:
            await receipts.close(tx, receipt_id, now=now)
        else:
            await receipts.fail(tx, receipt_id, error=error, now=now)
        return Answer(200, outcome)

    return await db.write(unit)
