"""The cast of the campaign tests: accounts, people, campaigns, and a worker that runs until nothing is due."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from campaigns import campaigns, checks, counts, deliveries, imports, runner
from campaigns.campaigns import Campaign, CampaignState
from campaigns.imports import Recipient, RecipientImport
from campaigns.sender import Sending
from channels.contract import SendReceipt
from channels.errors import ChannelError
from crm_core import consent
from crm_core.accounts import ChannelAccount
from crm_core.addresses import Address, PointKind
from crm_core.clock import FixedClock
from crm_core.consent import Purpose
from crm_core.csv_files import ImportState
from crm_core.db import Database, Tx, open_database
from crm_core.ids import new_id

__all__ = ["FixedClock", "open_database"]

SECRET = "s" * 40
NOON = datetime(2026, 11, 18, 16, 0, tzinfo=UTC)  # mid-morning in Washington
SMS_FROM, MAIL_FROM, VOICE_FROM = "+442079460100", "news@example.test", "+442079460101"


def mobile(number: int) -> Address:
    """The n-th mobile person, +44 7700 900xxx style numbers are not dialable everywhere, so +1 202 555 01xx repeats in areas."""
    if number >= 70_000:
        raise ValueError("no more numbers")
    area = 201 + number // 100
    value = f"+1{area}55501{number % 100:02d}"
    return Address(PointKind.PHONE, value, value)


def mailbox(number: int) -> Address:
    """The n-th mailbox."""
    value = f"person{number}@example.test"
    return Address(PointKind.EMAIL, value, value)


class Unlimited:
    """RateTokens that always grant."""

    async def take(self, bucket: str, *, rate_per_s: float, burst: float, want: int, now: datetime) -> int:
        return want


@dataclass
class Line:
    """A channel that records what it was given and answers as told: a ChannelError by address, or one for everybody."""

    kind: str = "sms"
    errors: dict[str, ChannelError | BaseException] = field(default_factory=dict)
    everybody: ChannelError | None = None
    sent: list[Any] = field(default_factory=list)
    hook: Any = None

    @property
    def secrets(self) -> Sequence[str]:
        return ()

    async def send(self, message: Any) -> SendReceipt:
        if self.hook is not None:
            await self.hook(message)
        error = self.everybody or self.errors.get(message.to_address)
        if error is not None:
            raise error
        self.sent.append(message)
        return SendReceipt(f"SM{len(self.sent):032x}", "queued")

    @property
    def addresses(self) -> list[str]:
        return [message.to_address for message in self.sent]


async def account(tx: Tx, channel: str, address: str, *, now: datetime, **settings: Any) -> ChannelAccount:
    """One sender of ours."""
    row = ChannelAccount(
        id=new_id(now), channel=channel, name=f"Our {channel}", address=address, settings=settings, created_at=now
    )
    return await tx.add(row)


async def agree(
    tx: Tx, address: Address, *, now: datetime, channel: str | None = None, purpose: str = "marketing"
) -> None:
    """They said yes, with proof."""
    channel = channel or ("sms" if address.kind == PointKind.PHONE else "email")
    await consent.grant(
        tx, address, channel=channel, purpose=purpose, source="test", evidence={"text": "yes"}, actor="test", now=now
    )


async def people(
    tx: Tx, addresses: Sequence[Address], *, now: datetime, fields: dict[str, str] | None = None
) -> RecipientImport:
    """A file of recipients that was read."""
    row = RecipientImport(
        id=new_id(now), file_key="", file_name="people.csv", kind=addresses[0].kind if addresses else PointKind.PHONE,
        state=ImportState.READ, headers=["to", *(fields or {})],
        mapping={"to": "address", **{name: name for name in fields or {}}}, created_by="test", created_at=now,
    )  # fmt: skip
    await tx.add(row)
    await tx.add_all(
        [
            Recipient(
                id=new_id(now), import_id=row.id, row=number, kind=address.kind, value=address.value, name=f"Ana {number}",
                fields=fields or {},
            )
            for number, address in enumerate(addresses, 1)
        ]
    )  # fmt: skip
    return row


async def campaign(
    db: Database,
    addresses: Sequence[Address],
    *,
    now: datetime,
    channel: str = "sms",
    purpose: Purpose = Purpose.SERVICE,
    body: str = "Hello {{ first_name }}, see you. Reply STOP to end.",
    rate_per_minute: int = 0,
) -> tuple[Campaign, ChannelAccount]:
    """A complete draft to these people."""

    async def unit(tx: Tx) -> tuple[Campaign, ChannelAccount]:
        sender = await account(tx, channel, SMS_FROM if channel == "sms" else MAIL_FROM, now=now)
        file = await people(tx, addresses, now=now)
        row = await campaigns.create(
            tx, name="Spring", account_id=sender.id, purpose=purpose, user_id="ana", now=now,
            audience={"import": file.id}, rate_per_minute=rate_per_minute,
        )  # fmt: skip
        text = body if channel == "sms" else body + " {{ unsubscribe_url }}"
        await campaigns.set_content(
            tx, row.id, subject="" if channel == "sms" else "News", body=text, html="", user_id="ana", now=now,
            fields=frozenset(),
        )  # fmt: skip
        return await campaigns.get(tx, row.id), sender

    return await db.write(unit)


def sending(line: Any, sender: ChannelAccount, clock: FixedClock, **more: Any) -> Sending:
    """A worker's equipment."""
    return Sending(
        channel=line, account=sender, tokens=more.pop("tokens", Unlimited()), clock=clock,
        public_url="https://hub.example.test", secret=SECRET, **more,
    )  # fmt: skip


async def start(db: Database, campaign_id: str, clock: FixedClock) -> None:
    """Start it, at once."""

    async def unit(tx: Tx) -> None:
        await campaigns.start(tx, campaign_id, now=clock.now())

    await db.write(unit)


async def run(
    db: Database, campaign_id: str, equipment: Sending, clock: FixedClock, *, steps: int = 400
) -> CampaignState:
    """Work until nothing is due now; the state then."""

    async def prepare(_: Campaign) -> Sending:
        return equipment

    for _ in range(steps):
        again = await runner.step(db, campaign_id, prepare=prepare, clock=clock)
        if again is None or again > clock.now():
            break
    return (await get(db, campaign_id)).state


async def get(db: Database, campaign_id: str) -> Campaign:
    """The campaign as it stands."""
    async with db.reading() as tx:
        return await campaigns.get(tx, campaign_id)


async def rows(db: Database, campaign_id: str) -> dict[str, deliveries.Delivery]:
    """Deliveries by address."""
    found: dict[str, deliveries.Delivery] = {}
    after = ""
    async with db.reading() as tx:
        while page := await deliveries.list_page(tx, campaign_id, after=after, limit=500):
            found |= {row.value: row for row in page}
            after = page[-1].id
    return found


async def states(db: Database, campaign_id: str) -> dict[str, int]:
    """Counts by state, after checking that the maintained ones equal the rows."""
    async with db.reading() as tx:
        kept = await counts.read(tx, campaign_id)
        true = await deliveries.count_rows(tx, campaign_id)
    assert kept == true, f"maintained {kept}, rows {true}"
    async with db.reading() as tx:
        assert await checks.check_invariants(tx, now=NOON) == []
    return kept


async def imported(db: Database, import_id: str) -> RecipientImport:
    """The import as it stands."""
    async with db.reading() as tx:
        return await imports.get(tx, import_id)
