"""Mail: a mailbox read over IMAP and answered over SMTP. Parsing happens in child processes (channels/mail_pool.py).

Duplicates are told by folder, UIDVALIDITY and UID (the event key), and after a change of UIDVALIDITY by the hash of the
raw mail, which is the caller's to keep; never by Message-ID, which a stranger chooses.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

from channels.contract import AccountConfig, Arrival, MailArrived, MailUnreadable, OutboundMail, SendReceipt
from channels.errors import Misconfigured
from channels.imap import BYTES_PER_FETCH, MAX_SIZE, UIDS_PER_FETCH, UIDS_PER_SIZES, ImapSettings, Mailbox
from channels.imap_sent import keep_copy
from channels.mail_compose import compose, envelope
from channels.mail_html import has_remote_images, sanitise
from channels.mail_oauth import OauthSettings, TokenSource
from channels.mail_pool import MailPool
from channels.mail_split import split_reply
from channels.smtp import SmtpLine, SmtpSettings
from crm_core.clock import Clock, SystemClock
from crm_core.texts import Text

__all__ = ["EmailChannel", "EmailSettings", "build", "compose", "has_remote_images", "sanitise", "split_reply"]

# What the SMTP server's answers become. IMAP has no statuses.
STATUSES = {"250": "sent"}
NOT_READ = "no_imap"  # the code of Misconfigured for a mailbox that only sends
OAUTH_SECRETS = ("token_url", "client_id", "client_secret", "refresh_token", "scope")  # each with oauth_ before it
BACKLOG_DAYS = 7  # of a new mailbox, when its row says nothing
Portion = list[tuple[MailArrived | MailUnreadable, Mapping[str, Any]]]  # mails fetched together, each with its cursor


@dataclass(frozen=True, slots=True)
class EmailSettings:
    """One mailbox. Either half may be missing: a mailbox only read, or an address only sent from."""

    address: str
    imap: ImapSettings | None = None
    smtp: SmtpSettings | None = None
    backlog_days: int | None = None  # of a mailbox never read before, only mails of so many days; None = all of them
    own_addresses: frozenset[str] = frozenset()  # of all our mailboxes: mail from these is never answered by itself


class EmailChannel:
    """Mail of one mailbox. Sends and Polls."""

    kind = "email"

    def __init__(
        self,
        settings: EmailSettings,
        *,
        clock: Clock | None = None,
        tls: ssl.SSLContext | None = None,
        pool: MailPool | None = None,
    ) -> None:
        self.settings = settings
        self._clock = clock or SystemClock()
        self._tls = tls
        self._pool = pool
        self._shared = False

    def share(self, pool: MailPool) -> None:
        """Parse in a pool that others use too; closing it is then its maker's."""
        self._pool, self._shared = pool, True

    @property
    def secrets(self) -> Sequence[str]:
        """Values that must never be logged."""
        halves = [half for half in (self.settings.imap, self.settings.smtp) if half is not None]
        tokens = {one for half in halves if half.tokens is not None for one in half.tokens.secrets}
        return tuple({half.password for half in halves if half.password} | tokens)

    async def close(self) -> None:
        """End the parsing children."""
        pool, self._pool = self._pool, None
        if pool is not None and not self._shared:
            await pool.close()

    # --- out ---

    async def send(self, message: OutboundMail) -> SendReceipt:
        """Hand one mail over, once, on a connection of its own. The receipt's id is our Message-ID. ChannelError."""
        async with self.line() as line:
            return await self.send_on(line, message)

    def line(self) -> SmtpLine:
        """A connection for many mails, opened with the first: `async with channel.line() as line: send_on(line, …)`."""
        if self.settings.smtp is None:
            raise Misconfigured("No mail server for sending is set.", code="no_smtp")
        return SmtpLine(self.settings.smtp, tls=self._tls)

    async def keep_copy(self, message: OutboundMail, *, folder: str = "") -> bool:
        """Put a mail that was sent into the mailbox's folder for sent mail; False when it is there already. ChannelError."""
        if self.settings.imap is None:
            raise Misconfigured("No mailbox for reading is set.", code=NOT_READ)
        raw = compose(message, now=self._clock.now())
        return await keep_copy(self.settings.imap, raw, message_id=message.message_id, folder=folder, tls=self._tls)

    async def send_on(self, line: SmtpLine, message: OutboundMail) -> SendReceipt:
        """`send` on a kept connection."""
        raw = compose(message, now=self._clock.now())
        sender, recipients = envelope(message)
        answer = await line.send(raw, sender=sender, recipients=recipients)
        return SendReceipt(message.message_id, STATUSES["250"], {"answer": answer, "size": len(raw)})

    # --- in ---

    async def poll(self, cursor: Mapping[str, Any]) -> AsyncGenerator[tuple[Arrival, Mapping[str, Any]], None]:
        """New mails for ever, each with the cursor {"uidvalidity", "last_uid"} to store in the same transaction.

        Asking for the next one says that this one is committed; only then is it marked seen. Raises a ChannelError when
        the connection is lost. A changed UIDVALIDITY starts from the first mail again, under new event keys.
        """
        async with contextlib.aclosing(self.portions(cursor)) as portions:
            async for portion in portions:
                for one in portion:
                    yield one

    async def drain(self, cursor: Mapping[str, Any]) -> AsyncGenerator[tuple[Arrival, Mapping[str, Any]], None]:
        """`poll`, but it ends when there is nothing new."""
        async with contextlib.aclosing(self.portions(cursor, stay=False)) as portions:
            async for portion in portions:
                for one in portion:
                    yield one

    async def portions(
        self,
        cursor: Mapping[str, Any],
        *,
        stay: bool = True,
        fetched: Callable[[Portion], None] | None = None,
        begun: Callable[[Mapping[str, Any]], Awaitable[None]] | None = None,
    ) -> AsyncGenerator[Portion, None]:
        """`poll` in lists of at most 50 mails and 4 MiB (or one larger mail). Asking for the next list says that this one is
        committed; it is fetched and parsed meanwhile, so that two are in memory at most. `fetched` is told of each as soon as
        it is here, in the same order, for what can begin before its turn. `begun` is told, as soon as the mailbox is open, the
        cursor behind which reading begins: kept for one never read before, it makes what comes while the line is down no
        old mail."""
        if self.settings.imap is None:
            raise Misconfigured("No mailbox for reading is set.", code=NOT_READ)
        mailbox = Mailbox(self.settings.imap, tls=self._tls)
        ahead: asyncio.Task[Portion] | None = None
        try:
            await mailbox.open()
            last = await self._start(mailbox, cursor)
            if begun is not None:
                await begun(_place(mailbox, last))
            while True:
                uids = await mailbox.uids_after(last)
                unconfirmed: Portion = []
                async with contextlib.aclosing(_batches(mailbox, uids)) as planned:
                    async for batch in planned:
                        ahead = asyncio.ensure_future(self._fetch(mailbox, batch, fetched))
                        if unconfirmed:
                            yield unconfirmed
                        following = await ahead
                        await _confirm(mailbox, unconfirmed)
                        unconfirmed, ahead = following, None
                if unconfirmed:
                    yield unconfirmed
                    await _confirm(mailbox, unconfirmed)
                if uids:
                    last = uids[-1]
                elif not stay:
                    return
                else:
                    await mailbox.wait()
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)
            await mailbox.close()

    async def _start(self, mailbox: Mailbox, cursor: Mapping[str, Any]) -> int:
        """The UID behind which reading begins."""
        if "uidvalidity" not in cursor and self.settings.backlog_days is not None:
            # Years of old mail are no work; they stay in the mailbox.
            return await mailbox.last_before(self._clock.now().date() - timedelta(days=self.settings.backlog_days))
        return int(cursor.get("last_uid") or 0) if cursor.get("uidvalidity") == mailbox.uidvalidity else 0

    async def _fetch(
        self, mailbox: Mailbox, batch: Mapping[int, int], fetched: Callable[[Portion], None] | None
    ) -> Portion:
        portion = await self._read(mailbox, batch)
        if fetched is not None:
            fetched(portion)
        return portion

    async def _read(self, mailbox: Mailbox, batch: Mapping[int, int]) -> Portion:
        """Mails with their cursors, in order, parsed side by side."""
        if self._pool is None:
            self._pool = MailPool()
        pool = self._pool
        if len(batch) == 1 and (large := next(iter(batch.items())))[1] > MAX_SIZE:
            uid, size = large
            key = self.event_key(mailbox.uidvalidity, uid)
            reason = Text("It is larger than %(most)s MiB.", most=MAX_SIZE // 2**20)
            return [(MailUnreadable(key, reason, size, await mailbox.head(uid)), _place(mailbox, uid))]
        raws = await mailbox.bodies(list(batch), bytes_expected=sum(batch.values()))
        keys = {uid: self.event_key(mailbox.uidvalidity, uid) for uid in raws}
        found = await asyncio.gather(*(pool.read(raws[uid], event_key=keys[uid]) for uid in sorted(raws)))
        return [(self._judged(one), _place(mailbox, uid)) for uid, one in zip(sorted(raws), found, strict=True)]

    def event_key(self, uidvalidity: int, uid: int) -> str:
        """What tells one mail of this mailbox from all others."""
        folder = self.settings.imap.folder if self.settings.imap else ""
        return f"mail:{self.settings.address}:{folder}:{uidvalidity}:{uid}"

    def _judged(self, mail: MailArrived | MailUnreadable) -> MailArrived | MailUnreadable:
        """Mail from ourselves is never answered by itself, whatever it says."""
        own = self.settings.own_addresses | {self.settings.address.lower()}
        if isinstance(mail, MailArrived) and not mail.automatic and mail.from_address in own:
            return dataclasses.replace(mail, automatic="own")
        return mail


def _place(mailbox: Mailbox, uid: int) -> dict[str, int]:
    return {"uidvalidity": mailbox.uidvalidity, "last_uid": uid}


async def _confirm(mailbox: Mailbox, portion: Portion) -> None:
    await mailbox.mark_seen([int(place["last_uid"]) for _, place in portion])


async def _batches(mailbox: Mailbox, uids: Sequence[int]) -> AsyncGenerator[dict[int, int], None]:
    """What is fetched together of these UIDs, in order; sizes are asked for two hundred at a time."""
    for start in range(0, len(uids), UIDS_PER_SIZES):
        for batch in batches(await mailbox.sizes(uids[start : start + UIDS_PER_SIZES])):
            yield batch


def batches(sizes: Mapping[int, int]) -> list[dict[int, int]]:
    """UIDs to fetch together, in order: at most 50 and 4 MiB; one that is too large stands alone."""
    found: list[dict[int, int]] = []
    now: dict[int, int] = {}
    for uid, size in sorted(sizes.items()):
        if now and (len(now) >= UIDS_PER_FETCH or sum(now.values()) + size > BYTES_PER_FETCH):
            found.append(now)
            now = {}
        now[uid] = size
    return [*found, now] if now else found


def imap_from_url(
    url: str, *, folder: str = "INBOX", peer_allowed: Callable[[str, str], bool] | None = None
) -> ImapSettings:
    """imaps://user:password@host:993 as settings; imap:// is for this machine only. Misconfigured."""
    scheme, host, port, user, password = _parts(url, {"imaps": 993, "imap": 143})
    security = "tls" if scheme == "imaps" else "none"
    return ImapSettings(host, port, user, password, security, folder, peer_allowed=_for(host, peer_allowed))


def smtp_from_url(url: str, *, peer_allowed: Callable[[str, str], bool] | None = None) -> SmtpSettings:
    """smtps://user:password@host:465 (TLS at once) or smtp://…:587 (STARTTLS, demanded when there is a password)."""
    scheme, host, port, user, password = _parts(url, {"smtps": 465, "smtp": 587})
    security = "tls" if scheme == "smtps" else "auto"
    return SmtpSettings(host, port, security, user, password, peer_allowed=_for(host, peer_allowed))


def _for(host: str, allowed: Callable[[str, str], bool] | None) -> Callable[[str], bool] | None:
    return None if allowed is None else functools.partial(allowed, host)


def _parts(url: str, ports: Mapping[str, int]) -> tuple[str, str, int, str, str]:
    parts = urlsplit(url)
    if parts.scheme not in ports or not parts.hostname:
        raise Misconfigured("The mail server's address cannot be read.", code="url")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return parts.scheme, parts.hostname, parts.port or ports[parts.scheme], user, password


def _backlog(given: Any) -> int | None:
    """Days, or None for `all`. Misconfigured for anything else."""
    if given in ("all", None):
        return None
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given <= 3650:
        return given
    raise Misconfigured("The backlog of a mailbox is a number of days, or all.", code="backlog")


def tokens_of(config: AccountConfig) -> TokenSource | None:
    """XOAUTH2 for both halves, when the row holds a refresh token."""
    given = {name: config.secrets.get(f"oauth_{name}", "") for name in OAUTH_SECRETS}
    if not given["refresh_token"]:
        return None
    host = urlsplit(given["token_url"]).hostname or ""
    settings = OauthSettings(**given, peer_allowed=_for(host, config.peer_allowed))
    return TokenSource(settings, vault=config.vault)


def build(config: AccountConfig) -> EmailChannel:
    """The mail channel of an account row: secrets `imap_url` and `smtp_url`, settings `folder` and `own_addresses`.

    `config.peer_allowed` says with which connected addresses the hub may talk; servers of the environment may be anywhere.
    """
    imap_url = str(config.secrets.get("imap_url") or config.settings.get("imap_url") or "")
    smtp_url = str(config.secrets.get("smtp_url") or config.settings.get("smtp_url") or "")
    if not imap_url and not smtp_url:
        raise Misconfigured("The mailbox has no server to read from or to send by.", code="incomplete")
    own = frozenset(str(one).lower() for one in config.settings.get("own_addresses", ()))
    folder = str(config.settings.get("folder") or "INBOX")
    imap = imap_from_url(imap_url, folder=folder, peer_allowed=config.peer_allowed) if imap_url else None
    smtp = smtp_from_url(smtp_url, peer_allowed=config.peer_allowed) if smtp_url else None
    tokens = tokens_of(config)
    if tokens is not None:
        imap = dataclasses.replace(imap, tokens=tokens) if imap is not None else None
        smtp = dataclasses.replace(smtp, tokens=tokens) if smtp is not None else None
    return EmailChannel(
        EmailSettings(
            address=config.address,
            imap=imap,
            smtp=smtp,
            own_addresses=own,
            backlog_days=_backlog(config.settings.get("backlog_days", BACKLOG_DAYS)),
        )
    )
