"""Contacts as lines of a file: which columns there are, what headers mean them, and who goes out in which line.

Writing a cell is csv_files.py; what becomes of a line that comes in is contact_imports.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlmodel import col, select

from crm_core import consent_columns, contacts
from crm_core.addresses import PointKind
from crm_core.consent import ConsentAction, ConsentEvent, Purpose, Suppression, SuppressionReason
from crm_core.contacts import Contact, ContactLink, ContactPoint, Organisation
from crm_core.csv_files import Look, look_at
from crm_core.db import Tx
from crm_core.users import User

PAGE = 200
MOST_FIELDS = 100  # custom fields that get a column
ID, NAME, FIRST, LAST, ORGANISATION, JOB = "id", "name", "first_name", "last_name", "organisation", "job_title"
PHONE, MORE_PHONES, EMAIL, MORE_EMAILS = "phone", "more_phones", "email", "more_emails"
LANGUAGE, ZONE, COUNTRY, TAGS, VIP, BORN, OWNER, NOTES = (
    "language", "zone", "country", "tags", "vip", "born_on", "owner", "notes",
)  # fmt: skip
STOPPED = "stopped"
# Column → kind of address, channel and purpose that it speaks of. Each has three more: when, where, which words.
CONSENTS = {
    "sms_consent": (PointKind.PHONE, "sms", Purpose.MARKETING),
    "call_consent": (PointKind.PHONE, "voice", Purpose.TELEMARKETING),
    "email_consent": (PointKind.EMAIL, "email", Purpose.MARKETING),
}
PROOFS = ("", "_at", "_source", "_text")
_CONSENT_COLUMNS = tuple(f"{name}{proof}" for name in CONSENTS for proof in PROOFS)
COLUMNS = (
    ID, NAME, ORGANISATION, JOB, PHONE, MORE_PHONES, EMAIL, MORE_EMAILS, LANGUAGE, ZONE, COUNTRY, TAGS, VIP, BORN, OWNER,
    NOTES, "source", "created_at", *_CONSENT_COLUMNS, STOPPED,
)  # fmt: skip
# What a column of a file may be; any other word is a custom field of that name, empty is left out.
USES = (
    ID, NAME, FIRST, LAST, ORGANISATION, JOB, PHONE, MORE_PHONES, EMAIL, MORE_EMAILS, LANGUAGE, ZONE, COUNTRY, TAGS, VIP,
    BORN, OWNER, NOTES, *_CONSENT_COLUMNS, STOPPED,
)  # fmt: skip
SEVERAL = (PHONE, MORE_PHONES, EMAIL, MORE_EMAILS)  # more than one column may hold these
# Names of columns as `csv_files.slug` writes them: English, Spanish, German, Chinese, and what address books export.
WORDS: dict[str, set[str]] = {
    "": {"source", "created_at", "reason", "line"},  # our own columns that say nothing to an import
    ID: {"id", "hub_id"},
    NAME: {
        "name", "full_name", "fullname", "contact", "contact_name", "display_name", "nombre", "nombre_completo", "contacto",
        "kontakt", "kunde", "vollstandiger_name", "姓名", "名称", "联系人",
    },
    FIRST: {"first_name", "firstname", "given_name", "forename", "vorname", "nombre_de_pila", "primer_nombre", "名", "名字"},
    LAST: {"last_name", "lastname", "surname", "family_name", "nachname", "familienname", "apellido", "apellidos", "姓", "姓氏"},
    ORGANISATION: {
        "organisation", "organization", "organization_name", "company", "company_name", "firm", "empresa",
        "compania", "organizacion", "firma", "unternehmen", "公司", "公司名称", "单位", "企业",
    },
    JOB: {"job_title", "position", "role", "organization_title", "cargo", "puesto", "stelle", "funktion", "职位", "职务"},
    PHONE: {
        "phone", "phone_number", "mobile", "mobile_phone", "cell", "cell_phone", "tel", "telephone", "msisdn",
        "business_phone", "home_phone", "primary_phone", "phone_1_value", "phone_2_value", "phone_3_value", "work_phone",
        "telefono", "numero_de_telefono", "movil", "celular", "telefon", "telefonnummer", "handy", "handynummer", "mobil",
        "rufnummer", "mobiltelefon", "电话", "手机", "手机号", "电话号码", "手机号码", "联系电话",
    },
    MORE_PHONES: {"more_phones", "other_phones", "other_phone", "phone_2", "phone_3", "business_phone_2", "telefon_2"},
    EMAIL: {
        "email", "e_mail", "mail", "email_address", "e_mail_address", "mail_address", "e_mail_1_value", "e_mail_2_value",
        "e_mail_3_value", "correo", "correo_electronico", "email_adresse", "e_mail_adresse", "mailadresse", "邮箱",
        "电子邮件", "电子邮箱", "邮件", "邮箱地址",
    },
    MORE_EMAILS: {"more_emails", "other_emails", "email_2", "email_3", "e_mail_2_address", "e_mail_3_address"},
    LANGUAGE: {"language", "locale", "idioma", "lengua", "sprache", "语言"},
    ZONE: {"zone", "time_zone", "timezone", "zona_horaria", "zeitzone", "时区"},
    COUNTRY: {"country", "country_code", "pais", "land", "landercode", "国家", "国家代码"},
    TAGS: {
        "tags", "tag", "labels", "label", "groups", "categories", "etiquetas", "etiqueta", "schlagworter", "schlagworte", "标签",
    },
    VIP: {"vip"},
    BORN: {"born_on", "birthday", "birth_date", "date_of_birth", "geburtstag", "geburtsdatum", "fecha_de_nacimiento", "生日"},
    OWNER: {"owner", "owner_login", "looked_after_by", "zustandig", "betreuer", "responsable", "负责人"},
    NOTES: {"notes", "note", "comment", "comments", "notas", "nota", "notizen", "notiz", "bemerkung", "备注"},
    **{name: {name} for name in _CONSENT_COLUMNS},
    STOPPED: {"stopped", "opted_out", "opt_out", "do_not_contact", "unsubscribed", "gesperrt", "no_contactar", "拒绝联系"},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which contacts: as the list on the screen filters."""

    query: str = ""
    tag: str = ""
    owner_id: str = ""
    oldest: bool = False

    def as_doc(self) -> dict[str, str]:
        """What was asked for, for the audit."""
        said = {"q": self.query, "tag": self.tag, "owner": self.owner_id, "sort": "oldest" if self.oldest else ""}
        return {name: value for name, value in said.items() if value}


