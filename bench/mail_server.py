"""A mailbox of any length for the mail benchmark: IMAP4rev1 as far as a reader asks, its mails made when they are fetched.

    python -m bench.mail_server COUNT [UIDVALIDITY]     (prints its port)

Nothing is stored, so a hundred thousand mails cost no memory here. Every mail is different; of ten mails four are plain text,
three are HTML with a plain twin, two are answers with a quoted text, and one has an attachment of 20 kB.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import sys

LINES = "My order has not arrived, please call me back this afternoon.\r\n"
ATTACHED = base64.encodebytes(bytes(range(256)) * 80).replace(b"\n", b"\r\n").decode("ascii")


def letter(uid: int) -> bytes:
    """The mail with this UID, 2 to 30 kB; a thousand senders write in turn."""
    head = (
        f"Return-Path: <s{uid % 1000}@example.com>\r\nReceived: from mx.example.com; Wed, 18 Nov 2026 10:00:00"
        f" +0000\r\nFrom: Anna {uid % 1000} <s{uid % 1000}@example.com>\r\nTo: support@example.test\r\n"
        f"Subject: Please call me back {uid}\r\nMessage-ID: <bench-{uid}@example.com>\r\n"
        "Date: Wed, 18 Nov 2026 10:00:00 +0000\r\nMIME-Version: 1.0\r\n"
    )
    text = LINES * 30
    kind = uid % 10
    if kind < 4:
        body = f"Content-Type: text/plain; charset=utf-8\r\n\r\n{uid}\r\n{text}"
    elif kind < 7:
        rows = "".join(f"<tr><td>{n}</td><td><b>My order</b> has not arrived.</td></tr>" for n in range(40))
        body = (
            'Content-Type: multipart/alternative; boundary="b1"\r\n\r\n--b1\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n'
            f"{uid}\r\n{text}\r\n--b1\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
            f"<html><body><p>{uid}</p><table>{rows}</table></body></html>\r\n--b1--\r\n"
        )
    elif kind < 9:
        quoted = "".join(f"> {line}\r\n" for line in text.split("\r\n") if line)
        body = (
            f"In-Reply-To: <other-{uid}@example.test>\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
            f"Yes, please. {uid}\r\n\r\n"
            f"On Tue, 17 Nov 2026 at 10:00 UTC, Support <support@example.test> wrote:\r\n{quoted}"
        )
    else:
        body = (
            'Content-Type: multipart/mixed; boundary="b1"\r\n\r\n--b1\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n'
            f"{uid}\r\n{text}\r\n--b1\r\nContent-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n"
            f'Content-Disposition: attachment; filename="order {uid}.pdf"\r\n\r\n{ATTACHED}--b1--\r\n'
        )
    return (head + body).encode()


def numbers(spec: str) -> list[int]:
    """The UIDs of a set such as 3,5:8."""
    found: list[int] = []
    for one in spec.split(","):
        low, _, high = one.partition(":")
        found.extend(range(int(low), int(high or low) + 1))
    return found


class Box:
    """One mailbox with UIDs 1 to `count`."""

    def __init__(self, count: int, *, uidvalidity: int = 1) -> None:
        self.count = count
        self.uidvalidity = uidvalidity
        self.fetched = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        writer.write(b"* OK ready\r\n")
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                tag, _, rest = line.decode("ascii").strip().partition(" ")
                for answer in self.answers(rest):
                    writer.write(answer)
                    await writer.drain()
                if rest.upper() == "IDLE":
                    await writer.drain()
                    await reader.readline()
                writer.write(f"{tag} OK done\r\n".encode())
                await writer.drain()
        writer.close()

    def answers(self, asked: str) -> list[bytes]:
        """What is said before the OK."""
        verb = asked.upper()
        if verb.startswith("CAPABILITY"):
            return [b"* CAPABILITY IMAP4rev1 IDLE\r\n"]
        if verb.startswith("SELECT"):
            return [f"* {self.count} EXISTS\r\n* OK [UIDVALIDITY {self.uidvalidity}] valid\r\n".encode()]
        if verb.startswith("UID SEARCH"):
            words = verb.split()
            low = int(words[3].partition(":")[0]) if words[2] == "UID" else 1
            found = range(min(low, self.count), self.count + 1)
            return [f"* SEARCH {' '.join(map(str, found))}\r\n".encode()]
        if verb.startswith("UID FETCH"):
            uids = numbers(verb.split()[2])
            if "RFC822.SIZE" in verb:
                return [f"* {uid} FETCH (UID {uid} RFC822.SIZE {len(letter(uid))})\r\n".encode() for uid in uids]
            self.fetched += len(uids)
            mails = [(uid, letter(uid)) for uid in uids]
            return [b"* %d FETCH (UID %d BODY[] {%d}\r\n%b)\r\n" % (uid, uid, len(raw), raw) for uid, raw in mails]
        return [b"+ idling\r\n"] if verb == "IDLE" else []


async def listen(box: Box) -> None:
    """Serve for ever; the port is the first line."""
    server = await asyncio.start_server(box.serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(listen(Box(int(sys.argv[1]), uidvalidity=int(sys.argv[2]) if len(sys.argv) > 2 else 1)))
