"""Channel accounts: the numbers, mailboxes and forms the hub is reached under, as rows, secrets sealed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Index, bindparam
from sqlmodel import col, select

from crm_core.db import Tx
from crm_core.errors import NotFound
from crm_core.statements import fixed
from crm_core.tables import Table, at, doc, docs, key, ref, text


class ChannelAccount(Table, table=True):
    """One address of ours on one channel. A phone number that does calls and texts is two rows."""

    __tablename__ = "channel_accounts"
    __table_args__ = (Index("uq_channel_accounts_address", "channel", "address", unique=True),)

    id: str = key()
    channel: str = text()  # voice, sms, email, webform
    name: str = text()
    address: str = text()  # E.164, mailbox address, form key
    country: str = text()  # reads national numbers
    queue_id: str | None = text(default=None)  # where its interactions go
    flow_id: str | None = text(default=None)  # voice: the call flow
    settings: dict[str, Any] = doc()  # host, port, folder, display name …: nothing secret
    sealed: str | None = text(default=None)  # secrets as JSON, sealed under HUB_SECRET_KEY; write-only on screen
    enabled: bool = True
    off_reason: str = text()
    cursor: dict[str, Any] = doc()  # mailboxes: uidvalidity and last uid
    created_at: datetime = at()
    deleted_at: datetime | None = at(
        nullable=True
    )  # not shown and not used any more; its history stays, it can come back
    version: int = 1


class Form(Table, table=True):
    """A web form: typed fields and what becomes of what is sent."""

    __tablename__ = "forms"

    id: str = key()
    slug: str = text(unique=True)  # the public key in /forms/{key} and /webhooks/forms/{key}
    account_id: str = text(index=True)
    title: str = text()
    fields: list[dict[str, Any]] = (
        docs()
    )  # name, label, kind (text, email, phone, textarea, select, checkbox), required, options
    consent_text: str = text()
    consent_version: str = text()
    thanks: str = text()
    created_at: datetime = at()
    version: int = 1


class FormVersion(Table, table=True):
    """What a form said and asked for from one change to the next; consent names the version that the person saw."""

    __tablename__ = "form_versions"
    __table_args__ = (Index("uq_form_versions_number", "form_id", "number", unique=True),)

    id: str = key()
    form_id: str = ref("forms.id", index=False)
    number: int  # Form.version at that time
    title: str = text()
    fields: list[dict[str, Any]] = docs()
    consent_text: str = text()
    consent_version: str = text()
    thanks: str = text()
    created_by: str = text()  # user id, or what made it
    created_at: datetime = at()


_BY_ADDRESS = fixed(
    select(ChannelAccount).where(
        ChannelAccount.channel == bindparam("channel"), ChannelAccount.address == bindparam("address")
    )
)


_BY_ID = fixed(select(ChannelAccount).where(ChannelAccount.id == bindparam("id")))


async def find(tx: Tx, channel: str, address: str) -> ChannelAccount | None:
    """Our account under this address."""
    found: ChannelAccount | None = await tx.one(_BY_ADDRESS, channel=channel, address=address)
    return found


async def get(tx: Tx, account_id: str) -> ChannelAccount:
    """The account, or NotFound."""
    found: ChannelAccount | None = await tx.one(_BY_ID, id=account_id)
    if found is None:
        raise NotFound("There is no such channel account.")
    return found


async def list_channel(tx: Tx, channel: str, *, deleted: bool = False) -> list[ChannelAccount]:
    """All accounts of a channel, by name; those in use, or those that were deleted."""
    gone = col(ChannelAccount.deleted_at)
    statement = select(ChannelAccount).where(
        ChannelAccount.channel == channel, gone.is_not(None) if deleted else gone.is_(None)
    )
    return await tx.all(statement.order_by(col(ChannelAccount.name), col(ChannelAccount.id)))


async def home_country(tx: Tx, queue_id: str = "") -> str:
    """Where numbers without a country code are from: where our own number is, of that queue if there is one; may be empty."""
    numbers = [number for number in await list_channel(tx, "voice") if number.country]
    fitting = [number for number in numbers if number.queue_id == queue_id] or numbers
    return fitting[0].country if fitting else ""


async def is_ours(tx: Tx, number: str) -> bool:
    """Whether this is a telephone number of our own: a call to it would come in again."""
    return await find(tx, "voice", number) is not None or await find(tx, "sms", number) is not None


def mail_addresses(account: ChannelAccount) -> tuple[str, ...]:
    """The addresses of a mailbox that may be written from: its own, then its aliases. Lower case."""
    aliases = account.settings.get("aliases") or ()
    listed = aliases.replace(",", " ").split() if isinstance(aliases, str) else [str(one) for one in aliases]
    return tuple(dict.fromkeys(one.strip().lower() for one in (account.address, *listed) if one.strip()))
