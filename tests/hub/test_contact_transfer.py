"""Contacts out and in by file: nobody twice, no merge by a shared number, no consent without proof, no cell that computes."""

from __future__ import annotations

import csv
import io
import shutil
from argparse import Namespace
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update
from sqlmodel import col, func, select

from crm_core import consent, contact_files, contact_imports, contacts, csv_files, csv_reading, users
from crm_core.addresses import Address, email, phone
from crm_core.audit import AuditEntry
from crm_core.clock import FixedClock
from crm_core.consent import ConsentEvent, Purpose, Suppression
from crm_core.contact_files import Wanted
from crm_core.contact_imports import ContactImport, Fate
from crm_core.contacts import Contact, ContactLink
from crm_core.csv_files import BOM
from crm_core.db import Database, Tx, open_database
from crm_core.errors import Invalid
from crm_core.users import Role
from hub import contact_commands, contact_transfer
from hub.files import Files
from tests.databases import START

ANA, BEN, SHARED = "+12025550101", "+12025550102", "+12025550103"


class House:
    """A database with a file store, and imports carried out at once."""

    def __init__(self, db: Database, clock: FixedClock, folder: Path) -> None:
        self.db, self.clock, self.files = db, clock, Files(f"file://{folder}/files")

    async def upload(self, content: str | bytes, **more: Any) -> ContactImport:
        raw = content if isinstance(content, bytes) else content.encode()
        asked = {"name": "people.csv", "country": "", "overwrite": False, "user_id": "ana", "now": self.clock.now()}
        return await contact_transfer.upload(self.db, self.files, raw, **{**asked, **more})

    async def bring_in(self, content: str | bytes, **more: Any) -> ContactImport:
        raw = content if isinstance(content, bytes) else content.encode()
        found = await self.upload(raw, **more)
        await self.db.write(lambda tx: contact_imports.begin(tx, found.id, actor="ana", now=self.clock.now()))
        until = self.clock.now() - timedelta(seconds=1)  # one portion at a time
        while not await csv_reading.read_on(
            self.db, contact_imports, found.id, lambda: [raw], clock=self.clock, until=until
        ):
            pass
        async with self.db.reading() as tx:
            return await contact_imports.get(tx, found.id)

    async def export(self, wanted: Wanted | None = None) -> bytes:
        _, pieces = await contact_transfer.export(self.db, wanted or Wanted(), actor="ana", now=self.clock.now())
        return b"".join([piece async for piece in pieces])

    async def refusals(self, found: ContactImport) -> list[list[str]]:
        pieces = contact_transfer.refused(self.db, found, str)
        return table(b"".join([piece async for piece in pieces]))

    async def person(self, name: str, *points: Address, **fields: Any) -> Contact:
        return await self.db.write(
            lambda tx: contacts.create(tx, name=name, now=self.clock.now(), source="test", points=points, **fields)
        )

    async def prove(self, contact: Contact) -> None:
        proven = update(ContactLink).where(col(ContactLink.contact_id) == contact.id)
        await self.db.write(lambda tx: tx.run(proven.values(verified_at=self.clock.now())))

    async def everybody(self) -> list[Contact]:
        async with self.db.reading() as tx:
            return await contacts.list_page(tx, limit=200, oldest=True)

    async def rows(self, kind: Any) -> list[Any]:
        async with self.db.reading() as tx:
            return await tx.all(select(kind))


@pytest.fixture
def house(sqlite_db: Database, clock: FixedClock, tmp_path: Path) -> House:
    return House(sqlite_db, clock, tmp_path)


@pytest.fixture
def both(db: Database, clock: FixedClock, tmp_path: Path) -> House:
    """Each engine in turn."""
    return House(db, clock, tmp_path)


def table(content: bytes) -> list[list[str]]:
    """As a spreadsheet sees it."""
    return list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def counts(found: ContactImport) -> tuple[int, int, int]:
    return found.new_count, found.matched_count, found.refused_count


# --- cells -----------------------------------------------------------------------------------------------------------

TEXTS = st.text(st.sampled_from("=+-@\t\n'\"ab,;|＝ "), max_size=12) | st.text(
    st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=20
)


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_a_cell_computes_nowhere_and_comes_back_as_it_was(cells: list[str]) -> None:
    """Whatever is stored, trimmed at its ends as the hub does: into a file, and out of it by our own reader."""
    kept = [cell.strip() for cell in cells]
    written = csv_files.write([["h"] * len(kept), ["x", *kept[1:]] if not any(kept) else kept])
    for cell in table((BOM + written).encode())[1]:
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "＝"))
        for separator in ",;\t|\n":
            assert not any(part[:1] in ("=", "+", "-", "@") for part in cell.split(separator))
    back = list(csv_files.read([written.encode()], encoding="utf-8", delimiter=","))[1:]
    assert [row.cells for row in back] == [["x", *kept[1:]] if not any(kept) else kept]


