"""Interactions: one touch each (a call, SMS, e-mail, form, note), their states, and the timeline.

States partition all inbound and live interactions at every commit (invariant 1); `advance` is the only way from one to another
and keeps the tallies in the same transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any

from sqlalchemy import Index, bindparam, update
from sqlalchemy import text as sql_text
from sqlmodel import Field, col, select

from crm_core import events, tallies
from crm_core.changes import among, change_held, named
from crm_core.db import Tx
from crm_core.errors import Conflict, IllegalTransition, NotFound
from crm_core.statements import Fixed, fixed
from crm_core.tables import Table, at, doc, key, one_of, ref, text, word
from crm_core.touches import Direction


class InteractionState(StrEnum):
    """Where an interaction stands. `ended` carries an outcome."""

    MENU = "menu"
    WAITING = "waiting"
    OFFERED = "offered"
    CONNECTED = "connected"
    WRAPUP = "wrapup"
    PROMISED = "promised"
    ENDED = "ended"


class Outcome(StrEnum):
    """How an ended interaction ended."""

    HANDLED = "handled"  # an agent dealt with it
    ABANDONED = "abandoned"  # the caller left while waiting or in the menu
    VOICEMAIL = "voicemail"
    CALLBACK = "callback"  # the promise was kept or ended by its own rules
    OVERFLOW = "overflow"
    REJECTED = "rejected"  # blocked, refused by rule
    SPAM = "spam"
    AUTOMATED = "automated"  # answered by a rule alone: STOP, out-of-office
    SENT = "sent"  # outbound message handed over
    UNREACHED = "unreached"  # outbound call without an answer
    FAILED = "failed"


_S = InteractionState
ALLOWED: dict[InteractionState, frozenset[InteractionState]] = {
    _S.MENU: frozenset({_S.WAITING, _S.PROMISED, _S.CONNECTED, _S.ENDED}),
    _S.WAITING: frozenset({_S.OFFERED, _S.CONNECTED, _S.PROMISED, _S.MENU, _S.ENDED}),
    _S.OFFERED: frozenset({_S.WAITING, _S.CONNECTED, _S.PROMISED, _S.ENDED}),
    _S.CONNECTED: frozenset({_S.WRAPUP, _S.WAITING, _S.ENDED}),
    _S.WRAPUP: frozenset({_S.ENDED, _S.CONNECTED}),
    _S.PROMISED: frozenset({_S.ENDED, _S.WAITING}),
    _S.ENDED: frozenset(),
}


def _where(name: str, *columns: str) -> Index:
    # Most rows have none when they are written: what is not in an index costs an arriving call nothing.
    given = sql_text(f"{columns[0]} IS NOT NULL")
    return Index(name, *columns, sqlite_where=given, postgresql_where=given)


class Interaction(Table, table=True):
    """One touch. Times are null until they happen; `version` rises with every change."""

    __tablename__ = "interactions"
    __table_args__ = (
        one_of("state", InteractionState),
        one_of("direction", Direction),
        Index(
            "ix_interactions_spam", "id",
            sqlite_where=sql_text("outcome = 'spam'"), postgresql_where=sql_text("outcome = 'spam'"),
        ),
        Index(
            "uq_interactions_external", "account_id", "external_id", unique=True,
            sqlite_where=sql_text("external_id <> ''"), postgresql_where=sql_text("external_id <> ''"),
        ),
        Index("ix_interactions_conversation", "conversation_id", "id"),
        Index("ix_interactions_contact", "contact_id", "id"),
        # Not on its state: while no column of an index changes, PostgreSQL writes no index for a step from one state to the next.
        Index(
            "ix_interactions_live", "id",
            sqlite_where=sql_text("ended_at IS NULL"), postgresql_where=sql_text("ended_at IS NULL"),
        ),
        _where("ix_interactions_entry", "entry_id"),
        _where("ix_interactions_agent", "agent_id", "id"),
    )  # fmt: skip

    id: str = key()
    conversation_id: str = ref("conversations.id", index=False)
    contact_id: str | None = ref("contacts.id", nullable=True, index=False)
    channel: str = text()  # voice, sms, email, webform …
    direction: Direction = word(Direction)
    account_id: str = text()
    external_id: str = text()  # CallSid, MessageSid, Message-ID …
    from_address: str = text()
    to_address: str = text()
    state: InteractionState = word(InteractionState)
    outcome: str = text()  # a word of Outcome once ended
    queue_id: str | None = text(default=None)
    entry_id: str | None = text(default=None)
    agent_id: str | None = text(default=None)  # who talked or wrote
    subject: str = text()
    body: str = text()  # plain text as said or written
    html_key: str = text()  # object-store key of the raw HTML part, shown only sanitised
    data: dict[str, Any] = doc()  # channel facts: form fields, segments, delivery state and error
    match: dict[str, Any] = doc()  # who is this: level, reason, candidates (contact ids)
    delivery: str = (
        text()
    )  # outbound messages: queued, unknown, sent, undelivered, failed, bounced, delivered, read, complained
    delivery_rank: int = 0
    delivery_error: str = text()
    disposition: str = text()  # key of a Disposition
    notes: str = text()
    delivery_id: str | None = text(default=None)  # campaign delivery this answers or is
    first_arrival_at: datetime = at()
    connected_at: datetime | None = at(nullable=True)
    left_at: datetime | None = at(nullable=True)  # the other side is gone
    ended_at: datetime | None = at(nullable=True)
    created_at: datetime = at()
    version: int = 1


class Disposition(Table, table=True):
    """An outcome an agent chooses at wrap-up. Flags drive what happens next."""

    __tablename__ = "dispositions"

    key: str = Field(primary_key=True)
    label: str = text()
    position: int = 0
    scope: str = text()  # queue, list, or empty for both
    flags: dict[str, Any] = doc()  # reached, do_not_call, callback, retry_after_s, sale, wrong_number
    retired: bool = False


class Attachment(Table, table=True):
    """A file that came or went with an interaction; the bytes are in the object store."""

    __tablename__ = "attachments"

    id: str = key()
    interaction_id: str = ref("interactions.id")
    name: str = text()
    content_type: str = text()
    size: int = 0
    file_key: str = text()
    content_id: str = text()  # inline images


class Note(Table, table=True):
    """A colleague's remark on a conversation or contact; never leaves the house."""

    __tablename__ = "notes"

    id: str = key()
    conversation_id: str | None = ref("conversations.id", nullable=True)
    contact_id: str | None = ref("contacts.id", nullable=True)
    user_id: str = text()
    body: str = text()
    created_at: datetime = at()


