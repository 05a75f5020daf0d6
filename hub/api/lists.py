"""API: call lists."""

from __future__ import annotations

from pydantic import Field

from campaigns import call_lists, lists
from campaigns.call_lists import ListEntry
from crm_core.db import Tx
from crm_core.errors import NotFound
from crm_core.users import Role
from hub import rights
from hub.api.campaigns import After, WhyAnswer, WhyLine
from hub.api.operation import Call, Instant, Nothing, Operation, Shown, Strict, operation

CALLERS = frozenset({Role.TELEMARKETER})
LIST_READERS = frozenset({Role.TELEMARKETER, Role.SUPERVISOR, Role.ADMIN})
LIST_MANAGERS = frozenset({Role.SUPERVISOR, Role.ADMIN})


class EntryShown(Shown):
    """One number of a call list, in hand."""

    id: str
    list_id: str
    contact_id: str | None
    number: str
    state: str
    attempts: int
    rule: str
    reason: str


class ListShown(Shown):
    """A call list and its counts."""

    id: str
    name: str
    state: str
    purpose: str
    max_attempts: int
    counts: dict[str, int]


class ListPage(Shown):
    """One page, newest first."""

    items: list[ListShown]
    next: str | None


class ListIn(Strict):
    """A new call list from the contacts with a tag."""

    name: str = Field(min_length=1, max_length=200)
    account_id: str = Field(max_length=40)
    tag: str = Field(min_length=1, max_length=50)
    script: str = Field("", max_length=20_000)
    max_attempts: int = Field(6, ge=1, le=50)


class DisposeIn(Strict):
    """What became of the number."""

    disposition: str = Field(max_length=100)
    callback_at: Instant | None = None
    notes: str = Field("", max_length=20_000)


async def shown_list(tx: Tx, row: call_lists.CallList) -> ListShown:
    """A list with its counts."""
    fields = row.model_dump(include=set(ListShown.model_fields) - {"counts"})
    return ListShown(**fields, counts=await call_lists.progress(tx, row.id))


def shown_entry(entry: ListEntry) -> EntryShown:
    """For output."""
    return EntryShown(
        id=entry.id,
        list_id=entry.list_id,
        contact_id=entry.contact_id,
        number=entry.value,
        state=entry.state,
        attempts=entry.attempts,
        rule=entry.rule,
        reason=entry.reason,
    )


@operation("GET", "/api/v1/lists", "Call lists", scope="lists:read", roles=LIST_READERS, query=After, answer=ListPage)
async def list_lists(call: Call[After, Nothing]) -> ListPage:
    """Newest first."""
    async with call.runtime.db.reading() as tx:
        rows = await call_lists.list_page(tx, after=call.query.after, limit=call.query.limit)
        items = [await shown_list(tx, row) for row in rows]
    return ListPage(items=items, next=rows[-1].id if len(rows) == call.query.limit else None)


@operation(
    "POST",
    "/api/v1/lists",
    "Create a call list",
    scope="lists:write",
    roles=LIST_MANAGERS,
    body=ListIn,
    answer=ListShown,
    status=201,
)
async def create_list(call: Call[Nothing, ListIn]) -> ListShown:
    """Built in the background from the contacts with the tag."""
    body = call.body

    async def unit(tx: Tx) -> ListShown:
        made = await call_lists.create(
            tx,
            name=body.name,
            account_id=body.account_id,
            user_id=call.user.id,
            now=call.now,
            script=body.script,
            max_attempts=body.max_attempts,
        )
        await call_lists.build(tx, made.id, source={"tag": body.tag}, now=call.now)
        return await shown_list(tx, await call_lists.get(tx, made.id))

    return await call.runtime.db.write(unit)


@operation(
    "POST", "/api/v1/lists/{id}/next", "Take the next number", scope="lists:work", roles=CALLERS, answer=EntryShown
)
async def next_number(call: Call[Nothing, Nothing]) -> EntryShown:
    """The same one until it is released or disposed. 404 when nothing can be called now."""
    entry = await call.runtime.db.write(
        lambda tx: lists.claim_next(tx, call.path["id"], user_id=call.user.id, now=call.now)
    )
    if entry is None:
        raise NotFound("Nobody on this list can be called now.")
    return shown_entry(entry)


@operation(
    "POST", "/api/v1/list-entries/{id}/release", "Give a number back", scope="lists:work", roles=CALLERS, answer=None
)
async def release_number(call: Call[Nothing, Nothing]) -> None:
    """For somebody else to take."""
    await call.runtime.db.write(lambda tx: lists.release(tx, call.path["id"], user_id=call.user.id, now=call.now))


@operation(
    "POST",
    "/api/v1/list-entries/{id}/dispose",
    "Say what became of a number",
    scope="lists:work",
    roles=CALLERS,
    body=DisposeIn,
    answer=None,
)
async def dispose_number(call: Call[Nothing, DisposeIn]) -> None:
    """Drives what happens next: retry, callback, never again."""
    body = call.body
    await call.runtime.db.write(
        lambda tx: lists.dispose(
            tx,
            call.path["id"],
            user_id=call.user.id,
            disposition=body.disposition,
            now=call.now,
            callback_at=body.callback_at,
            notes=body.notes,
        )
    )


@operation(
    "GET",
    "/api/v1/list-entries/{id}/why",
    "Why can this number (not) be called now",
    scope="lists:read",
    roles=LIST_READERS,
    answer=WhyAnswer,
)
async def why_number(call: Call[Nothing, Nothing]) -> WhyAnswer:
    """Every rule and what it says at this instant. Telemarketers: the number in hand; supervisors: any."""
    async with call.runtime.db.reading() as tx:
        entry = await call_lists.get_entry(tx, call.path["id"])
        if entry.user_id != call.user.id and not rights.sees_everything(call.user):
            raise NotFound("There is no such entry.")
        told = await lists.explain_entry(tx, entry.id, now=call.now)
    lines = [WhyLine(check=check, passed=passed, text=text) for check, passed, text in told.lines]
    answer = "It can be called now." if told.callable_now else "It cannot be called now."
    return WhyAnswer(answer=answer, got_it=told.callable_now, lines=lines)


OPERATIONS: list[Operation] = [
    list_lists,
    create_list,
    next_number,
    release_number,
    dispose_number,
    why_number,
]
