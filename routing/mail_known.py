"""What the hub knows of mails that came together: a few questions for all of them, where each would ask as many for itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import bindparam
from sqlalchemy import text as sql_text
from sqlmodel import col, select

from crm_core import blocked, contacts
from crm_core.addresses import PointKind
from crm_core.consent import Suppression, SuppressionReason
from crm_core.contacts import Contact, ContactLink
from crm_core.conversations import Conversation, ConversationState
from crm_core.db import Tx
from crm_core.interactions import Interaction
from crm_core.statements import fixed

STEP = 10  # the lengths of the lists rise by so many, because each length is a statement of its own to the database


@dataclass(frozen=True, slots=True)
class Known:
    """Of the ids, tokens and addresses that were asked for, those that are there. Who files a mail, adds it to `filed`."""

    filed: dict[str, tuple[Interaction, Conversation]]  # by Message-ID
    threads: dict[str, Conversation]  # not closed, by their key
    tokens: dict[str, Conversation]  # not closed, by the token in our address
    owners: dict[str, list[tuple[Contact, ContactLink]]]  # by address
    blocked: set[str]  # addresses, and domains as @example.com
    dead: set[str]  # addresses that mail came back from


_FILED = fixed(
    select(Interaction, Conversation)
    .join(Conversation, col(Conversation.id) == col(Interaction.conversation_id))
    .where(
        Interaction.account_id == bindparam("account_id"),
        col(Interaction.external_id).in_(bindparam("ids", expanding=True)),
        sql_text("interactions.external_id <> ''"),  # said in so many words, or SQLite does not use the index
    )
)
_THREADS = fixed(
    select(Conversation).where(
        Conversation.account_id == bindparam("account_id"),
        col(Conversation.thread_key).in_(bindparam("keys", expanding=True)),
        Conversation.state != ConversationState.CLOSED,
    )
)
_TOKENS = fixed(
    select(Conversation).where(
        col(Conversation.thread_token).in_(bindparam("tokens", expanding=True)),
        Conversation.account_id == bindparam("account_id"), Conversation.state != ConversationState.CLOSED,
    )
)  # fmt: skip
_DEAD = fixed(
    select(Suppression.value).where(
        Suppression.kind == PointKind.EMAIL, col(Suppression.value).in_(bindparam("values", expanding=True)),
        Suppression.reason == SuppressionReason.DEAD, col(Suppression.lifted_at).is_(None),
    )
)  # fmt: skip


async def look_up(
    tx: Tx, account_id: str, *, keys: Iterable[str], cited: Iterable[str], tokens: Iterable[str], senders: Iterable[str]
) -> Known:
    """`keys`: the mails' own ids; `cited`: those they answer; `senders`: their normalised addresses."""
    keys, tokens, senders = set(keys), _listed(tokens), set(senders)
    filed = await tx.all(_FILED, account_id=account_id, ids=_listed({*keys, *cited}))
    threads = await tx.all(_THREADS, account_id=account_id, keys=_listed(keys))
    found = await tx.all(_TOKENS, account_id=account_id, tokens=tokens) if tokens else []
    addresses = _listed(senders)
    return Known(
        {interaction.external_id: (interaction, conversation) for interaction, conversation in filed},
        {conversation.thread_key: conversation for conversation in threads},
        {conversation.thread_token: conversation for conversation in found},
        await contacts.list_owners_of(tx, PointKind.EMAIL, addresses) if addresses else {},
        await blocked.list_among(tx, _listed({*senders, *(f"@{one.rpartition('@')[2]}" for one in senders)})),
        set(await tx.all(_DEAD, values=addresses)) if addresses else set(),
    )


def _listed(values: Iterable[str]) -> list[str]:
    """Each once, in order, the last repeated up to the next length."""
    found = sorted(set(values))
    return found + found[-1:] * (-len(found) % STEP)
