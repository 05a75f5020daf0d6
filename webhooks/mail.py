"""A mail fetched from a mailbox, in the same order as a webhook: raw bytes kept, then one unit of receipt, effects and cursor.

The cursor moves in the transaction that keeps the receipt: nothing is fetched twice into two conversations, and nothing that
was fetched is forgotten. Duplicates are told by the hash of the raw mail, never by a Message-ID, which a stranger chooses.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import bindparam, update
from sqlmodel import col

from channels.contract import MailArrived, MailUnreadable
from crm_core import accounts
from crm_core.accounts import ChannelAccount
from crm_core.clock import Clock
from crm_core.db import Database, DatabaseUnavailable, Rerun, Tx
from crm_core.errors import Conflict
from crm_core.interactions import Interaction
from crm_core.statements import fixed
from routing import router
from routing.mail_known import Known
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
AT_ONCE = 10  # mails of one unit: what a call that comes in meanwhile waits for is some tens of milliseconds

_CURSOR = fixed(
    update(ChannelAccount).where(col(ChannelAccount.id) == bindparam("account_id")).values(cursor=bindparam("place"))
)


class Store(Protocol):
    """The object store."""

    async def put_all(self, contents: Sequence[tuple[str, bytes]], *, now: datetime) -> list[str]:
        """Keep the bytes, each with its folder; their keys."""
        ...


@dataclass(frozen=True, slots=True)
class Kept:
    """What of a mail is in the object store."""

    raw_key: str
    html_key: str
    files: Sequence[StoredFile]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A mail, what of it is in the object store, and where the mailbox's reading stands behind it."""

    mail: MailArrived | MailUnreadable
    kept: Kept
    cursor: Mapping[str, Any]


async def keep_all(store: Store, mails: Sequence[MailArrived | MailUnreadable], *, now: datetime) -> list[Kept]:
    """Put the raw mails, their HTML and their files into the store, flushed together, before any row names them."""
    keys = iter(await store.put_all([one for mail in mails for one in (("mail", mail.raw), *_parts(mail))], now=now))
    return [_kept(mail, keys) for mail in mails]


async def keep(store: Store, mail: MailArrived | MailUnreadable, *, now: datetime, raw_key: str = "") -> Kept:
    """`keep_all` of one mail; with a `raw_key`, of one whose raw bytes are there already."""
    if not raw_key:
        return (await keep_all(store, [mail], now=now))[0]
    parts = _parts(mail)
    return _kept(mail, iter([raw_key, *(await store.put_all(parts, now=now) if parts else ())]))


def _parts(mail: MailArrived | MailUnreadable) -> list[tuple[str, bytes]]:
    """What of a mail is kept beside its raw bytes, with its folder."""
    if isinstance(mail, MailUnreadable):
        return []
    html = [("html", mail.html.encode("utf-8", "replace"))] if mail.html else []
    return [*html, *(("mail", file.content) for file in mail.files)]


def _kept(mail: MailArrived | MailUnreadable, keys: Iterator[str]) -> Kept:
    raw_key = next(keys)
    if isinstance(mail, MailUnreadable):
        return Kept(raw_key, "", ())
    html_key = next(keys) if mail.html else ""
    files = [
        StoredFile(file.name, file.content_type, len(file.content), next(keys), file.content_id) for file in mail.files
    ]
    return Kept(raw_key, html_key, files)


def key_of(account: ChannelAccount, mail: MailArrived | MailUnreadable) -> str:
    """The receipt's key: this mailbox and these very bytes."""
    digest = hashlib.sha256(mail.raw)
    if isinstance(mail, MailUnreadable):
        digest.update(f"{mail.size}:{mail.event_key}".encode())
    return f"{account.id}:{digest.hexdigest()}"


