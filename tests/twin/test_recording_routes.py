"""The recording on screen: the switch of the call bar, the sound in parts, and who listened."""

from __future__ import annotations

import aiohttp
import pytest
from sqlmodel import col, select

from crm_core.audit import AuditEntry
from crm_core.users import Role
from hub.desktop.recordings import part_of
from routing import desk
from tests.apps import Visitor, add_user
from tests.twin.stage import Stage
from tests.twin.test_recordings import recording_of


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("", None), ("bytes=0-", (0, 99)), ("bytes=10-19", (10, 19)), ("bytes=90-500", (90, 99)), ("bytes=-5", (95, 99)),
        ("bytes=0-1,5-6", None), ("lines=1-2", None), ("bytes=-", None),
    ],
)  # fmt: skip
def test_ranges(wanted: str, found: tuple[int, int] | None) -> None:
    assert part_of(wanted, 100) == found


@pytest.mark.parametrize("wanted", ["bytes=100-", "bytes=5-2"])
def test_a_range_outside(wanted: str) -> None:
    with pytest.raises(ValueError, match="outside"):
        part_of(wanted, 100)


async def visitor(stage: Stage, http: aiohttp.ClientSession, login: str) -> Visitor:
    made = Visitor(stage.runtime.settings.public_url, http)
    assert await made.log_in(login) == 303
    return made


async def test_pausing_at_the_desk_and_listening_in_parts(stage: Stage) -> None:
    await stage.open(voice={"record": "announce"})
    kim = await add_user(stage.runtime, "kim", [Role.AGENT])
    await add_user(stage.runtime, "eve", [Role.AGENT])
    await add_user(stage.runtime, "sam", [Role.SUPERVISOR])

    async def at_work(tx) -> None:  # type: ignore[no-untyped-def]
        from routing import queues

        await queues.put_member(tx, "q", kim.id)
        await desk.heartbeat(tx, kim.id, voice_ready=True, now=stage.now)
        await desk.set_activity(tx, kim.id, "available", now=stage.now)

    await stage.do(at_work)
    line = await stage.line(kim.id)
    sid = await stage.call()
    interaction = await stage.talk(line, sid)
    running = await recording_of(stage, "running")
    jars = [aiohttp.CookieJar(unsafe=True) for _ in range(3)]
    async with (
        aiohttp.ClientSession(cookie_jar=jars[0]) as a,
        aiohttp.ClientSession(cookie_jar=jars[1]) as b,
        aiohttp.ClientSession(cookie_jar=jars[2]) as c,
    ):
        agent, stranger, boss = (
            await visitor(stage, a, "kim"), await visitor(stage, b, "eve"), await visitor(stage, c, "sam"),
        )  # fmt: skip
        status, shown = await agent.ask("GET", "/desk/recording")
        assert (status, "Pause recording" in shown) == (200, True)
        status, shown = await agent.ask("POST", "/desk/recording/pause")
        assert "Go on recording" in shown
        status, shown = await agent.ask("POST", "/desk/recording/resume")
        assert "Pause recording" in shown
        status, shown = await stranger.ask("POST", "/desk/recording/pause")
        assert "There is no call now" in shown
        path = f"/desk/recordings/{running.id}"
        assert (await agent.ask("GET", path))[0] == 404  # not fetched yet

        stage.sandbox.world.recordings[str(running.external_id)].words = ["Hello"]
        await stage.do(lambda tx: desk.hang_up(tx, interaction.id, agent_id=kim.id, now=stage.now))
        kept = await recording_of(stage, "kept")
        whole = await stage.runtime.files.get(kept.file_key)
        assert (await stranger.ask("GET", path))[0] == 404
        async with b.get(agent.url + path, allow_redirects=False) as answer:
            assert answer.status == 404
        async with c.get(boss.url + path) as answer:
            assert (answer.status, answer.headers["Accept-Ranges"]) == (200, "bytes")
            assert await answer.read() == whole
        async with a.get(agent.url + path, headers={"Range": "bytes=100-199"}) as answer:
            assert answer.status == 206
            assert answer.headers["Content-Range"] == f"bytes 100-199/{len(whole)}"
            assert await answer.read() == whole[100:200]
        async with a.get(agent.url + path, headers={"Range": f"bytes={len(whole)}-"}) as answer:
            assert answer.status == 416
        async with aiohttp.ClientSession() as nobody, nobody.get(agent.url + path, allow_redirects=False) as answer:
            assert answer.status in (303, 401)
        status, page = await agent.ask("GET", f"/desk/work/{interaction.conversation_id}")
        assert f'src="/desk/recordings/{kept.id}"' in page
    plays = await stage.all_of(select(AuditEntry).where(col(AuditEntry.action) == "recording.played"))
    assert len(plays) == 1  # the supervisor; a later part of the sound is no new listening
    await stage.check()
