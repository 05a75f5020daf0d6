"""The file of a backup: a ZIP archive with a manifest that names every member, its size and its SHA-256, and a signature.

Decides the format, that a file under its final name is whole (written beside, flushed, renamed), and what counts as damaged.
Leaves to hub/backup.py what goes in, and to hub/restore.py what becomes of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from crm_core.errors import HubError
from hub.files import rename_for_good
from hub.sealing import Sealer

FORMAT, VERSION = "contact-hub-backup", 1
MANIFEST, SIGNATURE = "manifest.json", "manifest.signature"
SIGNED, KEY_CHECK = "backup", "backup-key"
MOST_MANIFEST = 1 << 30
CHUNK = 1 << 20


class Damaged(HubError):
    """This is no whole backup."""


class CannotBackUp(HubError):
    """The backup cannot be made."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member of the archive as its bytes were when they were read."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the archive says of itself. `tables` are rows per table, `order` the tables, parents first."""

    made_at: datetime  # UTC; ISO 8601 in the file
    hub: str  # version that made it
    engine: str  # sqlite or postgresql
    engine_version: str
    revision: str  # of the schema
    tables: dict[str, int]
    order: list[str]
    files: int  # of the file store; -1: left out
    secrets: bool
    key_check: str  # a signature that only the same HUB_SECRET_KEY makes
    members: list[Member] = field(default_factory=list)

    def dump(self) -> bytes:
        """As it is stored and signed."""
        told = {"format": FORMAT, "version": VERSION, **asdict(self), "made_at": self.made_at.isoformat()}
        return json.dumps(told, indent=1, sort_keys=True).encode()


def load_manifest(raw: bytes) -> Manifest:
    """The manifest; Damaged when this is none that this version can read."""
    try:
        told: dict[str, Any] = json.loads(raw)
        if told.pop("format") != FORMAT:
            raise Damaged("This archive is not a backup of the hub.")
        version = told.pop("version")
        if version != VERSION:
            raise Damaged(f"This backup has format {version!r}, which this version of the hub cannot read.")
        members = [Member(**member) for member in told.pop("members")]
        made_at = datetime.fromisoformat(told.pop("made_at"))
        if made_at.tzinfo is None:
            raise ValueError("no zone")
        return Manifest(**told, made_at=made_at, members=members)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damaged("The backup's manifest cannot be read.") from error


class Writer:
    """An archive being written; only `finish` gives it its name."""

    def __init__(self, path: Path, part: Path, archive: zipfile.ZipFile, made_at: datetime) -> None:
        self._path, self._part, self._archive = path, part, archive
        self._date = made_at.timetuple()[:6]
        self.members: list[Member] = []

    @contextlib.contextmanager
    def member(self, name: str, *, level: int = 6) -> Iterator[Callable[[bytes], None]]:
        """Write one member in pieces."""
        info = zipfile.ZipInfo(name, self._date)
        info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o600 << 16
        info._compresslevel = level  # type: ignore[attr-defined]  # zipfile has no open way before Python 3.13
        digest, size = hashlib.sha256(), 0
        with self._archive.open(info, "w", force_zip64=True) as handle:

            def write(piece: bytes) -> None:
                nonlocal size
                handle.write(piece)
                digest.update(piece)
                size += len(piece)

            yield write
        self.members.append(Member(name, size, digest.hexdigest()))

    def add(self, name: str, content: bytes) -> None:
        """One small member."""
        with self.member(name) as write:
            write(content)

    def add_file(self, name: str, source: Path) -> None:
        """A file of this machine."""
        with self.member(name) as write, source.open("rb") as handle:
            while piece := handle.read(CHUNK):
                write(piece)

    def finish(self, manifest: Manifest, sealer: Sealer) -> None:
        """Manifest and signature, flushed to disk, under the final name."""
        raw = manifest.dump()
        signature = sealer.sign(hashlib.sha256(raw).hexdigest(), purpose=SIGNED)
        for name, content in ((MANIFEST, raw), (SIGNATURE, signature.encode())):
            info = zipfile.ZipInfo(name, self._date)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o600 << 16
            self._archive.writestr(info, content)
        self._archive.close()
        with self._part.open("rb") as handle:
            os.fsync(handle.fileno())
        rename_for_good(self._part, self._path)


@contextlib.contextmanager
def writing(path: Path, *, made_at: datetime) -> Iterator[Writer]:
    """A new archive for `path`. What a killed run left behind is written over; two at once are refused."""
    if path.exists():
        raise CannotBackUp(f"{path} is there already; choose another name.")
    part = path.with_name(f"{path.name}.part")
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise CannotBackUp(f"Cannot write to {path.parent} ({error.strerror}).") from error
    with os.fdopen(descriptor, "r+b") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CannotBackUp(f"Another backup is being written to {part}.") from error
        handle.truncate(0)
        try:
            with zipfile.ZipFile(handle, "w", allowZip64=True) as archive:
                yield Writer(path, part, archive, made_at)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise CannotBackUp(f"The backup could not be written ({error.strerror or error}).") from error
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@dataclass(frozen=True, slots=True)
class Opened:
    """An archive whose manifest was read. `genuine`: signed under this hub's key. `same_key`: made under it."""

    archive: zipfile.ZipFile
    manifest: Manifest
    genuine: bool
    same_key: bool

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """The bytes of a member; Damaged when they cannot be read."""
        with _damage(name), self.archive.open(name) as handle:
            yield handle

    def read(self, name: str) -> bytes:
        """All of a member."""
        with self.open(name) as handle:
            return handle.read()

    def verify(self) -> None:
        """Read every byte once; Damaged when anything is not as the manifest says, is missing or was added."""
        wanted = {member.name: member for member in self.manifest.members}
        there = [name for name in self.archive.namelist() if name not in (MANIFEST, SIGNATURE)]
        if sorted(there) != sorted(wanted):
            odd = sorted(set(there) ^ set(wanted)) or ["a name twice"]
            raise Damaged(f"The backup does not hold what its manifest names: {', '.join(odd[:3])}.")
        for member in wanted.values():
            digest, size = hashlib.sha256(), 0
            with self.open(member.name) as handle:
                while piece := handle.read(CHUNK):
                    digest.update(piece)
                    size += len(piece)
                    if size > member.size:
                        break
            if size != member.size or digest.hexdigest() != member.sha256:
                raise Damaged(f"{member.name} in the backup is damaged.")


