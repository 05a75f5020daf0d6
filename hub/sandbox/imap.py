"""The hub's mailbox, served by a real IMAP server: pymap with its dict backend, every message also a raw file.

Flags, UIDs and UIDVALIDITY are kept in `index.json` beside the messages, so that a client finds what it left after a
restart. IDLE is pymap's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from argparse import Namespace
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from proxyprotocol.sock import SocketInfo
from pymap.backend.dict import Config, Login
from pymap.backend.dict.filter import FilterSet
from pymap.backend.dict.mailbox import MailboxData, MailboxSet, Message
from pymap.concurrent import Event
from pymap.flags import FlagOp
from pymap.imap import IMAPServer
from pymap.interfaces.message import CachedMessage
from pymap.mime import MessageContent
from pymap.parsing.message import AppendMessage
from pymap.parsing.specials import ObjectId
from pymap.parsing.specials.flag import Flag, Wildcard
from pymap.selected import SelectedMailbox
from pymap.user import Passwords, UserMetadata
from pysasl.hashing import BuiltinHash

from hub.sandbox.config import MailboxConfig
from hub.tasks import end_tasks


class FiledMailbox(MailboxData):
    """One IMAP folder with its messages in a directory. Everything that pymap changes is written at once."""

    def __init__(self, folder: Path, content_cache: Any, thread_cache: Any) -> None:
        super().__init__(content_cache, thread_cache)
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._load()

    def _load(self) -> None:
        try:
            index = json.loads((self.folder / "index.json").read_text("utf-8"))
        except (OSError, ValueError):
            self.write_index()
            return
        self._uid_validity = index["uid_validity"]
        self._max_uid = index["max_uid"]
        self._mailbox_id = ObjectId(index["mailbox_id"].encode())
        for uid, kept in sorted((int(uid), kept) for uid, kept in index["messages"].items()):
            try:
                raw = self.path_of(uid).read_bytes()
            except OSError:
                continue
            self._put(uid, raw, datetime.fromisoformat(kept["when"]), {Flag(flag.encode()) for flag in kept["flags"]})
        self._mod_sequences.update(list(self._messages))

    def _put(self, uid: int, raw: bytes, when: datetime, flags: Iterable[Flag]) -> None:
        content = MessageContent.parse(raw)
        self._messages[uid] = Message(
            uid,
            when,
            flags,
            email_id=self._content_cache.add(content),
            thread_id=self._thread_cache.add(content),
            content=content,
        )

    @property
    def permanent_flags(self) -> frozenset[Flag]:
        """The system flags and any keyword of the client's."""
        return super().permanent_flags | {Wildcard}

    def path_of(self, uid: int) -> Path:
        return self.folder / f"{uid:08d}.eml"

    def write_index(self) -> None:
        index = {
            "uid_validity": self._uid_validity,
            "max_uid": self._max_uid,
            "mailbox_id": bytes(self._mailbox_id).decode(),
            "messages": {
                str(uid): {
                    "when": message.internal_date.isoformat(),
                    "flags": sorted(bytes(flag).decode() for flag in message.permanent_flags),
                }
                for uid, message in self._messages.items()
            },
        }
        part = self.folder / "index.part"
        part.write_text(json.dumps(index), "utf-8")
        os.replace(part, self.folder / "index.json")

    async def update_selected(self, selected: SelectedMailbox, *, wait_on: Event | None = None) -> SelectedMailbox:
        """What changed, waited for only when nothing has: pymap's own would sleep over a mail that came before IDLE began."""
        if selected.mod_sequence not in (None, self._mod_sequences.highest):
            wait_on = None
        return await super().update_selected(selected, wait_on=wait_on)

    async def append(self, append_msg: AppendMessage, *, recent: bool = False) -> Message:
        if append_msg.when is None:
            append_msg = AppendMessage(append_msg.literal, datetime.now(UTC), append_msg.flag_set)
        message = await super().append(append_msg, recent=recent)
        self.path_of(message.uid).write_bytes(append_msg.literal)
        self.write_index()
        return message

    async def copy(self, uid: int, destination: MailboxData, *, recent: bool = False) -> int | None:
        copied = await super().copy(uid, destination, recent=recent)
        if copied is not None and isinstance(destination, FiledMailbox):
            shutil.copyfile(self.path_of(uid), destination.path_of(copied))
            destination.write_index()
        return copied

    async def move(self, uid: int, destination: MailboxData, *, recent: bool = False) -> int | None:
        moved = await super().move(uid, destination, recent=recent)
        if moved is not None and isinstance(destination, FiledMailbox):
            os.replace(self.path_of(uid), destination.path_of(moved))
            destination.write_index()
            self.write_index()
        return moved

    async def update(self, uid: int, cached_msg: CachedMessage, flag_set: frozenset[Flag], mode: FlagOp) -> Message:
        message = await super().update(uid, cached_msg, flag_set, mode)
        self.write_index()
        return message

    async def delete(self, uids: Iterable[int]) -> None:
        gone = list(uids)
        await super().delete(gone)
        self.write_index()
        for uid in gone:
            self.path_of(uid).unlink(missing_ok=True)


