"""`hub check`: everything the settings name, looked at, with what to do about each fault.

Decides what is worth looking at before a start and what counts as a fault (exit code 1) or only as a note. Nothing here
changes anything, except that a file is written into the files folder and removed again.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import secrets
import socket
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from crm_core.clock import Clock, SystemClock
from crm_core.texts import Text
from hub import twin
from hub.database_probe import DatabaseUnusable, probe_database
from hub.migrate import schema_state
from hub.settings import Settings, parsed_url, read_settings
from hub.valkey import ValkeyUnavailable, answers, reachable, socket_path, without_password

if TYPE_CHECKING:
    from crm_core.accounts import ChannelAccount
    from hub.channel_set import ChannelSet

STEP_S = 10.0
CLOCK_WARN_S, CLOCK_FAULT_S = 5.0, 60.0
LITTLE_SPACE = 1 << 30
OLD_BACKUP_DAYS = 7


class Verdict(StrEnum):
    """How a look ended."""

    OK = "ok"
    NOTE = "note"
    FAULT = "FAULT"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table."""

    what: str
    verdict: Verdict
    text: str


Look = Callable[[Settings], Awaitable[Finding]]


async def run_check(settings: Settings, *, live: bool = False, clock: Clock | None = None) -> int:
    """Print the table; 0 when nothing is at fault. `live`: log in everywhere that is configured, too."""
    settings = await with_running_twin(settings)
    findings = await check(settings, clock=clock or SystemClock())
    findings += await check_live(settings) if live else []
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        sys.stdout.write(f"{finding.verdict:<5}  {finding.what:<{width}}  {finding.text}\n")
    faults = sum(finding.verdict is Verdict.FAULT for finding in findings)
    sys.stdout.write(f"{faults} fault{'' if faults == 1 else 's'}.\n" if faults else "Everything needed is there.\n")
    return 1 if faults else 0


async def check(settings: Settings, *, clock: Clock) -> list[Finding]:
    """All findings, in a fixed order. Looks run side by side; one that breaks or hangs is a fault of its own line."""
    # Loaded before the looks begin: on a busy machine that takes longer than a look may.
    for needed in ("aiohttp", "asyncpg", "obstore.store", "hub.provider_in_use"):
        importlib.import_module(needed)
    looks: list[tuple[str, Look]] = [
        ("settings", look_at_settings),
        ("data folder", look_at_data),
        ("database", look_at_database),
        ("tables", look_at_migrations),
        ("redis", look_at_redis),
        ("files", look_at_files),
        ("public address", look_at_public_url),
        ("twilio", lambda s: look_at_twilio(s, clock)),
        ("smtp", lambda s: look_at_mail(s.smtp_url, "smtp")),
        ("imap", lambda s: look_at_mail(s.imap_url, "imap")),
        ("channels", look_at_channels),
        ("backup", lambda s: look_at_backup(s, clock)),
    ]
    return list(await asyncio.gather(*(bounded(what, look, settings) for what, look in looks)))


async def check_live(settings: Settings) -> list[Finding]:
    """Log in at the provider and at every mailbox in use, as the hub does; a sentence for each. Sends and stores nothing."""
    from hub import connection_test
    from hub.provider_in_use import channels_of

    found: list[Finding] = []
    try:
        async with channels_of(settings) as (channels, mailboxes):
            if channels.twilio is not None:
                told = await connection_test.try_provider(channels.twilio)
                found.append(_of_test("twilio log-in", told.good, told.sentence))
            for row in mailboxes:
                found += await _of_mailbox(channels, row)
            if not mailboxes and (settings.imap_url or settings.smtp_url):
                urls = {"imap_url": settings.imap_url or "", "smtp_url": settings.smtp_url or ""}
                for told in await connection_test.try_mailbox(settings, urls):
                    found.append(_of_test(f"{told.what} log-in", told.good, told.sentence))
    except Exception as error:
        # The database's own line says what is wrong with it.
        text = Text("could not be looked at (%(detail)s)", detail=type(error).__name__)
        found.append(Finding("log-ins", Verdict.FAULT, text))
    return found or [Finding("log-ins", Verdict.OFF, Text("nothing is configured that could be logged in to"))]


