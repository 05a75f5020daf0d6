"""Saved views of a list, and many rows changed at once with a way back."""

from __future__ import annotations

import re

import pytest
from sqlmodel import col, select

from crm_core import bulk, contacts, leads, saved_views
from crm_core.audit import AuditEntry
from crm_core.clock import FixedClock
from crm_core.contacts import Contact
from crm_core.db import Database, Tx
from crm_core.errors import Conflict, Invalid, NotAllowed, NotFound
from crm_core.ids import new_id
from crm_core.users import Role, User
from hub.runtime import Runtime
from tests.apps import Visitor, add_user


async def people(db: Database, clock: FixedClock, number: int = 3) -> tuple[str, str, list[str]]:
    """Two users and some contacts; their ids."""
    now = clock.now()

    async def unit(tx: Tx) -> tuple[str, str, list[str]]:
        users = [
            await tx.add(User(id=new_id(now), login=login, name=login.title(), created_at=now))
            for login in ("amy", "ben")
        ]
        ids = [
            (await contacts.create(tx, name=f"Ana Example {place}", now=now, source="test", tags=["old"])).id
            for place in range(number)
        ]
        return users[0].id, users[1].id, ids

    return await db.write(unit)


async def test_a_view_is_private_until_it_is_shared(db: Database, clock: FixedClock) -> None:
    amy, ben, _ = await people(db, clock)
    now = clock.now()

    async def unit(tx: Tx) -> None:
        mine = await saved_views.save(
            tx, user_id=amy, page="contacts", name=" Mine ", query={"tag": "vip", "after": "x", "columns": ""},
            shared=False, default=True, now=now,
        )  # fmt: skip
        assert mine.name == "Mine"
        assert mine.query == {"tag": "vip"}  # places in a list are no part of a view
        ours = await saved_views.save(
            tx, user_id=amy, page="contacts", name="Ours", query={}, shared=True, default=False, now=now
        )
        assert [view.name for view in await saved_views.list_for(tx, user_id=amy, page="contacts")] == ["Mine", "Ours"]
        assert [view.name for view in await saved_views.list_for(tx, user_id=ben, page="contacts")] == ["Ours"]
        with pytest.raises(NotFound):
            await saved_views.get(tx, mine.id, user_id=ben)
        with pytest.raises(NotAllowed):
            await saved_views.remove(tx, ours.id, user_id=ben, now=now)
        assert await saved_views.find_default(tx, user_id=amy, page="contacts") == mine
        await saved_views.set_default(tx, ours.id, user_id=ben)
        await saved_views.remove(tx, ours.id, user_id=amy, now=now)
        assert await saved_views.find_default(tx, user_id=ben, page="contacts") is None
        # The same name again is the same view, with what is shown now.
        again = await saved_views.save(
            tx, user_id=amy, page="contacts", name="Mine", query={"q": "ana"}, shared=False, default=False, now=now
        )
        assert [view.id for view in await saved_views.list_for(tx, user_id=amy, page="contacts")] == [again.id]

    await db.write(unit)


@pytest.mark.parametrize(("page", "name"), [("contacts", ""), ("contacts", "x" * 61), ("nowhere", "View")])
async def test_views_that_cannot_be(db: Database, clock: FixedClock, page: str, name: str) -> None:
    amy, _, _ = await people(db, clock)
    with pytest.raises((Invalid, NotFound)):
        await db.write(
            lambda tx: saved_views.save(
                tx, user_id=amy, page=page, name=name, query={}, shared=False, default=False, now=clock.now()
            )
        )


async def test_a_bulk_change_is_undone_exactly_where_nobody_was_since(db: Database, clock: FixedClock) -> None:
    amy, ben, ids = await people(db, clock)
    now = clock.now()

    async def change(tx: Tx) -> str:
        forecast = await bulk.look(tx, noun="contacts", action="tag", value="new", ids=[*ids, *ids])
        assert len(forecast.rows) == 3
        assert not forecast.asks
        return (await bulk.carry_out(tx, forecast, user_id=amy, now=now)).id

    made = await db.write(change)

    async def meanwhile(tx: Tx) -> None:
        touched = await contacts.get(tx, ids[0])
        assert touched.tags == ["old", "new"]
        await contacts.edit(tx, ids[0], version=touched.version, now=now, tags=["old", "new", "more"])
        same = await bulk.look(tx, noun="contacts", action="tag", value="new", ids=ids)
        assert (len(same.rows), same.same) == (0, 3)

    await db.write(meanwhile)
    with pytest.raises(NotFound):
        await db.write(lambda tx: bulk.undo(tx, made, user_id=ben, now=now))
    assert await db.write(lambda tx: bulk.undo(tx, made, user_id=amy, now=now)) == (2, 1)
    with pytest.raises(Conflict):
        await db.write(lambda tx: bulk.undo(tx, made, user_id=amy, now=now))
    async with db.reading() as tx:
        found = await tx.all(select(Contact).where(col(Contact.id).in_(ids)).order_by(col(Contact.id)))
        assert sorted(len(one.tags) for one in found) == [1, 1, 3]
        acts = await tx.all(select(AuditEntry.action).where(AuditEntry.subject == made).order_by(col(AuditEntry.id)))
    assert acts == ["bulk.tag", "bulk.undone"]


