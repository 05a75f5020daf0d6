"""What administrators set about calls: rules of a queue, screening of a number, sounds. For screen and API alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlmodel import select

from crm_core import accounts, audit, sounds
from crm_core.accounts import ChannelAccount
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid, NotFound
from routing import call_rules, queues, screening
from routing.queues import Queue

MOST_COUNTRIES = 50


async def put_rules(
    tx: Tx, queue_id: str, values: Mapping[str, Any], *, version: int, actor: str, now: datetime
) -> Queue:
    """How a queue treats calls from now on; fields that are not named stay. Conflict when it changed since `version`."""
    queue = await queues.get(tx, queue_id)
    if values.get("music"):
        await sounds.get(tx, str(values["music"]).partition(".")[0])
    fresh = {"voice": call_rules.check({**queue.voice, **values}), "version": version + 1}
    if await tx.change(Queue, fresh, id=queue.id, version=version) != 1:
        raise Conflict("Somebody changed this queue meanwhile; the newer values are shown.")
    await audit.record(
        tx, actor=actor, action="queue.calls", subject=f"queue:{queue.id}", now=now, changed=fresh["voice"]
    )
    return await queues.get(tx, queue_id)


async def put_screening(
    tx: Tx, account_id: str, rules: Mapping[str, str], *, countries: Sequence[str], actor: str, now: datetime,
    version: int | None = None, detect_machines: bool | None = None,
) -> ChannelAccount:  # fmt: skip
    """Which callers of one number must press a key, or are refused; the countries that are no foreign ones.

    `detect_machines`: its calls out are listened to, so that an answering machine is told as one.
    """
    account = await accounts.get(tx, account_id)
    if account.channel != "voice" or account.deleted_at is not None:
        raise NotFound("There is no such number.")
    checked = screening.check(dict(rules))
    codes = [code.strip().upper() for code in countries if code.strip()]
    if len(codes) > MOST_COUNTRIES or any(len(code) != 2 or not code.isalpha() for code in codes):
        raise Invalid("Countries are written with two letters each, such as GB or US.")
    fresh = {**account.settings, "screen": checked, "countries": codes}
    if detect_machines is not None:
        fresh["detect_machines"] = detect_machines
    seen = account.version if version is None else version
    if await tx.change(ChannelAccount, {"settings": fresh, "version": seen + 1}, id=account.id, version=seen) != 1:
        raise Conflict("Somebody changed this number meanwhile.")
    await audit.record(
        tx, actor=actor, action="account.screening", subject=f"account:{account.id}", now=now, changed=checked,
        countries=codes,
    )  # fmt: skip
    return await accounts.get(tx, account_id)


async def retire_sound(tx: Tx, sound_id: str, *, actor: str, now: datetime) -> None:
    """Take a sound out of the lists. Conflict while a queue plays it."""
    for queue in await tx.all(select(Queue)):
        if call_rules.of(queue).music.startswith(sound_id):
            raise Conflict("A queue still plays this sound.")
    await sounds.retire(tx, sound_id, actor=actor, now=now)