@pytest.mark.parametrize(
    "cell",
    ["=1+1", "+442079460000", "-2+3", "@SUM(A1)", "\t=1", "'=1", "''+44", "'s-Hertogenbosch", "a;=1|@b", "a\n=1"],
)
def test_each_beginning_that_computes_gets_an_apostrophe_and_loses_it(cell: str) -> None:
    assert csv_files.plain(csv_files.neutral(cell)) == cell
    assert csv_files.neutral(cell)[0] not in "=+-@\t"


def test_line_ends_become_one_kind_and_nul_goes() -> None:
    assert csv_files.neutral("a\r\nb\rc\0") == "a\nb\nc"


# --- headers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "uses"),
    [
        ("Name;E-Mail;Handynummer;Firma\nAna;a@example.test;1;x\n".encode("cp1252"), "name email phone organisation"),
        ("Nombre,Correo electrónico,Teléfono,País\n", "name email phone country"),
        ("姓名\t邮箱\t手机\t公司\n".encode("utf-16"), "name email phone organisation"),
        ("First Name,Last Name,E-mail 1 - Value,Phone 1 - Value,Phone 2 - Value,Labels\n".encode("utf-8-sig"),
         "first_name last_name email phone phone tags"),
        ("Full name|Customer No.|Reason\n", "name customer_no "),
    ],
)  # fmt: skip
def test_columns_are_guessed_from_their_names(content: str | bytes, uses: str) -> None:
    look = contact_files.look(content if isinstance(content, bytes) else content.encode())
    assert list(look.mapping.values()) == uses.split(" ")


def test_every_word_belongs_to_one_use_and_is_written_as_it_is_looked_up() -> None:
    every = [word for words in contact_files.WORDS.values() for word in words]
    assert len(every) == len(set(every))
    assert [word for word in every if csv_files.slug(word) != word] == []
    assert all(contact_files.WORDS[name] >= {name} for name in contact_files.USES)


# --- who a line is ---------------------------------------------------------------------------------------------------


async def test_the_same_file_twice_makes_nobody_twice(both: House) -> None:
    content = "name,phone,email,tags\n" + "".join(
        f'Person {n},+1202555{n:04d},p{n}@example.test,"new, from fair"\n' for n in range(100, 170)
    )
    first = await both.bring_in(content)
    assert counts(first) == (70, 0, 0)
    assert counts(await both.bring_in(content)) == (0, 70, 0)
    everybody = await both.everybody()
    assert len(everybody) == 70
    assert everybody[0].tags == ["new", "from fair"]
    assert everybody[0].version == 1  # nothing to change, so nothing was changed
    assert first.total_count == first.cursor == 70


async def test_a_proven_address_says_who_it_is_and_only_what_is_empty_is_filled(house: House) -> None:
    ana = await house.person("Ana Ruiz", phone(ANA), job_title="Buyer")
    await house.prove(ana)
    line = f"name,phone,email,job title,company,birthday\nA. Ruiz,{ANA},ana@example.test,Head,Acme,1990-02-03\n"
    assert counts(await house.bring_in(line)) == (0, 1, 0)
    [now_is] = await house.everybody()
    assert (now_is.name, now_is.job_title, now_is.born_on) == ("Ana Ruiz", "Buyer", date(1990, 2, 3))
    assert now_is.organisation_id
    assert counts(await house.bring_in(line, overwrite=True)) == (0, 1, 0)
    [now_is] = await house.everybody()
    assert (now_is.name, now_is.job_title) == ("A. Ruiz", "Head")


