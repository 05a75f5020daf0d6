"""The hub's own mails to its users: invitations and password resets, in the user's language, by the first mailbox that sends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from channels.contract import OutboundMail, SendReceipt
from channels.errors import Misconfigured
from crm_core import accounts, audit, user_access
from crm_core.accounts import ChannelAccount
from crm_core.clock import Clock
from crm_core.db import Tx
from crm_core.outbox import OutboxState, OutboxTask
from crm_core.user_access import INVITE
from crm_core.users import User, UserLink
from hub.channel_set import ChannelSet
from hub.i18n import Reader
from hub.relay import Done, Executor
from hub.sealing import Sealer

SIGNED = "user-link"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A mail ready to go."""

    account: ChannelAccount
    message: OutboundMail


def token_of(sealer: Sealer, link_id: str) -> str:
    """What the link holds: the row's id and our signature, so that the rows alone let nobody in."""
    return f"{link_id}.{sealer.sign(link_id, purpose=SIGNED)}"


def link_of(sealer: Sealer, token: str) -> str:
    """The row's id; empty when we did not sign it."""
    link_id, _, signature = token.partition(".")
    return link_id if sealer.genuine(link_id, signature, purpose=SIGNED) else ""


def url_of(channels: ChannelSet, link_id: str) -> str:
    """The address that the mail holds."""
    return f"{channels.public_url}/account/{token_of(channels.sealer, link_id)}"


async def sender(tx: Tx, channels: ChannelSet) -> ChannelAccount | None:
    """The first mailbox in use that can send."""
    for account in await accounts.list_channel(tx, "email"):
        if account.enabled and channels.can_send(account):
            return account
    return None


def compose(channels: ChannelSet, account: ChannelAccount, link: UserLink, user: User, reader: Reader) -> OutboundMail:
    """The mail, in the user's language."""
    _ = reader.gettext
    ends = reader.moment(link.expires_at)
    url = url_of(channels, link.id)
    if link.purpose == INVITE:
        subject = _("Your access to the hub")
        lines = [_("You were given access to the hub. Your login is %(login)s.") % {"login": user.login},
                 _("Choose your password here, by %(time)s:") % {"time": ends}]  # fmt: skip
    else:
        subject = _("A new password for the hub")
        lines = [_("Somebody asked for a new password for the login %(login)s.") % {"login": user.login},
                 _("Choose it here, by %(time)s:") % {"time": ends}]  # fmt: skip
    rest = _("If this was not you, do nothing: without this link nothing changes.")
    text = "\n\n".join([_("Hello %(name)s,") % {"name": user.name}, *lines, url, rest])
    domain = account.address.rpartition("@")[2]
    return OutboundMail(
        from_address=account.address, from_name=str(account.settings.get("from_name") or account.name),
        to_address=user.email, to_name=user.name, subject=subject, text=text, html="",
        message_id=f"<{link.id}.user@{domain}>", headers={"Auto-Submitted": "auto-generated"},
    )  # fmt: skip


def executors(channels: ChannelSet, clock: Clock) -> Mapping[str, Executor]:
    """For the relay's table."""

    async def prepare(tx: Tx, task: OutboxTask) -> Prepared | Done:
        now = clock.now()
        found = await user_access.find_link(tx, task.subject_id, now=now)
        if found is None:
            return Done(OutboxState.DONE, error="used or replaced meanwhile")
        account = await sender(tx, channels)
        if account is None:
            raise Misconfigured("No mailbox of the hub can send.", code="no_smtp")
        link, user = found
        return Prepared(account, compose(channels, account, link, user, Reader(user.locale, user.zone, now)))

    async def send(task: OutboxTask, prepared: Any) -> SendReceipt:
        receipt: SendReceipt = await channels.mail(prepared.account).send(prepared.message)
        return receipt

    async def record(tx: Tx, task: OutboxTask, prepared: Any, done: Done) -> None:
        """An invitation that did not go, or perhaps did not, stands in the audit log; the user's page sends another."""
        if done.state is not OutboxState.DONE and prepared is not None:
            await audit.record(
                tx, actor="system", action="user.mail_failed", subject=f"mail:{prepared.message.to_address}", now=clock.now(),
                state=str(done.state), error=done.error,
            )  # fmt: skip

    return {user_access.MAIL: Executor("email", send, repeatable=False, prepare=prepare, record=record)}
