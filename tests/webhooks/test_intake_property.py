"""What comes in, in the hands of chance: copies, parallel ones, lost answers, a database that fails, effects that break, and
mails that come again under other numbers. Invariants 1 to 6 and 24, on both engines.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from sqlmodel import select

from channels.contract import MailUnreadable
from channels.sms import SmsChannel
from channels.twilio_api import TwilioSettings
from channels.voice import VoiceChannel
from crm_core import accounts
from crm_core.db import Database, DatabaseUnavailable
from crm_core.interactions import Interaction, InteractionState
from crm_core.touches import Direction
from routing.checks import check_invariants
from tests.machines import DatabaseMachine, play
from tests.routing.floor import Floor
from tests.webhooks.conftest import Store
from tests.webhooks.signing import ACCOUNT, ORIGIN, TOKEN, call_fields, signed
from tests.webhooks.test_mail_intake import arrived
from webhooks import intake, mail, messaging, voice
from webhooks.intake import Deps, Kind
from webhooks.receipts import ReceiptState, WebhookReceipt
from webhooks.routes import KINDS

fate = st.sampled_from(["well", "well", "well", "before the commit", "after the commit"])
number = st.integers(1, 5)
STATUSES = ("ringing", "in-progress", "completed", "busy")


class Flaky:
    """A database whose next unit may be lost before its commit, or its answer after it."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.dialect = db.dialect
        self.fates: list[str] = []

    def reading(self, **more: Any) -> Any:
        return self._db.reading(**more)

    async def write(self, unit: Any, **more: Any) -> Any:
        fate = self.fates.pop() if self.fates else "well"
        if fate == "before the commit":
            raise DatabaseUnavailable("lost before")
        value = await self._db.write(unit, **more)
        if fate == "after the commit":
            raise DatabaseUnavailable("the answer was lost")
        return value


