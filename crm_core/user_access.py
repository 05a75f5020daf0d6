"""How users get in: invitations and resets by a link that works once, and the second factor with its recovery codes."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, update
from sqlmodel import col, func, select

from crm_core import audit, outbox, users
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid
from crm_core.ids import new_id
from crm_core.users import SecondFactor, Session, User, UserLink

INVITE, RESET = "invite", "reset"
LIFETIME = {INVITE: timedelta(days=7), RESET: timedelta(hours=2)}
MAIL = "user.mail"  # the outbox kind
MOST_RESETS, WITHIN = 3, timedelta(hours=1)


async def send_link(tx: Tx, user: User, purpose: str, *, actor: str, now: datetime) -> UserLink:
    """A fresh link for a user, mailed to them; links of the same purpose from before stop working."""
    if user.disabled_at is not None:
        raise Conflict("This user has no access.")
    if not user.email:
        raise Invalid("Give a mail address first.", fields={"email": "Give a mail address first."})
    older = update(UserLink).where(
        col(UserLink.user_id) == user.id, col(UserLink.purpose) == purpose, col(UserLink.used_at).is_(None)
    )
    await tx.run(older.values(used_at=now))
    link = UserLink(
        id=new_id(now), user_id=user.id, purpose=purpose, created_at=now, created_by=actor,
        expires_at=now + LIFETIME[purpose],
    )  # fmt: skip
    await tx.add(link)
    await outbox.ask(tx, MAIL, link.id, lane="notice", now=now)
    await audit.record(tx, actor=actor or user.id, action=f"user.{purpose}_sent", subject=f"user:{user.id}", now=now)
    return link


async def may_ask_reset(tx: Tx, user: User, *, now: datetime) -> bool:
    """False when they were sent three within the hour: nobody's mailbox is filled by a stranger."""
    sent = await tx.one(
        select(func.count()).select_from(UserLink).where(
            UserLink.user_id == user.id, UserLink.purpose == RESET, col(UserLink.created_at) > now - WITHIN
        )
    )  # fmt: skip
    return int(sent or 0) < MOST_RESETS


async def find_link(tx: Tx, link_id: str, *, now: datetime) -> tuple[UserLink, User] | None:
    """A link that still works, and whose it is."""
    link = await tx.one(select(UserLink).where(UserLink.id == link_id))
    if link is None or link.used_at is not None or link.expires_at <= now:
        return None
    user = await users.get(tx, link.user_id)
    return None if user.disabled_at is not None else (link, user)


async def newest_link(tx: Tx, user_id: str, *, now: datetime) -> UserLink | None:
    """The user's link that still works."""
    statement = select(UserLink).where(
        UserLink.user_id == user_id, col(UserLink.used_at).is_(None), col(UserLink.expires_at) > now
    )
    found: UserLink | None = await tx.one(statement.order_by(col(UserLink.id).desc()).limit(1))
    return found


async def use_link(tx: Tx, link_id: str, *, password_hash: str, now: datetime) -> User:
    """Set the password by a link, once; every session of the user ends. Invalid when it does not work any more."""
    found = await find_link(tx, link_id, now=now)
    guard = update(UserLink).where(col(UserLink.id) == link_id, col(UserLink.used_at).is_(None))
    if found is None or await tx.run(guard.values(used_at=now)) != 1:
        raise Invalid("This link does not work any more. Ask for a new one.")
    _, user = found
    await users.change(tx, user, actor=user.id, now=now, password_hash=password_hash)
    await users.forget_login_failures(tx, [f"login:{user.login}"])
    return user


async def set_factor(
    tx: Tx, user: User, *, sealed: str, step: int, recovery: list[str], session: Session | None, now: datetime
) -> None:
    """Switch the second factor on. Every other session of the user ends; `session` goes on."""
    await users.change(tx, user, actor=user.id, now=now, totp_sealed=sealed)
    row = SecondFactor(
        user_id=user.id, last_step=step, recovery=[users.hashed(code) for code in recovery], created_at=now
    )
    await tx.put(row, unique=["user_id"], update=["last_step", "recovery", "created_at"])
    if session is not None:
        await tx.add(session)


async def drop_factor(tx: Tx, user: User, *, actor: str, now: datetime) -> None:
    """Switch it off: by the user, or by an administrator for somebody who lost phone and codes."""
    await users.change(tx, user, actor=actor, now=now, totp_sealed=None)
    await tx.run(delete(SecondFactor).where(col(SecondFactor.user_id) == user.id))


async def last_step(tx: Tx, user_id: str) -> int:
    """The last code's step that was used."""
    return await tx.one(select(SecondFactor.last_step).where(SecondFactor.user_id == user_id)) or 0


async def use_step(tx: Tx, user_id: str, step: int) -> bool:
    """Use a code up; False when it, or a later one, was used before."""
    guard = update(SecondFactor).where(col(SecondFactor.user_id) == user_id, col(SecondFactor.last_step) < step)
    return await tx.run(guard.values(last_step=step)) == 1


async def use_recovery(tx: Tx, user_id: str, code: str, *, now: datetime) -> bool:
    """Use a recovery code up; False when there is none like it."""
    row = await tx.one(select(SecondFactor).where(SecondFactor.user_id == user_id).with_for_update())
    wanted = users.hashed(code)
    if row is None or wanted not in row.recovery:
        return False
    left = [one for one in row.recovery if one != wanted]
    await tx.run(update(SecondFactor).where(col(SecondFactor.user_id) == user_id).values(recovery=left))
    await audit.record(
        tx, actor=user_id, action="user.recovery_code", subject=f"user:{user_id}", now=now, left=len(left)
    )
    return True
