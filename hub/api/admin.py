"""API for administrators: users, tokens, the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field
from sqlmodel import col, select

from crm_core import users
from crm_core.audit import AuditEntry
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid
from crm_core.users import Role
from hub.api import admin_channels, admin_forms
from hub.api.operation import Call, Instant, Nothing, Operation, Shown, Strict, Version, operation
from hub.api.scopes import SCOPES
from hub.passwords import hash_password
from hub.web import ADMINS


class UserShown(Shown):
    """Somebody who logs in."""

    id: str
    login: str
    name: str
    email: str
    roles: list[str]
    locale: str
    zone: str
    disabled_at: datetime | None
    version: int


class UserList(Shown):
    """Users by name."""

    items: list[UserShown]


class UserIn(Strict):
    """A new user."""

    login: str = Field(min_length=2, max_length=64)
    name: str = Field(min_length=1, max_length=200)
    roles: list[Role] = Field(min_length=1, max_length=6)
    password: str = Field(min_length=10, max_length=200)
    email: str = Field("", max_length=320)


class UserChange(Strict):
    """Fields to change; `version` is the one you saw. Ends the user's sessions when roles change."""

    version: Version
    name: str | None = Field(None, min_length=1, max_length=200)
    roles: list[Role] | None = Field(None, min_length=1, max_length=6)
    disabled: bool | None = None


class TokenIn(Strict):
    """A new API token that acts as a user."""

    name: str = Field(min_length=1, max_length=200)
    user_id: str = Field(max_length=40)
    scopes: list[str] = Field(min_length=1, max_length=50)
    expires_at: Instant | None = None


class TokenShown(Shown):
    """A token, without its secret."""

    id: str
    name: str
    user_id: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class TokenMade(TokenShown):
    """A new token; the secret is shown this once."""

    secret: str


class TokenList(Shown):
    """Tokens, newest first."""

    items: list[TokenShown]


class AuditShown(Shown):
    """One privileged act."""

    id: str
    at: datetime
    actor_id: str
    action: str
    subject: str
    detail: dict[str, Any]
    number: int | None


class AuditPage(Shown):
    """One page, newest first."""

    items: list[AuditShown]
    next: str | None


class AuditQuery(Strict):
    """By cursor."""

    before: str = Field("", max_length=40)
    limit: int = Field(50, ge=1, le=200)


@operation("GET", "/api/v1/users", "List users", scope="admin:read", roles=ADMINS, answer=UserList)
async def list_users(call: Call[Nothing, Nothing]) -> UserList:
    """Everybody who may log in, and who no longer may."""
    async with call.runtime.db.reading() as tx:
        rows = await users.list_all(tx)
    return UserList(
        items=[UserShown.model_validate(row.model_dump(include=set(UserShown.model_fields))) for row in rows]
    )


@operation(
    "POST",
    "/api/v1/users",
    "Create a user",
    scope="admin:write",
    roles=ADMINS,
    body=UserIn,
    answer=UserShown,
    status=201,
)
async def create_user(call: Call[Nothing, UserIn]) -> UserShown:
    """409 when the login is taken."""
    body = call.body
    password_hash = await hash_password(body.password)
    made = await call.runtime.db.write(
        lambda tx: users.create(
            tx,
            login=body.login,
            name=body.name,
            roles=body.roles,
            password_hash=password_hash,
            now=call.now,
            actor=call.user.id,
            email=body.email,
        )
    )
    return UserShown.model_validate(made.model_dump(include=set(UserShown.model_fields)))