def look(content: bytes) -> Look:
    """Headers, a proposed mapping and some rows of a file of contacts. Invalid, with what to do, when it cannot be used."""
    return look_at(content, WORDS, reserved=USES, several=SEVERAL)


async def page_of(tx: Tx, wanted: Wanted, *, after: str) -> list[Contact]:
    """The next contacts behind the id `after`; of a search all that it finds, not only its first."""
    return await contacts.list_page(
        tx, after=after, limit=PAGE, tag=wanted.tag, owner_id=wanted.owner_id, oldest=wanted.oldest, query=wanted.query
    )


def head(fields: Sequence[str]) -> list[str]:
    """The first line."""
    return [*COLUMNS, *fields]


async def lines_of(tx: Tx, page: Sequence[Contact], fields: Sequence[str]) -> list[list[str]]:
    """A line for each of these contacts."""
    ids = [contact.id for contact in page]
    joined = (
        select(ContactPoint, ContactLink)
        .join(ContactPoint, col(ContactPoint.id) == col(ContactLink.point_id))
        .where(col(ContactLink.contact_id).in_(ids), col(ContactLink.valid_until).is_(None))
        .order_by(col(ContactLink.id))
    )
    points: dict[str, list[tuple[ContactPoint, ContactLink]]] = {}
    for point, link in await tx.all(joined):
        points.setdefault(link.contact_id, []).append((point, link))
    values = sorted({point.value for pairs in points.values() for point, _ in pairs})
    ledger, stops = await _permissions(tx, values)
    firms = dict(await _named(tx, Organisation.id, Organisation.name, [c.organisation_id for c in page]))
    owners = dict(await _named(tx, User.id, User.login, [c.owner_id for c in page]))
    return [
        _line(contact, points.get(contact.id, []), ledger, stops, firms, owners, fields) for contact in page
    ]  # fmt: skip


