"""Mail in and out: threads by headers of known senders or by our signed address, never by a subject; automatic mail is kept,
shown, and answered by nobody.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlmodel import col, or_, select

from channels.contract import MailArrived
from crm_core import (
    accounts,
    addresses,
    consent,
    conversations,
    interactions,
    mail_tokens,
    outbox,
    signatures,
    touches,
)
from crm_core.accounts import ChannelAccount
from crm_core.addresses import Address
from crm_core.consent import Purpose, SuppressionReason
from crm_core.conversations import Conversation, ConversationState
from crm_core.db import Tx
from crm_core.errors import Invalid
from crm_core.ids import new_id
from crm_core.interactions import Attachment, Interaction, InteractionState, Outcome
from crm_core.touches import Direction
from routing import gate, mail_known, quoting, threads
from routing.mail_known import Known
from routing.matching import match

MAIL = "email"
LONGEST_QUOTE = 20_000
MOST_COPIES = 20
TOKEN = re.compile(r"[A-Za-z0-9_-]{20,64}")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that is in the object store already."""

    name: str
    content_type: str
    size: int
    file_key: str
    content_id: str = ""


def thread_address(account_address: str, token: str) -> str:
    """Our address for one thread, `box+<token>@domain`: whoever answers to it joins that conversation.

    The token is chance of 128 bits; in base 32, because mail systems fold the case of local parts.
    """
    local, _, domain = account_address.partition("@")
    folded = base64.b32encode(token.encode()).decode().rstrip("=").lower()
    return f"{local}+{folded}@{domain}"


def token_in(address: str) -> str:
    """The thread token in one of our addresses, or empty."""
    _, plus, folded = address.partition("@")[0].rpartition("+")
    if not plus:
        return ""
    try:
        padded = folded.upper() + "=" * (-len(folded) % 8)
        token = base64.b32decode(padded).decode("ascii")
    except (binascii.Error, ValueError):
        return ""
    return token if TOKEN.fullmatch(token) else ""


def _id_of(event: MailArrived) -> str:
    return event.message_id or event.event_key


def _cited(event: MailArrived) -> list[str]:
    """The mails this one answers, the nearest first."""
    cited = [reference for reference in (event.in_reply_to, *reversed(event.references)) if reference][:20]
    return list(dict.fromkeys(cited))


def _tokens(event: MailArrived) -> list[str]:
    return [token for address in (*event.to, *event.cc) if (token := token_in(address.lower()))][:MOST_COPIES]


def _peer(event: MailArrived) -> str:
    sender = addresses.find_email(event.from_address)
    return sender.value if sender else event.from_address.lower()


async def look_up(tx: Tx, events: Sequence[MailArrived], *, account: ChannelAccount) -> Known:
    """What is known of mails that are taken in together."""
    return await mail_known.look_up(
        tx, account.id, keys=map(_id_of, events), cited=[one for event in events for one in _cited(event)],
        tokens=[one for event in events for one in _tokens(event)],
        senders=[one for event in events for one in (_peer(event), event.from_address.lower())],
    )  # fmt: skip