class FiledMailboxes(MailboxSet):
    """The folders of one user: INBOX and what the client makes; each a directory under `root`."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self._inbox = FiledMailbox(root / "INBOX", self._content_cache, self._thread_cache)
        names = root / "folders.json"
        self._names: dict[str, str] = json.loads(names.read_text("utf-8")) if names.exists() else {}
        for name, folder in self._names.items():
            self._set[name] = FiledMailbox(root / folder, self._content_cache, self._thread_cache)

    @property
    def inbox(self) -> MailboxData:
        return self._inbox

    def _write_names(self) -> None:
        (self.root / "folders.json").write_text(json.dumps(self._names), "utf-8")

    async def add_mailbox(self, name: str) -> ObjectId:
        if name in self._set:
            raise ValueError(name)
        number = 1 + max((int(folder[1:]) for folder in self._names.values()), default=0)
        self._names[name] = f"f{number}"
        box = FiledMailbox(self.root / self._names[name], self._content_cache, self._thread_cache)
        self._set[name] = box
        self._write_names()
        return box.mailbox_id

    async def delete_mailbox(self, name: str) -> None:
        await super().delete_mailbox(name)
        shutil.rmtree(self.root / self._names.pop(name), ignore_errors=True)
        self._write_names()

    async def rename_mailbox(self, before: str, after: str) -> None:
        if before.upper() == "INBOX":
            raise ValueError("INBOX keeps its name here")
        await super().rename_mailbox(before, after)
        for name in [name for name in self._names if name == before or name.startswith(before + "/")]:
            self._names[after + name[len(before) :]] = self._names.pop(name)
        self._write_names()


class ImapServer:
    """The server: one user, one set of folders."""

    def __init__(self, mailbox: MailboxConfig, root: Path) -> None:
        self.mailbox = mailbox
        self.root = root
        self.folders: FiledMailboxes | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[Any]] = set()

    async def start(self, host: str, port: int) -> int:
        """Listen; gives the port."""
        args = Namespace(passlib_cfg=None, proxy_protocol=None)
        config = Config(
            args,
            host=host,
            port=port,
            demo_data=False,
            demo_user=self.mailbox.user,
            demo_password=self.mailbox.password,
            tls_enabled=False,
            secure_auth=False,
            reject_dnsbl=False,
            invalid_user_sleep=0.1,
            hash_context=BuiltinHash(rounds=1000),  # one made-up password; the default costs half a second
        )
        config.apply_context()
        login = Login(config)
        hashed = await Passwords(config).hash_password(self.mailbox.password)
        login.users_dict[self.mailbox.user] = UserMetadata(config, self.mailbox.user, password=hashed)
        self.folders = FiledMailboxes(self.root)
        config.set_cache[self.mailbox.user] = (self.folders, FilterSet())
        serve = IMAPServer(login, config)

        async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._connections.add(task)
            try:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
                    await serve(reader, writer, SocketInfo.get(writer, None, unique_id=os.urandom(16)))
            finally:
                self._connections.discard(task)
                writer.close()

        self._server = await asyncio.start_server(connection, host=host, port=port)
        return int(self._server.sockets[0].getsockname()[1])

    async def deliver(self, raw: bytes, when: datetime) -> int:
        """Put a mail into the INBOX; gives its UID. Clients in IDLE hear of it at once."""
        assert self.folders is not None
        message = await self.folders.inbox.append(AppendMessage(raw, when, frozenset()), recent=True)
        return message.uid

    async def stop(self) -> None:
        if self._server is None:
            return
        self._server.close()
        await end_tasks(self._connections)
        await self._server.wait_closed()
