"""Contacts out and in over HTTP: by API and on the screen, through the same functions, for those who may."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
from collections.abc import AsyncIterator

import aiohttp
import pytest
import redis

from crm_core import contacts
from crm_core.addresses import phone
from crm_core.clock import FixedClock
from crm_core.db import Database
from crm_core.users import Role
from hub import jobs
from hub.runtime import Runtime
from tests.apps import Visitor, add_user

FILE = "Name;Handynummer;Kundennummer\nZoe;020 7946 0009;7\nBo;7;8\n=Ana();+12025550101;9\n".encode("utf-16")


@pytest.fixture
async def maya(runtime: Runtime, visitor: Visitor) -> Visitor:
    """A supervisor, logged in."""
    await add_user(runtime, "maya", [Role.SUPERVISOR])
    assert await visitor.log_in("maya") == 303
    return visitor


async def read(runtime: Runtime, import_id: str) -> None:
    """As the worker does."""
    await jobs.contacts_slice(runtime, import_id, jobs.Slice(lambda: False))


def lines(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline="")))


async def names(runtime: Runtime) -> list[str]:
    async with runtime.db.reading() as tx:
        return sorted(row.name for row in await contacts.list_page(tx))


async def test_a_file_goes_in_by_api_and_out_again(maya: Visitor, runtime: Runtime, clock: FixedClock) -> None:
    given = {"name": "leute.csv", "content": base64.b64encode(FILE).decode(), "country": "GB"}
    status, made = await maya.ask("POST", "/api/v1/contact-imports", json=given)
    assert status == 201, made
    assert made["mapping"] == {"Name": "name", "Handynummer": "phone", "Kundennummer": "kundennummer"}
    assert [line["fate"] for line in made["preview"]] == ["new", "refused", "new"]
    assert await names(runtime) == []
    one = f"/api/v1/contact-imports/{made['id']}"
    status, told = await maya.ask("PUT", f"{one}/mapping", json={"mapping": {"Name": "name"}, "country": "GB"})
    assert (status, "mapping" in told["fields"]) == (422, True)
    mapping = {"Name": "name", "Handynummer": "phone", "Kundennummer": ""}
    status, told = await maya.ask("PUT", f"{one}/mapping", json={"mapping": mapping, "country": "GB"})
    assert (status, told["mapping"]) == (200, mapping)
    assert (await maya.ask("POST", f"{one}/start"))[0] == 200
    assert (await maya.ask("POST", f"{one}/start"))[0] == 409
    await read(runtime, made["id"])
    status, told = await maya.ask("GET", one)
    assert (told["state"], told["new_count"], told["refused_count"], told["taken_count"]) == ("read", 2, 1, 3)
    status, text = await maya.ask("GET", f"{one}/refused.csv")
    assert lines(text)[1][:4] == ["Bo", "7", "8", "3"]
    status, text = await maya.ask("GET", "/api/v1/contacts.csv?q=zoe")
    assert [line[1] for line in lines(text)] == ["name", "Zoe"]
    status, text = await maya.ask("GET", "/desk/contacts/export.csv?sort=oldest")
    assert [line[1] for line in lines(text)] == ["name", "Zoe", "'=Ana()"]
    assert lines(text)[2][4] == "'+12025550101"


async def test_the_same_by_screen(maya: Visitor, runtime: Runtime) -> None:
    def sent(content: bytes) -> aiohttp.FormData:
        form = aiohttp.FormData({"country": "GB", "_csrf": maya.csrf})
        form.add_field("file", content, filename="leute.csv", content_type="text/csv")
        return form

    status, text = await maya.ask("POST", "/desk/contacts/import", data=sent(b"PK\x03\x04 an xlsx"))
    assert status == 422
    assert "spreadsheet" in text
    async with maya.http.post(
        f"{maya.url}/desk/contacts/import", data=sent(FILE), headers={"X-CSRF": maya.csrf}, allow_redirects=False
    ) as answer:
        assert answer.status == 303
        page = answer.headers["Location"]
    status, text = await maya.ask("GET", page)
    assert "Kundennummer" in text
    assert "refused" in text
    uses = {"use-0": "name", "use-1": "phone", "use-2": "phone", "country": "GB", "action": "look"}
    assert (await maya.ask("POST", page, data=uses))[0] == 303
    assert (await maya.ask("POST", page, data={**uses, "use-1": "", "use-2": ""}))[0] == 422
    assert await names(runtime) == []
    assert (await maya.ask("POST", page, data={**uses, "use-2": "", "action": "start"}))[0] == 303
    await read(runtime, page.rpartition("/")[2])
    assert await names(runtime) == ["=Ana()", "Zoe"]
    status, text = await maya.ask("GET", page)
    assert "refused.csv" in text
    assert f"{page}/undo" in text
    assert page in (await maya.ask("GET", "/desk/contacts/import"))[1]
    assert "2 people whom it made will be removed." in (await maya.ask("GET", f"{page}/undo"))[1]
    for _ in range(2):  # a double click
        assert (await maya.ask("POST", f"{page}/undo"))[0] == 303
    assert "Still to be undone: 2 people." in (await maya.ask("GET", page))[1]
    await read(runtime, page.rpartition("/")[2])
    assert await names(runtime) == []
    text = (await maya.ask("GET", page))[1]
    assert "2 people were removed." in text
    assert f"{page}/undo" not in text
    assert (await maya.ask("GET", f"{page}/undo"))[0] == 303


async def test_an_import_is_undone_by_api(maya: Visitor, runtime: Runtime) -> None:
    given = {"name": "leute.csv", "content": base64.b64encode(FILE).decode(), "country": "GB"}
    one = f"/api/v1/contact-imports/{(await maya.ask('POST', '/api/v1/contact-imports', json=given))[1]['id']}"
    assert (await maya.ask("POST", f"{one}/undo"))[0] == 409  # nothing was taken over
    await maya.ask("POST", f"{one}/start")
    await read(runtime, one.rpartition("/")[2])
    async with runtime.db.reading() as tx:
        [zoe] = await contacts.search(tx, "zoe")
    await maya.ask("PATCH", f"/api/v1/contacts/{zoe.id}", json={"version": 1, "vip": True})
    status, told = await maya.ask("GET", f"{one}/undo")
    assert (status, told["possible"], told["removed_count"], told["left_count"]) == (200, True, 1, 1)
    assert told["left"] == [{"contact_id": zoe.id, "name": "Zoe", "why": "changed"}]
    for _ in range(2):
        status, told = await maya.ask("POST", f"{one}/undo")
        assert (status, told["possible"], told["to_come_count"]) == (200, False, 2)
    await read(runtime, one.rpartition("/")[2])
    told = (await maya.ask("GET", f"{one}/undo"))[1]
    assert (told["removed_count"], told["left_count"], told["to_come_count"]) == (1, 1, 0)
    assert await names(runtime) == ["Zoe"]
    status, listed = await maya.ask("GET", "/api/v1/contact-imports?limit=1")
    assert (listed["items"][0]["undone_at"], listed["next"]) == (told["undone_at"], one.rpartition("/")[2])
    assert (await maya.ask("GET", f"/api/v1/contact-imports?after={listed['next']}"))[1]["items"] == []


async def test_who_may_not_export_sees_no_file(runtime: Runtime, visitor: Visitor) -> None:
    await add_user(runtime, "amy", [Role.AGENT])
    await add_user(runtime, "max", [Role.MARKETER])
    for login, export, importing in (("amy", 403, 403), ("max", 403, 200)):
        visitor.http.cookie_jar.clear()
        assert await visitor.log_in(login) == 303
        assert (await visitor.ask("GET", "/api/v1/contacts.csv"))[0] == export
        assert (await visitor.ask("GET", "/desk/contacts/export.csv"))[0] == export
        assert (await visitor.ask("GET", "/desk/contacts/import"))[0] == importing
        page = (await visitor.ask("GET", "/desk/contacts"))[1]
        assert ("/desk/contacts/import" in page, "export.csv" in page) == (importing == 200, False)


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url) as made:
        yield made


async def test_an_import_is_offered_to_a_worker_and_goes_on_behind_what_a_killed_one_took(
    maya: Visitor, runtime: Runtime, client: redis.Redis
) -> None:
    content = "name,phone\n" + "".join(f"P{n},+1202555{n:04d}\n" for n in range(100, 230))
    given = {"name": "p.csv", "content": base64.b64encode(content.encode()).decode()}
    made = (await maya.ask("POST", "/api/v1/contact-imports", json=given))[1]
    assert await jobs.enqueue_due(runtime.db, client, clock=runtime.clock) == 0
    await maya.ask("POST", f"/api/v1/contact-imports/{made['id']}/start")
    assert await jobs.enqueue_due(runtime.db, client, clock=runtime.clock) == 1
    taken, real = 0, type(runtime.db).write

    class Killed(BaseException):
        """SIGKILL, as far as the rows are concerned."""

    async def dying(self: Database, unit: object) -> object:
        nonlocal taken
        taken += 1
        if taken > 1:
            raise Killed
        return await real(self, unit)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(runtime.db), "write", dying)
        with pytest.raises(Killed):
            await read(runtime, made["id"])
    assert len(await names(runtime)) == 50
    async with asyncio.timeout(60):
        await read(runtime, made["id"])
    async with runtime.db.reading() as tx:
        assert len(await contacts.list_owners(tx, phone("+12025550100"))) == 1
        assert len(await contacts.list_page(tx, limit=200)) == 130