@contextlib.contextmanager
def _damage(what: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, RuntimeError) as error:
        raise Damaged(f"{what} in the backup is damaged.") from error


@contextlib.contextmanager
def opened(path: Path, sealer: Sealer) -> Iterator[Opened]:
    """An archive to read. Damaged when it is cut short, is something else, or was changed since it was made."""
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise Damaged(f"There is no file {path}.") from error
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror}).") from error
    except (zipfile.BadZipFile, ValueError) as error:
        raise Damaged(f"{path} is not a whole backup: it was cut short, or it is something else.") from error
    with archive:
        names = archive.namelist()
        if MANIFEST not in names or SIGNATURE not in names:
            raise Damaged(f"{path} is not a backup of the hub.")
        if archive.getinfo(MANIFEST).file_size > MOST_MANIFEST:
            raise Damaged("The backup's manifest cannot be read.")
        with _damage(MANIFEST):
            raw, signature = archive.read(MANIFEST), archive.read(SIGNATURE).decode("ascii", "replace")
        manifest = load_manifest(raw)
        same_key = sealer.genuine("key", manifest.key_check, purpose=KEY_CHECK)
        genuine = sealer.genuine(hashlib.sha256(raw).hexdigest(), signature, purpose=SIGNED)
        if same_key and not genuine:
            raise Damaged("The backup's manifest was changed after it was made.")
        yield Opened(archive, manifest, genuine, same_key)
