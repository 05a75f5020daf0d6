"""Every callback sequence written down from Twilio's documents, replayed against the twin.

A table in `sequences/` has directives, then steps:

    reply PATH : TWIML              what the hub answers there ({hub} is its origin)
    hold PATH                       the hub does not answer there before a `release` step
    answer PATH : STATUS            the HTTP status of the first answer there
    set NAME=VALUE                  sandbox settings

    step | who -> whom | what | parameters | outcome

`twilio -> hub` steps are expectations, compared one by one with what the hub gets; those with the same step number may
come in any order. All other steps are actions. `Name=*` is any value, `Name=-` must be absent, `Name=?x` remembers it
as {x}. Whatever the hub gets beyond the table is a failure, and so is any entry in `twin_faults` that is not announced
by `fault CODE`.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest

from hub.sandbox.twin import running_sandbox

TABLES = sorted((Path(__file__).parent / "sequences").glob("*.txt"))
QUIET_S = 0.15


@dataclass
class Step:
    number: str
    who: str
    whom: str
    what: str
    params: str
    outcome: str


def read_table(path: Path) -> tuple[list[tuple[str, str]], list[Step]]:
    directives, steps = [], []
    for line in path.read_text("utf-8").splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line[0].isdigit():
            number, parties, what, params, outcome = [part.strip() for part in (line + " | | |").split("|")[:5]]
            who, _, whom = parties.partition("->")
            steps.append(Step(number, who.strip(), whom.strip(), what, params, outcome))
        elif not line.startswith("step"):
            word, _, rest = line.partition(" ")
            directives.append((word, rest.strip()))
    return directives, steps


class Agent:
    """A browser on the line."""

    def __init__(self, sandbox, identity: str, app: str) -> None:
        self.sandbox, self.identity, self.app = sandbox, identity, app
        self.session = aiohttp.ClientSession()
        self.socket: aiohttp.ClientWebSocketResponse | None = None

    def token(self) -> str:
        config = self.sandbox.config
        now = int(time.time())
        claims = {
            "jti": f"{config.api_key_sid}-{now}",
            "iss": config.api_key_sid,
            "sub": config.account_sid,
            "exp": now + 600,
            "grants": {
                "identity": self.identity,
                "voice": {"incoming": {"allow": True}, "outgoing": {"application_sid": self.app}},
            },
        }
        return jwt.encode(claims, config.api_key_secret, algorithm="HS256", headers={"cty": "twilio-fpa;v=1"})

    async def register(self) -> dict[str, Any]:
        url = self.sandbox.base_url.replace("http", "ws", 1) + f"/line?token={self.token()}"
        self.socket = await self.session.ws_connect(url)
        return await self.gets("registered")

    async def send(self, **message: Any) -> None:
        await self.socket.send_str(json.dumps(message))

    async def gets(self, kind: str) -> dict[str, Any]:
        while True:
            message = json.loads((await asyncio.wait_for(self.socket.receive(), 60)).data)
            if message["type"] == kind:
                return message

    async def close(self) -> None:
        await self.session.close()


class Replay:
    """Runs one table."""

    def __init__(self, hub, sandbox, session: aiohttp.ClientSession) -> None:
        self.hub, self.sandbox, self.session = hub, sandbox, session
        self.names = {"hub": hub.url, "ana": "+12025550101", "ben": "+12025550102", "line": "+442079460000"}
        self.names["sandbox"] = sandbox.base_url
        self.taken = 0
        self.agents: dict[str, Agent] = {}

    def fill(self, text: str) -> str:
        for name, value in self.names.items():
            text = text.replace("{" + name + "}", value)
        return text

    async def act(self, step: Step) -> None:
        words = shlex.split(self.fill(step.what))
        body = dict(word.split("=", 1) for word in shlex.split(self.fill(step.params)))
        if step.who == "hub":
            await self.rest(words[0], words[1], step)
        elif words[0] == "release":
            self.hub.held[words[1]].set()
        elif step.who == "browser":
            await self.browse(words, body)
        elif words[0] == "dial":
            self.names["caller"] = await self.sandbox.dial(words[1], words[2])
        elif words[0] == "text":
            self.names["text"] = await self.sandbox.text(words[1], words[2], words[3])
        elif words[0] == "answer-at":
            sid = await self.sandbox.ringing(words[1])
            await self.sandbox.act(sid, "answer")
        elif words[0] in ("until-seated", "until-talking"):
            await self.until(words[0], words[1])
        elif words[0] == "refuse-at":
            await self.sandbox.act(await self.sandbox.ringing(words[1]), "refuse")
        else:
            await self.sandbox.act(words[1], words[0], **body)

    async def until(self, what: str, sid: str) -> None:
        """Wait for something that no callback tells."""
        exchange = self.sandbox.exchange
        async with asyncio.timeout(60):
            while not (
                exchange.rooms.by_sid[sid].seats if what == "until-seated" else exchange.legs.live[sid].company()
            ):
                await asyncio.sleep(0.005)

    async def browse(self, words: list[str], body: dict[str, str]) -> None:
        verb, identity = words[0], words[1]
        if verb == "register":
            agent = self.agents[identity] = Agent(self.sandbox, identity, self.names["app"])
            await agent.register()
            return
        agent = self.agents[identity]
        if verb == "connect":
            await agent.send(type="connect", params=body, ref="r1")
            self.names["agent"] = (await agent.gets("ringing"))["call"]
        elif verb == "accept":
            call = (await agent.gets("incoming"))["call"]
            self.names["agent"] = call
            await agent.send(type="accept", call=call)
        elif verb == "drop":
            await agent.socket.close()
        elif verb == "resume":
            await agent.register()
            await agent.send(type="resume", call=self.names["agent"])
            await agent.gets("accepted")
        elif verb == "gets":
            await agent.gets(words[2])
        else:
            await agent.send(type=verb, call=self.names["agent"], **body)

    async def rest(self, method: str, path: str, step: Step) -> None:
        config = self.sandbox.config
        pairs = [tuple(self.fill(word).split("=", 1)) for word in shlex.split(step.params)]
        url = f"{self.sandbox.base_url}/2010-04-01/Accounts/{config.account_sid}{path}"
        headers = {"Authorization": aiohttp.encode_basic_auth(config.account_sid, config.auth_token)}
        data = aiohttp.FormData(pairs) if method == "POST" else None
        async with self.session.request(method, url, data=data, headers=headers) as response:
            answer = await response.json() if response.content_length else {}
            status = response.status
        for word in shlex.split(step.outcome):
            if word.isdigit():
                assert status == int(word), (step, status, answer)
            else:
                key, value = word.split("=", 1)
                if value.startswith("?"):
                    self.names[value[1:]] = str(answer[key])
                else:
                    assert str(answer[key]) == self.fill(value), (step, key, answer)
        assert status < 400 or step.outcome[:1] in "45", (step, status, answer)

    async def expect(self, group: list[Step]) -> None:
        """The next requests to the hub are exactly these, in any order within the group."""
        deadline = asyncio.get_running_loop().time() + 5
        while len(self.hub.seen) < self.taken + len(group):
            assert asyncio.get_running_loop().time() < deadline, (
                f"waiting for {[(step.number, step.what) for step in group]}; "
                f"came: {[(seen.path, seen.params) for seen in self.hub.seen[self.taken :]]}; "
                f"faults: {self.sandbox.twin_faults}"
            )
            await asyncio.sleep(0.005)
        came = self.hub.seen[self.taken : self.taken + len(group)]
        self.taken += len(group)
        left = list(came)
        for step in group:
            problems = []
            for seen in left:
                problem = self.mismatch(step, seen)
                if problem is None:
                    left.remove(seen)
                    break
                problems.append(problem)
            else:
                raise AssertionError(f"step {step.number}: {step.what} {step.params}\n  " + "\n  ".join(problems))

    def mismatch(self, step: Step, seen) -> str | None:
        method, path = step.what.split()
        if (seen.method, seen.path) != (method, self.fill(path)):
            return f"came {seen.method} {seen.path} {seen.params}"
        found = {}
        for word in shlex.split(step.params):
            name, _, wanted = word.partition("=")
            actual = seen.params.get(name)
            if wanted == "-":
                if actual is not None:
                    return f"{name} should be absent, is {actual!r}"
            elif actual is None:
                return f"{name} is missing in {seen.params}"
            elif wanted.startswith("?"):
                found[wanted[1:]] = actual
            elif wanted != "*" and actual != self.fill(wanted):
                return f"{name} is {actual!r}, not {self.fill(wanted)!r}"
        self.names.update(found)
        return None


@pytest.mark.parametrize("path", TABLES, ids=[path.stem for path in TABLES])
async def test_sequence(path, hub, config):
    directives, steps = read_table(path)
    allowed = []
    for word, rest in directives:
        if word == "reply":
            target, _, twiml = rest.partition(":")
            hub.says(target.strip(), twiml.strip().replace("{hub}", hub.url))
        elif word == "hold":
            hub.held[rest] = asyncio.Event()
        elif word == "answer":
            target, _, status = rest.partition(":")
            hub.statuses[target.strip()] = [int(status)]
        elif word == "set":
            name, value = rest.split("=")
            config = replace(config, **{name: float(value)})
        elif word == "fault":
            allowed.append(int(rest))
        else:
            raise AssertionError(f"unknown directive {word!r} in {path.name}")
    async with running_sandbox(config) as sandbox, aiohttp.ClientSession() as session:
        replay = Replay(hub, sandbox, session)
        index = 0
        try:
            while index < len(steps):
                step = steps[index]
                if (step.who, step.whom) != ("twilio", "hub"):
                    await replay.act(step)
                    index += 1
                    continue
                group = [step]
                while index + len(group) < len(steps) and steps[index + len(group)].number == step.number:
                    group.append(steps[index + len(group)])
                await replay.expect(group)
                index += len(group)
            await asyncio.sleep(QUIET_S)
            extra = [(seen.path, seen.params) for seen in hub.seen[replay.taken :]]
            assert extra == [], f"beyond the table came {extra}"
            assert [fault.code for fault in sandbox.twin_faults] == allowed, sandbox.twin_faults
        finally:
            for agent in replay.agents.values():
                await agent.close()
