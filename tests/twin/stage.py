"""The whole hub against the sandbox's twin in one process, without a browser: real webhooks, real REST, real rows.

Agents are lines of the twin, as a browser's phone would be: they accept offers through the desktop's functions and connect
with the parameters that the desktop would give them. The hub's clock can be set forward, so that nobody waits for a grace.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import aiohttp
import jwt
from sqlmodel import col, select

from crm_core import interactions
from crm_core.accounts import ChannelAccount
from crm_core.db import Tx
from crm_core.interactions import Disposition, Interaction
from crm_core.users import User
from hub.pollers import Background
from hub.runtime import Runtime
from hub.sandbox.twin import Sandbox
from routing import checks, desk, engine, queues
from routing.offers import LIVE, Offer
from routing.queues import Queue, QueueEntry

R = TypeVar("R")
SUPPORT, SALES = "+442079460000", "+442079460001"
ANA, BEN = "+12025550101", "+12025550102"


class ShiftedClock:
    """The real time, and as much later as a test says."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def tick(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)


@dataclass
class AgentLine:
    """An agent's phone at the twin."""

    user_id: str
    socket: aiohttp.ClientWebSocketResponse
    calls: list[str] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    reader: asyncio.Task[None] | None = None

    async def read(self) -> None:
        async for message in self.socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                self.told.append(json.loads(message.data))

    async def connect(self, params: dict[str, str]) -> str:
        """Join with these parameters, as the browser does after an accept; the leg's CallSid."""
        ref = f"r{len(self.calls)}"
        await self.socket.send_str(json.dumps({"type": "connect", "params": params, "ref": ref}))
        accepted = await until(self._accepted(ref), told=f"{self.user_id} was not let in: {self.told}")
        self.calls.append(accepted["call"])
        return str(accepted["call"])

    def _accepted(self, ref: str) -> Callable[[], Awaitable[dict[str, Any] | None]]:
        async def look() -> dict[str, Any] | None:
            return next((m for m in self.told if m["type"] == "accepted" and m.get("ref") == ref), None)

        return look

    async def hang_up(self) -> None:
        await self.socket.send_str(json.dumps({"type": "hangup", "call": self.calls[-1]}))

    async def die(self) -> None:
        """The browser is gone without a word."""
        await self.socket.close()


async def until(what: Callable[[], Awaitable[Any]], *, within_s: float = 60.0, told: str = "") -> Any:
    """The first true answer; fails with the last one when there is none in time."""
    deadline = time.monotonic() + within_s
    while True:
        found = await what()
        if found:
            return found
        assert time.monotonic() < deadline, told or f"never came true; at last {found!r}"
        await asyncio.sleep(0.02)


