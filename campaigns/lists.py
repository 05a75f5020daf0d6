"""Working a call list: who is next, whose it is, what became of the call.

Decides which entry a telemarketer gets (gate, caps, one holder per number over all lists) and what a disposition does to it.
Placing the call is routing's; the hub glues the two: claim_next → start_call → dial_started → dispose.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, or_, update
from sqlalchemy import text as sql_text
from sqlmodel import col, func, select

from campaigns.call_lists import (
    ENTRY_ALLOWED,
    ENTRY_OPEN,
    CallList,
    EntryState,
    ListAttempt,
    ListEntry,
    ListState,
    NumberLock,
    get,
    get_entry,
)
from campaigns.content import Source, Template
from campaigns.counts import Delta
from crm_core import consent, contacts, events
from crm_core.consent import SuppressionReason, Verdict
from crm_core.db import Tx
from crm_core.errors import Conflict, IllegalTransition, Invalid, NotAllowed, Refused
from crm_core.ids import new_id
from crm_core.interactions import Disposition
from crm_core.statements import fixed
from crm_core.texts import Text

LEASE_S = 300  # to read the script and click; dialling extends it
CALL_S = 4 * 3600  # a call and its wrap-up; after that the agent is gone
OWNER_FIRST = timedelta(minutes=15)  # a promised call waits so long for its owner, then anybody may keep the promise
LOOK_AT = 50  # entries looked at in one transaction
DAY = timedelta(hours=24)

_WAITING = sql_text("list_entries.state IN ('ready','called','callback')")
_NEXT = fixed(
    select(ListEntry)
    .where(
        ListEntry.list_id == bindparam("list_id"),
        _WAITING,
        ListEntry.due_at <= bindparam("now"),
        or_(
            col(ListEntry.state) != EntryState.CALLBACK,
            col(ListEntry.user_id) == bindparam("user_id"),
            col(ListEntry.user_id).is_(None),
            col(ListEntry.due_at) <= bindparam("overdue"),
        ),
    )
    .order_by(col(ListEntry.due_at), col(ListEntry.id))
    .limit(LOOK_AT)
    .with_for_update(skip_locked=True)
)
_PROMISED = fixed(
    select(ListEntry)
    .where(
        ListEntry.list_id == bindparam("list_id"),
        _WAITING,
        ListEntry.due_at <= bindparam("now"),
        ListEntry.state == EntryState.CALLBACK,
        ListEntry.user_id == bindparam("user_id"),
    )
    .order_by(col(ListEntry.due_at), col(ListEntry.id))
    .limit(LOOK_AT)
    .with_for_update(skip_locked=True)
)
_MINE = fixed(
    select(ListEntry)
    .where(
        sql_text("list_entries.state = 'locked'"),
        ListEntry.user_id == bindparam("user_id"),
        ListEntry.lock_until > bindparam("now"),
    )
    .order_by(col(ListEntry.lock_until).desc())
    .limit(1)
)
_EXPIRED = fixed(
    select(ListEntry)
    .where(sql_text("list_entries.state = 'locked'"), ListEntry.lock_until <= bindparam("now"))
    .order_by(col(ListEntry.lock_until))
    .limit(200)
    .with_for_update(skip_locked=True)
)
_TODAY = fixed(
    select(func.count())
    .select_from(ListAttempt)
    .where(ListAttempt.value == bindparam("value"), ListAttempt.at > bindparam("since"))
)
_OLDEST_TODAY = fixed(
    select(ListAttempt.at)
    .where(ListAttempt.value == bindparam("value"), ListAttempt.at > bindparam("since"))
    .order_by(col(ListAttempt.at))
    .limit(1)
)


async def _move(tx: Tx, entry: ListEntry, to: EntryState, *, now: datetime, **changes: Any) -> None:
    if to not in ENTRY_ALLOWED[entry.state]:
        raise IllegalTransition(
            "An entry that is %(from_text)s cannot become %(to_text)s.", from_text=entry.state, to_text=to
        )
    values = {"lock_until": None, **changes, "state": to, "version": entry.version + 1}
    guard = update(ListEntry).where(
        col(ListEntry.id) == entry.id, col(ListEntry.version) == entry.version, col(ListEntry.state) == entry.state
    )
    await tx.hit(guard.values(**values))
    if entry.state != to:
        delta = Delta(entry.list_id)
        delta.move(entry.state, to)
        await delta.write(tx)
    entry.__dict__.update(values)
    await events.emit(tx, "list.changed", entry.list_id, now=now, version=entry.version, entry=entry.id, state=to)


# --- the lock on a number ----------------------------------------------------------------------------------------------


async def _lock_number(tx: Tx, entry: ListEntry, *, user_id: str, now: datetime, seconds: float) -> bool:
    """Take the number for this entry; False while somebody else has it on any list."""
    until = now + timedelta(seconds=seconds)
    fresh = NumberLock(value=entry.value, entry_id=entry.id, user_id=user_id, token=1, until=until)
    if await tx.add_new(fresh, unique=["value"]):
        return True
    free = update(NumberLock).where(
        col(NumberLock.value) == entry.value,
        or_(
            col(NumberLock.until) <= now,
            (col(NumberLock.entry_id) == entry.id) & (col(NumberLock.user_id) == user_id),
        ),
    )
    taken = free.values(entry_id=entry.id, user_id=user_id, token=NumberLock.token + 1, until=until)
    return await tx.run(taken) == 1


async def _unlock_number(tx: Tx, entry: ListEntry, *, now: datetime) -> None:
    mine = update(NumberLock).where(col(NumberLock.value) == entry.value, col(NumberLock.entry_id) == entry.id)
    await tx.run(mine.values(until=now, user_id=""))


# --- the next one ------------------------------------------------------------------------------------------------------


async def claim_next(tx: Tx, list_id: str, *, user_id: str, now: datetime) -> ListEntry | None:
    """The entry this telemarketer calls next, locked for five minutes; None when nothing may be called now.

    Asking again gives the same entry until it is released, dialled and disposed. Own promises come first, then what is due
    longest. Entries the gate forbids are recorded with the rule and skipped. At most fifty are looked at in one transaction.
    """
    row = await get(tx, list_id)
    if row.state != ListState.ACTIVE:
        raise IllegalTransition("This call list is %(state_text)s.", state_text=row.state)
    held = await mine(tx, user_id=user_id, now=now)
    if held is not None:
        if held.list_id == list_id:
            return held
        raise Conflict("You still have a number on another list; finish or release it first.", entry_id=held.id)
    for statement in (_PROMISED, _NEXT):
        overdue = {} if statement is _PROMISED else {"overdue": now - OWNER_FIRST}
        due: list[ListEntry] = await tx.all(statement, list_id=list_id, user_id=user_id, now=now, **overdue)
        for entry in due:
            if await _take(tx, row, entry, user_id=user_id, now=now):
                return entry
    return None


async def _take(tx: Tx, row: CallList, entry: ListEntry, *, user_id: str, now: datetime) -> bool:
    verdict = await check(tx, row, entry, now=now)
    if not verdict.allowed:
        await _refuse(tx, entry, verdict, now=now)
        return False
    if not await _lock_number(tx, entry, user_id=user_id, now=now, seconds=LEASE_S):
        return False  # somebody has this number on another list; it stays due
    await _move(
        tx, entry, EntryState.LOCKED, now=now, user_id=user_id, before=str(entry.state), rule="", reason="",
        lock_until=now + timedelta(seconds=LEASE_S),
    )  # fmt: skip
    return True


async def _refuse(tx: Tx, entry: ListEntry, verdict: Verdict, *, now: datetime) -> None:
    """Record the rule: blocked for good, or postponed to when it would be allowed."""
    if verdict.until is None:
        await _move(tx, entry, EntryState.BLOCKED, now=now, rule=verdict.rule, reason=verdict.reason, user_id=None)
        return
    to = entry.state if entry.state != EntryState.LOCKED else EntryState(entry.before or EntryState.READY)
    await _move(tx, entry, to, now=now, rule=verdict.rule, reason=verdict.reason, due_at=max(verdict.until, now))


async def check(tx: Tx, row: CallList, entry: ListEntry, *, now: datetime, dialling: str = "") -> Verdict:
    """Caps of the list, then the gate, for this number now; `dialling`: the user who is about to, whose limits count."""
    if entry.attempts >= row.max_attempts:
        told = Text("Tried %(tried)s times; the list allows %(most)s.", tried=entry.attempts, most=row.max_attempts)
        return Verdict(allowed=False, rule="attempts", reason=told)
    today = int(await tx.one(_TODAY, value=entry.value, since=now - DAY) or 0)
    if today >= row.max_per_day:
        oldest: datetime = await tx.one(_OLDEST_TODAY, value=entry.value, since=now - DAY)
        told = Text("Tried %(tried)s times in 24 hours; the list allows %(most)s.", tried=today, most=row.max_per_day)
        return Verdict(allowed=False, rule="attempts_per_day", reason=told, until=oldest + DAY)
    contact = await contacts.find(tx, entry.contact_id) if entry.contact_id else None
    return await consent.may_contact(
        tx, purpose=row.purpose, channel="voice", address=entry.address, now=now, contact=contact, sender=row.account_id,
        user_id=dialling, spend=bool(dialling),
    )  # fmt: skip


# --- one entry in hand -------------------------------------------------------------------------------------------------


async def mine(tx: Tx, *, user_id: str, now: datetime) -> ListEntry | None:
    """The entry this user has in hand now, on whatever list."""
    found: ListEntry | None = await tx.one(_MINE, user_id=user_id, now=now)
    return found


async def _held(tx: Tx, entry_id: str, *, user_id: str) -> ListEntry:
    entry = await get_entry(tx, entry_id)
    if entry.state != EntryState.LOCKED or entry.user_id != user_id:
        raise NotAllowed("This number is not yours (any more); take the next one.")
    return entry


async def release(tx: Tx, entry_id: str, *, user_id: str, now: datetime) -> ListEntry:
    """Give an entry back uncalled; it stays due."""
    entry = await _held(tx, entry_id, user_id=user_id)
    owner = user_id if entry.before == EntryState.CALLBACK else None
    await _move(tx, entry, EntryState(entry.before or EntryState.READY), now=now, user_id=owner)
    await _unlock_number(tx, entry, now=now)
    return entry


async def before_dial(tx: Tx, entry_id: str, *, user_id: str, now: datetime) -> tuple[CallList, ListEntry]:
    """List and entry, when this user may dial now: the lock is theirs, caps and gate say yes. Refused with the rule.

    Call it in the transaction of routing's start_call; after a Refused record it with `refused` in a transaction of its own.
    """
    entry = await _held(tx, entry_id, user_id=user_id)
    row = await get(tx, entry.list_id)
    if not await _lock_number(tx, entry, user_id=user_id, now=now, seconds=LEASE_S):
        raise Conflict("Somebody else has this number now.")
    verdict = await check(tx, row, entry, now=now, dialling=user_id)
    if not verdict.allowed:
        raise Refused(verdict.reason, rule=verdict.rule, until=verdict.until)
    return row, entry


async def refused(
    tx: Tx, entry_id: str, *, user_id: str, rule: str, reason: str, until: datetime | None, now: datetime
) -> None:
    """The gate said no at the moment of dialling: the entry is blocked, or comes back at `until`."""
    entry = await _held(tx, entry_id, user_id=user_id)
    await _unlock_number(tx, entry, now=now)
    await _refuse(tx, entry, Verdict(allowed=False, rule=rule, reason=reason, until=until), now=now)


async def dial_started(tx: Tx, entry_id: str, *, user_id: str, interaction_id: str, now: datetime) -> ListAttempt:
    """The call is being placed: one attempt more, and the lock holds for the call and its wrap-up."""
    entry = await _held(tx, entry_id, user_id=user_id)
    if not await _lock_number(tx, entry, user_id=user_id, now=now, seconds=CALL_S):
        raise Conflict("Somebody else has this number now.")
    attempt = ListAttempt(
        id=new_id(now), entry_id=entry.id, list_id=entry.list_id, value=entry.value, user_id=user_id,
        interaction_id=interaction_id, at=now,
    )  # fmt: skip
    await tx.add(attempt)
    await _move(
        tx, entry, EntryState.LOCKED, now=now, attempts=entry.attempts + 1, interaction_id=interaction_id, called_at=now,
        lock_until=now + timedelta(seconds=CALL_S),
    )  # fmt: skip
    return attempt


async def dispose(
    tx: Tx,
    entry_id: str,
    *,
    user_id: str,
    disposition: str,
    now: datetime,
    callback_at: datetime | None = None,
    notes: str = "",
) -> ListEntry:
    """What became of the call, by a Disposition's flags; the number is free afterwards. Asking twice changes nothing.

    do_not_call stops every call to this number at once, on every list. wrong_number marks it dead for calls. callback needs
    `callback_at` and stays this user's promise. retry_after_s comes back then, until the attempts are used up.
    """
    entry = await get_entry(tx, entry_id)
    if entry.state != EntryState.LOCKED and entry.disposition == disposition and entry.called_at is not None:
        return entry
    entry = await _held(tx, entry_id, user_id=user_id)
    chosen = await tx.one(select(Disposition).where(Disposition.key == disposition))
    if chosen is None or chosen.retired or chosen.scope == "queue":
        raise Invalid("There is no such outcome for call lists.", fields={"disposition": "Choose an outcome."})
    flags = chosen.flags
    row = await get(tx, entry.list_id)
    to, changes = _after(row, entry, flags, user_id=user_id, now=now, callback_at=callback_at)
    ended = update(ListAttempt).where(
        col(ListAttempt.entry_id) == entry.id, col(ListAttempt.user_id) == user_id, col(ListAttempt.ended_at).is_(None)
    )
    await tx.run(ended.values(disposition=disposition, flags=flags, ended_at=now))
    await _unlock_number(tx, entry, now=now)
    await _move(tx, entry, to, now=now, disposition=disposition, notes=notes or entry.notes, **changes)
    if flags.get("do_not_call"):
        await _stop(tx, entry, SuppressionReason.DO_NOT_CALL, user_id=user_id, now=now, notes=notes)
    elif flags.get("wrong_number"):
        await _stop(tx, entry, SuppressionReason.DEAD, user_id=user_id, now=now, notes=notes)
    return entry


def _after(
    row: CallList, entry: ListEntry, flags: dict[str, Any], *, user_id: str, now: datetime, callback_at: datetime | None
) -> tuple[EntryState, dict[str, Any]]:
    if flags.get("do_not_call"):
        return EntryState.BLOCKED, {
            "rule": "do_not_call",
            "reason": "They asked never to be called again.",
            "user_id": None,
        }
    if flags.get("wrong_number"):
        return EntryState.DONE, {"user_id": None}
    if flags.get("callback"):
        if callback_at is None or callback_at <= now:
            raise Invalid("Say when to call back.", fields={"callback_at": "Choose a time to come."})
        return EntryState.CALLBACK, {"due_at": callback_at, "user_id": user_id}
    retry = flags.get("retry_after_s")
    if retry is None and not flags.get("reached") and not flags.get("sale"):
        retry = row.retry_s if flags.get("retry") else None
    if retry is None:
        return EntryState.DONE, {"user_id": None}
    if entry.attempts >= row.max_attempts:
        return EntryState.DONE, {
            "rule": "attempts",
            "reason": Text("Tried %(tried)s times.", tried=entry.attempts),
            "user_id": None,
        }
    return EntryState.CALLED, {"due_at": now + timedelta(seconds=float(retry)), "user_id": None}


async def _stop(
    tx: Tx, entry: ListEntry, reason: SuppressionReason, *, user_id: str, now: datetime, notes: str
) -> None:
    evidence = {"entry": entry.id, "interaction": entry.interaction_id or "", "notes": notes[:500]}
    await consent.opt_out(
        tx, entry.address, channel="voice", reason=reason, source="agent", evidence=evidence, actor=user_id, now=now,
        contact_id=entry.contact_id,
    )  # fmt: skip
    await block_number(tx, entry.value, rule=str(reason), reason=Text("Stopped on another list."), now=now)


async def block_number(tx: Tx, value: str, *, rule: str, reason: str, now: datetime) -> int:
    """Block every open entry of this number on every list, except one somebody is talking to; how many."""
    # Locked while looked at: a claim or a postponement in the same instant must not make the stop fail.
    statement = select(ListEntry).where(ListEntry.value == value, col(ListEntry.state).in_(sorted(ENTRY_OPEN)))
    open_entries = await tx.all(statement.order_by(col(ListEntry.id)).limit(500).with_for_update())
    blocked = 0
    for entry in open_entries:
        if entry.state != EntryState.LOCKED:
            await _move(tx, entry, EntryState.BLOCKED, now=now, rule=rule, reason=reason, user_id=None)
            blocked += 1
    return blocked


async def release_expired(tx: Tx, *, now: datetime) -> int:
    """Free entries whose holder is gone: uncalled ones are due as before, called ones come back by the list's rule."""
    freed = await tx.all(_EXPIRED, now=now)
    for entry in freed:
        await _unlock_number(tx, entry, now=now)
        dialled = await tx.run(
            update(ListAttempt)
            .where(col(ListAttempt.entry_id) == entry.id, col(ListAttempt.ended_at).is_(None))
            .values(ended_at=now)
        )
        if dialled:
            row = await get(tx, entry.list_id)
            due = now + timedelta(seconds=row.retry_s)
            await _move(
                tx,
                entry,
                EntryState.CALLED,
                now=now,
                due_at=due,
                user_id=None,
                reason=Text("The agent left without an outcome."),
            )
        else:
            owner = entry.user_id if entry.before == EntryState.CALLBACK else None
            await _move(tx, entry, EntryState(entry.before or EntryState.READY), now=now, user_id=owner)
    return len(freed)


