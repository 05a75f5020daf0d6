"""Mails: what is read from sound ones, and that the hub outlives the rest."""

from __future__ import annotations

import asyncio
import random
import re
import time
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

import pytest
from mailparser_reply import EmailReplyParser

from channels import mail_split
from channels.contract import MailArrived, MailUnreadable
from channels.mail_child import html_text, parse, split_reply
from channels.mail_pool import MailPool
from tests.channels.hostile_mail import CORPUS
from tests.channels.wire import letter


@pytest.fixture
async def pool():
    pool = MailPool(size=2)
    yield pool
    await pool.close()


@pytest.mark.parametrize(("name", "raw", "readable"), CORPUS, ids=[one[0] for one in CORPUS])
async def test_poison(pool, name, raw, readable):
    started = time.monotonic()
    found = await pool.read(raw, event_key="mail:a")
    assert time.monotonic() - started < 20
    assert isinstance(found, MailArrived) or not readable, getattr(found, "reason", "")
    assert found.raw is raw, "what came is always kept"
    if isinstance(found, MailUnreadable):
        assert found.reason.endswith(".")
        assert found.size == len(raw)
    else:
        held = [found.subject, found.from_name, found.text, found.html, *found.to, *found.headers.values()]
        held += [file.name for file in found.files]
        assert not any("\x00" in one or "\r" in one for one in held)
        assert not any("\n" in one or "\u202e" in one for one in (found.subject, found.from_name, *found.to))
        for one in held:
            one.encode()  # no half characters
        assert "/" not in "".join(file.name for file in found.files)
    after = await pool.read(letter(), event_key="mail:b")
    assert isinstance(after, MailArrived), "the pool works on"
    assert after.subject == "Hello"


async def test_random_damage_never_gets_through(pool):
    rng = random.Random(20261118)
    message = EmailMessage(policy=SMTP)
    message["From"], message["To"], message["Subject"] = "Ana <ana@example.com>", "support@example.test", "Grüße"
    message.set_content("Hello\n\n> quoted")
    message.add_alternative("<p>Hello</p>", subtype="html")
    message.add_attachment(b"\x00\x01", maintype="application", subtype="pdf", filename="ä.pdf")
    sound = message.as_bytes()
    for _ in range(300):
        raw = bytearray(sound)
        for _ in range(rng.randrange(1, 12)):
            at = rng.randrange(len(raw))
            raw[at : at + rng.randrange(0, 4)] = rng.randbytes(rng.randrange(0, 4))
        assert isinstance(await pool.read(bytes(raw), event_key="x"), MailArrived | MailUnreadable)


async def test_a_child_that_eats_time_is_killed_and_says_so(pool):
    raw = b"Content-Type: multipart/mixed; boundary=x\r\n\r\n" + b"--x\r\n\r\na\r\n" * 500_000 + b"--x--"
    found = await pool.read(raw, event_key="x")
    assert isinstance(found, MailUnreadable)
    assert "more than 2 s" in found.reason


async def test_a_child_that_hangs_is_killed_from_outside(tmp_path, monkeypatch):
    lazy = tmp_path / "child.py"
    lazy.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr("channels.mail_pool.CHILD", lazy)
    pool = MailPool(size=1, wall_s=0.3)
    found = await pool.read(letter(), event_key="x")
    assert isinstance(found, MailUnreadable)
    assert "too long" in found.reason
    await pool.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00\x00\x00\x02[]",
        b"\x00\x00\x00\x02{}",
        b"\xff\xff\xff\xff",
        b'\x00\x00\x00\x0e{"sizes":[-1]}',
        b'\x00\x00\x00\x16{"sizes":[99999999999]}',
        b"garbage",
        b"",
    ],
)
async def test_a_child_that_was_taken_over_is_not_believed(tmp_path, monkeypatch, answer):
    liar = tmp_path / "child.py"
    liar.write_text(f"import sys\nsys.stdin.buffer.read(4)\nsys.stdout.buffer.write({answer!r})\n")
    monkeypatch.setattr("channels.mail_pool.CHILD", liar)
    pool = MailPool(size=1, wall_s=5)
    assert isinstance(await pool.read(letter(), event_key="x"), MailUnreadable)
    await pool.close()


async def test_the_child_holds_no_secret_and_is_limited(pool, monkeypatch):
    monkeypatch.setenv("CANARY_SECRET", "canary-value")
    await pool.read(letter(), event_key="x")
    [child] = pool._idle
    process = Path(f"/proc/{child._process.pid}")
    assert b"canary" not in (process / "environ").read_bytes()
    limits = (process / "limits").read_text()
    assert f"{512 * 1024 * 1024}" in next(line for line in limits.splitlines() if "address space" in line)
    assert {one.name for one in (process / "fd").iterdir()} == {"0", "1", "2"}, "no file of ours is open there"


