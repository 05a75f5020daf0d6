"""The object store: attachments, recordings, raw mails, imports and exports, under random names, served only by the hub.

`file:///…` (written beside, flushed to disk, renamed into place) or `s3://bucket/prefix` and what else obstore reads. Bytes
are kept before any row names them, so a row never names what is not there; bytes without a row are harmless.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import unquote, urlsplit

from crm_core.errors import HubError, NotFound
from crm_core.failpoints import failpoint

CALL_S = 30.0
AWAY = "files"  # the code of a task that could not be done because this store is away, not the provider
CHUNK = 256 * 1024
OPEN_AT_ONCE = 32  # files that are flushed together
SENT_AT_ONCE = 8
FOLDER = re.compile(r"[a-z][a-z0-9_-]{0,30}")
KEY = re.compile(r"[a-z][a-z0-9_-]{0,30}/[0-9]{4}/[0-9]{2}/[0-9]{2}/[A-Za-z0-9_-]{43}")


def rename_for_good(fresh: Path, path: Path) -> None:
    """Rename within a folder; the new name survives a power cut once this returns."""
    fresh.rename(path)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """The names in it survive a power cut once this returns."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FileMissing(NotFound):
    """This file is not in the store."""


class FilesUnavailable(HubError):
    """The file store does not answer."""


class _Store(Protocol):
    async def write(self, files: Mapping[str, bytes]) -> None: ...

    async def write_pieces(self, key: str, pieces: AsyncIterator[bytes]) -> int: ...

    async def read(self, key: str) -> bytes: ...

    def chunks(self, key: str) -> AsyncIterator[bytes]: ...

    async def remove(self, key: str) -> None: ...

    async def keys(self) -> list[str]: ...


class Files:
    """See the module. Made from HUB_FILES_URL; touches nothing before it is used."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._store: _Store = _Folder(Path(unquote(parts.path))) if parts.scheme == "file" else _Objects(url)

    async def put(self, content: bytes, *, folder: str, now: datetime) -> str:
        """Keep the bytes for good; their key, `folder/year/month/day/random`. FilesUnavailable when they are not kept."""
        return (await self.put_all([(folder, content)], now=now))[0]

    async def put_all(self, contents: Sequence[tuple[str, bytes]], *, now: datetime) -> list[str]:
        """`put` of what comes together, each with its folder: flushed to disk together, which takes a third of the time."""
        files = {_fresh_key(folder, now): content for folder, content in contents}
        failpoint("files.before_write")
        await self._store.write(files)
        failpoint("files.after_write")
        return list(files)

    async def receive(self, pieces: AsyncIterator[bytes], *, folder: str, now: datetime) -> tuple[str, int]:
        """Keep bytes that come in pieces; their key and how many they were. Nothing is kept when `pieces` raises."""
        key = _fresh_key(folder, now)
        failpoint("files.before_write")
        size = await self._store.write_pieces(key, pieces)
        failpoint("files.after_write")
        return key, size

    async def get(self, key: str) -> bytes:
        """The bytes; FileMissing, FilesUnavailable."""
        return await self._store.read(_checked(key))

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        """The bytes in pieces; FileMissing before the first, FilesUnavailable."""
        async for chunk in self._store.chunks(_checked(key)):
            yield chunk

    async def delete(self, key: str) -> None:
        """Remove it; not there is success."""
        await self._store.remove(_checked(key))

    async def keys(self) -> list[str]:
        """The keys of everything that is kept: for backups, which are made of the whole."""
        return sorted(key for key in await self._store.keys() if KEY.fullmatch(key))

    async def put_back(self, key: str, content: bytes) -> None:
        """Keep the bytes under the key that they had, out of a backup. FilesUnavailable when they are not kept."""
        await self._store.write({_checked(key): content})


def _fresh_key(folder: str, now: datetime) -> str:
    if not FOLDER.fullmatch(folder):
        raise ValueError(f"not a folder: {folder!r}")
    return f"{folder}/{now:%Y/%m/%d}/{secrets.token_urlsafe(32)}"


def _checked(key: str) -> str:
    if not KEY.fullmatch(key):
        raise FileMissing
    return key


class _Folder:
    """Files in a folder of this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def write(self, files: Mapping[str, bytes]) -> None:
        try:
            await asyncio.to_thread(self._write, list(files.items()))
        except OSError as error:
            raise FilesUnavailable(f"The file store cannot be written: {error.strerror}.") from error

    def _write(self, files: Sequence[tuple[str, bytes]]) -> None:
        paths = [self._root / key for key, _ in files]
        folders = dict.fromkeys(path.parent for path in paths)
        fresh = [path.with_name(f".{path.name}.part") for path in paths]
        try:
            for folder in folders:
                _make_folder(folder, self._root)
            for start in range(0, len(files), OPEN_AT_ONCE):
                _write_some(
                    fresh[start : start + OPEN_AT_ONCE], [content for _, content in files[start : start + OPEN_AT_ONCE]]
                )
            for part, path in zip(fresh, paths, strict=True):
                part.rename(path)
            for folder in folders:
                flush_folder(folder)
        except OSError:
            for part in fresh:
                part.unlink(missing_ok=True)
            raise

    async def write_pieces(self, key: str, pieces: AsyncIterator[bytes]) -> int:
        path, size = self._root / key, 0
        fresh = path.with_name(f".{path.name}.part")

        def begin() -> IO[bytes]:
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")

        def end(handle: IO[bytes]) -> None:
            handle.flush()
            os.fsync(handle.fileno())
            handle.close()
            rename_for_good(fresh, path)

        try:
            handle = await asyncio.to_thread(begin)
            try:
                async for piece in pieces:
                    await asyncio.to_thread(handle.write, piece)
                    size += len(piece)
                await asyncio.to_thread(end, handle)
            finally:
                handle.close()
                await asyncio.to_thread(fresh.unlink, missing_ok=True)  # it is in place by now, or never will be
        except OSError as error:
            raise FilesUnavailable(f"The file store cannot be written: {error.strerror}.") from error
        return size

    async def read(self, key: str) -> bytes:
        try:
            return await asyncio.to_thread((self._root / key).read_bytes)
        except FileNotFoundError as error:
            raise FileMissing from error
        except OSError as error:
            raise FilesUnavailable(f"The file store cannot be read: {error.strerror}.") from error

    async def chunks(self, key: str) -> AsyncIterator[bytes]:
        try:
            handle = await asyncio.to_thread((self._root / key).open, "rb")
        except FileNotFoundError as error:
            raise FileMissing from error
        except OSError as error:
            raise FilesUnavailable(f"The file store cannot be read: {error.strerror}.") from error
        try:
            while chunk := await _piece(handle):
                yield chunk
        finally:
            handle.close()

    async def remove(self, key: str) -> None:
        try:
            await asyncio.to_thread((self._root / key).unlink, missing_ok=True)
        except OSError as error:
            raise FilesUnavailable(f"The file store cannot be written: {error.strerror}.") from error

    async def keys(self) -> list[str]:
        def walk() -> list[str]:
            return [path.relative_to(self._root).as_posix() for path in self._root.rglob("*") if path.is_file()]

        return await asyncio.to_thread(walk)