async def take_all(
    db: Database, clock: Clock, account: ChannelAccount, found: Sequence[Fetched], *, secret: str = ""
) -> list[Answer]:
    """Mails fetched together, in order: one unit for at most ten of them, as long as nothing stands against that.

    `secret` is the hub's: what proves that a returned mail was a campaign's; without it no report on one is believed.
    Raises DatabaseUnavailable; mails whose unit was committed stay taken.
    """
    answers: list[Answer] = []
    for start in range(0, len(found), AT_ONCE):
        some = found[start : start + AT_ONCE]
        try:
            answers += await _together(db, clock, account, some, secret=secret)
        except (DatabaseUnavailable, TimeoutError):
            raise
        except Exception as error:
            if len(some) > 1:
                log.warning("mails are taken in one by one", extra={"reason": type(error).__name__})
            answers += [await _alone(db, clock, account, one, secret=secret) for one in some]
    return answers


async def begin(db: Database, account: ChannelAccount, cursor: Mapping[str, Any]) -> None:
    """Keep where the reading of a mailbox begins; a place that is there already stays."""

    async def unit(tx: Tx) -> None:
        if not (await accounts.get(tx, account.id)).cursor:
            await tx.run(_CURSOR, account_id=account.id, place=dict(cursor))

    await db.write(unit)


async def take(
    db: Database, clock: Clock, account: ChannelAccount, mail: MailArrived | MailUnreadable, kept: Kept,
    cursor: Mapping[str, Any], *, secret: str = "",
) -> Answer:  # fmt: skip
    """One mail, as `take_all` does it: receipt, effects in a savepoint, the mailbox's cursor."""
    return (await take_all(db, clock, account, [Fetched(mail, kept, cursor)], secret=secret))[0]


async def _alone(db: Database, clock: Clock, account: ChannelAccount, one: Fetched, *, secret: str) -> Answer:
    """One mail whose unit may break as a whole: then it is kept as failed, with the cursor behind it, or it would stop its
    mailbox for ever."""
    try:
        return (await _together(db, clock, account, [one], secret=secret))[0]
    except (DatabaseUnavailable, TimeoutError):
        raise
    except Exception as error:
        log.exception("mail not taken in", extra={"mail": one.mail.event_key}, exc_info=error)
        reason = f"{type(error).__name__}: {error}"

    async def unit(tx: Tx) -> Answer:
        await tx.run_later(_CURSOR, account_id=account.id, place=dict(one.cursor))
        key = key_of(account, one.mail)
        if await receipts.find(tx, PROVIDER, key) is None:
            _keep(tx, account, one, ReceiptState.FAILED, reason, key=key, now=clock.now())
        return Answer(200, "failed")

    return await db.write(unit)


async def _together(
    db: Database, clock: Clock, account: ChannelAccount, found: Sequence[Fetched], *, secret: str
) -> list[Answer]:
    for turn in range(LAST + 1):
        try:
            return await db.write(
                lambda tx: _unit(tx, clock, account, found, secret=secret, turn=turn)  # noqa: B023 - awaited at once
            )
        except (DatabaseUnavailable, TimeoutError):
            raise
        except Exception as error:
            # The first turn stakes all on nothing going wrong; the next ones find out which mail it is, and name it.
            if turn == LAST or (turn and not isinstance(error, Conflict)):
                raise
    raise AssertionError("unreachable")


async def _unit(
    tx: Tx, clock: Clock, account: ChannelAccount, found: Sequence[Fetched], *, secret: str, turn: int
) -> list[Answer]:
    now = clock.now()
    await tx.run_later(_CURSOR, account_id=account.id, place=dict(found[-1].cursor))
    ours = await _our_addresses(tx)
    known = await _known(tx, account, found) if turn == 0 else None
    answers: list[Answer] = []
    taken: set[str] = set()
    for one in found:
        key = key_of(account, one.mail)
        # Nearly every mail is new, so the first turn does not ask: the receipt's unique key undoes the turn of one that is not.
        if key in taken or (turn and await receipts.find(tx, PROVIDER, key) is not None):
            answers.append(Answer(200, "repeated"))
            continue
        taken.add(key)
        if isinstance(one.mail, MailUnreadable):
            outcome, state, error = "quarantined", ReceiptState.QUARANTINED, str(one.mail.reason)
        else:
            outcome, state, error = await _effects(
                tx, account, one.mail, one.kept, ours=ours, secret=secret, now=now, turn=turn, known=known
            )
        _keep(tx, account, one, state, error, key=key, now=now)
        answers.append(Answer(200, outcome))
    return answers


