"""Users, teams, log-in sessions and API tokens. Decides who somebody is and which roles they hold, not what a role may do."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import bindparam, delete, update
from sqlmodel import Field, col, select

from crm_core import audit
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid, NotFound
from crm_core.ids import new_id, new_secret
from crm_core.statements import fixed
from crm_core.tables import Table, at, docs, key, ref, text

LOGIN = re.compile(r"[\w.@-]{2,64}")


class Role(StrEnum):
    """What a person does here; a user may hold several."""

    AGENT = "agent"
    TELEMARKETER = "telemarketer"
    MARKETER = "marketer"
    SUPERVISOR = "supervisor"
    ADMIN = "admin"
    PARTNER = "partner"


class Team(Table, table=True):
    """A department: keeps people and queues together."""

    __tablename__ = "teams"

    id: str = key()
    name: str = text(unique=True)


class User(Table, table=True):
    """A person who logs in. `version` rises with every change."""

    __tablename__ = "users"

    id: str = key()
    login: str = text(unique=True)  # lower case, what they type
    name: str = text()
    email: str = text()
    roles: list[str] = docs()  # words of Role
    team_id: str | None = ref("teams.id", nullable=True)
    password_hash: str = text()  # argon2id; empty = cannot log in by password
    totp_sealed: str | None = text(default=None)  # base32 secret sealed under HUB_SECRET_KEY; null = no second factor
    locale: str = text(default="en")
    zone: str = text(default="UTC")
    theme: str = text(default="auto")  # auto, light, dark
    disabled_at: datetime | None = at(nullable=True)
    created_at: datetime = at()
    version: int = 1


class Session(Table, table=True):
    """One log-in on one browser; the cookie holds the secret, the row only its SHA-256."""

    __tablename__ = "sessions"

    id: str = key()  # hex SHA-256 of the cookie value
    user_id: str = ref("users.id")
    csrf: str = text()
    created_at: datetime = at()
    seen_at: datetime = at()
    expires_at: datetime = at()
    address: str = text()
    browser: str = text()


class ApiToken(Table, table=True):
    """A bearer token for the JSON API: acts as its user, within its scopes."""

    __tablename__ = "api_tokens"

    id: str = key()
    secret_hash: str = text(unique=True)  # hex SHA-256
    name: str = text()
    user_id: str = ref("users.id")
    scopes: list[str] = docs()  # such as contacts:read, calls:write
    created_at: datetime = at()
    expires_at: datetime | None = at(nullable=True)
    revoked_at: datetime | None = at(nullable=True)
    used_at: datetime | None = at(nullable=True)


def hashed(secret: str) -> str:
    """What is stored of a random secret: enough to recognise it, useless to whoever reads the row."""
    return hashlib.sha256(secret.encode()).hexdigest()


async def create(
    tx: Tx,
    *,
    login: str,
    name: str,
    roles: Iterable[Role],
    password_hash: str,
    now: datetime,
    actor: str,
    email: str = "",
    team_id: str | None = None,
    locale: str = "en",
    zone: str = "UTC",
) -> User:
    """A new user. Conflict when the login is taken, Invalid when it is not one word of 2 to 64 characters."""
    login = login.strip().casefold()
    if not LOGIN.fullmatch(login):
        raise Invalid(
            "A login is 2 to 64 letters, digits, dots, dashes, underscores or @.", fields={"login": "Change the login."}
        )
    words = sorted({Role(role) for role in roles})
    if not words:
        raise Invalid("A user needs at least one role.", fields={"roles": "Choose a role."})
    user = User(
        id=new_id(now), login=login, name=name.strip()[:200] or login, email=email, roles=[str(w) for w in words],
        team_id=team_id, password_hash=password_hash, locale=locale, zone=zone, created_at=now,
    )  # fmt: skip
    if not await tx.add_new(user, unique=["login"]):
        raise Conflict("The login “%(login)s” is taken.", login=login)
    await audit.record(
        tx, actor=actor, action="user.created", subject=f"user:{user.id}", now=now, login=login, roles=user.roles
    )
    return user


_GET = fixed(select(User).where(User.id == bindparam("id")))
_BY_LOGIN = fixed(select(User).where(User.login == bindparam("login")))
_SESSION = fixed(
    select(Session, User).join(User, col(User.id) == col(Session.user_id)).where(Session.id == bindparam("id"))
)
_TOKEN = fixed(
    select(ApiToken, User)
    .join(User, col(User.id) == col(ApiToken.user_id))
    .where(ApiToken.secret_hash == bindparam("secret_hash"))
)


async def get(tx: Tx, user_id: str) -> User:
    """The user, or NotFound."""
    found: User | None = await tx.one(_GET, id=user_id)
    if found is None:
        raise NotFound("There is no such user.")
    return found


async def find_login(tx: Tx, login: str) -> User | None:
    """The user of this login, disabled ones too."""
    found: User | None = await tx.one(_BY_LOGIN, login=login.strip().casefold())
    return found


async def list_all(tx: Tx, *, limit: int = 1000) -> list[User]:
    """Users by name."""
    return await tx.all(select(User).order_by(col(User.name), col(User.id)).limit(limit))


async def change(tx: Tx, user: User, *, actor: str, now: datetime, **changes: Any) -> None:
    """Guarded change with its audit entry; taking a password or role away ends the user's sessions."""
    guard = update(User).where(col(User.id) == user.id, col(User.version) == user.version)
    if await tx.run(guard.values(**changes, version=user.version + 1)) != 1:
        raise Conflict("Somebody changed this user meanwhile.")
    user.__dict__.update(changes, version=user.version + 1)
    if changes.keys() & {"password_hash", "roles", "disabled_at", "totp_sealed"}:
        await tx.run(delete(Session).where(col(Session.user_id) == user.id))
    told = {name: value for name, value in changes.items() if name in {"roles", "team_id", "name", "email", "login"}}
    fields = sorted(changes)
    await audit.record(
        tx, actor=actor, action="user.changed", subject=f"user:{user.id}", now=now, fields=fields, **told
    )