@pytest.mark.parametrize(
    ("line", "fate", "says"),
    [
        (f"Ana,{ANA},", Fate.MATCHED, ""),  # unproven, and the same name
        (f",{ANA},", Fate.MATCHED, ""),  # theirs alone, and no name that says otherwise
        (f"Zoe,{ANA},", Fate.REFUSED, "belongs to Ana"),
        (f"Zoe,{SHARED},", Fate.REFUSED, "shared by several people: Ana, Ben"),
        (f",{SHARED},", Fate.REFUSED, "shared"),
        (f"ben,{SHARED},", Fate.MATCHED, ""),
        (f"Ben,{SHARED},new@example.test", Fate.MATCHED, ""),
        (f"Ben,{ANA},ben@example.test", Fate.REFUSED, f"{ANA} belongs to Ana, not to Ben"),
        ("Ben,,", Fate.REFUSED, "neither a phone number nor a mail address"),
        ("Zoe,+12,", Fate.REFUSED, "number"),
        ("Zoe,,not-a-mail", Fate.REFUSED, "not a mail address"),
        ("Zoe,+442079460001,", Fate.NEW, ""),
    ],
)
async def test_a_shared_number_merges_nobody(house: House, line: str, fate: Fate, says: str) -> None:
    await house.person("Ana", phone(ANA), phone(SHARED))
    ben = await house.person("Ben", email("ben@example.test"), phone(SHARED))
    async with house.db.reading() as tx:
        assert len(await contacts.list_owners(tx, phone(SHARED))) == 2
    found = await house.upload(f"name,phone,email\n{line}\n")
    [(_, verdict)] = await contact_transfer.preview(house.db, house.files, found)
    assert verdict.fate == fate
    assert says in verdict.reason
    await house.bring_in(f"name,phone,email\n{line}\n")
    assert len(await house.everybody()) == (3 if fate == Fate.NEW else 2)
    async with house.db.reading() as tx:
        assert len(await contacts.list_owners(tx, phone(ANA))) == 1
        assert {p.value for p, _ in await contacts.list_points(tx, ben.id)} >= {"ben@example.test", SHARED}


async def test_a_preview_changes_nothing_and_sees_what_earlier_lines_would_make(house: House) -> None:
    found = await house.upload(f"name,phone\nZoe,{ANA}\nZoe,{ANA}\nYan,{ANA}\n")
    lines = await contact_transfer.preview(house.db, house.files, found)
    assert [verdict.fate for _, verdict in lines] == [Fate.NEW, Fate.MATCHED, Fate.REFUSED]
    assert await house.everybody() == []
    assert counts(await house.bring_in(f"name,phone\nZoe,{ANA}\nZoe,{ANA}\nYan,{ANA}\n")) == (1, 1, 1)


async def test_refused_lines_come_back_with_the_reason_and_go_in_when_mended(house: House) -> None:
    done = await house.bring_in(
        'name,phone,zone,Customer No\n"=cmd()",+44 20 7946 0001,,7\nBo,12,,8\nCy,+442079460002,Moon/Base,9\n'
    )
    assert counts(done) == (1, 0, 2)
    lines = await house.refusals(done)
    assert [line[:4] for line in lines[1:]] == [["Bo", "12", "", "8"], ["Cy", "'+442079460002", "Moon/Base", "9"]]
    assert lines[0] == ["name", "phone", "zone", "Customer No", "line", "reason"]
    assert "time zone" in lines[2][5]
    [made] = await house.everybody()
    assert (made.name, made.fields) == ("=cmd()", {"customer_no": "7"})
    mended = csv_files.write([lines[0], ["Bo", "+442079460003", "", "8", *lines[1][4:]]])
    assert counts(await house.bring_in(mended)) == (1, 0, 0)


@pytest.mark.parametrize(
    ("head", "cells", "column"),
    [
        ("country", "Moonland", "country"), ("vip", "perhaps", "vip"), ("birthday", "3/4/90", "born_on"),
        ("owner", "nobody-here", "owner"), ("stopped", "fax", "stopped"), ("job title", "x" * 201, "job_title"),
    ],
)  # fmt: skip
async def test_each_bad_cell_is_refused_by_its_column(house: House, head: str, cells: str, column: str) -> None:
    found = await house.upload(f"phone,{head}\n{ANA},{cells}\n")
    [(_, verdict)] = await contact_transfer.preview(house.db, house.files, found)
    assert (verdict.fate, verdict.column) == (Fate.REFUSED, column)


async def test_countries_by_name_read_national_numbers(house: House) -> None:
    await house.bring_in("name,tel,Land\nAna,030 901820,Deutschland\nLi,020 7946 0001,英国\n")
    assert {c.country for c in await house.everybody()} == {"DE", "GB"}
    async with house.db.reading() as tx:
        assert await contacts.list_owners(tx, phone("+442079460001"))


