"""Journey 8: every process dies by kill -9 while people write; whatever was acknowledged is there, once."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.journeys.cast import Outside, until
from tests.journeys.hub_process import HubProcess, eventually

pytestmark = pytest.mark.timeout(400)

PLACES = ("db.before_commit", "db.after_commit")
CALLS = ("relay.before_call", "relay.after_call")
BY_HAND = ("web", "poll", "interactive", "bulk", "valkey")
TEXTER = "+442079460570"


@pytest.fixture
def seed() -> int:
    made = int(os.environ.get("HUB_TEST_SEED", "") or 4711)
    print(f"seed {made}")  # noqa: T201 - how a failure is made again
    return made


@pytest.fixture
def doomed_hub(seed: int) -> Iterator[HubProcess]:
    """A hub of its own, whose web and poll die at a place and a passage drawn by the seed."""
    chance = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="hub-k-"))
    hub = HubProcess(folder / "var")
    web = f"web/{chance.choice(PLACES)}:{chance.randint(8, 16)}"
    poll = f"poll/{chance.choice(CALLS)}:{chance.randint(1, 2)}"
    hub.start({"HUB_FAILPOINTS": f"{web},{poll}"})
    yield hub
    hub.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest_asyncio.fixture(loop_scope="session")
async def outside(doomed_hub: HubProcess) -> AsyncIterator[Outside]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http:
        yield Outside(doomed_hub.outside, http)


async def test_nothing_acknowledged_is_lost_whoever_dies(doomed_hub: HubProcess, outside: Outside, seed: int) -> None:
    hub, chance = doomed_hub, random.Random(seed + 1)
    written = Written(hub.command("token", "add", "amy", "--name", "journey", "--scope=conversations:write").strip())
    # The thread that is answered must be there: a provider may give its first text up while nobody listens.
    written.texts.append(str((await outside.text(TEXTER, "Hello"))["sid"]))
    await until(lambda: all_there(hub, written.texts, []))
    await people_write(hub, outside, written, 6)
    # The web's place was passed by writing; the poll's, by the agent's answers.
    assert await soon(lambda: died(hub) >= {"web", "poll"}, within_s=90), hub.said()[-3000:]
    for name in chance.sample(BY_HAND, len(BY_HAND)):
        assert await soon(lambda name=name: name in hub.children(), within_s=90)
        writing = asyncio.create_task(people_write(hub, outside, written, 2))
        pid = hub.kill(name)
        assert await soon(lambda name=name, pid=pid: hub.children().get(name, pid) != pid, within_s=90), (
            f"{name} stays dead"
        )
        await writing
    assert written.numbers == len(written.texts) - 1 == len(written.mails) == 16
    # A provider gives a text up after its retries; what the hub has answered for is what it must have.
    told = (await outside.ask("GET", "/outside/callbacks?url=/webhooks/twilio/sms"))["callbacks"]
    texts = [one["params"]["MessageSid"] for one in told if (one["status"] or 500) < 300 and one["params"].get("Body")]
    assert set(texts) <= set(written.texts)

    await until(lambda: all_there(hub, texts, written.mails), within_s=60, told=f"seed {seed}: not everything arrived")
    leads = Counter(
        row["body"]
        for row in hub.rows("SELECT body FROM interactions WHERE channel = 'webform' AND body LIKE '%number j8-%'")
    )
    assert sorted(count for body, count in leads.items()) == [1] * 16, (seed, leads)
    kept = Counter(row["external_id"] for row in hub.rows("SELECT external_id FROM interactions WHERE channel = 'sms'"))
    assert {sid: kept[sid] for sid in texts} == dict.fromkeys(texts, 1), seed
    # Every answer that was taken went out once, unless its doubt is named.
    await until(lambda: settled(hub), within_s=60, told=f"seed {seed}: outgoing work never came to rest")
    answers = hub.rows(
        "SELECT i.body, o.state FROM interactions i JOIN outbox o ON o.subject_id = i.id WHERE o.kind = 'text.send'"
    )
    assert Counter(row["body"] for row in answers) == Counter(f"answer j8-{n}" for n in range(16)), seed
    sent = Counter(one["body"] for one in await outside.texts(TEXTER) if one["to"] == TEXTER)
    for row in answers:
        assert sent[row["body"]] in {"done": {1}, "unknown": {0, 1}}[row["state"]], (seed, row, sent)
    assert "Traceback" not in hub.said(), hub.said()[-3000:]


@dataclass
class Written:
    """What was acknowledged, by number."""

    secret: str
    numbers: int = 0
    texts: list[str] = field(default_factory=list)
    mails: list[str] = field(default_factory=list)


async def people_write(hub: HubProcess, outside: Outside, written: Written, count: int) -> None:
    """Numbered forms, texts and mails; each again until it is acknowledged, as providers and programs do."""
    for _ in range(count):
        n, written.numbers = written.numbers, written.numbers + 1
        written.texts.append(str((await outside.text(TEXTER, f"text number j8-{n}"))["sid"]))
        written.mails.append(await outside.mail(f"writer{n}@example.com", subject=f"mail number j8-{n}", text="Hello"))
        await until(lambda n=n: posted(hub, outside, n), within_s=60, told=f"form {n} was never taken")
        await until(lambda n=n: answered(hub, outside, written, n), within_s=60, told=f"answer {n} was never taken")


async def soon(what: Callable[[], object], *, within_s: float) -> bool:
    """`eventually`, while others go on writing."""
    return await asyncio.to_thread(eventually, what, within_s=within_s)


async def posted(hub: HubProcess, outside: Outside, n: int) -> bool:
    post = {"name": f"Form {n}", "email": f"form{n}@example.com", "topic": "A repair", "message": f"number j8-{n}."}
    headers = {"Idempotency-Key": f"j8-{n}"}
    try:
        async with outside.http.post(f"{hub.url}/webhooks/forms/website", json=post, headers=headers) as answer:
            return answer.status < 300
    except (aiohttp.ClientError, TimeoutError):
        return False


async def answered(hub: HubProcess, outside: Outside, written: Written, n: int) -> bool:
    """The agent's answer number n was taken by the hub."""
    thread = hub.rows("SELECT id FROM conversations WHERE channel = 'sms' AND peer = ?", TEXTER)
    headers = {"Idempotency-Key": f"answer-{n}", "Authorization": f"Bearer {written.secret}"}
    try:
        url = f"{hub.url}/api/v1/conversations/{thread[0]['id']}/replies" if thread else ""
        async with outside.http.post(url, json={"body": f"answer j8-{n}"}, headers=headers) as answer:
            assert answer.status < 300 or answer.status >= 409, await answer.text()
            return answer.status < 300
    except (aiohttp.ClientError, TimeoutError):
        return False


def died(hub: HubProcess) -> set[str]:
    """Whose death the supervisor noticed."""
    return {name for name in ("web", "poll") if f"{name} was killed by SIGKILL" in hub.said()}


async def all_there(hub: HubProcess, texts: list[str], mails: list[str]) -> bool:
    """Every text and every mail that was taken is an interaction."""
    found = hub.rows("SELECT external_id, subject FROM interactions WHERE channel IN ('sms', 'email')")
    ids, subjects = {row["external_id"] for row in found}, {row["subject"] for row in found}
    return set(texts) <= ids and {f"mail number j8-{n}" for n in range(len(mails))} <= subjects


async def settled(hub: HubProcess) -> bool:
    rows: list[dict[str, Any]] = hub.rows("SELECT state FROM outbox WHERE kind = 'text.send'")
    return all(row["state"] not in ("pending", "claimed") for row in rows)