async def open_session(
    tx: Tx, user: User, *, secret: str, now: datetime, address: str, browser: str, lifetime: timedelta
) -> Session:
    """A new log-in under a new id, whatever the browser held before."""
    session = Session(
        id=hashed(secret), user_id=user.id, csrf=new_secret(), created_at=now, seen_at=now, expires_at=now + lifetime,
        address=address, browser=browser[:300],
    )  # fmt: skip
    await tx.add(session)
    await audit.record(tx, actor=user.id, action="session.opened", subject=f"user:{user.id}", now=now, address=address)
    return session


async def find_session(tx: Tx, secret: str, *, now: datetime) -> tuple[Session, User] | None:
    """The session and its user, unless it has ended or the user is disabled."""
    found: tuple[Session, User] | None = await tx.one(_SESSION, id=hashed(secret))
    if found is None or found[0].expires_at <= now or found[1].disabled_at is not None:
        return None
    return found


async def keep_session(tx: Tx, session_id: str, *, now: datetime, lifetime: timedelta) -> None:
    """It is in use: its end moves on."""
    await tx.run(update(Session).where(col(Session.id) == session_id).values(seen_at=now, expires_at=now + lifetime))


async def close_session(tx: Tx, session_id: str) -> None:
    """Log out."""
    await tx.run(delete(Session).where(col(Session.id) == session_id))


async def list_sessions(tx: Tx, user_id: str, *, now: datetime) -> list[Session]:
    """The user's log-ins that go on, the one used last first; at most 100."""
    statement = select(Session).where(Session.user_id == user_id, col(Session.expires_at) > now)
    return await tx.all(statement.order_by(col(Session.seen_at).desc(), col(Session.id)).limit(100))


async def close_sessions(
    tx: Tx, user_id: str, *, actor: str, now: datetime, session_id: str = "", but: str = ""
) -> int:
    """End one of the user's sessions, or all of them `but` one; how many. A session of somebody else is none of theirs."""
    statement = delete(Session).where(col(Session.user_id) == user_id, col(Session.id) != but)
    ended = await tx.run(statement.where(col(Session.id) == session_id) if session_id else statement)
    if ended:
        await audit.record(tx, actor=actor, action="session.closed", subject=f"user:{user_id}", now=now, ended=ended)
    return ended


async def drop_sessions_without_factor(tx: Tx, roles: Iterable[str]) -> int:
    """End the sessions of users who hold one of these roles and have no second factor; how many."""
    wanted = set(roles)
    bare = await tx.all(select(User).where(col(User.totp_sealed).is_(None))) if wanted else []
    ids = [user.id for user in bare if wanted & set(user.roles)]
    return await tx.run(delete(Session).where(col(Session.user_id).in_(ids))) if ids else 0


