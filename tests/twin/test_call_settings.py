"""The screens that set up calls: menus edited and heard, sounds uploaded and played, rules of queues, blocked callers."""

from __future__ import annotations

import io
import wave

import aiohttp
from sqlmodel import select

from crm_core.ids import new_id
from crm_core.sounds import Sound
from crm_core.users import Role
from hub.desktop import flow_editor
from routing import call_rules, flows
from routing.queues import Queue
from tests.apps import Visitor, add_user
from tests.twin.stage import Stage
from tests.twin.test_menus import FLOW, open_with


def a_sound() -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(b"\0\0" * 8000)
    return out.getvalue()


def test_every_flow_comes_back_from_the_form_as_it_was() -> None:
    node = flow_editor.node_of(FLOW, "en-GB")
    again = flow_editor.steps_of(node)
    flows.check(again)
    assert flow_editor.steps_of(flow_editor.node_of(again, "en-GB")) == again
    kept = flows.walk(again, at="0-2-1-0", interaction_id="i", language="es-ES", number=1, said="comprar")
    assert kept.queue_id == "sales"


async def test_an_administrator_builds_a_menu_and_a_caller_hears_it(stage: Stage) -> None:
    await open_with(stage, [{"do": "welcome"}, {"do": "enqueue", "queue": ""}])
    await add_user(stage.runtime, "ada", [Role.ADMIN])
    (flow,) = await stage.all_of(select(flows.Flow))
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        ada = Visitor(stage.runtime.settings.public_url, http)
        assert await ada.log_in("ada") == 303
        path = f"/desk/admin/flows/{flow.id}"
        status, page = await ada.ask("GET", path)
        assert (status, 'name="r.welcome" value="1" checked' in page) == (200, True)
        status, form = await ada.ask("POST", f"{path}/form", data={"r.then": "menu", "r.places": ""})
        assert (status, 'name="r.1.key"' in form) == (200, True)
        first = {
            "version": "1", "r.then": "menu", "r.places": "1", "r.1.key": "1", "r.1.then": "enqueue", "r.1.queue": "q",
            "r.o.then": "hangup",
        }  # fmt: skip
        status, form = await ada.ask("POST", f"{path}/form?act=add:r", data=first)
        assert 'name="r.places" value="1,2"' in form
        status, form = await ada.ask("POST", f"{path}/form?act=drop:r.2", data={**first, "r.places": "1,2"})
        assert 'name="r.places" value="1"' in form

        sound = aiohttp.FormData({"name": "Greeting", "_csrf": ada.csrf})
        sound.add_field("file", a_sound(), filename="greeting.wav", content_type="audio/wav")
        status, page = await ada.ask("POST", "/desk/admin/calls/sounds", data=sound)
        assert (status, "Greeting" in page) == (200, True)
        (row,) = await stage.all_of(select(Sound))
        wrong = aiohttp.FormData({"name": "Not one", "_csrf": ada.csrf})
        wrong.add_field("file", b"<script>alert(1)</script>", filename="x.wav", content_type="audio/wav")
        status, page = await ada.ask("POST", "/desk/admin/calls/sounds", data=wrong)
        assert (status, "Only WAV and MP3" in page, 'value="Not one"' in page) == (422, True, True)

        status, page = await ada.ask(
            "POST", path,
            data={
                **first, "r.places": "1,2", "r.sound": f"{row.id}.{row.ending}", "r.ask.en-GB": "Sales? Press 7.",
                "r.1.key": "7", "r.1.words": "sales, buy", "r.speech": "1", "r.tries": "3", "r.2.key": "2",
                "r.2.then": "voicemail", "r.2.queue": "q",
            },
        )  # fmt: skip
        assert (status, "version 2" in page) == (200, True), page[:3000]
        doubled = {
            **first,
            "version": "2",
            "r.places": "1,2",
            "r.2.key": "1",
            "r.2.then": "voicemail",
            "r.2.words": "leave",
        }
        status, page = await ada.ask("POST", path, data=doubled)
        assert (status, "same key" in page) == (422, True)
        # Neither of the two took the other's place: a new key for one is all that is wanted.
        for kept in (
            'name="r.1.then"',
            'name="r.2.then"',
            'name="r.2.words" value="leave"',
            'value="enqueue" selected',
        ):
            assert kept in page
        # Another administrator's flow is not overwritten by a page from before it.
        status, page = await ada.ask("POST", path, data={**first, "r.1.words": "mine"})
        assert (status, "Somebody saved" in page, 'value="mine"' in page, 'name="version" value="2"' in page) == (
            422, True, True, True,
        )  # fmt: skip
        new = {"name": "Zentrale", "language": "Deutsch", "text": "Guten Tag"}
        status, page = await ada.ask("POST", "/desk/admin/flows", data=new)
        assert (status, "This is not a language." in page) == (422, True)
        status, page = await ada.ask("GET", "/desk/admin/flows")
        assert "Sales? Press 7." in page
        status, page = await ada.ask("POST", f"{path}/name", data={"name": "Front door"})
        assert status == 303
        status, page = await ada.ask("POST", "/desk/admin/flows", data={**new, "name": "Spare", "language": "de-DE"})
        assert status == 200
        (spare,) = await stage.all_of(select(flows.Flow).where(flows.Flow.name == "Spare"))
        beside = f"/desk/admin/flows/{spare.id}"
        status, page = await ada.ask("POST", f"{beside}/name", data={"name": "Front door"})
        assert (status, "of this name already" in page, 'value="Front door"' in page) == (422, True, True)
        status, page = await ada.ask("GET", path)
        assert "Numbers that use it: +44" in page
        status, page = await ada.ask("POST", f"{path}/retire")
        assert (status, "still used: +44" in page) == (409, True)
        status, page = await ada.ask("POST", f"{beside}/retire")
        assert status == 303
        status, page = await ada.ask("GET", beside)
        assert status == 404
        status, page = await ada.ask("GET", "/desk/admin/flows")
        assert ("Front door" in page, "Spare" in page) == (True, False)
        assert "the usual welcome</p>" not in page

        status, page = await ada.ask(
            "POST", "/desk/admin/calls/queues/" + "0" * 26, data={"version": "1", "record": "announce"}
        )
        assert status == 422
        music = {"music": f"{row.id}.{row.ending}", "pause_s": "30", "voicemail_max_s": "60", "version": "1"}
        (queue,) = await stage.all_of(select(Queue).where(Queue.id == "q"))
        assert call_rules.of(queue).record == "off"
        second = await stage.do(lambda tx: tx.add(Queue(id=new_id(stage.now), name="Second")))
        status, page = await ada.ask(
            "POST", f"/desk/admin/calls/queues/{second.id}", data={**music, "record": "off", "voicemail_max_s": "5"}
        )
        assert (status, f'id="vm-{second.id}-e">Between 10 and 600.' in page) == (422, True)
        status, page = await ada.ask("POST", "/desk/admin/calls/blocked", data={"number": "12", "reason": "spam"})
        assert (status, "with its country code" in page) == (422, True)
        status, page = await ada.ask(
            "POST", "/desk/admin/calls/blocked", data={"number": "+12025550199", "reason": "spam"}
        )
        assert (status, "spam" in page) == (200, True)
        assert music["version"] == str(queue.version)

    sid = await stage.call()
    heard = await stage.hears(sid, "Sales? Press 7")
    assert f"/sounds/{row.id}.wav" in heard
    await stage.outside("POST", f"/outside/calls/{sid}/speech", text="I want to buy")
    assert (await stage.state_of(sid, "waiting")).queue_id == "q"
    await stage.check()
