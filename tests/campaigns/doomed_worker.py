"""A campaign worker in a process of its own, armed to die: `python -m tests.campaigns.doomed_worker SPEC-AS-JSON`.

Real SQLite or PostgreSQL, real adapters, a clock that stands where the test put it and runs on from there.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import datetime, timedelta
from typing import Any

from campaigns import runner
from campaigns.campaigns import Campaign
from campaigns.sender import Sending
from channels import registry
from channels.contract import AccountConfig
from crm_core import accounts, failpoints
from crm_core.db import open_database
from tests.campaigns.cast import SECRET, Unlimited
from tests.campaigns.providers import SID


class RunningClock:
    """Starts at a given instant and runs at the machine's pace."""

    def __init__(self, start: datetime) -> None:
        self._start = start
        self._began = time.monotonic()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=time.monotonic() - self._began)


def adapter(kind: str, port: int) -> Any:
    """The real adapter, pointed at the test's server."""
    if kind == "sms":
        return registry.build(
            AccountConfig(
                "sms", "+442079460100", {"account_sid": SID, "api_base": f"http://127.0.0.1:{port}"},
                {"auth_token": "t" * 32}, "https://hub.example.test",
            )
        )  # fmt: skip
    return registry.build(
        AccountConfig(
            "email", "news@example.test", {"smtp_url": f"smtp://127.0.0.1:{port}"}, {}, "https://hub.example.test"
        )
    )


async def main(spec: dict[str, Any]) -> int:
    failpoints.arm(spec["failpoints"])
    clock = RunningClock(datetime.fromisoformat(spec["now"]))
    db = await open_database(spec["url"], bulk=True)
    async with db.reading() as tx:
        account = await accounts.get(tx, spec["account"])
    channel = adapter(account.channel, spec["port"])
    sending = Sending(
        channel=channel, account=account, tokens=Unlimited(), clock=clock, public_url="https://hub.example.test",
        secret=SECRET, worker=f"p{spec['number']}",
    )  # fmt: skip

    async def prepare(_: Campaign) -> Sending:
        return sending

    await runner.sweep(db, clock=clock)
    while True:
        again = await runner.step(db, spec["campaign"], prepare=prepare, clock=clock)
        if again is None or (again - clock.now()).total_seconds() > 2:
            break
        await asyncio.sleep(max(0.0, (again - clock.now()).total_seconds()))
    await sending.close()
    await channel.close()
    await db.close()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(json.loads(sys.argv[1]))))
