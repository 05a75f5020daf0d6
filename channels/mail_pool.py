"""A few child processes that parse mails: raw bytes in, a MailArrived or MailUnreadable out, whatever the mail does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import struct
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from channels.contract import MailArrived, MailFile, MailReport, MailUnreadable, ReportedRecipient

CHILD = Path(__file__).with_name("mail_child.py")
WALL_S = 15.0  # the child ends itself after 2 s of processor time; this is for one that cannot even do that
MAX_ANSWER = 64 * 1024 * 1024
MAILS_PER_CHILD = 1000  # starting one costs as much as reading fifty mails
# No such mailbox or domain, moved without a trace, a domain that takes no mail (RFC 3463 3.2, RFC 7505). Not 5.1.7 and 5.1.8,
# which are about the sender, nor 5.1.0, which Exchange says of many things.
DEAD_CODES = frozenset({"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10"})
ENDED = {
    signal.SIGPROF: "It took more than 2 s to look into it.",
    signal.SIGXCPU: "It took more than 2 s to look into it.",
    signal.SIGKILL: "It took too long to look into it.",
}


class ParseFailed(Exception):
    """The mail could not be looked into; the text is a sentence."""


class MailPool:
    """At most `size` children, started when first needed and replaced after every failure. Belongs to one loop."""

    def __init__(self, *, size: int = 2, wall_s: float = WALL_S) -> None:
        self._slots = asyncio.Semaphore(size)
        self._idle: list[_Child] = []
        self._all: set[_Child] = set()
        self._wall_s = wall_s

    async def read(self, raw: bytes, *, event_key: str) -> MailArrived | MailUnreadable:
        """The mail as values, or why it cannot be read. Never raises for anything that is in the mail."""
        try:
            values, contents = await self.parse(raw)
            return arrived(values, contents, raw=raw, event_key=event_key)
        except ParseFailed as failed:
            return MailUnreadable(event_key, str(failed), len(raw), raw)

    async def parse(self, raw: bytes) -> tuple[Mapping[str, Any], list[bytes]]:
        """The child's answer. ParseFailed with a sentence when it gave none."""
        async with self._slots:
            child = self._idle.pop() if self._idle else await self._start()
            good = False
            try:
                async with asyncio.timeout(self._wall_s):
                    answer = await child.ask(raw)
                good = child.asked < MAILS_PER_CHILD and "error" not in answer[0]
            except (TimeoutError, asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
                raise ParseFailed(await child.why(error)) from None
            finally:
                if good:
                    self._idle.append(child)
                else:
                    self._all.discard(child)
                    await child.end()
            if "error" in answer[0]:
                raise ParseFailed(f"It cannot be read ({str(answer[0]['error'])[:60]}).")
            return answer

    async def close(self) -> None:
        """End all children."""
        children, self._all, self._idle = list(self._all), set(), []
        for child in children:
            await child.end()

    async def _start(self) -> _Child:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-X",
            "utf8",
            str(CHILD),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # a traceback would quote the mail
            env={},
            cwd="/",
            start_new_session=True,
        )
        child = _Child(process)
        self._all.add(child)
        return child


class _Child:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.asked = 0

    async def ask(self, raw: bytes) -> tuple[Mapping[str, Any], list[bytes]]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise ConnectionError
        self.asked += 1
        stdin.write(struct.pack(">I", len(raw)))
        stdin.write(raw)
        await stdin.drain()
        size = struct.unpack(">I", await stdout.readexactly(4))[0]
        if size > MAX_ANSWER:
            raise ValueError("answer too large")
        values = json.loads(await stdout.readexactly(size))
        if not isinstance(values, dict):
            raise ValueError("not an object")
        sizes = values.get("sizes", [])
        if not isinstance(sizes, list) or any(not isinstance(one, int) or one < 0 for one in sizes):
            raise ValueError("bad sizes")
        if sum(sizes) > MAX_ANSWER:
            raise ValueError("answer too large")
        return values, [await stdout.readexactly(one) for one in sizes]

    async def why(self, error: BaseException) -> str:
        """A sentence for a child that did not answer."""
        if isinstance(error, TimeoutError):
            return ENDED[signal.SIGKILL]
        if isinstance(error, ValueError):
            return "It cannot be read (the parser's answer makes no sense)."
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._process.wait()
        code = self._process.returncode
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                return ENDED.get(signal.Signals(-code), "It ended the process that looked into it.")
        return "It ended the process that looked into it."

    async def end(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._process.wait()
        # Without this the pipe's transport lives until it is collected.
        transport = getattr(self._process, "_transport", None)
        if transport is not None:
            transport.close()


def arrived(values: Mapping[str, Any], contents: list[bytes], *, raw: bytes, event_key: str) -> MailArrived:
    """The child's values, checked: it has read a stranger's bytes and is not believed on shapes. ParseFailed."""
    try:
        sent = str(values["sent_at"])
        return MailArrived(
            event_key=event_key,
            message_id=_text(values["message_id"]),
            from_address=_text(values["from_address"]),
            from_name=_text(values["from_name"]),
            to=_texts(values["to"]),
            cc=_texts(values["cc"]),
            reply_to=_text(values["reply_to"]),
            subject=_text(values["subject"]),
            sent_at=datetime.fromisoformat(sent) if sent else None,
            in_reply_to=_text(values["in_reply_to"]),
            references=_texts(values["references"]),
            text=_text(values["text"]),
            html=_text(values["html"]),
            files=tuple(
                MailFile(_text(one["name"]), _text(one["type"]), content, _text(one["id"]))
                for one, content in zip(values["files"], contents, strict=True)
            ),
            automatic=_text(values["automatic"]),
            headers={_text(name): _text(value) for name, value in values["headers"].items()},
            raw=raw,
            new_text=_text(values["new_text"]),
            new_chars=_number(values["new_chars"]),
            report=_report(values["report"]),
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ParseFailed("It cannot be read (the parser's answer makes no sense).") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise TypeError
    return tuple(_text(one) for one in values)


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError
    return value


def _report(value: Any) -> MailReport | None:
    if value is None:
        return None
    if value["kind"] not in ("bounce", "complaint"):
        raise ValueError
    return MailReport(
        kind=value["kind"],
        about=_texts(value["about"]),
        returned_to=_texts(value["returned_to"]),
        recipients=tuple(_recipient(one) for one in value["recipients"]),
        text=_text(value["text"]),
    )


def _recipient(value: Any) -> ReportedRecipient:
    failed, code = value["action"] == "failed", _text(value["code"])
    return ReportedRecipient(
        address=_text(value["address"]),
        original=_text(value["original"]),
        failed=failed,
        dead=failed and code in DEAD_CODES,
        code=code,
        text=_text(value["text"]),
    )
