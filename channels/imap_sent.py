"""A copy of a sent mail in the mailbox's folder for sent mail: put there once, however often it is tried."""

from __future__ import annotations

import re
import ssl
from dataclasses import replace
from typing import Any

from channels.errors import Misconfigured, Unavailable
from channels.imap import ImapSettings, Mailbox, folder_name

# RFC 6154: the server says which folder is meant. Names of folders may be quoted, or an atom.
SENT = re.compile(rb'\(([^)]*)\) (?:"(?:[^"\\]|\\.)"|NIL) (?:"((?:[^"\\]|\\.)*)"|(\S+))\s*$')
USUAL = "Sent"


async def keep_copy(
    settings: ImapSettings, raw: bytes, *, message_id: str, folder: str = "", tls: ssl.SSLContext | None = None
) -> bool:
    """Put the mail into `folder`, or into the one that the server names for sent mail, or into Sent, which is made when it is
    missing. False when a mail with this Message-ID is there already. ChannelError.
    """
    mailbox = Mailbox(replace(settings, folder=folder or USUAL), tls=tls)
    try:
        await mailbox.log_in()
        quoted = folder_name(folder) if folder else await _sent_folder(mailbox)
        answer = await mailbox.ask(mailbox.client.select(quoted))
        if answer.result != "OK":
            await mailbox.ask(mailbox.client.create(quoted))
            answer = await mailbox.ask(mailbox.client.select(quoted))
        if answer.result != "OK":
            raise Misconfigured("The mail server has no such folder for this mailbox.", code="folder")
        found = await mailbox.ask(
            mailbox.client.uid_search(f'HEADER Message-ID "{message_id.strip("<>")}"', charset=None)
        )
        if found.result == "OK" and any(
            bytes(word).isdigit() for line in found.lines[:-1] for word in bytes(line).split()
        ):
            return False
        within_s = settings.step_s + len(raw) / (100 * 1024)
        put = await mailbox.ask(mailbox.client.append(raw, mailbox=quoted, flags="\\Seen"), within_s=within_s)
        if put.result != "OK":
            raise Unavailable("The mail server did not take the copy of a sent mail.", code="append")
        return True
    finally:
        await mailbox.close()


async def _sent_folder(mailbox: Mailbox) -> str:
    answer: Any = await mailbox.ask(mailbox.client.list('""', '"*"'))
    for line in answer.lines:
        found = SENT.match(bytes(line))
        if found is not None and b"\\sent" in found[1].lower().split():
            return (
                '"' + found[2].decode("ascii", "replace") + '"'
                if found[3] is None
                else found[3].decode("ascii", "replace")
            )
    return folder_name(USUAL)