async def mail_arrived(
    tx: Tx,
    event: MailArrived,
    *,
    account: ChannelAccount,
    html_key: str,
    files: Sequence[StoredFile],
    now: datetime,
    about: Interaction | None = None,
    known: Known | None = None,
) -> None:
    """One mail in one of our mailboxes. The same mail a second time (a copy by another road): nothing.

    A Message-ID is a stranger's choice: under one that is known, only the same words of the same sender are the same mail.

    `about`: our mail that this one proves to report on; it is filed there, whoever sent it.
    `known`: what `look_up` found in this very transaction, for this mail and others; else it is looked up here.
    """
    known = known or await look_up(tx, [event], account=account)
    external_id = _id_of(event)
    sender = addresses.find_email(event.from_address)
    peer = _peer(event)
    thread = known.threads.get(external_id)
    if external_id in known.filed:
        if _same(known.filed[external_id][0], event, peer):
            return
        words = "\0".join((external_id, peer, event.subject, event.text))
        external_id = f"mail:{hashlib.sha256(words.encode('utf-8', 'replace')).hexdigest()}"
        if await interactions.find_external(tx, account.id, external_id) is not None:
            return
        thread = await conversations.find_open(tx, account.id, external_id)
    matched = match(sender, known.owners.get(peer, ()))
    if about is not None:
        conversation: Conversation | None = await conversations.get(tx, about.conversation_id)
    else:
        conversation = await _thread(tx, event, known, peer) or thread
    fresh = conversation is None
    if conversation is None:
        conversation = await conversations.start(
            tx, channel=MAIL, account_id=account.id, thread_key=external_id, peer=peer, now=now,
            contact_id=matched.contact_id, subject=_clean(event.subject), queue_id=account.queue_id,
        )  # fmt: skip
    data: dict[str, Any] = {
        "from_name": _clean(event.from_name), "to": list(event.to), "cc": list(event.cc), "reply_to": event.reply_to,
        "in_reply_to": event.in_reply_to, "sent_at": event.sent_at.isoformat() if event.sent_at else None,
    }  # fmt: skip
    if 0 < event.new_chars < len(event.text) and "\x00" not in event.text:
        data["new_chars"] = event.new_chars  # what follows is quoted: folded on screen
    if about is not None and event.report is not None:
        data |= {"report": event.report.kind, "about": about.id}
    interaction = Interaction(
        id=new_id(now), conversation_id=conversation.id, channel=MAIL,
        contact_id=about.contact_id if about is not None else matched.contact_id,
        direction=Direction.INBOUND, account_id=account.id, external_id=external_id, from_address=peer,
        to_address=account.address, state=InteractionState.WAITING, subject=_clean(event.subject)[:500], body=_clean(event.text),
        html_key=html_key, data=data, match=matched.as_doc(), first_arrival_at=now, created_at=now,
    )  # fmt: skip
    known.filed[external_id] = (interaction, conversation)
    spam = about is None and _is_spam(event, known)
    if event.automatic or about is not None or spam:
        interaction.__dict__.update(
            state=InteractionState.ENDED, outcome=Outcome.SPAM if spam else Outcome.AUTOMATED, ended_at=now,
            queue_id=account.queue_id, data={**data, "automatic": "spam" if spam else event.automatic or "bounce"},
        )  # fmt: skip
        await interactions.create(tx, interaction, now=now)
        await conversations.touch(tx, conversation.id, now=now)
    else:
        await threads.deliver(tx, interaction, conversation, account, now=now, fresh=fresh)
        if sender is not None and sender.value in known.dead:
            await _alive(tx, sender, now=now)
            known.dead.discard(sender.value)
    if sender is not None and about is None:
        await touches.record(
            tx, sender, direction=Direction.INBOUND, channel=MAIL, now=now, contact_id=matched.contact_id,
            interaction_id=interaction.id,
        )  # fmt: skip
    await keep_files(tx, interaction.id, files, now=now)


def _same(known: Interaction, event: MailArrived, peer: str) -> bool:
    if known.direction == Direction.OUTBOUND:
        return event.automatic == "own"  # a copy of our own mail that came back to us
    said = (peer, _clean(event.subject), _clean(event.text))
    return (known.from_address, known.subject, known.body) == said


def _is_spam(event: MailArrived, known: Known) -> bool:
    """A mail that the mail server has marked, or from somebody who was blocked. Whoever marks their own so gets their wish."""
    marked = event.headers.get("x-spam-flag", "").strip().lower().startswith("yes")
    address = event.from_address.lower()
    return marked or not known.blocked.isdisjoint((address, f"@{address.rpartition('@')[2]}"))


