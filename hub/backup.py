"""`hub backup`: database, files and settings of a running hub in one archive, as of one instant.

The database first, the files after it: bytes are kept before any row names them (hub/files.py), so every file that a copied row
names is there. Secrets stay out unless asked for; those in the database are sealed and open only under HUB_SECRET_KEY.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import asyncpg

from crm_core import audit
from crm_core.clock import Clock, SystemClock
from crm_core.db import DatabaseUnavailable, open_database
from crm_core.errors import HubError
from crm_core.failpoints import arm, failpoint
from hub.archives import KEY_CHECK, Manifest, Writer, writing
from hub.database_copy import SQLITE_MEMBER, Copied, copy_postgres, copy_sqlite
from hub.database_probe import DatabaseUnusable, probe_database
from hub.files import FileMissing, Files
from hub.log import get_logger
from hub.sealing import Sealer
from hub.settings import VARIABLES, Settings

log = get_logger(__name__)

SETTINGS_MEMBER, SECRETS_MEMBER, FILES = "settings.env", "secrets.env", "files/"
SUBJECT, ACTOR = "hub:backup", "command-line"
TROUBLE = (HubError, DatabaseUnusable, DatabaseUnavailable, asyncpg.PostgresError, sqlite3.Error, OSError)


async def run_backup(
    settings: Settings,
    path: Path | None = None,
    *,
    with_files: bool = True,
    with_secrets: bool = False,
    clock: Clock | None = None,
    environ: Mapping[str, str] | None = None,
) -> int:
    """Write the archive and say what is in it; 1 with one sentence when it cannot be made."""
    arm(settings.failpoints)
    clock = clock or SystemClock()
    target = (path or Path(f"hub-{clock.now():%Y%m%dT%H%M%SZ}.zip")).absolute()
    try:
        await probe_database(settings.database_url)
        manifest = await make_backup(
            settings, target, with_files=with_files, with_secrets=with_secrets, clock=clock,
            environ=os.environ if environ is None else environ,
        )  # fmt: skip
    except TROUBLE as error:
        sys.stderr.write(f"{error}\n")
        return 1
    rows, size = sum(manifest.tables.values()), target.stat().st_size / (1 << 20)
    files = "no files" if manifest.files < 0 else f"{manifest.files} files"
    sys.stdout.write(f"{target}: {rows} rows of {len(manifest.tables)} tables, {files}, {size:.1f} MiB.\n")
    kept = "The archive holds HUB_SECRET_KEY and the providers' secrets: keep it as you keep those."
    apart = "HUB_SECRET_KEY is not in it: keep that apart, or the secrets in the database cannot be opened again."
    sys.stdout.write(f"{kept if with_secrets else apart}\n")
    return 0


async def make_backup(
    settings: Settings, target: Path, *, with_files: bool, with_secrets: bool, clock: Clock, environ: Mapping[str, str]
) -> Manifest:
    """The archive at `target`; CannotBackUp and others when not. Notes in the audit log that it was made."""
    sealer, made_at = Sealer(settings.secret_key), clock.now()
    with writing(target, made_at=made_at) as writer:
        copied = await _database(settings.database_url, writer, target)
        failpoint("backup.after_database")
        count = await _files(Files(settings.files_url), writer) if with_files else -1
        plain, secret = environment(settings, environ)
        writer.add(SETTINGS_MEMBER, _as_env(plain))
        if with_secrets:
            writer.add(SECRETS_MEMBER, _as_env({**secret, "HUB_SECRET_KEY": settings.secret_key}))
        manifest = Manifest(
            made_at=made_at, hub=hub_version(), engine=settings.database_url.partition(":")[0],
            engine_version=copied.engine_version, revision=copied.revision, tables=copied.tables, order=copied.order,
            files=count, secrets=with_secrets, key_check=sealer.sign("key", purpose=KEY_CHECK), members=writer.members,
        )  # fmt: skip
        failpoint("backup.before_finish")
        writer.finish(manifest, sealer)
    await _note(settings, manifest, clock)
    return manifest


async def _database(url: str, writer: Writer, target: Path) -> Copied:
    if not url.startswith("sqlite:///"):
        return await copy_postgres(url, writer)
    copy = target.with_name(f"{target.name}.database.part")
    try:
        copied = await asyncio.to_thread(copy_sqlite, Path(url.removeprefix("sqlite:///")), copy)
        await asyncio.to_thread(writer.add_file, SQLITE_MEMBER, copy)
    finally:
        copy.unlink(missing_ok=True)
    return copied


async def _files(files: Files, writer: Writer) -> int:
    count = 0
    for key in await files.keys():
        failpoint("backup.file")
        try:
            content = await files.get(key)
        except FileMissing:
            continue  # deleted meanwhile, by a rule or a person; its row says so or is gone
        with writer.member(FILES + key, level=1) as write:
            write(content)
        count += 1
    return count


def environment(settings: Settings, environ: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The settings as they were given: those that hold no secret, and those that do."""
    given = {name: environ[name].strip() for name in VARIABLES if environ.get(name, "").strip()}
    secret = {
        name: value
        for name, value in given.items()
        if ("://" in value and "@" in value) or any(one in value for one in settings.secrets)
    }
    return {name: value for name, value in given.items() if name not in secret}, secret


def _as_env(values: Mapping[str, str]) -> bytes:
    return "".join(f"{name}={value}\n" for name, value in sorted(values.items())).encode()


def hub_version() -> str:
    """The version that is installed."""
    try:
        return version("contact-hub")
    except PackageNotFoundError:
        return "unknown"


async def _note(settings: Settings, manifest: Manifest, clock: Clock) -> None:
    """An audit entry, by which `hub check` knows how old the newest backup is. The archive is good without it."""
    try:
        db = await open_database(settings.database_url, pool_size=1)
        try:
            told = {"files": manifest.files, "rows": sum(manifest.tables.values()), "secrets": manifest.secrets}
            await db.write(
                lambda tx: audit.record(
                    tx, actor=ACTOR, action="backup.made", subject=SUBJECT, now=clock.now(), revision=manifest.revision,
                    **told,
                )
            )  # fmt: skip
        finally:
            await db.close()
    except Exception as error:
        # A database of another revision, or one that is read-only: the backup of it is made all the same.
        log.warning("backup not noted in the audit log", error=type(error).__name__)
