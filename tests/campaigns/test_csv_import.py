"""Files of recipients: every bad file gets a sentence, every bad row a line, and no import raises consent without proof."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from campaigns import audience, call_lists, campaigns, imports, runner
from campaigns.campaigns import CampaignState
from campaigns.imports import RecipientImport
from crm_core import consent, contacts, csv_files, csv_reading
from crm_core.addresses import Address, PointKind
from crm_core.clock import FixedClock
from crm_core.consent import Purpose
from crm_core.db import Database, Tx
from crm_core.errors import Invalid
from tests.campaigns import cast
from tests.campaigns.cast import mailbox


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "empty"),
        (b"\n\n  \n", "empty"),
        (b"PK\x03\x04rest of an xlsx", "spreadsheet"),
        (b"\xd0\xcf\x11\xe0old xls", "spreadsheet"),
        (b"%PDF-1.7", "PDF"),
        (b"\xff\xfee\x00m\x00\x00\xd8", "neither UTF-8 nor Windows-1252"),
        (b"email\na\x00b@example.test\n", "zero bytes"),
        (b"email\n\xff\x81\x8d\n", "neither UTF-8 nor Windows-1252"),
        (b"email,email\na@example.test,b@example.test\n", "twice"),
        (b"ana@example.test,Ana\nbo@example.test,Bo\n", "holds data"),
        (b"+44 20 7946 0000,Ana\n", "holds data"),
        ((",".join(f"c{n}" for n in range(101)) + "\n").encode(), "101 columns"),
        (b'"' + b"x" * 20_000 + b'"\n', "no header"),
    ],
    ids=range(13),
)
def test_a_bad_file_gets_a_sentence(content: bytes, sentence: str) -> None:
    with pytest.raises(Invalid) as refused:
        csv_files.look(content, kind=PointKind.EMAIL)
    assert sentence in refused.value.message


@pytest.mark.parametrize(
    ("content", "encoding", "delimiter"),
    [
        ("E-Mail;Vorname;Straße\na@example.test;Jürgen;Weg 1\n".encode(), "utf-8", ";"),
        ("E-Mail;Vorname;Straße\r\na@example.test;Jürgen;Weg 1\r\n".encode("utf-8-sig"), "utf-8-sig", ";"),
        ("E-Mail,Vorname,Straße\ra@example.test,Jürgen,Weg 1\r".encode("cp1252"), "cp1252", ","),
        ("E-Mail\tVorname\tStraße\r\na@example.test\tJürgen\tWeg 1\r\n".encode("utf-16"), "utf-16", "\t"),
        ('"E-Mail"\t"Vorname"\t"Straße"\na@example.test\tJürgen\t"Weg, 1"\n'.encode(), "utf-8", "\t"),
        ("E-Mail|Vorname|Straße\na@example.test|Jürgen|Weg 1".encode(), "utf-8", "|"),
    ],
)
def test_what_people_send_is_recognised(content: bytes, encoding: str, delimiter: str) -> None:
    found = csv_files.look(content, kind=PointKind.EMAIL)
    assert (found.encoding, found.delimiter) == (encoding, delimiter)
    assert found.mapping == {"E-Mail": "address", "Vorname": "first_name", "Straße": "strasse"}
    assert found.sample[0][:2] == ["a@example.test", "Jürgen"]


async def read(
    db: Database, content: bytes, clock: FixedClock, *, kind: PointKind = PointKind.EMAIL, country: str = ""
) -> RecipientImport:
    """Upload and read a file as the desktop and a job do."""
    found = csv_files.look(content, kind=kind)

    async def unit(tx: Tx) -> RecipientImport:
        row = await imports.register(
            tx, file_key="k", file_name="people.csv", kind=kind, encoding=found.encoding, delimiter=found.delimiter,
            headers=found.headers, mapping=found.mapping, country=country, user_id="ana", now=clock.now(),
        )  # fmt: skip
        return await imports.begin(tx, row.id, now=clock.now())

    row = await db.write(unit)
    until = clock.now() + timedelta(hours=1)
    pieces = [content[start : start + 7] for start in range(0, len(content), 7)]
    assert await csv_reading.read_on(db, imports, row.id, lambda: pieces, clock=clock, until=until)
    return await cast.imported(db, row.id)


async def test_each_bad_row_is_listed_and_the_good_ones_are_taken(db: Database, clock: FixedClock) -> None:
    content = "\n".join(
        [
            "phone;name;country;plan",
            "+44 20 7946 0001;Ana;;gold",
            "020 7946 0002;Bo;GB;silver",
            "020 7946 0003;Carla;;no country given",
            "12;Dev;GB;too short",
            ";Elif;GB;no number",
            "+44 20 7946 0001;Ana again;;a duplicate",
            "+1 202 555 0104;Farid;;a;b;c",
            '"=cmd|calc";Gina;;formula',
            "+1 202 555 0105",
            "",
            '+1 202 555 0106;Hugo;;a "quoted" word',
        ]
    ).encode()
    found = await read(db, content, clock, kind=PointKind.PHONE)
    assert (found.state, found.rows_count, found.good_count, found.duplicate_count, found.fault_count) == (
        "read", 10, 4, 1, 5,
    )  # fmt: skip
    async with db.reading() as tx:
        faults = await imports.list_faults(tx, found.id)
        good = await imports.list_recipients(tx, found.id)
    assert [fault.row for fault in faults] == [4, 5, 6, 8, 9]
    assert "country code" in faults[0].message
    assert "6 columns" in faults[3].message
    assert sorted(one.value for one in good) == ["+12025550105", "+12025550106", "+442079460001", "+442079460002"]
    assert {one.value: one.fields.get("plan") for one in good}["+442079460001"] == "gold"


async def test_an_unclosed_quotation_mark_is_told_not_swallowed(sqlite_db: Database, clock: FixedClock) -> None:
    rows = "".join(f"person{n}@example.test,Ana\n" for n in range(600))
    content = ("email,name\nfirst@example.test,Ana\n" + 'bad@example.test,"never closed\n' + rows).encode()
    found = await read(sqlite_db, content, clock)
    assert found.state == "read"
    assert found.fault_count >= 1
    async with sqlite_db.reading() as tx:
        faults = await imports.list_faults(tx, found.id)
    assert "quotation mark" in faults[0].message


async def test_people_are_matched_made_once_and_shared_addresses_left_alone(db: Database, clock: FixedClock) -> None:
    shared = mailbox(9)

    async def unit(tx: Tx) -> str:
        known = await contacts.create(tx, name="Ana Known", now=clock.now(), source="test", points=[mailbox(1)])
        for name in ("Bo", "Carla"):
            await contacts.create(tx, name=name, now=clock.now(), source="test", points=[shared])
        return known.id

    known = await db.write(unit)
    rows = f"{mailbox(1).value},Somebody\n{mailbox(2).value},New Person\n{shared.value},Carla\n"
    found = await read(db, f"email,name\n{rows}".encode(), clock)
    assert (found.good_count, found.created_count) == (3, 1)
    async with db.reading() as tx:
        by_value = {one.value: one for one in await imports.list_recipients(tx, found.id)}
        carla = await contacts.get(tx, by_value[shared.value].contact_id or "")
    assert by_value[mailbox(1).value].contact_id == known
    assert carla.name == "Carla"
    again = await read(db, f"email,name\n{shared.value},Dev\n".encode(), clock)
    async with db.reading() as tx:
        assert (await imports.list_recipients(tx, again.id))[0].contact_id is None


async def test_an_import_raises_consent_only_with_proof(db: Database, clock: FixedClock) -> None:
    async def unit(tx: Tx) -> None:
        await consent.opt_out(
            tx, mailbox(5), source="one_click", evidence={"x": "1"}, actor="them", now=clock.now() - timedelta(days=1)
        )

    await db.write(unit)
    content = (
        "email,consent,consent_at,consent_source,consent_text\n"
        f"{mailbox(1).value},yes,2026-01-02,web form,I want news\n"  # proven
        f"{mailbox(2).value},yes,,,\n"  # a bare word
        f"{mailbox(3).value},yes,3/4/2026,web form,I want news\n"  # a date with two readings
        f"{mailbox(4).value},no,2026-01-02,web form,I want news\n"
        f"{mailbox(5).value},yes,2026-01-02,web form,I want news\n"  # opted out since
        f"{mailbox(6).value},yes,2031-01-02,web form,I want news\n"  # the future
        f"{mailbox(7).value},perhaps,2026-01-02,web form,I want news\n"
    ).encode()
    found = await read(db, content, clock)
    assert (found.good_count, found.consent_count) == (7, 1)
    async with db.reading() as tx:
        allowed = [
            number
            for number in range(1, 8)
            if (
                await consent.may_contact(
                    tx, purpose=Purpose.MARKETING, channel="email", address=mailbox(number), now=clock.now()
                )
            ).allowed
        ]
        remarks = await imports.list_faults(tx, found.id)
        _, ledger = await consent.list_for(tx, mailbox(1))
    assert allowed == [1]
    assert [remark.row for remark in remarks] == [3, 4, 6, 7, 8]
    assert all(remark.taken for remark in remarks)
    assert ledger[0].evidence["text"] == "I want news"


async def test_a_killed_reader_goes_on_behind_its_last_commit(db: Database, clock: FixedClock) -> None:
    rows = "".join(f"{mailbox(n).value},P{n}\n" for n in range(180))
    content = f"email,name\n{rows}".encode()
    found = csv_files.look(content, kind=PointKind.EMAIL)

    async def unit(tx: Tx) -> RecipientImport:
        row = await imports.register(
            tx, file_key="k", file_name="p.csv", kind=PointKind.EMAIL, encoding=found.encoding, delimiter=found.delimiter,
            headers=found.headers, mapping=found.mapping, country="", user_id="ana", now=clock.now(),
        )  # fmt: skip
        return await imports.begin(tx, row.id, now=clock.now())

    row = await db.write(unit)
    rounds = 0
    while not await csv_reading.read_on(db, imports, row.id, lambda: [content], clock=clock, until=clock.now()):
        rounds += 1
        assert rounds < 10
    done = await cast.imported(db, row.id)
    assert (done.good_count, done.duplicate_count, done.created_count) == (180, 0, 180)
    assert rounds == 3


async def test_a_tag_becomes_an_audience_and_a_list(db: Database, clock: FixedClock) -> None:
    def number(n: int) -> Address:
        return Address(PointKind.PHONE, f"+120255501{n:02d}", "")

    async def unit(tx: Tx) -> tuple[str, str]:
        for n in range(5):
            tags = ["VIP"] if n < 3 else ["other"]
            await contacts.create(
                tx,
                name=f"Ana {n}",
                now=clock.now(),
                source="test",
                points=[number(n)],
                tags=tags,
                fields={"Plan B": f"p{n}"},
            )
        await contacts.create(tx, name="Vip Smith", now=clock.now(), source="test", points=[number(9)])
        await contacts.create(tx, name="Ana without", now=clock.now(), source="test", tags=["vip"])
        sms = await cast.account(tx, "sms", cast.SMS_FROM, now=clock.now())
        voice = await cast.account(tx, "voice", cast.VOICE_FROM, now=clock.now())
        row = await campaigns.create(
            tx,
            name="VIPs",
            account_id=sms.id,
            purpose=Purpose.SERVICE,
            user_id="ana",
            now=clock.now(),
            audience={"tag": "vip"},
        )
        fields = await audience.list_fields(tx, row)
        assert fields == {"plan_b"}
        await campaigns.set_content(
            tx, row.id, subject="", body="Plan {{ plan_b }}", html="", user_id="ana", now=clock.now(), fields=fields
        )
        await campaigns.prepare(tx, row.id, now=clock.now())
        calls = await call_lists.create(tx, name="VIP calls", account_id=voice.id, user_id="ana", now=clock.now())
        await call_lists.build(tx, calls.id, source={"tag": "vip"}, now=clock.now())
        return row.id, calls.id

    campaign, calls = await db.write(unit)
    while await db.write(lambda tx: audience.freeze_batch(tx, campaign, now=clock.now(), limit=2)) == "materialising":
        pass
    assert (await cast.get(db, campaign)).state == CampaignState.READY
    assert sorted(await cast.rows(db, campaign)) == [number(n).value for n in range(3)]
    assert await runner.build_list(db, calls, clock=clock, until=clock.now() + timedelta(minutes=1))
    async with db.reading() as tx:
        assert await call_lists.progress(tx, calls) == {"ready": 3}
        shown = await audience.preview(
            tx, await campaigns.get(tx, campaign), audience.content.Source("", "Plan {{ plan_b }}", "")
        )
    assert sorted(one.body for one in shown) == ["Plan p0", "Plan p1", "Plan p2"]


@settings(max_examples=120)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused_with_a_sentence(content: bytes) -> None:
    try:
        found = csv_files.look(content, kind=PointKind.EMAIL)
        for row in csv_files.read([content], encoding=found.encoding, delimiter=found.delimiter):
            assert row.fault or isinstance(row.cells, list)
    except Invalid as refused:
        told = refused.message
    else:
        return
    assert told.endswith(".")