def tally_word(state: str, outcome: str) -> str:
    """The state's word in the tallies."""
    return f"ended:{outcome}" if state == InteractionState.ENDED else str(state)


async def create(tx: Tx, interaction: Interaction, *, now: datetime) -> Interaction:
    """Insert a new interaction and count its arrival."""
    tx.later(interaction)
    await _count(tx, interaction, interaction.queue_id, tally_word(interaction.state, interaction.outcome), 1)
    await events.emit(
        tx, "interaction.created", interaction.id, now=now, version=1, conversation=interaction.conversation_id
    )
    return interaction


async def _count(tx: Tx, interaction: Interaction, queue_id: str | None, state: str, by: int) -> None:
    # Conservation is about what came to us; what we send is counted by deliveries and touches.
    if interaction.direction == Direction.INBOUND:
        await tallies.add(tx, day=interaction.first_arrival_at, queue_id=queue_id, state=state, by=by)


_GET = fixed(select(Interaction).where(Interaction.id == bindparam("id")))
_BY_EXTERNAL = fixed(
    select(Interaction).where(
        Interaction.account_id == bindparam("account_id"), Interaction.external_id == bindparam("external_id"),
        sql_text("interactions.external_id <> ''"),  # said in so many words, or SQLite does not use the index
    )
)  # fmt: skip


async def get(tx: Tx, interaction_id: str) -> Interaction:
    """The interaction, or NotFound."""
    found: Interaction | None = await tx.one(_GET, id=interaction_id)
    if found is None:
        raise NotFound("There is no such interaction.")
    return found


async def find_external(tx: Tx, account_id: str, external_id: str) -> Interaction | None:
    """The interaction with the provider's id."""
    found: Interaction | None = await tx.one(_BY_EXTERNAL, account_id=account_id, external_id=external_id)
    return found


