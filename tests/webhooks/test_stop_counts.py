"""A STOP that comes in as a webhook counts once for the campaign whose text it answers."""

from __future__ import annotations

from urllib.parse import urlencode

from sqlmodel import select

from campaigns import campaigns
from crm_core.accounts import ChannelAccount
from crm_core.consent import Purpose
from crm_core.db import Tx
from tests.campaigns import cast
from tests.webhooks.conftest import NUMBER, Hub
from tests.webhooks.signing import ACCOUNT, signed_headers

SMS = "/webhooks/twilio/sms"


async def text(hub: Hub, number: int, body: str) -> int:
    fields = {
        "MessageSid": f"SM{number:032x}", "AccountSid": ACCOUNT, "From": cast.mobile(1).value, "To": NUMBER, "Body": body,
        "NumMedia": "0", "NumSegments": "1",
    }  # fmt: skip
    async with hub.client.post(SMS, data=urlencode(fields), headers=signed_headers(SMS, fields)) as answer:
        return answer.status


async def test_a_stop_by_text_counts_for_the_campaign(hub: Hub) -> None:
    now = hub.clock.tick(6 * 3600)

    async def ours(tx: Tx) -> ChannelAccount:
        account = await tx.one(select(ChannelAccount).where(ChannelAccount.channel == "sms"))
        assert account is not None
        return account

    async def draft(tx: Tx) -> str:
        account, file = await ours(tx), await cast.people(tx, [cast.mobile(1)], now=now)
        row = await campaigns.create(
            tx, name="Spring", account_id=account.id, purpose=Purpose.SERVICE, user_id="ana", now=now,
            audience={"import": file.id}, rate_per_minute=0,
        )  # fmt: skip
        await campaigns.set_content(
            tx,
            row.id,
            subject="",
            body="Hello. Reply STOP to end.",
            html="",
            user_id="ana",
            now=now,
            fields=frozenset(),
        )
        return row.id

    campaign_id = await hub.db.write(draft)
    await cast.start(hub.db, campaign_id, hub.clock)
    async with hub.db.reading() as tx:
        account = await ours(tx)
    await cast.run(hub.db, campaign_id, cast.sending(cast.Line(), account, hub.clock), hub.clock)

    async def counted() -> dict[str, int]:
        async with hub.db.reading() as tx:
            return (await campaigns.progress(tx, campaign_id))["event"]

    assert await text(hub, 1, "When do you open?") == 200
    assert await counted() == {}
    assert await text(hub, 2, "stop") == 200
    assert await text(hub, 2, "stop") == 200
    assert await text(hub, 3, "STOP") == 200
    assert await counted() == {"unsubscribed": 1}
