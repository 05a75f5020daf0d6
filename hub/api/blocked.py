"""API: blocked senders of mail, and signatures."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from crm_core import accounts, blocked, signatures
from crm_core.db import Tx
from crm_core.errors import NotFound
from crm_core.users import Role
from hub import rights
from hub.api.operation import Call, Nothing, Operation, Shown, Strict, operation
from hub.api.work import AGENTS
from hub.web import ADMINS, SUPERVISORS
from routing import replies, spam

BLOCKERS = SUPERVISORS
LONGEST_SPAM = 4_000
SIGNERS = AGENTS | {Role.SUPERVISOR}


class BlockIn(Strict):
    """Whom to block."""

    value: str = Field(min_length=3, max_length=254, description="an address, or a domain as @example.com")


class BlockedShown(Shown):
    """A blocked address or domain."""

    value: str
    user_id: str
    created_at: datetime


class BlockedPage(Shown):
    """One page, in order."""

    items: list[BlockedShown]
    next: str | None


class AfterIn(Strict):
    """A page of the list."""

    after: str = Field("", max_length=254)
    limit: int = Field(100, ge=1, le=200)


class SpamIn(Strict):
    """How to treat it."""

    block: bool = Field(default=True, description="take no more mail from its sender")


class SignatureIn(Strict):
    """Plain text; empty for none."""

    body: str = Field("", max_length=signatures.LONGEST)


class SignatureShown(Shown):
    """What stands under mails."""

    body: str


@operation(
    "GET",
    "/api/v1/blocked-senders",
    "Blocked senders",
    scope="conversations:read",
    roles=BLOCKERS,
    query=AfterIn,
    answer=BlockedPage,
)
async def list_blocked(call: Call[AfterIn, Nothing]) -> BlockedPage:
    """Their mail is kept, counted as spam, and offered to nobody."""
    async with call.runtime.db.reading() as tx:
        rows = await blocked.list_blocked(tx, after=call.query.after, limit=call.query.limit)
    items = [BlockedShown(value=row.value, user_id=row.user_id, created_at=row.created_at) for row in rows]
    return BlockedPage(items=items, next=rows[-1].value if len(rows) == call.query.limit else None)


@operation(
    "POST",
    "/api/v1/blocked-senders",
    "Block a sender",
    scope="conversations:write",
    roles=BLOCKERS,
    body=BlockIn,
    answer=BlockedShown,
    status=201,
)
async def block_sender(call: Call[Nothing, BlockIn]) -> BlockedShown:
    """An address or a whole domain; blocking it again changes nothing."""

    async def unit(tx: Tx) -> BlockedShown:
        value = await blocked.block(tx, call.body.value, user_id=call.user.id, now=call.now)
        return BlockedShown(value=value, user_id=call.user.id, created_at=call.now)

    return await call.runtime.db.write(unit)


@operation(
    "DELETE",
    "/api/v1/blocked-senders/{value}",
    "Unblock a sender",
    scope="conversations:write",
    roles=BLOCKERS,
    answer=None,
)
async def unblock_sender(call: Call[Nothing, Nothing]) -> None:
    """From now on their mail is work again. 404 when it was not blocked."""

    async def unit(tx: Tx) -> None:
        if not await blocked.unblock(tx, call.path["value"], user_id=call.user.id, now=call.now):
            raise NotFound("This sender is not blocked.")

    await call.runtime.db.write(unit)


@operation(
    "POST",
    "/api/v1/conversations/{id}/spam",
    "Mark as spam",
    scope="conversations:write",
    roles=AGENTS,
    body=SpamIn,
    answer=None,
)
async def mark_spam(call: Call[Nothing, SpamIn]) -> None:
    """Its work ends as spam and the conversation is closed. 409 when a colleague works on it."""

    async def unit(tx: Tx) -> None:
        found = await rights.conversation(tx, call.user, call.path["id"])
        await replies.spam(tx, found.id, agent_id=call.user.id, block=call.body.block, now=call.now)

    await call.runtime.db.write(unit)


class SpamQuery(Strict):
    """A page of the list."""

    before: str = Field("", max_length=40, description="the `next` of the page before")
    limit: int = Field(50, ge=1, le=200)


class SpamShown(Shown):
    """A mail kept as spam. Its text is what a stranger wrote: show it as plain text."""

    id: str
    conversation_id: str
    from_address: str
    subject: str
    text: str
    marked: bool = Field(description="by the mail server or a block; otherwise somebody here put it away")
    arrived_at: datetime


class SpamList(Shown):
    """One page, newest first."""

    items: list[SpamShown]
    next: str | None


class RescuedShown(Shown):
    """What is work again. `still_blocked`: the sender's whole domain is blocked, which stays."""

    mails: int
    still_blocked: bool


