"""A mail fetched from a mailbox, in the same order as a webhook: raw bytes kept, then one unit of receipt, effects and cursor.

The cursor moves in the transaction that keeps the receipt: nothing is fetched twice into two conversations, and nothing that
was fetched is forgotten. Duplicates are told by the hash of the raw mail, never by a Message-ID, which a stranger chooses.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import update
from sqlmodel import col

from channels.contract import MailArrived, MailFile, MailUnreadable
from crm_core.accounts import ChannelAccount
from crm_core.clock import Clock
from crm_core.db import Database, DatabaseUnavailable, Rerun, Tx
from crm_core.errors import Conflict
from routing import router
from routing.router import StoredFile
from webhooks import receipts
from webhooks.intake import TRIES, Answer

log = logging.getLogger(__name__)

PROVIDER = "mail"
KIND = "mail"
RAW = "x-hub-raw"  # object-store keys, kept with the receipt
ACCOUNT = "x-hub-account"


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
    cursor: Mapping[str, Any],
) -> Answer:  # fmt: skip
    """One unit: receipt, effects in a savepoint, the mailbox's cursor. A mail whose effects fail is kept and tried again."""
    for left in reversed(range(TRIES)):
        try:
            return await db.write(lambda tx: _unit(tx, clock, account, mail, kept, cursor, last=left == 0))  # noqa: B023
        except Conflict:
            if left == 0:
                raise
    raise AssertionError("unreachable")


async def _unit(
    tx: Tx, clock: Clock, account: ChannelAccount, mail: MailArrived | MailUnreadable, kept: Kept,
    cursor: Mapping[str, Any], *, last: bool,
) -> Answer:  # fmt: skip
    now = clock.now()
    await tx.run(update(ChannelAccount).where(col(ChannelAccount.id) == account.id).values(cursor=dict(cursor)))
    receipt = await receipts.store(
        tx, provider=PROVIDER, event_key=key_of(account, mail), kind=KIND, url=mail.event_key,
        headers={RAW: kept.raw_key, ACCOUNT: account.id}, body=b"", now=now,
    )  # fmt: skip
    if receipt is None:
        return Answer(200, "repeated")
    if isinstance(mail, MailUnreadable):
        await receipts.quarantine(tx, receipt.id, reason=mail.reason, now=now)
        return Answer(200, "quarantined")
    return await _effects(tx, account, mail, kept, receipt.id, now=now, last=last)


async def _effects(
    tx: Tx, account: ChannelAccount, mail: MailArrived, kept: Kept, receipt_id: str, *, now: datetime, last: bool
) -> Answer:
    try:
        async with tx.savepoint():
            await router.mail_arrived(tx, mail, account=account, html_key=kept.html_key, files=kept.files, now=now)
    except (Rerun, DatabaseUnavailable):
        raise
    except Exception as error:
        # One mail must never stop a mailbox: it is kept, tried again by the sweep, and quarantined after five tries.
        if isinstance(error, Conflict) and not last:
            raise
        log.exception("mail effects failed", extra={"receipt": receipt_id}, exc_info=error)
        await receipts.fail(tx, receipt_id, error=f"{type(error).__name__}: {error}", now=now)
        return Answer(200, "failed")
    await receipts.close(tx, receipt_id, now=now)
    return Answer(200, "stored")


async def retry(
    db: Database, clock: Clock, account: ChannelAccount, mail: MailArrived | MailUnreadable, kept: Kept, receipt_id: str
) -> Answer:
    """Make the effects of a stored mail that failed before."""

    async def unit(tx: Tx) -> Answer:
        if await receipts.lock_unfinished(tx, receipt_id) is None:
            return Answer(200, "repeated")
        if isinstance(mail, MailUnreadable):
            await receipts.quarantine(tx, receipt_id, reason=mail.reason, now=clock.now())
            return Answer(200, "quarantined")
        return await _effects(tx, account, mail, kept, receipt_id, now=clock.now(), last=True)

    return await db.write(unit)