@pytest.mark.parametrize("mapping", [{"name": "name"}, {"name": "email", "phone": "name", "email": "name"}])
async def test_a_mapping_that_tells_nobody_apart_is_refused(house: House, mapping: dict[str, str]) -> None:
    found = await house.upload(f"name,phone,email\nAna,{ANA},\n")
    with pytest.raises(Invalid):
        await house.db.write(
            lambda tx: contact_imports.choose(tx, found.id, mapping=mapping, country="", overwrite=False)
        )


# --- consent ---------------------------------------------------------------------------------------------------------


async def test_consent_comes_in_with_its_proof_or_not_at_all(both: House) -> None:
    head = "name,phone,email,sms_consent,sms_consent_at,sms_consent_source,sms_consent_text,email_consent\n"
    done = await both.bring_in(
        f"{head}Ana,{ANA},a@example.test,yes,2026-05-01,fair in Leeds,Yes to texts v2,yes\nBen,{BEN},,yes,,,,\n"
    )
    assert (counts(done), done.consent_count) == ((2, 0, 0), 1)
    [entry] = await both.rows(ConsentEvent)
    assert (entry.value, entry.channel, entry.evidence["text"]) == (ANA, "sms", "Yes to texts v2")
    async with both.db.reading() as tx:
        assert await consent.has_consent(tx, phone(ANA), channel="sms", purpose=Purpose.MARKETING)
        assert not await consent.has_consent(tx, phone(ANA), channel="voice", purpose=Purpose.TELEMARKETING)
        assert not await consent.has_consent(tx, email("a@example.test"), channel="email", purpose=Purpose.MARKETING)
        remarks = await contact_imports.list_faults(tx, done.id, taken=True)
    assert ["without proof" in one.message for one in remarks] == [True, True]
    await both.bring_in(f"{head}Ana,{ANA},,yes,2026-05-01,fair in Leeds,Yes to texts v2,\n")
    assert len(await both.rows(ConsentEvent)) == 1


async def test_who_said_no_stays_stopped_and_who_is_stopped_elsewhere_is_stopped_here(house: House) -> None:
    await house.person("Ana", phone(ANA))
    await house.db.write(
        lambda tx: consent.opt_out(
            tx, phone(ANA), channel="sms", source="sms_keyword", evidence={"said": "STOP"}, actor="customer",
            now=house.clock.now(),
        )
    )  # fmt: skip
    head = "name,phone,sms_consent,sms_consent_at,sms_consent_source,sms_consent_text,stopped\n"
    await house.bring_in(f"{head}Ana,{ANA},yes,2026-05-01,fair,Yes,\nBen,{BEN},,,,,all\n")
    async with house.db.reading() as tx:
        assert not await consent.has_consent(tx, phone(ANA), channel="sms", purpose=Purpose.MARKETING)
    stops = {(row.value, row.channel) for row in await house.rows(Suppression)}
    assert stops == {(ANA, "sms"), (BEN, "*")}


# --- there and back --------------------------------------------------------------------------------------------------


async def full_house(house: House) -> Contact:
    """Somebody with everything, and somebody with nothing."""

    async def unit(tx: Tx) -> Contact:
        owner = await users.create(
            tx, login="amy", name="Amy", roles=[Role.AGENT], password_hash="", now=START, actor="test"
        )
        firm = await contacts.get_organisation(tx, "@cme; Ltd", now=START)
        made = await contacts.create(
            tx, name='=HYPERLINK("x")', now=START, source="test", organisation_id=firm.id, job_title="-1+1",
            points=[phone("+44 20 7946 0001 ext. 12"), phone(ANA), email("a@example.test"), email("b@example.test")],
            language="de", zone="Europe/Berlin", country="DE", tags=["+vip", "b"], vip=True, born_on=date(1980, 1, 2),
            owner_id=owner.id, notes="first\n=second", fields={"customer_no": "'+7"},
        )  # fmt: skip
        for channel, purpose, point in (
            ("sms", "marketing", phone("+442079460001")), ("email", "marketing", email("a@example.test")),
        ):  # fmt: skip
            await consent.grant(
                tx, point, channel=channel, purpose=purpose, source="form:x", evidence={"text": "I agree", "source": "fair"},
                actor="customer", now=START, contact_id=made.id,
            )  # fmt: skip
        await contacts.create(tx, name="Bare", now=START, source="test")
        return made

    return await house.db.write(unit)