async def _alive(tx: Tx, sender: Address, *, now: datetime) -> None:
    """An address that a person writes from works again, or they could never be answered."""
    for channel in ("*", MAIL):
        await consent.lift(tx, sender, reason=SuppressionReason.DEAD, channel=channel, sender="", now=now)


def _clean(text: str) -> str:
    """Without the one character that PostgreSQL cannot store; the raw mail keeps it."""
    return text.replace("\x00", "")


async def keep_files(tx: Tx, interaction_id: str, files: Sequence[StoredFile], *, now: datetime) -> None:
    """Rows for files that are in the store."""
    for file in files:
        tx.later(
            Attachment(
                id=new_id(now), interaction_id=interaction_id, name=file.name, content_type=file.content_type,
                size=file.size, file_key=file.file_key, content_id=file.content_id,
            )
        )  # fmt: skip


async def _thread(tx: Tx, event: MailArrived, known: Known, peer: str) -> Conversation | None:
    """The open conversation this mail belongs to: our signed address, or known headers from somebody who takes part in it."""
    for token in _tokens(event):
        if token in known.tokens:
            return known.tokens[token]
    for reference in _cited(event):
        if reference not in known.filed:
            continue
        _, conversation = known.filed[reference]
        if conversation.state != ConversationState.CLOSED and await _takes_part(tx, conversation, peer):
            return conversation
    return None


async def _takes_part(tx: Tx, conversation: Conversation, address: str) -> bool:
    if address == conversation.peer:
        return True
    same = or_(col(Interaction.from_address) == address, col(Interaction.to_address) == address)
    found = await tx.one(select(Interaction.id).where(Interaction.conversation_id == conversation.id, same).limit(1))
    return found is not None


async def send(
    tx: Tx, conversation: Conversation, account: ChannelAccount, to: Address, *, subject: str, body: str, html: str,
    files: Sequence[StoredFile], purpose: Purpose, user_id: str, contact_id: str | None, now: datetime,
    cc: Sequence[Address] = (), bcc: Sequence[Address] = (), quote: str = "", sender: str = "",
) -> Interaction:  # fmt: skip
    """Put one mail on its way. Its Message-ID is ours, stable over attempts, and known before it goes; `data` has what the
    executor needs: in_reply_to, references, reply_to, html, cc, bcc, quote. Everybody it goes to passes the gate and is touched;
    Refused by the first rule that says no to one of them. `sender`: one of the mailbox's aliases, else its own address.
    """
    if sender and sender not in accounts.mail_addresses(account):
        raise Invalid("This mailbox cannot write from that address.", fields={"sender": "Choose another address."})
    copies = {one.value: one for one in (*cc, *bcc) if one.value != to.value}
    verdicts = {
        one.value: await gate.ask(
            tx, one, purpose=purpose, channel=MAIL, sender=account.id, user_id=user_id, now=now,
            contact_id=contact_id if one is to else None,
        )
        for one in (to, *copies.values())
    }  # fmt: skip
    references = await _references(tx, conversation)
    interaction_id = new_id(now)
    proof = mail_tokens.chance()
    data: dict[str, Any] = {
        "purpose": str(purpose), "in_reply_to": references[-1] if references else "", "references": references, "html": html,
        "reply_to": thread_address(account.address, conversation.thread_token), "quote": quote,
        "signature": await signatures.under(tx, user_id=user_id, account_id=account.id),
        "cc": [one.value for one in cc if one.value in copies],
        "bcc": [one.value for one in bcc if one.value in copies and one.value not in {other.value for other in cc}],
    }  # fmt: skip
    interaction = Interaction(
        id=interaction_id, conversation_id=conversation.id, contact_id=contact_id, channel=MAIL,
        direction=Direction.OUTBOUND, account_id=account.id,
        external_id=mail_tokens.message_id(interaction_id, proof, mail_tokens.MESSAGE, address=account.address),
        from_address=sender or account.address, to_address=to.value, state=InteractionState.ENDED, outcome=Outcome.SENT,
        ended_at=now, subject=subject, body=body, agent_id=user_id or None, queue_id=conversation.queue_id,
        delivery="queued", delivery_rank=interactions.DELIVERY_RANK["queued"], first_arrival_at=now, created_at=now,
        data={name: value for name, value in data.items() if value},
    )  # fmt: skip
    await interactions.create(tx, interaction, now=now)
    await keep_files(tx, interaction.id, files, now=now)
    for one in (to, *copies.values()):
        await gate.record(
            tx, one, verdicts[one.value], channel=MAIL, now=now, contact_id=contact_id if one is to else None,
            interaction_id=interaction.id, user_id=user_id or None,
        )  # fmt: skip
    await outbox.ask(
        tx, "mail.send", interaction.id, lane="reply", now=now, ordering=conversation.id,
        dedupe=f"mail.send:{interaction.id}",
    )  # fmt: skip
    await conversations.touch(tx, conversation.id, now=now)
    return interaction