class Stage:
    """The hub, the twin, and what they are asked."""

    def __init__(self, runtime: Runtime, sandbox: Sandbox, clock: ShiftedClock, http: aiohttp.ClientSession) -> None:
        self.runtime = runtime
        self.sandbox = sandbox
        self.clock = clock
        self.http = http
        self.background = Background(runtime)
        self.lines: list[AgentLine] = []

    @property
    def now(self) -> datetime:
        return self.clock.now()

    async def do(self, unit: Callable[[Tx], Awaitable[R]]) -> R:
        return await self.runtime.db.write(unit)

    async def open(self, *agent_ids: str, **queue: Any) -> None:
        """Queue `q` served by these agents (available, phone ready), a number for it, and queue `sales` that nobody serves."""

        async def unit(tx: Tx) -> None:
            fields: dict[str, Any] = {"wrapup_s": 60, "callback_offer_after_s": -1, **queue}
            await tx.add(Queue(id="q", name="Support", **fields))
            await tx.add(Queue(id="sales", name="Sales", wrapup_s=60))
            for account_id, address, queue_id in (("acc-q", SUPPORT, "q"), ("acc-sales", SALES, "sales")):
                await tx.add(
                    ChannelAccount(
                        id=account_id, channel="voice", name=account_id, address=address, country="GB", queue_id=queue_id,
                        created_at=self.now,
                    )
                )  # fmt: skip
            await tx.add(Disposition(key="done", label="Done"))

        await self.do(unit)
        for agent_id in agent_ids:
            await self.hire(agent_id)

    async def hire(self, agent_id: str, *, queue_id: str = "q", available: bool = True) -> AgentLine:
        async def unit(tx: Tx) -> None:
            await tx.add(User(id=agent_id, login=agent_id, name=agent_id.title(), created_at=self.now))
            if queue_id:
                await queues.put_member(tx, queue_id, agent_id)
            await desk.heartbeat(tx, agent_id, voice_ready=True, now=self.now)
            if available:
                await desk.set_activity(tx, agent_id, "available", now=self.now)

        await self.do(unit)
        return await self.line(agent_id)

    async def line(self, agent_id: str) -> AgentLine:
        """A browser's phone for this agent."""
        config = self.sandbox.config
        issued = int(time.time())
        claims = {
            "jti": f"{config.api_key_sid}-{issued}", "iss": config.api_key_sid, "sub": config.account_sid,
            "exp": issued + 600,
            "grants": {
                "identity": agent_id,
                "voice": {"outgoing": {"application_sid": self.runtime.settings.twilio.app_sid}},  # type: ignore[union-attr]
            },
        }  # fmt: skip
        token = jwt.encode(claims, config.api_key_secret, algorithm="HS256")
        socket = await self.http.ws_connect(f"{self.sandbox.base_url}/line?token={token}")
        made = AgentLine(agent_id, socket)
        made.reader = asyncio.create_task(made.read())
        self.lines.append(made)
        return made

    async def close(self) -> None:
        for line in self.lines:
            await line.socket.close()
            if line.reader is not None:
                line.reader.cancel()

    # --- time

    async def beat(self) -> None:
        for agent_id in {line.user_id for line in self.lines if not line.socket.closed}:
            await self.do(lambda tx, agent_id=agent_id: desk.heartbeat(tx, agent_id, voice_ready=True, now=self.now))  # type: ignore[misc]

    async def turn(self) -> None:
        """What the hub does by itself: the router's pass and what is asked of the provider."""
        await engine.tick(self.runtime.db, clock=self.clock, holder="test")
        for lane in ("control", "reply", "notice"):
            while await self.background.relay.run_once(lane):
                pass

    async def until(self, what: Callable[[], Awaitable[Any]], *, within_s: float = 60.0, told: str = "") -> Any:
        """`until`, with the hub going on meanwhile."""

        async def look() -> Any:
            await self.turn()
            return await what()

        return await until(look, within_s=within_s, told=told)

    async def later(self, seconds: float) -> None:
        self.clock.tick(seconds)
        await self.beat()
        await self.turn()

    # --- people

    async def outside(self, method: str, path: str, **body: Any) -> Any:
        async with self.http.request(method, self.sandbox.base_url + path, json=body or None) as answer:
            told = await answer.json(content_type=None)
            assert answer.status < 300, f"{method} {path}: {answer.status} {told}"
            return told

    async def call(self, number: str = ANA, to: str = SUPPORT, **more: Any) -> str:
        return str((await self.outside("POST", "/outside/calls", **{"from": number, "to": to, **more}))["sid"])

    async def heard(self, sid: str) -> str:
        found = await self.outside("GET", f"/outside/calls/{sid}")
        return " | ".join(one["text"] for one in found["heard"])

    async def hears(self, sid: str, words: str) -> str:
        """Wait until the caller has heard this."""

        async def look() -> str:
            heard = await self.heard(sid)
            return heard if words in heard else ""

        return str(await self.until(look, told=f"{words!r} was never said"))

    async def press(self, sid: str, digits: str) -> None:
        await self.outside("POST", f"/outside/calls/{sid}/digits", digits=digits)

    async def status_of(self, sid: str) -> str:
        return str((await self.outside("GET", f"/outside/calls/{sid}"))["status"])

    async def fault(self, kind: str, **more: Any) -> None:
        await self.outside("POST", "/outside/faults", kind=kind, **more)

    async def rooms(self) -> list[dict[str, Any]]:
        return list((await self.outside("GET", "/outside/state"))["conferences"])

    # --- agents

    async def offered(self, agent_id: str) -> Offer:
        async def look() -> Offer | None:
            async with self.runtime.db.reading() as tx:
                return await tx.one(select(Offer).where(Offer.agent_id == agent_id, col(Offer.state).in_(LIVE)))

        found: Offer = await self.until(look, told=f"{agent_id} was offered nothing")
        return found

    async def accept(self, line: AgentLine) -> str:
        """Take the offer that waits and join the room; the agent's leg."""
        offer = await self.offered(line.user_id)
        taken = await self.do(lambda tx: desk.accept(tx, offer.id, agent_id=line.user_id, now=self.now))
        return await line.connect({"offer": taken.id, "nonce": taken.nonce})

    async def talk(self, line: AgentLine, sid: str) -> Interaction:
        """From a waiting call to a talk with this agent."""
        await self.accept(line)
        return await self.state_of(sid, "connected")

    async def state_of(self, sid: str, state: str) -> Interaction:
        """Wait until the call stands there."""

        async def look() -> Interaction | None:
            found = await self.interaction(sid)
            return found if found is not None and found.state == state else None

        found: Interaction = await self.until(look, told=f"the call was never {state}")
        return found

    async def interaction(self, sid: str) -> Interaction | None:
        async with self.runtime.db.reading() as tx:
            return await tx.one(select(Interaction).where(Interaction.external_id == sid))

    async def fresh(self, interaction_id: str) -> Interaction:
        async with self.runtime.db.reading() as tx:
            return await interactions.get(tx, interaction_id)

    async def all_of(self, statement: Any) -> list[Any]:
        async with self.runtime.db.reading() as tx:
            return list(await tx.all(statement))

    async def entries(self) -> list[QueueEntry]:
        return await self.all_of(select(QueueEntry).order_by(col(QueueEntry.entered_at), col(QueueEntry.id)))

    async def check(self) -> None:
        """The invariants hold, and the twin met nothing that the provider would have refused."""
        async with self.runtime.db.reading() as tx:
            assert await checks.check_invariants(tx, now=self.now) == []
        assert [str(fault) for fault in self.sandbox.world.twin_faults] == []