@operation(
    "GET",
    "/api/v1/spam",
    "Mail kept as spam",
    scope="conversations:read",
    roles=BLOCKERS,
    query=SpamQuery,
    answer=SpamList,
)
async def list_spam(call: Call[SpamQuery, Nothing]) -> SpamList:
    """Marked by the mail server, from blocked senders, or put away by an agent."""
    async with call.runtime.db.reading() as tx:
        rows = await spam.list_spam(tx, before=call.query.before, limit=call.query.limit)
    items = [
        SpamShown(
            id=row.id, conversation_id=row.conversation_id, from_address=row.from_address, subject=row.subject,
            text=row.body[:LONGEST_SPAM], marked=row.data.get("automatic") == "spam", arrived_at=row.first_arrival_at,
        )
        for row in rows
    ]  # fmt: skip
    return SpamList(items=items, next=rows[-1].id if len(rows) == call.query.limit else None)


@operation(
    "POST",
    "/api/v1/spam/{id}/rescue",
    "Give a mail kept as spam back to work",
    scope="conversations:write",
    roles=BLOCKERS,
    answer=RescuedShown,
)
async def rescue_spam(call: Call[Nothing, Nothing]) -> RescuedShown:
    """With what of its conversation was put away with it; its sender's address is not blocked any more."""

    async def unit(tx: Tx) -> RescuedShown:
        done = await spam.rescue(tx, call.path["id"], user_id=call.user.id, now=call.now)
        still = await blocked.is_blocked(tx, done[0].from_address) if done else False
        return RescuedShown(mails=len(done), still_blocked=still)

    return await call.runtime.db.write(unit)


@operation(
    "GET",
    "/api/v1/me/signature",
    "Your signature",
    scope="work:read",
    roles=SIGNERS,
    answer=SignatureShown,
)
async def get_signature(call: Call[Nothing, Nothing]) -> SignatureShown:
    """It goes under your mails, before the mailbox's."""
    async with call.runtime.db.reading() as tx:
        return SignatureShown(body=await signatures.find(tx, call.user.id))


@operation(
    "PUT",
    "/api/v1/me/signature",
    "Change your signature",
    scope="work:write",
    roles=SIGNERS,
    body=SignatureIn,
    answer=SignatureShown,
)
async def put_signature(call: Call[Nothing, SignatureIn]) -> SignatureShown:
    """Empty for none."""

    async def unit(tx: Tx) -> SignatureShown:
        await signatures.keep(tx, call.user.id, call.body.body, now=call.now)
        return SignatureShown(body=await signatures.find(tx, call.user.id))

    return await call.runtime.db.write(unit)


@operation(
    "PUT",
    "/api/v1/mailboxes/{id}/signature",
    "Change a mailbox's signature",
    scope="admin:write",
    roles=ADMINS,
    body=SignatureIn,
    answer=SignatureShown,
)
async def put_mailbox_signature(call: Call[Nothing, SignatureIn]) -> SignatureShown:
    """It goes under every mail that people write from it."""

    async def unit(tx: Tx) -> SignatureShown:
        account = await accounts.get(tx, call.path["id"])
        if account.channel != "email":
            raise NotFound("There is no such mailbox.")
        await signatures.keep(tx, account.id, call.body.body, now=call.now)
        return SignatureShown(body=await signatures.find(tx, account.id))

    return await call.runtime.db.write(unit)


OPERATIONS: list[Operation] = [
    list_blocked,
    block_sender,
    unblock_sender,
    mark_spam,
    list_spam,
    rescue_spam,
    get_signature,
    put_signature,
    put_mailbox_signature,
]
