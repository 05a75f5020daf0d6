"""STOP, START and HELP as people write them, and sentences that only look like it."""

from __future__ import annotations

import pytest

from crm_core import consent, contacts
from crm_core.addresses import phone
from crm_core.consent import SuppressionReason
from routing import keywords
from tests.routing.floor import ANA, Floor


@pytest.mark.parametrize(
    ("text", "word", "language"),
    [
        ("STOP", "STOP", ""),
        ("stop.", "STOP", ""),
        ("  Stop! ", "STOP", ""),
        ("“Stop”", "STOP", ""),
        ("ＳＴＯＰ", "STOP", ""),
        ("STOP ALL", "STOP", ""),
        ("Opt-out", "STOP", ""),
        ("opt out", "STOP", ""),
        ("Unsubscribe", "STOP", ""),
        ("Please stop", "STOP", ""),
        ("stop please!", "STOP", ""),
        ("STOP texting me", "STOP", ""),
        ("Baja", "STOP", "es"),
        ("baja, por favor", "STOP", "es"),
        ("Arrêt", "STOP", "fr"),
        ("ARRET", "STOP", "fr"),
        ("Abmelden bitte", "STOP", "de"),
        ("Стоп", "STOP", ""),  # Russian and Ukrainian alike
        ("退订", "STOP", "zh"),
        ("TD", "STOP", "zh"),
        ("수신거부", "STOP", "ko"),
        ("إيقاف", "STOP", "ar"),
        ("हटाओ", "", ""),
        ("रोकें", "STOP", "hi"),
        ("İPTAL", "STOP", "tr"),
        ("start", "START", ""),
        ("UNSTOP", "START", ""),
        ("Alta", "START", "es"),
        ("Help", "HELP", ""),
        ("¿Ayuda?", "HELP", "es"),
        ("Hjälp", "HELP", "sv"),
        ("帮助", "HELP", "zh"),
        ("Please stop by tomorrow", "", ""),
        ("Can you stop the delivery?", "", ""),
        ("Don't stop", "", ""),
        ("stop", "STOP", ""),
        ("I need help with my bill", "", ""),
        ("The bus stop", "", ""),
        ("cancel my order 77", "", ""),
        ("end of the week?", "", ""),
        ("", "", ""),
        ("?!", "", ""),
        ("🛑", "", ""),
    ],
)
def test_what_a_text_means(text: str, word: str, language: str) -> None:
    found = keywords.find(text)
    assert ((found.word, found.language) if found else ("", "")) == (word, language)


def test_every_listed_word_means_what_it_is_listed_for() -> None:
    for word, table in (("STOP", keywords.STOP), ("HELP", keywords.HELP), ("START", keywords.START)):
        for listed in table.values():
            for one in listed.split():
                found = keywords.find(one.upper())
                assert found is not None, one
                assert found.word == word, one


async def test_the_answer_speaks_the_language_of_the_word(floor: Floor) -> None:
    await floor.open("kim")
    await floor.text("Baja, por favor")
    (task,) = [task for task in await floor.outbox() if task.kind == "text.send"]
    told = await floor.interaction(task.subject_id)
    assert "No recibirá más mensajes" in told.body
    assert told.data["purpose"] == "confirmation"
    async with floor.db.reading() as tx:
        stops, ledger = await consent.list_for(tx, phone(ANA))
    assert {(stop.reason, stop.sender, stop.channel, stop.purpose) for stop in stops} == {
        (SuppressionReason.SENDER_STOP, "acc-sms", "sms", "*"),
        (SuppressionReason.OPT_OUT, "", "*", "marketing"),
        (SuppressionReason.OPT_OUT, "", "*", "telemarketing"),
    }
    assert {(entry.action, entry.evidence["text"]) for entry in ledger} == {("withdrawn", "Baja, por favor")}
    await floor.text("Alta")
    async with floor.db.reading() as tx:
        left, _ = await consent.list_for(tx, phone(ANA))
    assert SuppressionReason.SENDER_STOP not in {stop.reason for stop in left}


async def test_else_it_speaks_the_persons_language(small_floor: Floor) -> None:
    await small_floor.open("kim")
    person = await small_floor.person("Ana", ANA)

    async def german(tx) -> None:
        contact = await contacts.get(tx, person)
        await contacts.edit(tx, person, version=contact.version, now=small_floor.now, language="de")

    await small_floor.do(german)
    await small_floor.text("STOP")
    (task,) = [task for task in await small_floor.outbox() if task.kind == "text.send"]
    assert "keine Nachrichten mehr" in (await small_floor.interaction(task.subject_id)).body
