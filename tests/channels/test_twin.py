"""The adapters against the sandbox's twin, over real sockets: it executes what we render and reports what we parse."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from channels import registry, steps
from channels.contract import (
    AccountConfig,
    CallArrived,
    CallProgress,
    DeliveryReport,
    MailArrived,
    MessageArrived,
    OutboundCall,
    OutboundMail,
    OutboundText,
    RawRequest,
    RecordingReady,
    RoomEvent,
)
from channels.errors import Gone, RecipientInvalid, Unavailable
from channels.imap import Mailbox
from channels.twiml import CONTENT_TYPE, render
from hub.sandbox.config import MailboxConfig, NumberConfig, Person, SandboxConfig
from hub.sandbox.twin import running_sandbox

HUB, ANA, BEN = "+442079460000", "+12025550101", "+12025550102"
TOKEN = "5b" * 16


@dataclass
class LittleHub:
    """Verifies and parses every webhook with the adapters, and answers each path with steps."""

    origin: str = ""
    channels: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, list[steps.Step]] = field(default_factory=dict)
    got: list[Any] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    more: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        raw = RawRequest(
            self.origin + request.raw_path, request.method, headers, await request.read(), datetime.now(UTC)
        )
        channel = self.channels["sms" if "/sms" in request.path else "voice"]
        if not channel.verify(raw):
            self.refused.append(request.raw_path)
            return web.Response(status=403)
        if "/step" in request.path:
            self.got.append((request.path, channel.read(raw)))
        else:
            self.got.extend(channel.parse(raw))
        self.more.set()
        found = self.answers.get(request.path)
        if found is None:
            return web.Response(status=204)
        return web.Response(text=render(found, base=self.origin), content_type=CONTENT_TYPE)

    async def until(self, good: Callable[[Any], bool]) -> Any:
        """The first thing received that is so; fails after a minute."""
        async with asyncio.timeout(60):
            while True:
                for one in self.got:
                    if good(one):
                        return one
                self.more.clear()
                await self.more.wait()


@pytest.fixture
async def world(tmp_path):
    hub = LittleHub()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", hub.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    hub.origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
    base = f"{hub.origin}/webhooks/twilio"
    config = SandboxConfig(
        data_dir=str(tmp_path / "twin"),
        auth_token=TOKEN,
        numbers=(NumberConfig(HUB, "main", f"{base}/voice", f"{base}/voice/status", f"{base}/sms"),),
        mailbox=MailboxConfig(password="secret"),
        people=(Person("Ana", ANA, "ana@example.com"), Person("Ben", BEN, "ben@example.com")),
        speech_scale=0.0,
        time_scale=0.3,
    )
    async with running_sandbox(config) as twin:
        settings = {"account_sid": config.account_sid, "api_key_sid": config.api_key_sid, "api_base": twin.base_url}
        secrets = {"auth_token": TOKEN, "api_key_secret": config.api_key_secret}
        for kind in ("voice", "sms"):
            hub.channels[kind] = registry.build(AccountConfig(kind, HUB, settings, secrets, hub.origin))
        urls = {"imap_url": twin.imap_url, "smtp_url": twin.smtp_url}
        hub.channels["email"] = registry.build(AccountConfig("email", config.mailbox.address, {}, urls))
        yield hub, twin
        for channel in hub.channels.values():
            await channel.close()
    await runner.cleanup()
    assert hub.refused == [], "the twin's signatures verify"


async def test_a_call_is_answered_held_moved_and_ended(world):
    hub, twin = world
    room = [steps.DialConference("room-1", "customer", True, status_url="/webhooks/twilio/voice/room?i=1")]
    hub.answers["/webhooks/twilio/voice"] = [steps.Say("Hello <you>"), *room]
    hub.answers["/webhooks/twilio/voice/step"] = [steps.Say("Goodbye"), steps.Hangup()]
    call = await twin.dial(ANA, HUB)
    arrived = await hub.until(lambda one: isinstance(one, CallArrived))
    assert (arrived.call_id, arrived.from_raw, arrived.to_raw) == (call, ANA, HUB)
    joined = await hub.until(lambda one: isinstance(one, RoomEvent) and one.kind == "join")
    assert (joined.room, joined.label, joined.call_id) == ("room-1", "customer", call)
    voice = hub.channels["voice"]
    assert await voice.call_status(call) == ("answered", 3)
    await voice.hold(joined.room_id, call, on=True, music_url="")
    assert await hub.until(lambda one: isinstance(one, RoomEvent) and one.kind == "hold")
    await voice.hold("room-1", call, on=False, music_url="")
    assert await hub.until(lambda one: isinstance(one, RoomEvent) and one.kind == "unhold")
    await voice.mute("room-1", call, on=True)
    assert await hub.until(lambda one: isinstance(one, RoomEvent) and one.kind == "mute")
    await voice.move_call(call, "/webhooks/twilio/voice/step?i=1&step=bye&n=2")
    path, fields = await hub.until(lambda one: isinstance(one, tuple))
    assert (path, fields["CallSid"]) == ("/webhooks/twilio/voice/step", call)
    ended = await hub.until(lambda one: isinstance(one, CallProgress) and one.status == "completed")
    assert (ended.call_id, ended.rank) == (call, 4)
    await voice.end_call(call)
    await voice.end_room("room-1")
    await voice.end_room(joined.room_id)
    with pytest.raises(Gone):
        await voice.move_call(call, "/webhooks/twilio/voice/step")
    keys = [one.event_key for one in hub.got if not isinstance(one, tuple)]
    assert len(keys) == len(set(keys))
    assert twin.twin_faults == []


async def test_a_call_is_placed_into_a_room(world):
    hub, twin = world
    placed = await hub.channels["voice"].place_call(
        OutboundCall(HUB, BEN, "room-2", "customer", "/webhooks/twilio/voice/status", "/webhooks/twilio/voice/room?i=2")
    )
    ringing = await twin.ringing(BEN)
    assert ringing == placed.external_id
    await twin.act(ringing, "answer")
    joined = await hub.until(lambda one: isinstance(one, RoomEvent) and one.kind == "join")
    assert (joined.room, joined.label, joined.room_id) == ("room-2", "customer", placed.detail["room_id"])
    await hub.channels["voice"].end_room("room-2")
    await hub.until(lambda one: isinstance(one, CallProgress) and one.status == "completed")
    seen = [one for one in hub.got if isinstance(one, CallProgress)]
    assert {one.status for one in seen} >= {"initiated", "ringing", "answered", "completed"}
    assert sorted(seen, key=lambda one: one.sequence)[-1].status == "completed"
    assert all(one.happened_at is not None for one in seen)


async def test_nobody_answers_and_the_line_is_busy(world):
    hub, twin = world
    call = OutboundCall(
        HUB, BEN, "room-3", "customer", "/webhooks/twilio/voice/status", "/webhooks/twilio/voice/room?i=3"
    )
    placed = await hub.channels["voice"].place_call(call)
    await twin.act(await twin.ringing(BEN), "refuse")
    end = await hub.until(lambda one: isinstance(one, CallProgress) and one.rank == 4)
    assert (end.call_id, end.status) == (placed.external_id, "busy")


async def test_keys_and_voicemail(world):
    hub, twin = world
    step = "/webhooks/twilio/voice/step"
    hub.answers["/webhooks/twilio/voice"] = [
        steps.Gather(f"{step}?step=pressed&n=1", [steps.Say("Press one")], digits=1, timeout_s=60),
        steps.Hangup(),
    ]
    hub.answers[step] = [
        steps.Record(f"{step}?step=recorded&n=2", "/webhooks/twilio/voice/recording?i=1"),
    ]
    call = await twin.dial(ANA, HUB)
    async with asyncio.timeout(60):
        while not twin.exchange.legs.live[call].listening.is_set():
            await asyncio.sleep(0.01)
    await twin.act(call, "digits", digits="1")
    _, fields = await hub.until(lambda one: isinstance(one, tuple))
    assert fields["Digits"] == "1"
    async with asyncio.timeout(60):
        while not any(each.call_sid == call for each in twin.world.recordings.values()):
            await asyncio.sleep(0.01)
    await twin.act(call, "hangup")
    ready = await hub.until(lambda one: isinstance(one, RecordingReady))
    assert ready.call_id == call


async def test_texts_both_ways(world):
    hub, twin = world
    await twin.text(ANA, HUB, "Where is my order? 🎉")
    message = await hub.until(lambda one: isinstance(one, MessageArrived))
    assert (message.from_raw, message.body) == (ANA, "Where is my order? 🎉")
    receipt = await hub.channels["sms"].send(OutboundText(HUB, ANA, "On its way: €5", "d-1.1"))
    report = await hub.until(lambda one: isinstance(one, DeliveryReport) and one.status == "delivered")
    assert (report.external_id, report.our_key) == (receipt.external_id, "d-1.1")
    assert await hub.channels["sms"].find_sent(OutboundText(HUB, ANA, "On its way: €5", "x")) == [
        (receipt.external_id, "delivered")
    ]


async def test_mails_both_ways(world):
    hub, twin = world
    mail = hub.channels["email"]
    out = OutboundMail(
        "support@example.test", "Support", "ana@example.com", "Hello ☎", "How are you?", "", "<o1@example.test>"
    )
    assert (await mail.send(out)).external_id == "<o1@example.test>"
    box = await twin.request("GET", "/outside/mails?address=ana@example.com")
    assert [one["subject"] for one in box["mails"]] == ["Hello ☎"]
    # A mail to ourselves comes in through the same servers.
    note = OutboundMail(
        "ben@example.com", "Ben", "support@example.test", "Re: Hello", "Fine.\n\nOn 1 May, S wrote:\n> x", "",
        "<i1@example.com>", in_reply_to="<o1@example.test>",
    )  # fmt: skip
    mails = mail.poll({})
    waiting = asyncio.ensure_future(anext(mails))
    await mail.send(note)
    async with asyncio.timeout(60):
        arrived, cursor = await waiting
    assert isinstance(arrived, MailArrived)
    assert (arrived.from_address, arrived.subject, arrived.in_reply_to) == (
        "ben@example.com",
        "Re: Hello",
        "<o1@example.test>",
    )
    assert arrived.new_text.strip() == "Fine."
    assert cursor["last_uid"] > 0
    await mails.aclose()
    assert [one async for one in mail.drain(cursor)] == []
    # A mail that comes between the last look and IDLE is told when IDLE begins.
    box = Mailbox(dataclasses.replace(mail.settings.imap, idle_s=3600.0))
    await box.open()
    try:
        assert await box.uids_after(cursor["last_uid"]) == []
        await mail.send(dataclasses.replace(note, message_id="<i2@example.com>"))
        box._idle_s = 3600.0  # as after long quiet: only the server's word can wake it
        async with asyncio.timeout(60):
            await box.wait()
        assert len(await box.uids_after(cursor["last_uid"])) == 1
    finally:
        await box.close()
    for local, error in (("bounce", RecipientInvalid), ("full", Unavailable), ("later", Unavailable)):
        refused = OutboundMail("support@example.test", "", f"{local}@example.com", "x", "x", "", "<o2@example.test>")
        with pytest.raises(error):
            await mail.send(refused)
