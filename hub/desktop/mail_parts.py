"""What the box for an answer by mail shows beside its text: to whom, from which address, copies, files. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crm_core import accounts, drafts, signatures
from crm_core.conversations import Conversation
from crm_core.db import Tx
from crm_core.drafts import Draft, DraftFile
from routing import mails, replies


@dataclass(frozen=True, slots=True)
class MailParts:
    """The head and foot of an answer by mail."""

    to: str
    senders: Sequence[str]  # the mailbox's addresses; more than one can be chosen from
    sender: str
    cc: str
    bcc: str
    others: Sequence[str]  # who else got their mail and would get an answer to all
    signature: str
    files: Sequence[DraftFile]
    room_mb: int


@dataclass(frozen=True, slots=True)
class DraftFiles:
    """The files put to an answer."""

    conversation_id: str
    files: Sequence[DraftFile]
    room_mb: int
    error: str


async def read(
    tx: Tx, conversation: Conversation, user_id: str, draft: Draft | None, *, sender: str = ""
) -> tuple[MailParts, str]:
    """The parts, and their latest mail as it would be quoted."""
    account = await accounts.get(tx, conversation.account_id)
    latest = await replies.latest_written(tx, conversation.id)
    to = await replies.answer_to(tx, conversation)
    copied = f"{draft.cc or ''},{draft.bcc or ''}".lower() if draft else ""
    senders = accounts.mail_addresses(account)
    parts = MailParts(
        to=to, senders=senders, sender=sender if sender in senders else replies.reply_as(account, latest),
        cc=(draft.cc or "") if draft else "", bcc=(draft.bcc or "") if draft else "",
        others=[one for one in replies.others_in(account, latest, to) if one not in copied],
        signature=await signatures.under(tx, user_id=user_id, account_id=account.id),
        files=await drafts.list_files(tx, user_id=user_id, conversation_id=conversation.id),
        room_mb=drafts.MOST_BYTES // 2**20,
    )  # fmt: skip
    language = replies.language_of(account)
    return parts, mails.quoted(latest, language=language)[:4000] if latest is not None else ""