async def _of_mailbox(channels: ChannelSet, row: ChannelAccount) -> list[Finding]:
    from channels.errors import ChannelError
    from hub import connection_test
    from hub.sealing import Unsealable

    try:
        tested = await connection_test.try_channel(channels.mail(row))
    except ChannelError as error:
        return [Finding(row.address, Verdict.FAULT, error.message)]
    except Unsealable:
        text = Text("its secrets were sealed under another HUB_SECRET_KEY: enter them again")
        return [Finding(row.address, Verdict.FAULT, text)]
    return [_of_test(f"{row.address} {told.what}", told.good, told.sentence) for told in tested]


def _of_test(what: str, good: bool, sentence: str) -> Finding:  # noqa: FBT001 - what a test said
    return Finding(what, Verdict.OK if good else Verdict.FAULT, sentence)


async def with_running_twin(settings: Settings) -> Settings:
    """In the sandbox, the settings that `hub serve` gave its children, when the twin is up: it is looked at too."""
    ports = twin.noted_ports(settings.data_dir)
    if not settings.sandbox or settings.sandbox_attached or ports is None:
        return settings
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", ports.http)
    except OSError:
        return settings
    writer.close()
    made = twin.credentials(settings.data_dir)
    app_sid = await asyncio.to_thread(twin.register_app, made, ports, hub_url=settings.public_url)
    environ = {**os.environ, **twin.environment(made, ports, app_sid=app_sid)}
    return read_settings({**environ, "HUB_DATA_DIR": str(settings.data_dir)})


async def bounded(what: str, look: Look, settings: Settings) -> Finding:
    try:
        async with asyncio.timeout(STEP_S):
            return await look(settings)
    except TimeoutError:
        return Finding(what, Verdict.FAULT, Text("no answer within %(limit)s s", limit=round(STEP_S)))
    except Exception as error:
        # The table must be whole whatever one look runs into.
        return Finding(what, Verdict.FAULT, Text("could not be looked at (%(detail)s)", detail=type(error).__name__))


async def look_at_settings(settings: Settings) -> Finding:
    if settings.warnings:
        return Finding("settings", Verdict.NOTE, "; ".join(settings.warnings))
    where = {"place": f"{settings.host}:{settings.port}", "url": settings.public_url}
    text = Text("the sandbox, %(place)s, %(url)s", **where)
    if not settings.sandbox:
        text = Text("real providers, %(place)s, %(url)s", **where)
    return Finding("settings", Verdict.OK, text)


async def look_at_data(settings: Settings) -> Finding:
    facts = os.statvfs(settings.data_dir)
    free = facts.f_bavail * facts.f_frsize
    text = Text("%(folder)s, %(free)s GiB free", folder=settings.data_dir, free=f"{free / (1 << 30):.1f}")
    return Finding("data folder", Verdict.OK if free > LITTLE_SPACE else Verdict.NOTE, text)


async def look_at_database(settings: Settings) -> Finding:
    try:
        return Finding("database", Verdict.OK, await probe_database(settings.database_url))
    except DatabaseUnusable as error:
        return Finding("database", Verdict.FAULT, str(error))


async def look_at_migrations(settings: Settings) -> Finding:
    current, newest = await schema_state(settings.database_url)
    if current == newest:
        return Finding("tables", Verdict.OK, Text("as this version wants them (revision %(newest)s)", newest=newest))
    text = Text("there are none yet: run `hub migrate`")
    if current is not None:
        text = Text("revision %(has)s, this version wants %(newest)s: run `hub migrate`", has=current, newest=newest)
    return Finding("tables", Verdict.FAULT, text)


async def look_at_redis(settings: Settings) -> Finding:
    if settings.redis_url is None:
        running = await asyncio.to_thread(answers, socket_path(settings.data_dir / "valkey"))
        text = Text("a private Valkey, running") if running else Text("a private Valkey; `hub serve` starts it")
        return Finding("redis", Verdict.OK, text)
    try:
        await asyncio.to_thread(reachable, settings.redis_url)
    except ValkeyUnavailable as error:
        return Finding("redis", Verdict.FAULT, str(error))
    return Finding("redis", Verdict.OK, without_password(settings.redis_url))