async def advance(
    tx: Tx,
    interaction: Interaction,
    to: InteractionState,
    *,
    now: datetime,
    outcome: Outcome | str = "",
    **changes: Any,
) -> Interaction:
    """Move an interaction on, guarded by state and version, its tally in the same transaction.

    Raises IllegalTransition for a step the table does not allow, Conflict when somebody was first. The object is updated.
    """
    new = _step(interaction, to, now=now, outcome=outcome, changes=changes)
    before = _tallied(interaction)
    values = {**new, "version": interaction.version + 1}
    guard = {"id": interaction.id, "version": interaction.version, "state": interaction.state}
    if await tx.change(Interaction, values, **guard) != 1:
        raise Conflict
    interaction.__dict__.update(values)
    await _tell_step(tx, interaction, before, now=now)
    return interaction


async def advance_held(
    tx: Tx,
    held: Sequence[Interaction],
    to: InteractionState,
    *,
    now: datetime,
    outcome: Outcome | str = "",
    **changes: Any,
) -> None:
    """`advance` for those that this unit holds (`hold_entries`), at once."""
    if not held:
        return
    before = [_tallied(interaction) for interaction in held]
    steps = [(one, _step(one, to, now=now, outcome=outcome, changes=changes)) for one in held]
    await change_held(tx, steps)
    for interaction, stood in zip(held, before, strict=True):
        await _tell_step(tx, interaction, stood, now=now)


def _step(
    interaction: Interaction, to: InteractionState, *, now: datetime, outcome: str, changes: dict[str, Any]
) -> dict[str, Any]:
    """What changes with a step; IllegalTransition where the table does not allow it."""
    if to not in ALLOWED[interaction.state]:
        raise IllegalTransition(
            "An interaction cannot go from %(from_text)s to %(to_text)s.", from_text=interaction.state, to_text=to
        )
    if (to == InteractionState.ENDED) != bool(outcome):
        raise IllegalTransition("An ended interaction needs an outcome, and only an ended one.")
    ended = {"ended_at": now} if to == InteractionState.ENDED else {}
    return {**ended, **_with_note(interaction, changes), "state": to, "outcome": str(outcome)}


def _tallied(interaction: Interaction) -> tuple[str | None, str]:
    return interaction.queue_id, tally_word(interaction.state, interaction.outcome)


async def _tell_step(tx: Tx, interaction: Interaction, before: tuple[str | None, str], *, now: datetime) -> None:
    """The tallies and the event of a step that was written."""
    after = _tallied(interaction)
    if before != after:
        await _count(tx, interaction, *before, -1)
        await _count(tx, interaction, *after, 1)
    await events.emit(
        tx, f"interaction.{interaction.state}", interaction.id, now=now, version=interaction.version,
        queue_id=interaction.queue_id, conversation=interaction.conversation_id,
    )  # fmt: skip


async def revive(
    tx: Tx, interaction: Interaction, to: InteractionState, *, now: datetime, **changes: Any
) -> Interaction:
    """Take back that something was spam, the one ending that was a judgement and can be wrong. Its tally moves with it.

    IllegalTransition for anything else; Conflict when somebody was first.
    """
    if interaction.outcome != Outcome.SPAM or to not in (_S.WAITING, _S.OFFERED, _S.CONNECTED):
        raise IllegalTransition("Only what is kept as spam can become work again.")
    values = {**changes, "state": to, "outcome": "", "ended_at": None, "version": interaction.version + 1}
    guard = {"id": interaction.id, "version": interaction.version, "state": interaction.state}
    if await tx.change(Interaction, values, **guard) != 1:
        raise Conflict
    before = _tallied(interaction)
    interaction.__dict__.update(values)
    await _tell_step(tx, interaction, before, now=now)
    return interaction


