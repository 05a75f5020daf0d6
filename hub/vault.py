"""The sealed secrets of one account's row, replaced while the account is in use: a provider may hand out the next refresh token
with each purchase, and one that is only in memory is lost with the process.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import update
from sqlmodel import col

from crm_core import accounts
from crm_core.accounts import ChannelAccount
from crm_core.db import Database, Tx
from crm_core.errors import Conflict
from hub.channel_set import ChannelSet
from hub.log import get_logger

log = get_logger(__name__)

TRIES = 5


@dataclass(frozen=True, slots=True)
class AccountVault:
    """One account's secrets. Raises DatabaseUnavailable."""

    db: Database
    channels: ChannelSet
    account_id: str

    async def latest(self, name: str) -> str:
        """The secret as it is stored now; empty when there is none."""
        async with self.db.reading() as tx:
            return self.channels.secrets(await accounts.get(tx, self.account_id)).get(name, "")

    async def store(self, name: str, value: str) -> None:
        """Keep this in place of the stored one. The row's version stays: nothing is built or read anew because of it."""

        async def unit(tx: Tx) -> bool:
            row = await accounts.get(tx, self.account_id)
            sealed = self.channels.seal({**self.channels.secrets(row), name: value})
            same = update(ChannelAccount).where(
                col(ChannelAccount.id) == row.id,
                col(ChannelAccount.sealed).is_(None)
                if row.sealed is None
                else col(ChannelAccount.sealed) == row.sealed,
            )
            return await tx.run(same.values(sealed=sealed)) == 1

        for _ in range(TRIES):
            if await self.db.write(unit):
                log.info("account: secret replaced by the provider", account=self.account_id, name=name)
                return
        raise Conflict("Somebody changed this account meanwhile.")
