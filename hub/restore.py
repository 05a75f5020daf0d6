"""`hub restore`: a backup into an empty place, verified before anything is changed, held, and brought up to date.

Nothing is ever deleted. Into a place that holds data it refuses; `--force` gives an SQLite database another name first. On
PostgreSQL an empty database is one command away, so there is no force there. What would go on by itself, or happen twice,
because an older state came back, is held for a person to look at (hub/database_copy.py HOLDS).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from datetime import datetime
from pathlib import Path

from crm_core import audit
from crm_core.clock import Clock, SystemClock
from crm_core.db import open_database
from crm_core.errors import HubError
from crm_core.failpoints import arm, failpoint
from hub.archives import Damaged, Manifest, Opened, opened
from hub.backup import ACTOR, FILES, SECRETS_MEMBER, SUBJECT, TROUBLE
from hub.database_copy import (
    NotEmpty,
    move_aside,
    place_postgres,
    place_sqlite,
    put_in_place,
    refuse_full_postgres,
    refuse_full_sqlite,
)
from hub.database_probe import probe_database
from hub.files import Files, rename_for_good
from hub.migrate import known_revisions
from hub.sealing import Sealer
from hub.settings import Settings
from hub.supervisor import CannotServe, only_one
from routing.checks import check_invariants

SQLITE = "sqlite:///"


class CannotRestore(HubError):
    """This backup cannot be restored here."""


async def run_restore(
    settings: Settings,
    path: Path,
    *,
    check_only: bool = False,
    force: bool = False,
    other_key: bool = False,
    with_secrets: bool = False,
    clock: Clock | None = None,
) -> int:
    """Verify the archive and, unless `check_only`, put it in place; 1 with one sentence when it cannot."""
    arm(settings.failpoints)
    sealer = Sealer(settings.secret_key)
    try:
        with opened(path, sealer) as archive:
            await asyncio.to_thread(archive.verify)
            manifest = archive.manifest
            say(
                f"{path}: whole, made {manifest.made_at:%Y-%m-%d %H:%M} UTC by version {manifest.hub}, {contents(manifest)}."
            )
            if check_only:
                say(
                    "Made under this hub's HUB_SECRET_KEY." if archive.genuine else "Made under another HUB_SECRET_KEY."
                )
                return 0
            with only_one(settings):
                await restore(
                    settings, archive, force=force, other_key=other_key, with_secrets=with_secrets,
                    clock=clock or SystemClock(),
                )  # fmt: skip
    except (*TROUBLE, CannotServe) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def contents(manifest: Manifest) -> str:
    """In words."""
    files = "no files" if manifest.files < 0 else f"{manifest.files} files"
    return f"{manifest.engine} revision {manifest.revision}, {sum(manifest.tables.values())} rows, {files}"


async def restore(
    settings: Settings, archive: Opened, *, force: bool, other_key: bool, with_secrets: bool, clock: Clock
) -> None:
    """Put a verified archive in place. NotEmpty, InUse, CannotRestore before anything was changed."""
    manifest, url = archive.manifest, settings.database_url
    sqlite = url.startswith(SQLITE)
    if manifest.revision not in known_revisions():
        raise CannotRestore(
            f"This backup was made by a later version of the hub (revision {manifest.revision}); update the hub first."
        )
    if (manifest.engine == "sqlite") is not sqlite:
        raise CannotRestore(f"This is a backup of {manifest.engine}; set HUB_DATABASE_URL to a database of that kind.")
    takes_key = with_secrets and manifest.secrets
    if with_secrets and not manifest.secrets:
        raise CannotRestore("This backup holds no secrets: it was made without --with-secrets.")
    if not archive.genuine and not (other_key or takes_key):
        raise CannotRestore(
            "This backup was made under another HUB_SECRET_KEY. Set that key, or say --other-key: "
            "every stored secret must then be entered again."
        )
    now = clock.now()
    path = Path(url.removeprefix(SQLITE))
    if sqlite:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # a probe would make the file
    else:
        await probe_database(url)
    await refuse_full(url, path, sqlite=sqlite, force=force)
    await put_files(settings, archive)
    failpoint("restore.after_files")
    if sqlite:
        await asyncio.to_thread(place_sqlite, archive, path, now=now, migrate=_migrate)
        failpoint("restore.before_rename")
        aside = await asyncio.to_thread(move_aside, path, stamp=f"{now:%Y%m%dT%H%M%SZ}")
        await asyncio.to_thread(put_in_place, path)
        if aside is not None and force:
            say(f"What was there is now {aside}.")
    else:
        await place_postgres(archive, url, now=now, migrate=_migrate_apart)
    if takes_key:
        say(take_key(settings, archive, now=now))
    await look(settings, manifest, clock=clock)


async def refuse_full(url: str, path: Path, *, sqlite: bool, force: bool) -> None:
    """NotEmpty, with what to do about it."""
    try:
        if sqlite:
            await asyncio.to_thread(refuse_full_sqlite, path)
        else:
            await refuse_full_postgres(url)
    except NotEmpty as error:
        if sqlite and force:
            return
        way = "Choose an empty place, or say --force to give what is there another name."
        if not sqlite:
            way = "Make an empty database (createdb) and name it in HUB_DATABASE_URL; nothing is overwritten."
        raise NotEmpty(f"{error.message} {way}") from error


def _migrate(url: str, revision: str = "head") -> None:
    from hub.migrations import migrate

    migrate(url, revision)


async def _migrate_apart(url: str, revision: str) -> None:
    await asyncio.to_thread(_migrate, url, revision)


async def put_files(settings: Settings, archive: Opened) -> None:
    """The files under the keys they had. Random keys: nothing that is there already can be in their way."""
    files = Files(settings.files_url)
    for member in archive.manifest.members:
        if member.name.startswith(FILES):
            await files.put_back(member.name.removeprefix(FILES), await asyncio.to_thread(archive.read, member.name))
            failpoint("restore.file")


def take_key(settings: Settings, archive: Opened, *, now: datetime) -> str:
    """The archive's HUB_SECRET_KEY into the data folder of an embedded hub; a sentence. What was there gets another name."""
    lines = archive.read(SECRETS_MEMBER).decode().splitlines()
    values = dict(line.partition("=")[::2] for line in lines)
    key = values["HUB_SECRET_KEY"]
    if key == settings.secret_key:
        return "HUB_SECRET_KEY is the same."
    path = settings.data_dir / "secret.key"
    if not settings.embedded_database or os.environ.get("HUB_SECRET_KEY"):
        return (
            f"Now set HUB_SECRET_KEY to the value in {SECRETS_MEMBER} of the archive: the stored secrets open under it."
        )
    if path.exists():
        path.rename(path.with_name(f"secret.key.before-restore-{now:%Y%m%dT%H%M%SZ}"))
    fresh = path.with_name(f".secret.key.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(f"{key}\n")
        handle.flush()
        os.fsync(handle.fileno())
    rename_for_good(fresh, path)
    return f"{path} holds the backup's HUB_SECRET_KEY now."


async def look(settings: Settings, manifest: Manifest, *, clock: Clock) -> None:
    """Note it in the audit log, and say what a look at the restored data brings."""
    db = await open_database(settings.database_url, pool_size=1)
    try:
        await db.write(
            lambda tx: audit.record(
                tx, actor=ACTOR, action="backup.restored", subject=SUBJECT, now=clock.now(),
                made_at=manifest.made_at.isoformat(), revision=manifest.revision,
            )
        )  # fmt: skip
        async with db.reading() as tx:
            broken = await audit.verify(tx)
            wrong = await check_invariants(tx)
    finally:
        await db.close()
    if broken is not None:
        raise Damaged(f"Restored, but the audit log's chain does not hold from entry {broken} on.")
    if wrong:
        raise Damaged(f"Restored, but not everything in it agrees: {'; '.join(wrong[:5])}.")
    say("Restored; the audit log's chain and the counts hold. Everybody logs in again.")
    say("Campaigns and call lists that ran or were to start are held; invitations that were out must be sent again.")
    say("People who opted out after the backup are not known as such here: enter them before a campaign goes on.")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
