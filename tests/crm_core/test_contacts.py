"""People and their addresses: shared numbers, search, guarded edits, merges that resolve."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col

from crm_core import contacts
from crm_core.addresses import country_of, email, find_phone, phone, shown, zones
from crm_core.clock import FixedClock
from crm_core.contacts import Contact
from crm_core.db import Database
from crm_core.errors import Conflict, Invalid, NotFound

NUMBER = phone("+44 20 7946 0123")


async def make(db: Database, clock: FixedClock, name: str, *points: Any) -> Contact:
    return await db.write(
        lambda tx: contacts.create(tx, name=name, now=clock.now(), source="agent", points=points or (NUMBER,))
    )


async def test_one_number_may_belong_to_several_people(db: Database, clock: FixedClock) -> None:
    ana = await make(db, clock, "Ana Example")
    clock.tick(1)
    bo = await make(db, clock, "Bo Example")
    async with db.reading() as tx:
        owners = [contact.name for contact, _ in await contacts.list_owners(tx, NUMBER)]
        assert owners == ["Ana Example", "Bo Example"]
        values = [NUMBER.value, "+442079460999"]
        many = await contacts.list_owners_of(tx, NUMBER.kind, values)
        assert {value: [contact.name for contact, _ in found] for value, found in many.items()} == {
            NUMBER.value: owners
        }
        assert len(await contacts.list_points(tx, ana.id)) == 1
    await db.write(lambda tx: contacts.unlink_point(tx, ana.id, NUMBER, now=clock.now()))
    async with db.reading() as tx:
        assert [c.id for c, _ in await contacts.list_owners(tx, NUMBER)] == [bo.id]
        assert [link.valid_until is not None for _, link in await contacts.list_points(tx, ana.id, ended=True)] == [
            True
        ]
    await db.write(lambda tx: contacts.link_point(tx, ana.id, NUMBER, now=clock.now(), source="agent"))
    async with db.reading() as tx:
        assert len(await contacts.list_owners(tx, NUMBER)) == 2
    with pytest.raises(NotFound):
        await db.write(lambda tx: contacts.unlink_point(tx, ana.id, email("x@example.com"), now=clock.now()))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("ana", ["Ana Ñandú"]),
        ("ñan", ["Ana Ñandú"]),
        ("nandu ana", ["Ana Ñandú"]),
        ("bo nandu", []),
        ("020 7946 0123", ["Ana Ñandú"]),
        ("+44 (20) 7946 0123", ["Ana Ñandú"]),
        ("4420794601", ["Ana Ñandú"]),
        ("bo@example.com", ["Bo O'Neil"]),
        ("bo", ["Bo O'Neil"]),
        ("%", []),
        ("'; drop table contacts; --", []),
        ("", []),
    ],
)
async def test_search(db: Database, clock: FixedClock, query: str, found: list[str]) -> None:
    await make(db, clock, "Ana Ñandú")
    await make(db, clock, "Bo O'Neil", email("bo@example.com"))
    async with db.reading() as tx:
        assert [contact.name for contact in await contacts.search(tx, query)] == found


async def test_an_edit_quotes_the_version_it_saw(db: Database, clock: FixedClock) -> None:
    ana = await make(db, clock, "Ana")
    changed = await db.write(
        lambda tx: contacts.edit(tx, ana.id, version=1, now=clock.now(), name="Ana Example", tags=["vip"])
    )
    assert (changed.version, changed.name) == (2, "Ana Example")
    with pytest.raises(Conflict):
        await db.write(lambda tx: contacts.edit(tx, ana.id, version=1, now=clock.now(), name="Late"))
    with pytest.raises(Invalid, match="needs a name"):
        await db.write(lambda tx: contacts.edit(tx, ana.id, version=2, now=clock.now(), name=" "))
    with pytest.raises(Invalid, match="no field"):
        await db.write(lambda tx: contacts.edit(tx, ana.id, version=2, now=clock.now(), merged_into="x"))
    async with db.reading() as tx:
        assert [c.name for c in await contacts.search(tx, "vip")] == ["Ana Example"]


async def test_an_old_id_resolves_for_ever(db: Database, clock: FixedClock) -> None:
    old, kept = await make(db, clock, "Old"), await make(db, clock, "Kept", email("k@example.com"))
    await db.write(lambda tx: tx.run(update(Contact).where(col(Contact.id) == old.id).values(merged_into=kept.id)))
    async with db.reading() as tx:
        assert (await contacts.get(tx, old.id)).id == kept.id
        assert await contacts.list_owners(tx, NUMBER) == []
        with pytest.raises(NotFound):
            await contacts.get(tx, "nobody")


@pytest.mark.parametrize(
    ("raw", "country", "value"),
    [
        ("020 7946 0123", "GB", "+442079460123"),
        ("+1 (202) 555-0101", "", "+12025550101"),
        ("0044 20 7946 0123", "GB", "+442079460123"),
        ("anonymous", "", None),
        ("+266696687", "", None),
        ("client:amy", "GB", None),
        ("12", "GB", None),
        ("tel:+12025550101;ext=12", "", "+12025550101"),
        ("<script>", "GB", None),
        ("", "", None),
    ],
)
def test_phone_numbers_are_read_once(raw: str, country: str, value: str | None) -> None:
    found = find_phone(raw, country=country)
    assert (found.value if found else None) == value


@pytest.mark.parametrize(
    "raw", ["a@b\r\nBcc: x@example.com", "a@[", "a b@example.com", "@example.com", "a@", "<a@example.com>"]
)
def test_bad_mail_addresses_are_refused(raw: str) -> None:
    with pytest.raises(Invalid, match="not a mail address"):
        email(raw)


def test_addresses_tell_where_they_are() -> None:
    assert email("Ana.B+tag@EXÄMPLE.com").value == "ana.b+tag@xn--exmple-cua.com"
    assert country_of("+442079460123") == "GB"
    assert zones("+442079460123") == ("Europe/London",)
    assert "America/New_York" in zones("+12025550101")
    assert shown("+442079460123") == "+44 20 7946 0123"