async def test_many_at_once_share_a_small_pool(pool):
    found = await asyncio.gather(*(pool.read(letter(f"n{n}"), event_key=f"{n}") for n in range(40)))
    assert [one.subject for one in found] == [f"n{n}" for n in range(40)]
    assert len(pool._all) <= 2


# --- what is read ----------------------------------------------------------------------------------------------------


def read(raw: bytes) -> dict:
    return parse(raw)[0]


def test_alternatives_attachments_and_inline_pictures():
    message = EmailMessage(policy=SMTP)
    message["From"] = "ana@example.com"
    message.set_content("plain words")
    message.add_alternative("<p>rich <img src='cid:logo@x'></p>", subtype="html")
    html = message.get_body(("html",))
    assert html is not None
    html.add_related(b"PNG", "image", "png", cid="<logo@x>")
    message.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="Rechnung für März.pdf")
    message.add_attachment("a text file", filename="notes.txt")
    inner = EmailMessage()
    inner["Subject"] = "inside"
    inner.set_content("x")
    message.add_attachment(inner)
    values, contents = parse(message.as_bytes())
    assert values["text"] == "plain words"
    assert "cid:logo@x" in values["html"]
    assert [(one["name"], one["type"]) for one in values["files"]] == [
        ("file.png", "image/png"),
        ("Rechnung für März.pdf", "application/pdf"),
        ("notes.txt", "text/plain"),
        ("message.eml", "message/rfc822"),
    ]
    assert values["files"][0]["id"] == "logo@x"
    assert contents[:2] == [b"PNG", b"%PDF"]
    assert b"Subject: inside" in contents[3]


def test_words_of_a_mail_that_has_only_html():
    raw = b"Content-Type: text/html\r\n\r\n<style>p{x}</style><p>Hello <b>you</b></p><ul><li>one</li></ul>"
    text = read(raw)["text"]
    assert "Hello you" in text
    assert "one" in text
    assert "p{x}" not in text
    assert "x" not in html_text("<script>x</script>")


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({}, ""),
        ({"Auto-Submitted": "no"}, ""),
        ({"Auto-Submitted": "auto-replied; x=y"}, "auto-submitted"),
        ({"Auto-Submitted": "auto-generated"}, "auto-submitted"),
        ({"Return-Path": "<>"}, "null-sender"),
        ({"Return-Path": "<ana@example.com>"}, ""),
        ({"Return-Path": "<MAILER-DAEMON@example.com>"}, "bounce"),
        ({"From": "Mail Delivery System <MAILER-DAEMON@example.com>"}, "bounce"),
        ({"From": "postmaster@example.com"}, "bounce"),
        ({"Content-Type": "multipart/report; report-type=delivery-status; boundary=x"}, "bounce"),
        ({"Precedence": "bulk"}, "bulk"),
        ({"Precedence": "LIST"}, "bulk"),
        ({"Precedence": "junk"}, "bulk"),
        ({"Precedence": "first-class"}, ""),
        ({"List-Id": "<x.example.com>"}, "list"),
        ({"List-Unsubscribe": "<https://example.com>"}, "list"),
        ({"X-Auto-Response-Suppress": "All"}, "suppressed"),
        ({"X-Auto-Response-Suppress": "None"}, ""),
        ({"X-Loop": "support@example.test"}, "loop"),
        ({"From": "no-reply@example.com"}, "no-reply"),
        ({"From": "DoNotReply@example.com"}, "no-reply"),
    ],
)
def test_who_may_be_answered_automatically(headers, why):
    head = {"From": "Ana <ana@example.com>", **headers}
    raw = "".join(f"{name}: {value}\r\n" for name, value in head.items()).encode() + b"\r\nhi"
    assert read(raw)["automatic"] == why


@pytest.mark.parametrize(
    ("value", "address", "name"),
    [
        ("ana@example.com", "ana@example.com", ""),
        ("Ana <Ana@Example.COM>", "ana@example.com", "Ana"),
        ('"Example, Ana" <ana@example.com>', "ana@example.com", "Example, Ana"),
        ('"support@bank.example" <evil@example.com>', "evil@example.com", "support@bank.example"),
        ("=?utf-8?q?=E2=80=AE?=Ana <ana@example.com>", "ana@example.com", "Ana"),
        ("a@[", "", "a@["),
        ("", "", ""),
        ("<>", "", "<>"),
        ("undisclosed-recipients:;", "", "undisclosed-recipients:;"),
        ("=?utf-8?b?QW5hIDxldmlsQGV4YW1wbGUuY29tPg==?= <ana@example.com>", None, None),
    ],
)
def test_from(value, address, name):
    found = read(f"From: {value}\r\n\r\nhi".encode())
    if address is not None:
        assert (found["from_address"], found["from_name"]) == (address, name)
    assert "\n" not in found["from_name"]