async def look_at_files(settings: Settings) -> Finding:
    import obstore
    from obstore.store import from_url

    shown = settings.files_url
    if shown.startswith("file://"):
        await asyncio.to_thread(os.makedirs, shown.removeprefix("file://"), exist_ok=True)
    name = f"check-{secrets.token_hex(8)}"
    try:
        store = from_url(shown)
        await obstore.put_async(store, name, b"check")
        back = await (await obstore.get_async(store, name)).bytes_async()
        await obstore.delete_async(store, name)
    except Exception as error:
        # obstore raises a type of its own for each kind of store
        return Finding(
            "files",
            Verdict.FAULT,
            Text("cannot write to %(url)s (%(detail)s): correct HUB_FILES_URL", url=shown, detail=type(error).__name__),
        )
    if bytes(back) != b"check":
        return Finding("files", Verdict.FAULT, Text("%(url)s does not give back what was written", url=shown))
    return Finding("files", Verdict.OK, shown)


async def look_at_public_url(settings: Settings) -> Finding:
    if not settings.public_url_set:
        return Finding(
            "public address", Verdict.OK, Text("%(url)s (HUB_PUBLIC_URL is not set)", url=settings.public_url)
        )
    host = urlsplit(settings.public_url).hostname or ""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    except OSError:
        return Finding(
            "public address",
            Verdict.FAULT,
            Text("%(host)s has no address in DNS: correct HUB_PUBLIC_URL or DNS", host=host),
        )
    addresses = ", ".join(sorted({str(entry[4][0]) for entry in found}))
    return Finding("public address", Verdict.OK, f"{settings.public_url} ({addresses})")


async def look_at_twilio(settings: Settings, clock: Clock) -> Finding:
    """The account's own resource: proves the address, the credentials and, by its Date header, this machine's clock."""
    from hub.provider_in_use import provider_in_use

    account, from_row = await provider_in_use(settings)
    if account is None:
        reason = settings.channels_off.get("voice", "off")
        if settings.sandbox:
            reason = Text("the sandbox; `hub serve` starts it")
        return Finding("twilio", Verdict.OFF, reason)
    import aiohttp

    base = account.api_base or "https://api.twilio.com"
    url = f"{base}/2010-04-01/Accounts/{account.account_sid}.json"
    login = aiohttp.encode_basic_auth(account.account_sid, account.auth_token)
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=STEP_S - 1)) as session:
            began = time.monotonic()
            async with session.get(url, headers={"Authorization": login}, allow_redirects=False) as response:
                status, date = response.status, response.headers.get("Date", "")
            took = time.monotonic() - began
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return Finding(
            "twilio", Verdict.FAULT, Text("%(url)s does not answer (%(detail)s)", url=base, detail=type(error).__name__)
        )
    if status in {401, 403}:
        text = Text("refused TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN: copy them again")
        if from_row:
            text = Text("refused the account and token that an administrator entered: enter them again")
        return Finding("twilio", Verdict.FAULT, text)
    if status != 200:
        return Finding(
            "twilio",
            Verdict.FAULT,
            Text("%(url)s answers %(status)s instead of the account", url=base, status=str(status)),
        )
    skew = clock_skew_s(date, clock.now())
    if skew is not None and abs(skew) > CLOCK_WARN_S:
        verdict = Verdict.FAULT if abs(skew) > CLOCK_FAULT_S else Verdict.NOTE
        text = Text("this machine's clock is %(skew)s s off: start a time service", skew=f"{skew:+.0f}")
        return Finding("twilio", verdict, text)
    text = Text("%(url)s knows the account, %(took)s ms, clock agrees", url=base, took=f"{took * 1000:.0f}")
    return Finding("twilio", Verdict.OK, text)


def clock_skew_s(date_header: str, now: datetime) -> float | None:
    """Seconds by which `now` is ahead of an HTTP Date header; None when there is none. The header has whole seconds."""
    try:
        told = parsedate_to_datetime(date_header)
    except ValueError:
        return None
    return (now - (told if told.tzinfo else told.replace(tzinfo=UTC))).total_seconds()