def _make_folder(folder: Path, root: Path) -> None:
    """The folder, with the names of those made anew flushed as well: a file in a folder that a power cut forgets is lost."""
    if folder.is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True)
    while folder != root:
        folder = folder.parent
        flush_folder(folder)


def _write_some(paths: Sequence[Path], contents: Sequence[bytes]) -> None:
    """Write all, then flush all: the first flush takes most of the others' way with it."""
    with contextlib.ExitStack() as stack:
        handles: list[IO[bytes]] = []
        for path, content in zip(paths, contents, strict=True):
            # What a killed process left of the same key is written over: keys are random, so it was the same content.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            handle = stack.enter_context(os.fdopen(descriptor, "wb"))
            handle.write(content)
            handle.flush()
            handles.append(handle)
        for written in handles:
            os.fsync(written.fileno())


async def _piece(handle: IO[bytes]) -> bytes:
    try:
        return await asyncio.to_thread(handle.read, CHUNK)
    except OSError as error:
        raise FilesUnavailable(f"The file store cannot be read: {error.strerror}.") from error


class _Objects:
    """Objects in S3 or another store that obstore knows; credentials from its own usual places."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opened: Any = None

    @property
    def _bucket(self) -> Any:
        if self._opened is None:
            from obstore.store import from_url

            self._opened = from_url(self._url)
        return self._opened

    async def write(self, files: Mapping[str, bytes]) -> None:
        import obstore

        left = list(files.items())
        while left:
            some, left = left[:SENT_AT_ONCE], left[SENT_AT_ONCE:]
            puts = [self._call(obstore.put_async(self._bucket, key, content)) for key, content in some]
            await asyncio.gather(*puts)

    async def write_pieces(self, key: str, pieces: AsyncIterator[bytes]) -> int:
        import obstore

        # A multipart upload: nothing is there before the writer is closed, and what is never closed never is.
        size, writer = 0, obstore.open_writer_async(self._bucket, key)
        async for piece in pieces:
            await self._call(writer.write(piece))
            size += len(piece)
        await self._call(writer.close())
        return size

    async def read(self, key: str) -> bytes:
        import obstore

        found = await self._call(obstore.get_async(self._bucket, key))
        return bytes(await self._call(found.bytes_async()))

    async def chunks(self, key: str) -> AsyncIterator[bytes]:
        import obstore

        found = await self._call(obstore.get_async(self._bucket, key))
        pieces = aiter(found.stream(min_chunk_size=CHUNK))
        while (chunk := await self._call(anext(pieces, None))) is not None:  # each piece in its time
            yield bytes(chunk)

    async def remove(self, key: str) -> None:
        import obstore

        try:
            await self._call(obstore.delete_async(self._bucket, key))
        except FileMissing:
            return

    async def keys(self) -> list[str]:
        import obstore

        found: list[str] = []
        try:
            async for page in obstore.list(self._bucket):
                found += [str(one["path"]) for one in page]
        except Exception as error:
            # obstore raises a type of its own for each kind of store
            raise FilesUnavailable(f"The file store does not answer: {type(error).__name__}.") from error
        return found

    async def _call(self, asked: Any) -> Any:
        from obstore.exceptions import BaseError, NotFoundError

        try:
            async with asyncio.timeout(CALL_S):
                return await asked
        except (FileNotFoundError, NotFoundError) as error:
            raise FileMissing from error
        except (BaseError, OSError, TimeoutError) as error:
            raise FilesUnavailable(f"The file store does not answer: {type(error).__name__}.") from error