def _with_note(interaction: Interaction, changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` with its note below those of all who had the conversation so far. Said a second time it is there already."""
    if "notes" not in changes:
        return changes
    note, said = changes["notes"].strip(), interaction.notes
    if note and not f"\n{said}\n".endswith(f"\n{note}\n"):
        said = f"{said}\n{note}".lstrip("\n")
    return {**changes, "notes": said}


async def change(tx: Tx, interaction: Interaction, *, now: datetime, **changes: Any) -> None:
    """Change facts that are not the state (contact, disposition), guarded by version; `notes` are added to those there."""
    changes = _with_note(interaction, changes)
    if "queue_id" in changes and changes["queue_id"] != interaction.queue_id:
        tallied = tally_word(interaction.state, interaction.outcome)
        await _count(tx, interaction, interaction.queue_id, tallied, -1)
        await _count(tx, interaction, changes["queue_id"], tallied, 1)
    values = {**changes, "version": interaction.version + 1}
    if await tx.change(Interaction, values, id=interaction.id, version=interaction.version) != 1:
        raise Conflict
    interaction.__dict__.update(changes, version=interaction.version + 1)
    await events.emit(
        tx, "interaction.changed", interaction.id, now=now, version=interaction.version,
        conversation=interaction.conversation_id,
    )  # fmt: skip


async def correct(tx: Tx, interaction: Interaction, outcome: Outcome, *, now: datetime, **changes: Any) -> None:
    """Another outcome for what has ended, because what was reported late says so; its state stays, its tally moves with it."""
    before = tally_word(interaction.state, interaction.outcome)
    await _count(tx, interaction, interaction.queue_id, before, -1)
    await _count(tx, interaction, interaction.queue_id, tally_word(interaction.state, str(outcome)), 1)
    await change(tx, interaction, now=now, outcome=str(outcome), **changes)


async def list_timeline(
    tx: Tx, *, contact_id: str = "", conversation_id: str = "", before: str = "", limit: int = 50
) -> list[Interaction]:
    """Interactions of a contact (all channels) or a conversation, newest first, from below the id `before` (keyset)."""
    statement = select(Interaction)
    if conversation_id:
        statement = statement.where(Interaction.conversation_id == conversation_id)
    else:
        statement = statement.where(Interaction.contact_id == contact_id)
    if before:
        statement = statement.where(col(Interaction.id) < before)
    return await tx.all(statement.order_by(col(Interaction.id).desc()).limit(min(limit, 200)))


_OF_ENTRY = fixed(
    select(Interaction).where(Interaction.entry_id == bindparam("entry_id")).order_by(col(Interaction.id)).limit(200)
)


async def list_entry(tx: Tx, entry_id: str) -> list[Interaction]:
    """All interactions that one queue entry stands for, oldest first."""
    return await tx.all(_OF_ENTRY, entry_id=entry_id)


@cache
def _hold_entries(number: int) -> Fixed[Any]:
    behind = select(Interaction).where(among(Interaction.entry_id, "id", number))
    return fixed(behind.order_by(col(Interaction.id)).limit(5000).with_for_update())


async def hold_entries(tx: Tx, entry_ids: Sequence[str]) -> dict[str, list[Interaction]]:
    """What these queue entries stand for, oldest first, held until the transaction ends. Hold the entries before."""
    found: dict[str, list[Interaction]] = {entry_id: [] for entry_id in entry_ids}
    rows: list[Interaction] = await tx.all(_hold_entries(len(entry_ids)), **named("id", entry_ids))
    for interaction in rows:
        found[interaction.entry_id or ""].append(interaction)
    return found


DELIVERY_RANK = {"": 0, "queued": 1, "unknown": 2, "sent": 3, "undelivered": 5, "failed": 5, "bounced": 5, "delivered": 6,
                 "read": 7, "complained": 8}  # fmt: skip


async def note_delivery(
    tx: Tx, interaction_id: str, status: str, *, now: datetime, error: str = "", external_id: str = ""
) -> bool:
    """Move an outbound message's delivery status forward; a late or lower one does not (False).

    The provider's id is noted either way, once: its first answer is often no more than `queued`, which we knew.
    """
    rank = DELIVERY_RANK[status]
    values: dict[str, Any] = {"delivery": status, "delivery_rank": rank, "version": Interaction.version + 1}
    if error:
        values["delivery_error"] = error
    if external_id:
        values["external_id"] = external_id
    this = update(Interaction).where(col(Interaction.id) == interaction_id)
    if await tx.run(this.where(col(Interaction.delivery_rank) < rank).values(**values)) == 0:
        if external_id:
            await tx.run(this.where(col(Interaction.external_id) == "").values(external_id=external_id))
        return False
    found = await get(tx, interaction_id)
    await events.emit(
        tx, "interaction.delivery", interaction_id, now=now, version=found.version, conversation=found.conversation_id
    )
    return True