# --- what people ask ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Figures:
    """One telemarketer's day."""

    attempts: int
    reached: int
    sales: int
    callbacks: int
    by_disposition: dict[str, int]


async def figures(tx: Tx, *, user_id: str, since: datetime, list_id: str = "") -> Figures:
    """Attempts and outcomes of a user since then, on one list or all."""
    statement = select(ListAttempt).where(ListAttempt.user_id == user_id, col(ListAttempt.at) >= since)
    if list_id:
        statement = statement.where(ListAttempt.list_id == list_id)
    rows = await tx.all(statement.limit(5_000))
    by: dict[str, int] = {}
    for row in rows:
        if row.disposition:
            by[row.disposition] = by.get(row.disposition, 0) + 1

    def flagged(name: str) -> int:
        return sum(1 for row in rows if row.flags.get(name))

    return Figures(len(rows), flagged("reached"), flagged("sale"), flagged("callback"), by)


async def script_of(tx: Tx, entry_id: str) -> str:
    """The list's script with the entry's fields filled in; what is unknown stays empty."""
    entry = await get_entry(tx, entry_id)
    row = await get(tx, entry.list_id)
    if not row.script:
        return ""
    template = Template(Source("", row.script, ""))
    first, _, rest = entry.name.partition(" ")
    known = {"name": entry.name, "first_name": first, "last_name": rest, "address": entry.value, "unsubscribe_url": ""}
    return template.render({**dict.fromkeys(template.fields, ""), **known, **entry.fields}).body


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an entry can or cannot be called now: one line per check, in order; the first `False` decides."""

    callable_now: bool
    lines: list[tuple[str, bool, str]]
    due_at: datetime | None


async def explain_entry(tx: Tx, entry_id: str, *, now: datetime) -> Explanation:
    """Why this entry is not called now, or that it may be."""
    entry = await get_entry(tx, entry_id)
    row = await get(tx, entry.list_id)
    lock = await tx.one(select(NumberLock).where(NumberLock.value == entry.value))
    foreign = lock is not None and lock.until > now and lock.entry_id != entry.id
    verdict = await check(tx, row, entry, now=now)
    lines = [
        ("list", row.state == ListState.ACTIVE, Text("The list is %(state_text)s.", state_text=row.state)),
        ("state", entry.state in ENTRY_OPEN and entry.state != EntryState.LOCKED, _told(entry)),
        ("due", entry.due_at <= now, Text("Due at %(due_at)s.", due_at=entry.due_at)),
        (
            "number",
            not foreign,
            Text("Somebody has this number on another list.") if foreign else Text("The number is free."),
        ),
        (verdict.rule or "gate", verdict.allowed, verdict.reason or Text("The gate says yes.")),
    ]
    until = verdict.until or (entry.due_at if entry.due_at > now else None)
    return Explanation(all(passed for _, passed, _ in lines), lines, until)


def _told(entry: ListEntry) -> str:
    if entry.state == EntryState.BLOCKED:
        return Text("Blocked by %(rule_text)s: %(reason_text)s", rule_text=entry.rule, reason_text=entry.reason)
    if entry.state == EntryState.LOCKED:
        return Text("Somebody has it in hand.")
    if entry.disposition:
        return Text(
            "The entry is %(state_text)s after %(disposition)s.", state_text=entry.state, disposition=entry.disposition
        )
    return Text("The entry is %(state_text)s.", state_text=entry.state)