def text_of(mail: Interaction) -> str:
    """The whole text of a mail of ours as it goes out: what was written, the signature, what is quoted."""
    signature, quote = str(mail.data.get("signature", "")), str(mail.data.get("quote", ""))
    parts = [mail.body.rstrip(), f"-- \n{signature}" if signature else "", quote]
    return "\n\n".join(part for part in parts if part)


def quoted(mail: Interaction, *, language: str = "") -> str:
    """A mail of theirs as it stands below an answer, each line marked; at most 20,000 characters of it. `language`: of the
    mailbox that answers."""
    who = str(mail.data.get("from_name") or "").strip()
    author = f"{who} <{mail.from_address}>" if who else mail.from_address
    lines = mail.body[:LONGEST_QUOTE].rstrip().splitlines()
    marked = "\n".join(f">{line}" if line.startswith(">") else f"> {line}".rstrip() for line in lines)
    return f"{quoting.wrote(mail.first_arrival_at, author, language=language)}\n{marked}" if lines else ""


def forwarded(mail: Interaction) -> str:
    """A mail as it stands in one that sends it on: its head, then its words."""
    head = [
        "---------- Forwarded message ----------",
        f"From: {mail.data.get('from_name') or ''} <{mail.from_address}>".replace("  ", " "),
        f"Date: {mail.first_arrival_at:%a, %d %b %Y %H:%M} UTC",
        f"Subject: {mail.subject}",
        f"To: {', '.join(map(str, mail.data.get('to', ()))) or mail.to_address}",
    ]
    return "\n".join(head) + "\n\n" + mail.body[: LONGEST_QUOTE * 5].strip()


def copies_in(typed: str) -> list[Address]:
    """The addresses typed into a copy field, separated by commas, semicolons or lines. Invalid names the wrong one."""
    found: dict[str, Address] = {}
    for one in re.split(r"[,;\n]", typed):
        given = one.strip()
        if given:
            inner = re.search(r"<([^<>]*)>\s*$", given)
            address = addresses.email(inner[1] if inner else given)
            found.setdefault(address.value, address)
    if len(found) > MOST_COPIES:
        raise Invalid("At most %(count)s people get a copy.", fields={"cc": "Too many."}, count=MOST_COPIES)
    return list(found.values())


async def _references(tx: Tx, conversation: Conversation) -> list[str]:
    """Message-IDs of the thread, oldest first: the first and the latest nine (RFC 5322 lets a long list be cut so)."""
    rows = await tx.all(
        select(Interaction.external_id)
        .where(
            Interaction.conversation_id == conversation.id, Interaction.external_id != "",
            col(Interaction.outcome) != Outcome.AUTOMATED,
        )
        .order_by(col(Interaction.id).desc())
        .limit(50)
    )  # fmt: skip
    known = [row for row in reversed(rows) if row.startswith("<")]
    return known if len(known) <= 10 else [known[0], *known[-9:]]
