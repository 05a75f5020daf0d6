"""Users, teams, log-in sessions and API tokens. Decides who somebody is and which roles they hold; rights per route live in hub."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from crm_core.tables import Table, at, docs, key, ref, text


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
