"""An import taken back as a whole: everybody as they were, nobody who was changed or talked with since, no consent deleted."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Awaitable, Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from campaigns import call_lists
from crm_core import consent, contact_imports, contact_undo, contacts, csv_reading, touches
from crm_core.addresses import Address, email, phone
from crm_core.audit import AuditEntry
from crm_core.clock import FixedClock
from crm_core.consent import ConsentAction, ConsentEvent, Purpose, Suppression
from crm_core.contact_imports import ContactImport
from crm_core.contact_taking import ContactImportChange, Undo
from crm_core.contact_undo import Figures
from crm_core.contacts import Contact, ContactLink, ContactPoint, ContactTerm
from crm_core.csv_files import ImportState
from crm_core.db import Database, Tx, open_database
from crm_core.errors import Conflict
from crm_core.leads import Lead
from crm_core.tables import metadata
from crm_core.touches import Direction
from hub import contact_commands
from tests.campaigns import cast
from tests.hub.test_contact_transfer import ANA, BEN, House

ZOE, YAN, CY = "+12025550104", "+12025550105", "+12025550106"
CONSENT = "sms_consent,sms_consent_at,sms_consent_source,sms_consent_text"
AGREED = "yes,2026-05-01,fair in Leeds,Yes to texts v2"


@pytest.fixture
def house(db: Database, clock: FixedClock, tmp_path: Path) -> House:
    """Each engine in turn."""
    return House(db, clock, tmp_path)


async def take_back(house: House, found: ContactImport) -> Figures:
    """Ask for it as people do, and carry it out as a worker does."""
    house.clock.tick(60)
    await house.db.write(lambda tx: contact_undo.begin(tx, found.id, actor="maya", now=house.clock.now()))
    while not await house.db.write(lambda tx: contact_undo.undo_some(tx, found.id, now=house.clock.now())):
        pass
    return await figures(house, found)


async def now_is(house: House, found: ContactImport) -> ContactImport:
    async with house.db.reading() as tx:
        return await contact_imports.get(tx, found.id)


async def figures(house: House, found: ContactImport) -> Figures:
    async with house.db.reading() as tx:
        return await contact_undo.count(tx, await contact_imports.get(tx, found.id))


async def left(house: House, found: ContactImport) -> dict[str, Undo]:
    """Who is left alone, or would be, and why."""
    async with house.db.reading() as tx:
        rows = await contact_undo.list_left(tx, await contact_imports.get(tx, found.id))
    return {name: why for _, name, why in rows}


async def state(house: House) -> list[Any]:
    """All that an import may touch, without times and versions."""
    drop = {"created_at", "updated_at", "version"}
    people = [row.model_dump(exclude=drop) for row in await house.everybody()]
    links = [
        (row.contact_id, row.point_id) for row in await house.rows(ContactLink) if row.valid_until is None
    ]  # fmt: skip
    terms = [(row.contact_id, row.term) for row in await house.rows(ContactTerm)]
    return [people, sorted(links), sorted(terms)]


async def test_everybody_is_as_before_and_the_same_file_may_come_again(house: House) -> None:
    ana = await house.person("Ana", phone(ANA), job_title="Buyer", tags=["old"], fields={"plan": "a"})
    ben = await house.person("Ben", email("ben@example.test"))
    await house.person("Cy", phone(CY))
    await house.prove(ana)
    before = await state(house)
    content = (
        f"name,phone,email,job title,tags,plan,birthday,company,{CONSENT}\n"
        f"Zoe,{ZOE},zoe@example.test,Head,new,,,Acme,{AGREED}\n"
        f"Ana Ruiz,{ANA},ana@example.test,Head,new,b,1990-02-03,Acme,{AGREED}\n"
        f"Ana Ruiz,{ANA},,Boss,newer,,1991-02-03,,\n"
        f"Ben,{BEN},ben@example.test,,,,,,\n"
        f"Cy,{CY},,,,,,,{AGREED}\n"
    )
    done = await house.bring_in(content, overwrite=True)
    assert (done.new_count, done.matched_count, done.consent_count) == (1, 4, 3)
    expected = Figures(removed=1, restored=2, left=0, to_come=0, consented=1)
    assert await figures(house, done) == expected
    assert await take_back(house, done) == expected
    assert await state(house) == before
    async with house.db.reading() as tx:
        assert (await contacts.get(tx, ben.id)).born_on is None
        assert await tx.one(select(ContactPoint).where(ContactPoint.value == ZOE)) is None
        assert not await consent.has_consent(tx, phone(ZOE), channel="sms", purpose=Purpose.MARKETING)
    actions = [(entry.value, entry.action) for entry in await house.rows(ConsentEvent)]
    assert sorted(actions) == sorted((one, word) for one in (ANA, CY, ZOE) for word in ConsentAction)
    ended = await now_is(house, done)
    assert (ended.undone_at, ended.due_at) == (house.clock.now(), None)
    audited = {row.action: row for row in await house.rows(AuditEntry)}
    assert audited["contacts.import_undone"].actor_id == "maya"
    assert audited["contacts.import_undo_ended"].detail == {"removed": 1, "restored": 2, "left": 0}
    # Nobody withdrew: the file proves the same as before.
    house.clock.tick(60)
    again = await house.bring_in(content, overwrite=True)
    assert (again.new_count, again.matched_count, again.consent_count) == (1, 4, 3)
    async with house.db.reading() as tx:
        assert (await contacts.get(tx, ana.id)).born_on == date(1991, 2, 3)
        assert await consent.has_consent(tx, phone(ZOE), channel="sms", purpose=Purpose.MARKETING)


Since = Callable[[Tx, Contact, Address, datetime], Awaitable[Any]]


async def edited(tx: Tx, one: Contact, number: Address, now: datetime) -> None:
    await contacts.edit(tx, one.id, version=one.version, now=now, notes="prefers mornings")


async def address_added(tx: Tx, one: Contact, number: Address, now: datetime) -> None:
    await contacts.link_point(tx, one.id, email("new@example.test"), now=now, source="agent")


async def address_ended(tx: Tx, one: Contact, number: Address, now: datetime) -> None:
    await contacts.unlink_point(tx, one.id, number, now=now)


async def merged(tx: Tx, one: Contact, number: Address, now: datetime) -> None:
    into = await contacts.create(tx, name="twin", now=now, source="agent")
    await tx.change(Contact, {"merged_into": into.id}, id=one.id)


async def merged_with(tx: Tx, one: Contact, number: Address, now: datetime) -> None:
    twin = await contacts.create(tx, name="twin", now=now, source="agent")
    await tx.change(Contact, {"merged_into": one.id}, id=twin.id)


async def erased(tx: Tx, one: Contact, number: Address, now: datetime) -> None:
    await tx.change(Contact, {"erased_at": now}, id=one.id)


async def removed(tx: Tx, one: Contact, number: Address, now: datetime) -> None:
    await contacts.remove(tx, [one.id], now=now)


async def touched(tx: Tx, one: Contact, number: Address, now: datetime) -> None:
    await touches.record(tx, number, direction=Direction.INBOUND, channel="voice", now=now)


async def enquired(tx: Tx, one: Contact, number: Address, now: datetime) -> None:
    await tx.add(Lead(id=one.id, contact_id=one.id, source="api", first_touch_at=now, created_at=now))


async def listed(tx: Tx, one: Contact, number: Address, now: datetime) -> None:
    ours = await cast.account(tx, "voice", "+442079460001", now=now)
    made = await call_lists.create(tx, name="Spring", account_id=ours.id, user_id="u", now=now)
    await call_lists.add_contacts(tx, made.id, [one.id], now=now)


async def agreed(tx: Tx, one: Contact, number: Address, now: datetime) -> None:
    await consent.grant(
        tx, number, channel="sms", purpose="marketing", source="agent", evidence={"text": "said so"}, actor="amy", now=now
    )  # fmt: skip


SINCE: dict[Since, Undo] = {
    edited: Undo.CHANGED, address_added: Undo.CHANGED, address_ended: Undo.CHANGED, merged: Undo.MERGED,
    merged_with: Undo.USED, erased: Undo.ERASED, removed: Undo.GONE, touched: Undo.USED, enquired: Undo.USED,
    listed: Undo.USED, agreed: Undo.CONSENT,
}  # fmt: skip


async def test_whoever_was_changed_or_talked_with_since_is_left_alone_and_named(house: House) -> None:
    numbers = {since.__name__: phone(f"+1202555{n}") for n, since in enumerate(SINCE, 1100)}
    lines = [f"{name},{number.value},{AGREED}\n" for name, number in numbers.items()]
    done = await house.bring_in(f"name,phone,{CONSENT}\n{''.join(lines)}Yan,{YAN},{AGREED}\n")
    house.clock.tick(60)
    people = {one.name: one for one in await house.everybody()}

    async def meanwhile(tx: Tx) -> None:
        for since in SINCE:
            await since(tx, people[since.__name__], numbers[since.__name__], house.clock.now())

    await house.db.write(meanwhile)
    named = {since.__name__ if why != Undo.GONE else "": why for since, why in SINCE.items()}
    assert await left(house, done) == named
    expected = Figures(removed=1, restored=0, left=len(SINCE), to_come=0)
    assert await figures(house, done) == expected
    assert await take_back(house, done) == expected
    assert await left(house, done) == named
    assert {row.name for row in await house.rows(Contact)} == {*people, "twin"} - {"Yan", "removed"}
    # What only the file proves ends for all of them; what one said to an agent stands.
    async with house.db.reading() as tx:
        stands = [
            name for name, number in numbers.items()
            if await consent.has_consent(tx, number, channel="sms", purpose=Purpose.MARKETING)
        ]  # fmt: skip
    assert stands == ["agreed"]


async def test_work_that_is_being_written_meanwhile_is_waited_for(
    pg_url: str, clock: FixedClock, tmp_path: Path
) -> None:
    """PostgreSQL, where units run beside each other: an enquiry comes in while its contact is about to go."""
    db = await open_database(pg_url)
    house = House(db, clock, tmp_path)
    done = await house.bring_in(f"name,phone\nZoe,{ZOE}\n")
    [zoe] = await house.everybody()
    written, undoing = asyncio.Event(), asyncio.Event()

    async def enquiry(tx: Tx) -> None:
        await enquired(tx, zoe, phone(ZOE), clock.now())
        written.set()
        await undoing.wait()

    async def undo(tx: Tx) -> bool:
        undoing.set()
        return await contact_undo.undo_some(tx, done.id, now=clock.now())

    await db.write(lambda tx: contact_undo.begin(tx, done.id, actor="maya", now=clock.now()))
    async with asyncio.timeout(60), asyncio.TaskGroup() as both:
        both.create_task(db.write(enquiry))
        await written.wait()
        both.create_task(db.write(undo))
    assert await left(house, done) == {"Zoe": Undo.USED}
    await db.close()


async def test_earlier_values_come_back_although_they_called_but_no_address_in_use_goes(house: House) -> None:
    for name, number in (("Ana", ANA), ("Ben", BEN)):
        await house.prove(await house.person(name, phone(number), job_title="Buyer"))
    done = await house.bring_in(f"phone,email,job title\n{ANA},,Head\n{BEN},ben@example.test,Head\n", overwrite=True)
    house.clock.tick(60)
    for address in (phone(ANA), phone(BEN), email("ben@example.test")):
        await house.db.write(
            lambda tx, to=address: touches.record(  # type: ignore[misc]
                tx, to, direction=Direction.INBOUND, channel="voice", now=house.clock.now()
            )
        )
    assert await take_back(house, done) == Figures(removed=0, restored=1, left=1, to_come=0)
    assert await left(house, done) == {"Ben": Undo.USED}
    assert [one.job_title for one in await house.everybody()] == ["Buyer", "Head"]


async def test_two_imports_are_undone_one_after_the_other(house: House) -> None:
    await house.prove(await house.person("Ana", phone(ANA), job_title="Buyer"))
    first = await house.bring_in(f"name,phone,job title\nAna,{ANA},Head\nZoe,{ZOE},\n", overwrite=True)
    second = await house.bring_in(f"name,phone,job title\nAna,{ANA},Boss\nZoe,{ZOE},Aide\n", overwrite=True)
    assert await left(house, first) == {"Ana": Undo.CHANGED, "Zoe": Undo.CHANGED}
    assert (await take_back(house, second)).restored == 2
    assert await take_back(house, first) == Figures(removed=1, restored=1, left=0, to_come=0)
    assert [one.job_title for one in await house.everybody()] == ["Buyer"]


async def test_stops_stay_and_nobody_is_changed_twice_by_a_kill_or_a_second_click(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = "name,phone,stopped\n" + "".join(f"P{n},+1202555{n:04d},all\n" for n in range(100, 230))
    done = await house.bring_in(content)
    start = house.clock.now()
    for _ in range(2):  # a double click
        await house.db.write(lambda tx: contact_undo.begin(tx, done.id, actor="maya", now=start))
    assert len([row for row in await house.rows(AuditEntry) if row.action == "contacts.import_undone"]) == 1
    assert await house.db.write(lambda tx: contact_undo.undo_some(tx, done.id, now=start)) is False

    class Killed(Exception):
        """SIGKILL, as far as the rows are concerned."""

    async def dying(tx: Tx, ids: list[str], *, now: datetime) -> None:
        await real(tx, ids, now=now)
        raise Killed

    real = contacts.remove
    with monkeypatch.context() as patch:
        patch.setattr(contacts, "remove", dying)
        with pytest.raises(Killed):
            await house.db.write(lambda tx: contact_undo.undo_some(tx, done.id, now=start))
    assert await figures(house, done) == Figures(removed=50, restored=0, left=0, to_come=80)
    async with house.db.reading() as tx:
        assert await contact_imports.list_due(tx, now=house.clock.now()) == [done.id]
    assert await take_back(house, done) == Figures(removed=130, restored=0, left=0, to_come=0)
    assert await house.db.write(lambda tx: contact_undo.undo_some(tx, done.id, now=start)) is True
    assert await house.everybody() == []
    assert await house.rows(ContactPoint) == []
    assert len(await house.rows(Suppression)) == 130
    async with house.db.reading() as tx:
        assert await contact_imports.list_due(tx, now=house.clock.now()) == []


async def test_an_import_that_is_still_read_stops_first(house: House) -> None:
    raw = ("name,phone\n" + "".join(f"P{n},+1202555{n:04d}\n" for n in range(100, 230))).encode()
    found = await house.upload(raw)
    with pytest.raises(Conflict, match="not taken over yet"):
        await house.db.write(lambda tx: contact_undo.begin(tx, found.id, actor="maya", now=house.clock.now()))
    await house.db.write(lambda tx: contact_imports.begin(tx, found.id, actor="maya", now=house.clock.now()))

    async def read() -> bool:
        until = house.clock.now() - timedelta(seconds=1)  # one portion
        return await csv_reading.read_on(
            house.db, contact_imports, found.id, lambda: [raw], clock=house.clock, until=until
        )

    assert await read() is False
    assert await figures(house, found) == Figures(removed=50, restored=0, left=0, to_come=0)
    await house.db.write(lambda tx: contact_undo.begin(tx, found.id, actor="maya", now=house.clock.now()))
    assert await read() is True
    stopped = await now_is(house, found)
    assert (stopped.state, stopped.cursor, stopped.error) == (ImportState.FAILED, 50, contact_undo.STOPPED)
    assert await take_back(house, found) == Figures(removed=50, restored=0, left=0, to_come=0)
    assert await house.everybody() == []


async def test_what_an_import_did_goes_with_its_file_and_then_it_cannot_be_undone(house: House) -> None:
    done = await house.bring_in(f"name,phone\nZoe,{ZOE}\n")
    assert await house.db.write(contact_undo.forget) == 0
    house.clock.tick(csv_reading.KEPT.total_seconds() + 1)
    await house.db.write(lambda tx: csv_reading.let_files_go(tx, ContactImport, now=house.clock.now()))
    assert not contact_undo.possible(await now_is(house, done))
    assert await house.db.write(contact_undo.forget) == 1
    assert await house.rows(ContactImportChange) == []
    with pytest.raises(Conflict, match="kept for 30 days"):
        await take_back(house, done)


async def test_one_changed_between_two_lines_of_the_same_file_is_left_alone(house: House) -> None:
    ana = await house.person("Ana", phone(ANA), job_title="Buyer")
    await house.prove(ana)
    raw = f"phone,job title\n{ANA},Head\n".encode()
    rows = "".join(f"+1202555{n:04d},\n" for n in range(110, 160))
    raw += f"{rows}{ANA},Boss\n".encode()
    found = await house.upload(raw, overwrite=True)
    await house.db.write(lambda tx: contact_imports.begin(tx, found.id, actor="ana", now=house.clock.now()))
    past = house.clock.now() - timedelta(seconds=1)
    args: Any = (house.db, contact_imports, found.id, lambda: [raw])
    assert await csv_reading.read_on(*args, clock=house.clock, until=past) is False
    async with house.db.reading() as tx:
        one = await contacts.get(tx, ana.id)
    await house.db.write(lambda tx: edited(tx, one, phone(ANA), house.clock.now()))
    while not await csv_reading.read_on(*args, clock=house.clock, until=past):
        pass
    assert await left(house, found) == {"Ana": Undo.CHANGED}


async def test_the_command_says_what_it_would_do_and_does_it(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    done = await house.bring_in(f"name,phone\nZoe,{ZOE}\nYan,{YAN}\n")
    zoe = (await house.everybody())[0]
    await house.db.write(lambda tx: edited(tx, zoe, phone(ZOE), house.clock.now()))
    for dry_run, people in ((True, ["Zoe", "Yan"]), (False, ["Zoe"]), (False, ["Zoe"])):
        asked = Namespace(undo=done.id, dry_run=dry_run)
        await contact_commands.take_back(house.db, asked, house.clock)
        said = capsys.readouterr()
        assert said.out == "removed\t1\nrestored\t0\nconsented\t0\nleft\t1\n"
        assert said.err == f"left alone: {zoe.id} Zoe (changed)\n"
        assert [one.name for one in await house.everybody()] == people


def test_every_table_that_speaks_of_a_contact_is_looked_into() -> None:
    """A new one must be added to the undo, or named here with the reason."""
    own = {"contact_links", "contact_terms", "contact_import_changes"}
    looked_at = {"conversations", "interactions", "notes", "leads", "touches", "consent_events"}
    looked_at |= {*contact_undo.BY_CONTACT, *contact_undo.BY_ADDRESS}
    elsewhere = {
        "queue_entries": "each has its interaction",
        "missed_calls": "each has its interaction",
        "recipients": "lines of a file; who is written to stands in deliveries",
    }
    speaking = {table.name for table in metadata.sorted_tables if "contact_id" in table.columns}
    assert speaking == own | looked_at | elsewhere.keys()
