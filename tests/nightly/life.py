"""One life of a hub's process under chance: people call, text and mail, agents answer, a campaign runs, until it ends or dies.

The world outside is a file that the process appends one line to for each thing that left the house or was acknowledged: what
is written there has happened, whatever becomes of the process.
"""

from __future__ import annotations

import json
import logging
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import redis
import redis.asyncio as aioredis
import structlog
from rq import Queue
from rq.serializers import JSONSerializer

from campaigns import runner
from campaigns.campaigns import Campaign, CampaignState
from campaigns.sender import Sending
from channels.contract import MailArrived, OutboundText, SeenCall, SeenRoom, SendReceipt
from channels.email import Portion
from channels.fake import FakeChannel
from channels.sms import SmsChannel
from channels.twilio_api import TwilioSettings
from channels.voice import VoiceChannel
from crm_core import accounts, failpoints
from crm_core.clock import FixedClock
from crm_core.db import Database, open_database
from crm_core.errors import HubError
from crm_core.outbox import OutboxState
from hub import jobs, mailboxes
from hub.executors import executors
from hub.files import Files
from hub.media import Media
from hub.metrics import Metrics
from hub.publisher import Publisher
from hub.reconciler import Reconciler
from hub.redis_ports import RedisWakeups
from hub.relay import LANES, Relay
from hub.sealing import Sealer
from routing import desk, engine, replies
from routing.legs import RANK
from routing.queues import EntryState
from tests.campaigns import cast
from tests.routing.floor import MAILBOX, NUMBER, Floor, caller
from tests.webhooks.signing import ACCOUNT, ORIGIN, TOKEN, call_fields, signed
from webhooks import intake, messaging, voice
from webhooks.intake import Deps, Kind
from webhooks.routes import KINDS

AGENTS = ("kim", "lee")
PEOPLE = 30  # a campaign's
ACTS = 24
SECRET = "s" * 40


class World:
    """The file. One line is one write, so a kill leaves it whole or absent."""

    def __init__(self, path: Path, life: int) -> None:
        self.life = life
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def tell(self, **what: Any) -> None:
        os.write(self._descriptor, json.dumps(what).encode() + b"\n")


class Line(FakeChannel):
    """A provider that takes everything; what it took stands in the world."""

    def __init__(self, kind: str, world: World) -> None:
        super().__init__(kind)
        self.world = world

    async def send(self, message: Any) -> SendReceipt:
        # The provider's ids are its own for all time: two lives must not be handed one twice.
        self._count += 1
        named = message.our_key if isinstance(message, OutboundText) else message.message_id
        self.world.tell(sent=named, to=message.to_address)
        return SendReceipt(f"SM{self.world.life:016x}{self.kind.encode().hex():>6.6}{self._count:010x}", "queued")

    async def find_sent(self, message: OutboundText) -> list[tuple[str, str]]:
        return []


class Telephone(Line):
    """The provider of calls, with the lists that it keeps of them."""

    def __init__(self, world: World) -> None:
        super().__init__("voice", world)
        self.calls_there: dict[str, SeenCall] = {}

    async def list_calls(self, *, since: datetime) -> list[SeenCall]:
        return [seen for seen in self.calls_there.values() if seen.created_at >= since]

    async def find_call(self, call_id: str) -> SeenCall | None:
        return self.calls_there.get(call_id)  # of an earlier life: the provider knows it no longer

    async def list_running_rooms(self) -> list[SeenRoom]:
        return []

    async def find_room(self, room_id: str) -> SeenRoom | None:
        return None

    async def list_recordings(self, *, since: datetime) -> list[Any]:
        return []


class Mailbox(Line):
    """Mails without end behind the cursor, two in each portion; it hears that one was taken when the next is asked for."""

    async def portions(
        self, cursor: Mapping[str, Any], *, fetched: Callable[[Portion], None] | None = None, begun: object = None
    ) -> AsyncIterator[Portion]:
        first = int(cursor.get("last_uid", 0)) + 1
        some: Portion = [(self.letter(uid), {"uidvalidity": 1, "last_uid": uid}) for uid in (first, first + 1)]
        if fetched is not None:
            fetched(some)
        yield some
        for _, taken in some:
            self.world.tell(mail=taken["last_uid"])

    def letter(self, uid: int) -> MailArrived:
        return MailArrived(
            event_key=f"mail:box:INBOX:1:{uid}", message_id=f"<m{uid}@example.com>", from_address=f"p{uid}@example.com",
            from_name="Ana", to=(MAILBOX,), cc=(), reply_to="", subject="Hello", sent_at=None, in_reply_to="",
            references=(), text="Hi", html="<p>Hi</p>", files=(), automatic="", headers={}, raw=b"raw %d" % uid,
        )  # fmt: skip


class Lines:
    """A ChannelSet of those."""

    def __init__(self, world: World) -> None:
        self._voice, self._sms, self._mail = Telephone(world), Line("sms", world), Mailbox("email", world)

    def voice(self) -> Telephone:
        return self._voice

    def sms(self) -> Line:
        return self._sms

    def mail(self, account: accounts.ChannelAccount) -> Mailbox:
        return self._mail