async def test_an_export_comes_in_elsewhere_as_it_went_out(
    both: House, sqlite_template: Path, clock: FixedClock, tmp_path: Path
) -> None:
    """Out of one hub, into another: every column, every consent with its proof, no formula on the way."""
    was = await full_house(both)
    both.clock.tick(60)
    content = await both.export()
    assert all(not cell.startswith(("=", "+", "-", "@")) for line in table(content) for cell in line)
    # Here again: nothing changes, whoever has no address is known by the id.
    again = await both.bring_in(content, overwrite=True)
    assert counts(again) == (0, 2, 0)
    assert [c.version for c in await both.everybody()] == [1, 1]
    assert len(await both.rows(ConsentEvent)) == 2
    shutil.copy(sqlite_template, tmp_path / "other.db")
    other = House(await open_database(f"sqlite:///{tmp_path}/other.db"), clock, tmp_path / "other")
    await other.db.write(
        lambda tx: users.create(tx, login="amy", name="A", roles=[Role.AGENT], password_hash="", now=START, actor="t")
    )
    assert counts(await other.bring_in(content)) == (1, 0, 1)  # nobody without id and address can be told again
    [made] = await other.everybody()
    same = {"name", "job_title", "language", "zone", "country", "tags", "vip", "born_on", "notes", "fields"}
    assert made.model_dump(include=same) == was.model_dump(include=same)
    there, here = table(await other.export()), table(content)
    skipped = {0, here[0].index("source"), here[0].index("created_at")}

    def told(lines: Sequence[list[str]]) -> list[str]:
        [line] = [line for line in lines if "HYPERLINK" in line[1]]
        return [cell for n, cell in enumerate(line) if n not in skipped]

    assert told(there) == told(here)
    assert {entry.evidence["text"] for entry in await other.rows(ConsentEvent)} == {"I agree"}
    await other.db.close()


async def test_an_export_is_what_the_list_shows_and_is_in_the_audit(
    both: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact_files, "PAGE", 20)
    for n in range(45):
        await both.person(
            f"Ana {n}" if n % 2 else f"Ben {n}", phone(f"+1202555{n:04d}"), tags=["fair"] if n < 3 else []
        )
    assert len(table(await both.export())) == 46
    assert [line[1] for line in table(await both.export(Wanted(tag="fair", oldest=True)))[1:]] == [
        "Ben 0",
        "Ana 1",
        "Ben 2",
    ]
    found = table(await both.export(Wanted(query="ana")))[1:]
    assert len(found) == 22  # all that the search finds, not its first page
    assert {line[1][:3] for line in found} == {"Ana"}
    assert table(await both.export(Wanted(query="?!")))[1:] == []
    lines = [row for row in await both.rows(AuditEntry) if row.action == "contacts.exported"]
    assert [(row.detail["count"], row.detail["filter"]) for row in sorted(lines, key=lambda row: row.id)] == [
        (45, {}), (3, {"tag": "fair", "sort": "oldest"}), (22, {"q": "ana"}), (0, {"q": "?!"}),
    ]  # fmt: skip


# --- the command -----------------------------------------------------------------------------------------------------


async def test_the_command_reads_and_writes_the_same_files(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target, bad = tmp_path / "in.csv", tmp_path / "out.csv", tmp_path / "bad.csv"
    source.write_bytes("Name;Teléfono\nAna;020 7946 0001\nBo;7\n".encode("utf-16"))
    asked = Namespace(file=str(source), country="GB", overwrite=False, dry_run=True, refused="")
    await contact_commands.bring_in(house.db, house.files, asked, house.clock)
    assert capsys.readouterr().out.splitlines()[0] == "2\tnew\t"
    assert await house.everybody() == []
    asked = Namespace(**{**vars(asked), "dry_run": False, "refused": str(bad)})
    with pytest.raises(Invalid, match="refused: 1"):
        await contact_commands.bring_in(house.db, house.files, asked, house.clock)
    assert capsys.readouterr().out == "new\t1\nmatched\t0\nrefused\t1\n"
    assert table(bad.read_bytes())[1][:3] == ["Bo", "7", "3"]
    await contact_commands._write(str(target), (await contact_transfer.export(
        house.db, Wanted(), actor="x", now=house.clock.now()))[1])  # fmt: skip
    assert table(target.read_bytes())[1][1] == "Ana"
    with pytest.raises(Invalid, match="there already"):
        await contact_commands._write(
            str(target), contact_transfer.refused(house.db, await house.upload(b"phone\n"), str)
        )
    async with house.db.reading() as tx:
        assert await tx.one(select(func.count()).select_from(Contact)) == 1