@pytest.mark.parametrize(
    ("text", "new"),
    [
        ("Just this.", "Just this."),
        ("Yes.\n\nOn Tue, 17 Nov 2026 at 10:00, Support <s@example.test> wrote:\n> Shall we?\n> Soon?", "Yes."),
        ("Ja.\n\nAm 17.11.2026 um 10:00 schrieb Support <s@example.test>:\n> Sollen wir?", "Ja."),
        ("Sí.\n\nEl mar, 17 nov 2026 a las 10:00, Support <s@example.test> escribió:\n> ¿Vamos?", "Sí."),
        ("Good.\n\nFrom: Support\nSent: Tuesday\nTo: Ana\nSubject: x\n\nOld words", "Good."),
        ("Top\n> q1\n> q2\n> q3", "Top"),
        ("", ""),
    ],
)
def test_split_reply(text, new):
    found, quoted = split_reply(text)
    assert found.strip() == new
    assert found.replace("\n", "") + quoted.replace("\n", "") == text.replace("\n", ""), "nothing is lost"


TOLD = [
    "Thanks!\n\nAm Mi., 18. Nov. 2026 um 10:00 schrieb Ana <ana@example.com>:\n> Wo?",
    "Gracias.\n\nEl mié, 18 nov 2026 a las 10:00, Ana escribió:\n> x",
    "Merci.\n\nLe mer. 18 nov. 2026 à 10:00, Ana <a@example.com> a écrit :\n> x",
    "Ok\n\nDe : Ana\nEnvoyé : mercredi\nÀ : Bob\nObjet : x\n\nbonjour",
    "Ok\n\nIl giorno mer 18 nov 2026 Ana ha scritto:\n> x",
    "Ok\n\nDa: Ana\nInviato: ieri\nA: Bob\nOggetto: x\n\nciao",
    "Ok\n\nOp wo 18 nov. 2026 om 10:00 schreef Ana:\n> x",
    "Ok\n\nVan: Ana\nAan: Bob\nOnderwerp: x\n\nhoi",
    "Ok\n\nDnia 18 listopada 2026 Ana napisał(a):\n> x",
    "Ok\n\nDen ons 18 nov. 2026 kl 10:00 skrev Ana <a@example.com>:\n> x",
    "Från: Ana\nTill: Bob\nÄmne: x\n\nhej",
    "好的\n\n2026年11月18日 10:00，Ana 写道：\n> x",
    "好的\n\n发件人: Ana\n收件人: Bob\n主题: x\n\n你好",
    "2026年11月18日(水) 10:00 Ana <a@example.com>:\n> x",
    "Hallo\n\nMit freundlichen Grüßen\nAna", "Hallo\n\nViele Gruesse\nAna", "Hola\n\nUn saludo,\nAna", "Hej\n\nMvh\nAna",
    "Hej\n\n/Ana", "Hoi\n\nMet vriendelijke groet\nAna", "Cześć\n\nPozdrawiam\nAna", "Bonjour\n\nCordialement\nAna",
    "Hi\n\nGesendet von meinem Telefon", "Hi\n\nEnviado desde mi teléfono", "Hi\n\nInviato da me", "Hi\n\nSkickat från min mobil",
    "Hinweis: nur für Sie, mail", "Aviso: este mail", "Plain words, and nothing else.\nTwo lines.",
]  # fmt: skip


@pytest.mark.parametrize("text", TOLD)
def test_the_languages_left_out_could_not_have_matched(text, monkeypatch):
    """Trying fewer languages is faster, and cuts where trying all of them would have."""
    found = split_reply(text)
    monkeypatch.setitem(
        split_reply.__globals__, "languages_in", lambda text: list(split_reply.__globals__["LANGUAGES"])
    )
    assert split_reply(text) == found


@pytest.mark.parametrize("text", TOLD)
def test_signatures_left_out_do_not_change_where_a_reply_ends(text):
    whole = EmailReplyParser(languages=list(mail_split.LANGUAGES)).parse_reply(text=text)
    assert mail_split._latest_reply(text) == whole


@pytest.mark.parametrize(
    "text", ["GESENDET: x", "Envİado: x", "ınviato: x", "FRÅN: x", "Wysłano: x", "ha SCRITTO", "Objet : x"]
)
def test_a_language_is_tried_however_its_words_are_written(text):
    """What the library's patterns take for the same letter is the same letter to us."""
    tried = set(mail_split.languages_in(text))
    for language in mail_split.LANGUAGES:
        words = mail_split.HINTS.get(language, ())
        if any(re.search(re.escape(word), text, re.IGNORECASE) for word in words):
            assert language in tried
    assert tried > {"en"}