async def _named(tx: Tx, key: Any, name: Any, ids: Sequence[str | None]) -> list[tuple[str, str]]:
    wanted = sorted({one for one in ids if one})
    return await tx.all(select(key, name).where(key.in_(wanted))) if wanted else []


Ledger = dict[str, list[ConsentEvent]]
Stops = dict[str, set[str]]


async def _permissions(tx: Tx, values: Sequence[str]) -> tuple[Ledger, Stops]:
    """Address → its consent ledger, newest first; address → channels on which they asked to be left alone."""
    ledger: Ledger = {}
    stops: Stops = {}
    if not values:
        return ledger, stops
    entries = select(ConsentEvent).where(col(ConsentEvent.value).in_(values))
    for entry in await tx.all(entries.order_by(col(ConsentEvent.at).desc(), col(ConsentEvent.id).desc())):
        ledger.setdefault(entry.value, []).append(entry)
    asked = [SuppressionReason.OPT_OUT, SuppressionReason.DO_NOT_CALL, SuppressionReason.COMPLAINT]
    active = select(Suppression).where(
        col(Suppression.value).in_(values), col(Suppression.lifted_at).is_(None), col(Suppression.reason).in_(asked)
    )
    for row in await tx.all(active):
        channel = "voice" if row.reason == SuppressionReason.DO_NOT_CALL else row.channel
        stops.setdefault(row.value, set()).add("all" if channel == "*" else channel)
    return ledger, stops


def _line(
    contact: Contact,
    points: Sequence[tuple[ContactPoint, ContactLink]],
    ledger: Ledger,
    stops: Stops,
    firms: Mapping[str, str],
    owners: Mapping[str, str],
    fields: Sequence[str],
) -> list[str]:
    phones = [
        f"{p.value} ext. {k.extension}" if k.extension else p.value for p, k in points if p.kind == PointKind.PHONE
    ]
    mails = [p.value for p, _ in points if p.kind == PointKind.EMAIL]
    first = {kind: next((p.value for p, _ in points if p.kind == kind), "") for kind in PointKind}
    stopped = {channel for point, _ in points for channel in stops.get(point.value, ())}
    proofs: list[str] = []
    for kind, channel, purpose in CONSENTS.values():
        proofs += _proof(ledger.get(first[kind], []), channel, purpose)
    return [
        contact.id, contact.name, firms.get(contact.organisation_id or "", ""), contact.job_title,
        *(phones[:1] or [""]), "; ".join(phones[1:]), *(mails[:1] or [""]), "; ".join(mails[1:]),
        contact.language, contact.zone, contact.country, ", ".join(contact.tags), "yes" if contact.vip else "",
        contact.born_on.isoformat() if contact.born_on else "", owners.get(contact.owner_id or "", ""), contact.notes,
        contact.source, contact.created_at.isoformat(timespec="seconds"), *proofs, ", ".join(sorted(stopped)),
        *(_field(contact.fields.get(name)) for name in fields),
    ]  # fmt: skip


def _field(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _proof(ledger: Sequence[ConsentEvent], channel: str, purpose: str) -> list[str]:
    """yes or no with its evidence, of the latest entry that covers this channel and purpose; empty when there is none."""
    if not (latest := consent_columns.latest(ledger, channel=channel, purpose=purpose)):
        return [""] * len(PROOFS)
    entry = latest[0]
    if any(one.action == ConsentAction.WITHDRAWN for one in latest):
        return ["no", entry.at.isoformat(timespec="seconds"), entry.source, ""]
    said = entry.evidence
    version = said.get("consent_version") or said.get("text_version") or ""
    return [
        "yes",
        str(said.get("given_at") or entry.at.isoformat(timespec="seconds")),
        str(said.get("source") or entry.source),
        str(said.get("text") or version),
    ]