async def drop_expired_sessions(tx: Tx, *, now: datetime) -> int:
    """Delete sessions that have ended; how many."""
    return await tx.run(delete(Session).where(col(Session.expires_at) <= now))


async def create_token(
    tx: Tx,
    *,
    user_id: str,
    name: str,
    scopes: Iterable[str],
    actor: str,
    now: datetime,
    expires_at: datetime | None = None,
) -> tuple[ApiToken, str]:
    """A new API token and its secret, which is shown once and never again."""
    secret = "hub_" + new_secret()
    token = ApiToken(
        id=new_id(now), secret_hash=hashed(secret), name=name.strip()[:200], user_id=user_id, scopes=sorted(set(scopes)),
        created_at=now, expires_at=expires_at,
    )  # fmt: skip
    await tx.add(token)
    await audit.record(
        tx, actor=actor, action="token.created", subject=f"token:{token.id}", now=now, scopes=token.scopes
    )
    return token, secret


async def find_token(tx: Tx, secret: str, *, now: datetime) -> tuple[ApiToken, User] | None:
    """The token and the user it acts as, unless revoked, expired or disabled."""
    found: tuple[ApiToken, User] | None = await tx.one(_TOKEN, secret_hash=hashed(secret))
    if found is None:
        return None
    token, user = found
    if token.revoked_at or user.disabled_at or (token.expires_at is not None and token.expires_at <= now):
        return None
    return found


async def revoke_token(tx: Tx, token_id: str, *, actor: str, now: datetime) -> None:
    """End a token at once; NotFound when there is none to end."""
    guard = update(ApiToken).where(col(ApiToken.id) == token_id, col(ApiToken.revoked_at).is_(None))
    if await tx.run(guard.values(revoked_at=now)) == 0:
        raise NotFound("There is no such token.")
    await audit.record(tx, actor=actor, action="token.revoked", subject=f"token:{token_id}", now=now)


async def list_tokens(tx: Tx) -> list[ApiToken]:
    """Tokens, newest first; at most 200."""
    return await tx.all(select(ApiToken).order_by(col(ApiToken.id).desc()).limit(200))


class LoginFailure(Table, table=True):
    """Wrong passwords in a row, per login and per address: each one beyond the fifth doubles the wait."""

    __tablename__ = "login_failures"

    subject: str = Field(primary_key=True)  # login:<login> or address:<ip>
    times: int = 0
    until: datetime = at()


FREE_TRIES = 5
LONGEST_WAIT = timedelta(minutes=15)


async def login_blocked_until(tx: Tx, subjects: Iterable[str], *, now: datetime) -> datetime | None:
    """The instant from which these may try again; None when they may now."""
    rows = await tx.all(select(LoginFailure.until).where(col(LoginFailure.subject).in_(list(subjects))))
    latest = max(rows, default=now)
    return latest if latest > now else None


async def note_login_failure(tx: Tx, subjects: Iterable[str], *, now: datetime) -> None:
    """Count one wrong password for each."""
    for subject in subjects:
        row = await tx.one(select(LoginFailure).where(LoginFailure.subject == subject))
        times = (row.times if row is not None and row.until > now - LONGEST_WAIT else 0) + 1
        wait = min(timedelta(seconds=2 ** (times - FREE_TRIES)), LONGEST_WAIT) if times > FREE_TRIES else timedelta(0)
        fresh = LoginFailure(subject=subject, times=times, until=now + wait)
        await tx.put(fresh, unique=["subject"], update=["times", "until"])


async def forget_login_failures(tx: Tx, subjects: Iterable[str]) -> None:
    """They got in."""
    await tx.run(delete(LoginFailure).where(col(LoginFailure.subject).in_(list(subjects))))


class UserLink(Table, table=True):
    """An invitation or a password reset: works once, until it expires. Its secret part is signed, not stored."""

    __tablename__ = "user_links"

    id: str = key()
    user_id: str = ref("users.id")
    purpose: str = text()  # invite, reset
    created_at: datetime = at()
    created_by: str = text()  # user id; empty = they asked for it themselves
    expires_at: datetime = at()
    used_at: datetime | None = at(nullable=True)


class SecondFactor(Table, table=True):
    """What belongs to a user's TOTP secret: the last step that was used, and recovery codes that are still good."""

    __tablename__ = "second_factors"

    user_id: str = ref("users.id", primary_key=True)
    last_step: int = 0  # of 30 seconds since 1970; a code is good once
    recovery: list[str] = docs()  # hex SHA-256
    created_at: datetime = at()