@operation(
    "PATCH", "/api/v1/users/{id}", "Change a user", scope="admin:write", roles=ADMINS, body=UserChange, answer=UserShown
)
async def change_user(call: Call[Nothing, UserChange]) -> UserShown:
    """409 when it has another version than the one you saw."""
    body = call.body
    changes: dict[str, Any] = {}
    if body.name is not None:
        changes["name"] = body.name
    if body.roles is not None:
        changes["roles"] = sorted({str(role) for role in body.roles})
    if body.disabled is not None:
        changes["disabled_at"] = call.now if body.disabled else None

    async def unit(tx: Tx) -> UserShown:
        user = await users.get(tx, call.path["id"])
        if user.version != body.version:
            raise Conflict("Somebody changed this user meanwhile.")
        if changes:
            await users.change(tx, user, actor=call.user.id, now=call.now, **changes)
        return UserShown.model_validate(user.model_dump(include=set(UserShown.model_fields)))

    return await call.runtime.db.write(unit)


@operation("GET", "/api/v1/tokens", "List API tokens", scope="admin:read", roles=ADMINS, answer=TokenList)
async def list_tokens(call: Call[Nothing, Nothing]) -> TokenList:
    """Without their secrets, which nobody can read again."""
    async with call.runtime.db.reading() as tx:
        rows = await users.list_tokens(tx)
    return TokenList(
        items=[TokenShown.model_validate(row.model_dump(include=set(TokenShown.model_fields))) for row in rows]
    )


@operation(
    "POST",
    "/api/v1/tokens",
    "Create an API token",
    scope="admin:write",
    roles=ADMINS,
    body=TokenIn,
    answer=TokenMade,
    status=201,
)
async def create_token(call: Call[Nothing, TokenIn]) -> TokenMade:
    """The secret is in this answer and nowhere else."""
    body = call.body
    unknown = sorted(set(body.scopes) - set(SCOPES))
    if unknown:
        raise Invalid("There is no such scope.", fields={"scopes": ", ".join(unknown)[:200]})

    async def unit(tx: Tx) -> TokenMade:
        owner = await users.get(tx, body.user_id)
        token, secret = await users.create_token(
            tx,
            user_id=owner.id,
            name=body.name,
            scopes=body.scopes,
            actor=call.user.id,
            now=call.now,
            expires_at=body.expires_at,
        )
        return TokenMade(**token.model_dump(include=set(TokenShown.model_fields)), secret=secret)

    return await call.runtime.db.write(unit)


@operation("DELETE", "/api/v1/tokens/{id}", "Revoke an API token", scope="admin:write", roles=ADMINS, answer=None)
async def revoke_token(call: Call[Nothing, Nothing]) -> None:
    """At once."""
    await call.runtime.db.write(lambda tx: users.revoke_token(tx, call.path["id"], actor=call.user.id, now=call.now))


@operation(
    "DELETE",
    "/api/v1/users/{id}/sessions",
    "Sign a user out everywhere",
    scope="admin:write",
    roles=ADMINS,
    answer=None,
)
async def end_sessions(call: Call[Nothing, Nothing]) -> None:
    """Every browser session of the user ends at once; API tokens stay."""

    async def unit(tx: Tx) -> None:
        await users.get(tx, call.path["id"])
        await users.close_sessions(tx, call.path["id"], actor=call.user.id, now=call.now)

    await call.runtime.db.write(unit)


@operation(
    "GET", "/api/v1/audit", "The audit log", scope="admin:read", roles=ADMINS, query=AuditQuery, answer=AuditPage
)
async def list_audit(call: Call[AuditQuery, Nothing]) -> AuditPage:
    """Newest first; sealed entries carry their number in the hash chain."""
    statement = select(AuditEntry).order_by(col(AuditEntry.id).desc()).limit(call.query.limit)
    if call.query.before:
        statement = statement.where(col(AuditEntry.id) < call.query.before)
    async with call.runtime.db.reading(slow=True) as tx:
        rows = await tx.all(statement)
    items = [AuditShown.model_validate(row.model_dump(include=set(AuditShown.model_fields))) for row in rows]
    return AuditPage(items=items, next=rows[-1].id if len(rows) == call.query.limit else None)


OPERATIONS: list[Operation] = [
    list_users,
    create_user,
    change_user,
    end_sessions,
    list_tokens,
    create_token,
    revoke_token,
    list_audit,
    *admin_channels.OPERATIONS,
    *admin_forms.OPERATIONS,
]