class Figures(Metrics):
    """Tells the world of a mail that was not taken as it should."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def webhook(self, channel: str, outcome: str) -> None:
        if channel == "email" and outcome != "stored":
            self._world.tell(wrong=f"mail was {outcome}")


@dataclass
class Life:
    """What one process does."""

    db: Database
    clock: FixedClock
    chance: random.Random
    number: int
    world: World
    folder: Path
    campaign: str
    redis_url: str
    came: int = 0
    known: list[tuple[Kind, str, dict[str, str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.floor = Floor(self.db, self.clock)
        settings = TwilioSettings(ACCOUNT, TOKEN, public_url=ORIGIN)
        channels = {"voice": VoiceChannel(settings), "sms": SmsChannel(settings)}
        self.deps = Deps(db=self.db, clock=self.clock, channels=channels, public_url=ORIGIN)
        lines: Any = Lines(self.world)
        # The other clients of one Redis: what is asked asynchronously, and RQ's own.
        self.stream = aioredis.Redis.from_url(self.redis_url)
        self.queues = redis.Redis.from_url(self.redis_url)
        self.wakeups = RedisWakeups(self.stream)
        self.files = Files(f"file://{self.folder}/files")
        media = Media(lines, self.files, Sealer("k" * 40), self.clock, public_url=ORIGIN)
        table = executors(lines, self.clock, media, self.files)
        self.relay = Relay(self.db, self.clock, self.wakeups, Metrics(), table)
        self.line, self.phone = lines.sms(), lines.voice()
        self.runtime: Any = SimpleNamespace(
            db=self.db, clock=self.clock, files=self.files, channels=lines, metrics=Figures(self.world),
            settings=SimpleNamespace(secret_key=SECRET),
        )  # fmt: skip
        self.reconciler = Reconciler(self.runtime)
        self.publisher = Publisher(self.db, self.stream, self.wakeups)

    async def close(self) -> None:
        """Every connection."""
        await self.wakeups.close()
        await self.stream.aclose()
        self.queues.close()
        await self.db.close()

    def fresh(self) -> int:
        self.came += 1
        return self.number * 1000 + self.came

    # --- what may happen

    async def deliver(self, kind: Kind, path: str, fields: dict[str, str]) -> None:
        answer = await intake.take(self.deps, kind, signed(path, fields, self.clock.now()))
        if answer.outcome in ("stored", "repeated"):
            which = fields.get("CallSid") or fields["MessageSid"]
            self.world.tell(ack=kind.name, id=which, status=fields["CallStatus"] if kind is voice.STATUS else "")
        else:
            self.world.tell(wrong=f"{kind.name} was {answer.outcome}")

    async def call(self) -> None:
        number = self.fresh()
        fields = call_fields(number, caller=caller(number))
        self.known += [
            (voice.ARRIVED, voice.BASE, fields),
            (
                voice.STATUS, f"{voice.BASE}/status",
                {**fields, "CallStatus": "completed", "SequenceNumber": "3", "CallbackSource": "call-progress-events"},
            ),
        ]  # fmt: skip
        self.listed(fields["CallSid"], fields["From"], "in-progress")
        await self.deliver(*self.known[-2])

    def listed(self, call_id: str, caller_raw: str, status: str) -> None:
        """It stands in the provider's list, and began long enough ago to be missed."""
        now = self.clock.now()
        self.phone.calls_there[call_id] = SeenCall(
            call_id, caller_raw, NUMBER, status, RANK[status], True, now - timedelta(minutes=2),
            now if status == "completed" else None,
        )  # fmt: skip

    async def unheard(self) -> None:
        """A call came and went, or one that is known went, and the provider could tell nobody."""
        if self.known and self.chance.random() < 0.5:
            _, _, fields = self.chance.choice(self.known)
            if "CallSid" in fields:
                self.listed(fields["CallSid"], fields["From"], "completed")
                return
        number = self.fresh()
        self.listed(call_fields(number)["CallSid"], caller(number), "completed")

    async def compare(self) -> None:
        """The look at the provider's lists that each minute brings; what they hold is then here."""
        await self.unheard()
        await self.reconciler.look()
        for call_id in self.phone.calls_there:
            self.world.tell(healed=call_id)

    async def publish(self) -> None:
        await self.publisher.publish()

    async def text(self) -> None:
        number = self.fresh()
        fields = {
            "MessageSid": f"SM{number:032x}", "AccountSid": ACCOUNT, "From": caller(number), "To": NUMBER,
            "Body": f"Hello {number}", "NumMedia": "0", "NumSegments": "1", "SmsStatus": "received",
        }  # fmt: skip
        self.known.append((messaging.ARRIVED, "/webhooks/twilio/sms", fields))
        await self.deliver(*self.known[-1])

    async def again(self) -> None:
        """The provider delivers something once more, or the end of a call that came."""
        if self.known:
            await self.deliver(*self.chance.choice(self.known))

    async def mailed(self) -> None:
        """The next mails of the mailbox, from where the cursor stands."""
        async with self.db.reading() as tx:
            account = await accounts.get(tx, "acc-email")
        await mailboxes._read(self.runtime, account)

    async def tick(self) -> None:
        await engine.tick(self.db, clock=self.clock, holder=f"life-{self.number}")

    async def agent(self) -> None:
        """An agent takes what is offered, or answers and ends what they hold."""
        who = self.chance.choice(AGENTS)
        with suppress(HubError):
            await self.floor.beat(who)
            await self.db.write(lambda tx: desk.set_activity(tx, who, "available", now=self.clock.now()))
            for offer in await self.floor.live_offers(who):
                await self.floor.accept(who, offer.id)
        for entry in await self.floor.entries():
            if entry.agent_id != who or entry.state not in (EntryState.CONNECTED, EntryState.WRAPUP):
                continue
            with suppress(HubError):
                interaction = await self.floor.interaction(entry.interaction_id)
                if interaction.channel in ("sms", "email") and entry.state == EntryState.CONNECTED:
                    sent = await self.db.write(
                        lambda tx: replies.reply(
                            tx,
                            interaction.conversation_id or "",  # noqa: B023 - awaited here
                            agent_id=who,
                            body="On its way.",
                            now=self.clock.now(),
                        )
                    )
                    self.world.tell(asked=sent.id)
                await self.floor.finish(who, entry.id)

    async def execute(self) -> None:
        for lane in LANES:
            await self.relay.run_once(lane)

    async def campaigning(self) -> None:
        """The poller offers what is due; a worker takes one job, does its slice, and says so."""
        await jobs.enqueue_due(self.db, self.queues, clock=self.clock)
        bulk = Queue("bulk", connection=self.queues, serializer=JSONSerializer)
        taken = Queue.dequeue_any([bulk], None, connection=self.queues, serializer=JSONSerializer)
        if taken is None:
            return
        job, _ = taken
        await jobs.work_slice(self.runtime, job.args[0], self._campaign_slice, jobs.Slice(lambda: False))
        job.delete()
        self.queues.delete(jobs.mark_of("run_campaign", job.args[0]))

    async def _campaign_slice(self, _: Any, campaign_id: str, __: jobs.Slice) -> None:
        """One step of what the hub's own slice repeats until its time is up; four messages at once, so that doubts stay few."""
        async with self.db.reading() as tx:
            account = await accounts.get(tx, "acc-sms")
        sending = Sending(
            channel=self.line, account=account, tokens=cast.Unlimited(), clock=self.clock, public_url=ORIGIN,
            secret=SECRET, worker=f"life-{self.number}", at_once=4,
        )  # fmt: skip

        async def prepare(_: Campaign) -> Sending:
            return sending

        await runner.step(self.db, campaign_id, prepare=prepare, clock=self.clock)

    async def sweep(self) -> None:
        await intake.sweep(self.deps, KINDS)

    # --- the whole of it

    async def go_on(self, *, each_once: bool = False) -> None:
        """Acts in the order of chance; or each in turn."""
        acts: list[Callable[[], Awaitable[None]]] = [
            self.call, self.text, self.text, self.again, self.mailed, self.tick, self.tick, self.agent, self.agent,
            self.execute, self.execute, self.campaigning, self.campaigning, self.compare, self.publish,
        ]  # fmt: skip
        if each_once:
            for act in (*acts, self.mailed, self.publish):
                await act()
            return
        for _ in range(ACTS):
            await self.chance.choice(acts)()
            self.clock.tick(self.chance.choice([0, 1, 3]))

    async def come_to_rest(self) -> None:
        """Nobody comes any more: until nothing is owed."""
        for _ in range(40):
            self.clock.tick(61)
            for act in (self.sweep, self.execute, self.tick, self.agent, self.campaigning, self.publish):
                await act()
            owed = [t for t in await self.floor.outbox() if t.state in (OutboxState.PENDING, OutboxState.CLAIMED)]
            if not owed and (await cast.get(self.db, self.campaign)).state == CampaignState.FINISHED:
                return


async def live(
    url: str, folder: Path, *, redis_url: str, seed: int, number: int, now: datetime, campaign: str, armed: str,
    each_once: bool = False,
) -> None:  # fmt: skip
    """One life; with nothing armed it is the last, and brings everything to rest."""
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    db = await open_database(url, pool_size=3)
    chance = random.Random(f"{seed}:{number}")
    world = World(folder / "world", number)
    life = Life(db, FixedClock(now), chance, number, world, folder, campaign, redis_url)
    # Minutes lie between two lives: nothing was offered lately.
    for mark in life.queues.scan_iter(jobs.mark_of("*", "*")):
        life.queues.delete(mark)
    failpoints.arm(armed)
    if armed:
        await life.go_on(each_once=each_once)
    else:
        await life.come_to_rest()
    await life.close()


async def begin(url: str, now: datetime) -> str:
    """The company before its first day; the campaign's id."""
    db = await open_database(url)
    clock = FixedClock(now)
    floor = Floor(db, clock)
    await floor.open(*AGENTS, wrapup_s=0)
    row, _ = await cast.campaign(db, [cast.mobile(n) for n in range(PEOPLE)], now=now)
    await cast.start(db, row.id, clock)
    await db.close()
    return row.id