def machine(url: str) -> type[RuleBasedStateMachine]:
    """The machine over a database of its own per run."""

    class IntakeMachine(DatabaseMachine):
        source = url

        def __init__(self) -> None:
            super().__init__()
            self.acknowledged: set[str] = set()
            self.broken = 0
            self.ended: set[str] = set()
            # The mailbox at the provider: raw mails in order, under numbers that a new UIDVALIDITY gives anew.
            self.mails: list[tuple[int, bytes, bool]] = []
            self.uidvalidity = 1
            self.fetched: set[bytes] = set()

        @initialize()
        def open(self) -> None:
            async def go() -> None:
                await self.open_database()
                self.floor = Floor(self.db, self.clock)
                await self.floor.open("kim")
                self.flaky = Flaky(self.db)
                twilio = TwilioSettings(ACCOUNT, TOKEN, public_url=ORIGIN)
                channels = {"voice": VoiceChannel(twilio), "sms": SmsChannel(twilio)}
                flaky: Any = self.flaky
                self.deps = Deps(db=flaky, clock=self.clock, channels=channels, public_url=ORIGIN)
                self.store = Store()

            self.wait(go())

        # --- webhooks

        def breaking(self, kind: Kind) -> Kind:
            """The same kind; while effects are broken they fail after they have written."""

            async def apply(deps: Deps, tx: Any, arrivals: Any, post: Any, now: Any) -> Any:
                value = await kind.apply(deps, tx, arrivals, post, now)
                if self.broken > 0:
                    self.broken -= 1
                    raise RuntimeError("a bug of ours")
                return value

            return replace(kind, apply=apply)

        def deliver(self, kind: Kind, path: str, fields: dict[str, str], copies: int, fate: str) -> None:
            async def go() -> None:
                self.flaky.fates = [fate]
                request = signed(path, fields, self.clock.now())
                answers = await asyncio.gather(
                    *(intake.take(self.deps, self.breaking(kind), request) for _ in range(copies))
                )
                self.flaky.fates = []
                for answer in answers:
                    if answer.status == 200 and answer.outcome != "unavailable":
                        self.acknowledged.add(f"{kind.name}:{kind.key(intake.read(request))}")

            self.wait(go())

        @rule(number=number, copies=st.sampled_from([1, 1, 2, 5]), fate=fate)
        def call(self, number: int, copies: int, fate: str) -> None:
            self.deliver(voice.ARRIVED, voice.BASE, call_fields(number), copies, fate)

        @rule(number=number, status=st.sampled_from(STATUSES), copies=st.sampled_from([1, 2]), fate=fate)
        def status(self, number: int, status: str, copies: int, fate: str) -> None:
            fields = call_fields(
                number,
                CallStatus=status,
                SequenceNumber=str(STATUSES.index(status)),
                CallbackSource="call-progress-events",
            )
            self.deliver(voice.STATUS, f"{voice.BASE}/status", fields, copies, fate)

        @rule(number=number, copies=st.sampled_from([1, 1, 5]), fate=fate)
        def text(self, number: int, copies: int, fate: str) -> None:
            fields = {
                "MessageSid": f"SM{number:032x}", "AccountSid": ACCOUNT, "From": "+12025550101", "To": "+442079460000",
                "Body": "Hello", "NumMedia": "0", "NumSegments": "1", "SmsStatus": "received",
            }  # fmt: skip
            self.deliver(messaging.ARRIVED, "/webhooks/twilio/sms", fields, copies, fate)

        @rule(times=st.integers(1, 3))
        def effects_break(self, times: int) -> None:
            self.broken = times

        @rule(seconds=st.sampled_from([1, 20]))
        def sweeps(self, seconds: int) -> None:
            self.clock.tick(seconds)
            kinds = {name: self.breaking(kind) for name, kind in KINDS.items()}
            self.wait(intake.sweep(replace(self.deps, db=self.db), kinds))

        # --- mails

        @rule(poison=st.booleans())
        def somebody_writes(self, poison: bool) -> None:
            uid = max((uid for uid, *_ in self.mails), default=0) + 1
            self.mails.append((uid, b"raw %d" % len(self.mails), poison))

        @rule()
        def the_server_renumbers(self) -> None:
            """A new UIDVALIDITY: the cursor means nothing any more, everything is read again under new numbers."""
            self.uidvalidity += 1
            self.mails = [(place, raw, poison) for place, (_, raw, poison) in enumerate(self.mails, 1)]

        @rule(fate=fate)
        def one_is_fetched(self, fate: str) -> None:
            async def go() -> None:
                async with self.db.reading() as tx:
                    account = await accounts.get(tx, "acc-email")
                fresh = account.cursor.get("uidvalidity") == self.uidvalidity
                last = int(account.cursor.get("last_uid", 0)) if fresh else 0
                for uid, raw, poison in self.mails:
                    if uid <= last:
                        continue
                    key = f"mail:acc-email:INBOX:{self.uidvalidity}:{uid}"
                    one = (
                        MailUnreadable(key, "It cannot be read.", len(raw), raw)
                        if poison
                        else arrived(
                            0, event_key=key, message_id=f"<{raw.decode().replace(' ', '')}@example.com>", raw=raw
                        )
                    )
                    kept = await mail.keep(self.store, one, now=self.clock.now())
                    self.flaky.fates = [fate]
                    flaky: Any = self.flaky
                    place = {"uidvalidity": self.uidvalidity, "last_uid": uid}
                    with suppress(DatabaseUnavailable):
                        await mail.take(flaky, self.clock, account, one, kept, place)
                    self.flaky.fates = []
                    return

            self.wait(go())

        # --- what must always hold

        @invariant()
        @precondition(lambda self: hasattr(self, "deps"))
        def all_is_well(self) -> None:
            async def go() -> None:
                async with self.db.reading() as tx:
                    assert await check_invariants(tx) == []
                    receipts = await tx.all(select(WebhookReceipt))
                    inbound = await tx.all(select(Interaction).where(Interaction.direction == Direction.INBOUND))
                    account = await accounts.get(tx, "acc-email")
                keys = Counter(one.event_key for one in receipts)
                assert max(keys.values(), default=1) == 1
                assert self.acknowledged <= keys.keys(), "acknowledged and not kept"
                came = Counter(one.external_id for one in inbound)
                assert max(came.values(), default=1) == 1
                done = {one.event_key for one in receipts if one.state is ReceiptState.DONE}
                for number in range(1, 6):
                    here = came[call_fields(number)["CallSid"]], came[f"SM{number:032x}"]
                    assert here[0] == (f"voice:{call_fields(number)['CallSid']}" in done), "effects without a receipt"
                    assert here[1] == (f"sms:SM{number:032x}" in done)
                assert len({one.conversation_id for one in inbound if one.channel == "sms"}) <= 1
                ended = {one.id for one in inbound if one.state is InteractionState.ENDED}
                assert self.ended <= ended, "what was over lives again"
                self.ended = ended
                # The cursor passed nothing over, whatever failed on the way.
                if account.cursor.get("uidvalidity") == self.uidvalidity:
                    passed = [(raw, poison) for uid, raw, poison in self.mails if uid <= account.cursor["last_uid"]]
                    kept = {one.state for one in receipts if one.kind == mail.KIND}
                    mails = sum(one.kind == mail.KIND for one in receipts)
                    assert mails >= len(passed)
                    assert any(poison for _, poison in passed) <= (ReceiptState.QUARANTINED in kept)

            self.wait(go())

        async def settle(self) -> None:
            """With everything whole again, what was kept is made good: nothing is owed, nothing is forgotten."""
            self.broken, self.flaky.fates = 0, []
            deps = replace(self.deps, db=self.db)
            for _ in range(6):
                self.clock.tick(20)
                await intake.sweep(deps, KINDS)
            async with self.db.reading() as tx:
                states = await tx.all(select(WebhookReceipt.state, WebhookReceipt.kind, WebhookReceipt.error))
            owed = [row for row in states if row[0] in (ReceiptState.NEW, ReceiptState.FAILED)]
            assert owed == []
            for state, kind, error in states:
                if state is ReceiptState.QUARANTINED:
                    assert kind == mail.KIND or "a bug of ours" in error

    return IntakeMachine


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The bugs that are put in are logged with their stacks, thousands of lines."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.timeout(600)
def test_chance_loses_and_doubles_nothing_on_sqlite(sqlite_url: str) -> None:
    play(machine(sqlite_url), examples=10, steps=30)


@pytest.mark.timeout(600)
def test_chance_loses_and_doubles_nothing_on_postgresql(pg_url: str) -> None:
    play(machine(pg_url), examples=4, steps=25)