async def look_at_mail(url: str | None, what: str) -> Finding:
    """Connect and read the greeting, with TLS where the URL asks for it. Log-ins are the channel's own business."""
    setting = f"HUB_{what.upper()}_URL"
    if url is None:
        return Finding(what, Verdict.OFF, Text("%(setting)s is not set", setting=setting))
    parts = parsed_url(url)
    if parts is None or parts.hostname is None:
        return Finding(what, Verdict.FAULT, Text("%(setting)s cannot be read", setting=setting))
    tls = parts.scheme.endswith("s")
    port = parts.port or {"smtp": 587, "smtps": 465, "imap": 143, "imaps": 993}[parts.scheme]
    where = f"{parts.hostname}:{port}"
    context = ssl.create_default_context() if tls else None
    try:
        reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=context)
        async with asyncio.timeout(STEP_S - 1):
            greeting = (await reader.readline()).decode("ascii", "replace").strip()
        writer.close()
    except ssl.SSLCertVerificationError:
        return Finding(
            what, Verdict.FAULT, Text("%(where)s shows a certificate that is not valid for its name", where=where)
        )
    except ssl.SSLError:
        return Finding(
            what,
            Verdict.FAULT,
            Text(
                "%(where)s does not speak TLS: use %(scheme)s:// or the TLS port", where=where, scheme=parts.scheme[:-1]
            ),
        )
    except socket.gaierror:
        return Finding(
            what,
            Verdict.FAULT,
            Text("%(host)s has no address in DNS: correct %(setting)s", host=parts.hostname, setting=setting),
        )
    except (OSError, TimeoutError):
        return Finding(
            what,
            Verdict.FAULT,
            Text("%(where)s does not answer: correct %(setting)s or open the way", where=where, setting=setting),
        )
    if not greeting.startswith("220" if what == "smtp" else "* "):
        return Finding(
            what,
            Verdict.FAULT,
            Text("%(where)s does not greet as %(protocol)s does", where=where, protocol=what.upper()),
        )
    return Finding(what, Verdict.OK, Text("%(where)s answers", where=where))


async def look_at_channels(settings: Settings) -> Finding:
    from hub.provider_in_use import channels_of

    off = settings.channels_off
    try:
        async with channels_of(settings) as (channels, mailboxes):
            off = channels.off()
            if any(channels.secrets(row) for row in mailboxes):
                off.pop("email", None)  # a mailbox with servers of its own
    except Exception:
        # What the environment says is all that is known without the database.
        off = settings.channels_off
    if not off:
        return Finding("channels", Verdict.OK, Text("voice, sms, email and web forms"))
    reasons = dict.fromkeys(off.values())
    return Finding(
        "channels",
        Verdict.NOTE,
        Text(
            "off: %(channels_text)s. %(reasons_text)s",
            channels_text=sorted(off),
            reasons_text=list(reasons),
        ),
    )


async def look_at_backup(settings: Settings, clock: Clock) -> Finding:
    """How old the newest backup is, by the audit log. The sandbox needs none."""
    what = "backup"
    if settings.sandbox and settings.embedded_database:
        return Finding(what, Verdict.OFF, Text("the sandbox needs none"))
    try:
        made = await newest_backup(settings)
    except Exception:
        # No tables yet, or no database: their own lines say so.
        return Finding(what, Verdict.OFF, Text("not known while the database cannot be read"))
    if made is None:
        return Finding(what, Verdict.NOTE, Text("none was ever made: run `hub backup`"))
    days = (clock.now() - made).days
    if days > OLD_BACKUP_DAYS:
        return Finding(what, Verdict.NOTE, Text("the newest is %(days)s days old: run `hub backup`", days=days))
    return Finding(what, Verdict.OK, Text("the newest is of %(made_at)s", made_at=made))


async def newest_backup(settings: Settings) -> datetime | None:
    """When the last one was made, as far as this database knows."""
    from sqlmodel import col, func, select

    from crm_core.audit import AuditEntry
    from crm_core.db import open_database

    db = await open_database(settings.database_url, pool_size=1)
    try:
        async with db.reading() as tx:
            statement = select(func.max(AuditEntry.at)).where(
                AuditEntry.subject == "hub:backup", col(AuditEntry.action) == "backup.made"
            )
            found: datetime | None = await tx.one(statement)
            return found
    finally:
        await db.close()