async def test_leads_are_assigned_and_staged(db: Database, clock: FixedClock) -> None:
    amy, ben, ids = await people(db, clock)
    now = clock.now()

    async def unit(tx: Tx) -> None:
        lead = await leads.create(tx, contact_id=ids[0], source="call", fields={}, now=now)
        for action, value in (("assign", ben), ("stage", "won")):
            forecast = await bulk.look(tx, noun="leads", action=action, value=value, ids=[lead.id])
            made = await bulk.carry_out(tx, forecast, user_id=amy, now=now)
        changed = await leads.get(tx, lead.id)
        assert (changed.owner_id, str(changed.stage)) == (ben, "won")
        assert await bulk.undo(tx, made.id, user_id=amy, now=now) == (1, 0)
        assert str((await leads.get(tx, lead.id)).stage) == "new"

    await db.write(unit)


@pytest.mark.parametrize(
    ("noun", "action", "value", "number"),
    [
        ("contacts", "stage", "won", 1),
        ("contacts", "tag", "", 1),
        ("contacts", "tag", "a,b", 1),
        ("contacts", "assign", "nobody", 1),
        ("leads", "stage", "lost?", 1),
        ("contacts", "tag", "x", 0),
        ("contacts", "tag", "x", 201),
    ],
)
async def test_what_cannot_be_done_to_many(
    db: Database, clock: FixedClock, noun: str, action: str, value: str, number: int
) -> None:
    await people(db, clock)
    ids = [f"{place:026d}" for place in range(number)]
    with pytest.raises(Invalid):
        await db.write(lambda tx: bulk.look(tx, noun=noun, action=action, value=value, ids=ids))


async def test_on_the_screen(runtime: Runtime, visitor: Visitor) -> None:
    await add_user(runtime, "ada", [Role.ADMIN])
    now = runtime.clock.now()

    async def many(tx: Tx) -> list[str]:
        return [
            (
                await contacts.create(
                    tx, name=f"Bo Sample {place}", now=now, source="test", tags=["vip"] if place < 2 else []
                )
            ).id
            for place in range(12)
        ]

    ids = await runtime.db.write(many)
    await visitor.log_in("ada")

    async def post(path: str, form: list[tuple[str, str]]) -> tuple[int, str, str]:
        async with visitor.http.post(
            visitor.url + path, data=[*form, ("_csrf", visitor.csrf)], allow_redirects=False
        ) as answer:
            return answer.status, answer.headers.get("Location", ""), await answer.text()

    async def get(path: str) -> str:
        async with visitor.http.get(visitor.url + path) as answer:
            assert answer.status == 200, path
            return await answer.text()

    # A view: saved, opened, made the default, left by "All".
    status, place, _ = await post(
        "/desk/views/contacts", [("name", "Important"), ("tag", "vip"), ("columns", "tags,owner"), ("default", "1")]
    )
    assert status == 303
    shown = await get(place)
    assert shown.count("data-row") == 2
    assert "Looked after by</th>" in shown
    assert "Firm</th>" not in shown
    assert (await get("/desk/contacts")).count("data-row") == 2
    assert (await get("/desk/contacts?all=1")).count("data-row") == 12
    # Few rows: done at once. Many: asked once, with what it will do.
    status, _, text = await post("/desk/bulk/contacts", [("action", "tag"), ("value_tag", "spring"), ("id", ids[0])])
    assert status == 200
    undo = re.search(r"/desk/bulk/\w{26}/undo", text)
    assert undo is not None
    all_ids = [("id", one) for one in ids]
    status, _, text = await post("/desk/bulk/contacts", [("action", "tag"), ("value_tag", "spring"), *all_ids])
    assert "11 rows will change" in text
    assert "1 row stays as it is" in text
    assert "/undo" not in text
    status, _, text = await post(
        "/desk/bulk/contacts", [("action", "tag"), ("value", "spring"), ("sure", "1"), *all_ids]
    )
    assert "11 rows were changed" in text
    found = re.search(r"/desk/bulk/\w{26}/undo", text)
    assert found is not None
    _, _, text = await post(found[0], [])
    assert "11 rows are as they were before" in text
    assert (await get("/desk/contacts?tag=spring")).count("data-row") == 1
