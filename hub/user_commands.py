"""`hub user` and `hub token`: people and API tokens from the command line, for the first administrator and for scripts.

The same functions as the desktop's administration; the audit log names the command line as the actor.
"""

from __future__ import annotations

import getpass
import secrets
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable
from datetime import timedelta

from crm_core import users
from crm_core.clock import Clock, SystemClock
from crm_core.db import Database, DatabaseUnavailable, open_database
from crm_core.errors import HubError, Invalid
from crm_core.users import Role
from hub.api.scopes import SCOPES
from hub.database_probe import DatabaseUnusable, probe_database
from hub.migrate import schema_state
from hub.passwords import hash_password
from hub.settings import Settings

ACTOR = "command-line"
LONGEST_DAYS = 3650

Work = Callable[[Database, Namespace, Clock], Awaitable[None]]


async def run_user(settings: Settings, arguments: Namespace, *, clock: Clock | None = None) -> int:
    """`hub user add|list|password|disable|enable`; 1 with one sentence when it cannot."""
    work: dict[str, Work] = {
        "add": add_user,
        "list": list_users,
        "password": set_password,
        "disable": disable_user,
        "enable": enable_user,
    }
    return await with_database(settings, work[arguments.user_verb], arguments, clock or SystemClock())


async def run_token(settings: Settings, arguments: Namespace, *, clock: Clock | None = None) -> int:
    """`hub token add|list|revoke`; 1 with one sentence when it cannot."""
    work: dict[str, Work] = {"add": add_token, "list": list_tokens, "revoke": revoke_token}
    return await with_database(settings, work[arguments.token_verb], arguments, clock or SystemClock())


async def with_database(settings: Settings, work: Work, arguments: Namespace, clock: Clock) -> int:
    """Open the database, do the work, say in one sentence why not."""
    try:
        await probe_database(settings.database_url)
        current, newest = await schema_state(settings.database_url)
        if current != newest:
            sys.stderr.write("The database is not up to date: run `hub migrate` first.\n")
            return 1
        db = await open_database(settings.database_url, pool_size=1)
        try:
            await work(db, arguments, clock)
        finally:
            await db.close()
    except (HubError, DatabaseUnusable, DatabaseUnavailable) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


async def add_user(db: Database, arguments: Namespace, clock: Clock) -> None:
    password, shown = ask_password(generate=arguments.generate)
    hashed = await hash_password(password)
    roles = [Role(word) for word in arguments.role]
    user = await db.write(
        lambda tx: users.create(
            tx,
            login=arguments.login,
            name=arguments.name or arguments.login,
            email=arguments.email,
            roles=roles,
            password_hash=hashed,
            now=clock.now(),
            actor=ACTOR,
            locale=arguments.language,
            zone=arguments.zone,
        )
    )
    say(f"{user.login} may log in as {', '.join(user.roles)}.{shown}")


async def list_users(db: Database, arguments: Namespace, clock: Clock) -> None:
    async with db.reading() as tx:
        everybody = await users.list_all(tx)
    for user in everybody:
        state = "disabled" if user.disabled_at else "active"
        say(f"{user.login}\t{user.name}\t{','.join(user.roles)}\t{state}")
    if not everybody:
        sys.stderr.write("Nobody yet: hub user add LOGIN --role admin\n")


async def set_password(db: Database, arguments: Namespace, clock: Clock) -> None:
    user = await known(db, arguments.login)
    password, shown = ask_password(generate=arguments.generate)
    hashed = await hash_password(password)
    await db.write(lambda tx: users.change(tx, user, actor=ACTOR, now=clock.now(), password_hash=hashed))
    say(f"{user.login} has a new password and is logged out everywhere.{shown}")


async def disable_user(db: Database, arguments: Namespace, clock: Clock) -> None:
    user = await known(db, arguments.login)
    now = clock.now()
    await db.write(lambda tx: users.change(tx, user, actor=ACTOR, now=now, disabled_at=now))
    say(f"{user.login} may not log in any more and is logged out everywhere.")


async def enable_user(db: Database, arguments: Namespace, clock: Clock) -> None:
    user = await known(db, arguments.login)
    await db.write(lambda tx: users.change(tx, user, actor=ACTOR, now=clock.now(), disabled_at=None))
    say(f"{user.login} may log in again.")


async def add_token(db: Database, arguments: Namespace, clock: Clock) -> None:
    unknown = sorted(set(arguments.scope) - SCOPES.keys())
    if unknown:
        raise Invalid("There is no scope %(wanted)s. Scopes are: %(known)s.", wanted=unknown, known=sorted(SCOPES))
    user = await known(db, arguments.login)
    now = clock.now()
    expires_at = None if arguments.days is None else now + timedelta(days=min(arguments.days, LONGEST_DAYS))
    token, secret = await db.write(
        lambda tx: users.create_token(
            tx,
            user_id=user.id,
            name=arguments.name,
            scopes=arguments.scope,
            actor=ACTOR,
            now=now,
            expires_at=expires_at,
        )
    )
    sys.stderr.write(f"Token {token.id} acts as {user.login}; this is shown once:\n")
    say(secret)


async def list_tokens(db: Database, arguments: Namespace, clock: Clock) -> None:
    async with db.reading() as tx:
        found = await users.list_tokens(tx)
    now = clock.now()
    for token in found:
        over = token.expires_at is not None and token.expires_at <= now
        state = "revoked" if token.revoked_at else "expired" if over else "active"
        used = token.used_at.date().isoformat() if token.used_at else "never used"
        say(f"{token.id}\t{token.name}\t{','.join(token.scopes)}\t{state}\t{used}")


async def revoke_token(db: Database, arguments: Namespace, clock: Clock) -> None:
    await db.write(lambda tx: users.revoke_token(tx, arguments.token, actor=ACTOR, now=clock.now()))
    say(f"Token {arguments.token} ends now.")


async def known(db: Database, login: str) -> users.User:
    async with db.reading() as tx:
        user = await users.find_login(tx, login)
    if user is None:
        raise NobodyOfThatLogin(f"There is no user {login!r}.")
    return user


class NobodyOfThatLogin(HubError):
    """There is no such user."""


def ask_password(*, generate: bool) -> tuple[str, str]:
    """The password, and what to tell of it: made up, typed twice, or the first line of standard input."""
    if generate:
        made = secrets.token_urlsafe(12)
        return made, f" Password, shown once: {made}"
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n"), ""
    first = getpass.getpass("Password: ")
    if first != getpass.getpass("Again: "):
        raise NotTheSame
    return first, ""


class NotTheSame(HubError):
    """The two passwords differ; nothing was changed."""


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