async def _known(tx: Tx, account: ChannelAccount, found: Sequence[Fetched]) -> Known | None:
    """What is known of all these mails. None when one of them is a report, which changes what is known of the next."""
    mails = [one.mail for one in found if isinstance(one.mail, MailArrived)]
    if not mails or any(mail.report is not None for mail in mails):
        return None
    return await router.look_up_mails(tx, mails, account=account)


def _keep(
    tx: Tx, account: ChannelAccount, one: Fetched, state: ReceiptState, error: str, *, key: str, now: datetime
) -> None:
    receipts.keep(
        tx, provider=PROVIDER, event_key=key, kind=KIND, url=one.mail.event_key,
        headers={RAW: one.kept.raw_key, ACCOUNT: account.id}, body=b"", state=state, error=error, answer=None, now=now,
    )  # fmt: skip


async def _effects(
    tx: Tx,
    account: ChannelAccount,
    mail: MailArrived,
    kept: Kept,
    *,
    ours: set[str],
    secret: str,
    now: datetime,
    turn: int,
    known: Known | None = None,
) -> tuple[str, ReceiptState, str]:
    """What a mail brings about: the outcome's word, the receipt's state and what went wrong.

    In the first turn an error undoes the unit; later a savepoint stands round each mail, and only what is its own is undone.
    """
    if turn == 0:
        outcome = await _arrived(tx, account, mail, kept, ours=ours, secret=secret, now=now, known=known)
        return outcome, ReceiptState.DONE, ""
    try:
        async with tx.savepoint():
            outcome = await _arrived(tx, account, mail, kept, ours=ours, secret=secret, now=now)
            return outcome, ReceiptState.DONE, ""
    except (Rerun, DatabaseUnavailable):
        raise
    except Exception as error:
        # One mail must never stop a mailbox: it is kept, tried again by the sweep, and quarantined after five tries.
        if isinstance(error, Conflict) and turn != LAST:
            raise
        log.exception("mail effects failed", extra={"mail": mail.event_key}, exc_info=error)
        return "failed", ReceiptState.FAILED, f"{type(error).__name__}: {error}"


async def _arrived(
    tx: Tx, account: ChannelAccount, mail: MailArrived, kept: Kept, *, ours: set[str], secret: str, now: datetime,
    known: Known | None = None,
) -> str:  # fmt: skip
    """What a mail brings about: a report goes to what it speaks of, the rest to the router; the outcome's word."""
    about: Interaction | str = ""
    if mail.automatic != OWN and _bare(mail.from_address) in ours:
        mail = replace(mail, automatic=OWN)
    if mail.report is not None:
        about = await mail_reports.apply(tx, mail.report, secret=secret, now=now)
        if isinstance(about, str) and about:
            return "reported"  # the campaign's ledger has it; ten thousand of them are no conversations
    elif not mail.automatic and await mail_reports.stopped(tx, mail, secret=secret, now=now):
        mail = replace(mail, automatic=STOPPED)
    await router.mail_arrived(
        tx, mail, account=account, html_key=kept.html_key, files=kept.files, now=now,
        about=about if isinstance(about, Interaction) else None, known=known,
    )  # fmt: skip
    return "stored" if mail.report is None or not about else "reported"


def _bare(address: str) -> str:
    """An address without a detail behind a plus."""
    local, _, domain = address.lower().partition("@")
    return f"{local.partition('+')[0]}@{domain}"


async def _our_addresses(tx: Tx) -> set[str]:
    return {one for row in await accounts.list_channel(tx, "email") for one in addresses_of(row)}


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
        ours = await _our_addresses(tx)
        outcome, state, error = await _effects(tx, account, mail, kept, ours=ours, secret=secret, now=now, turn=LAST)
        if state is ReceiptState.DONE:
            await receipts.close(tx, receipt_id, now=now)
        else:
            await receipts.fail(tx, receipt_id, error=error, now=now)
        return Answer(200, outcome)

    return await db.write(unit)
