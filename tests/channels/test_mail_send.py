"""Composing and handing over mails."""

from __future__ import annotations

import email
import email.policy
import time
from dataclasses import replace

import pytest

from channels import email as channel_email
from channels.contract import MailFile, OutboundMail
from channels.email import EmailChannel, EmailSettings, smtp_from_url
from channels.errors import ContentRejected, Misconfigured, OutcomeUnknown, RecipientInvalid, Throttled, Unavailable
from channels.mail_child import parse
from channels.mail_compose import compose, envelope
from channels.smtp import SmtpLine, SmtpSettings
from crm_core.clock import FixedClock
from tests.channels import wire
from tests.channels.wire import NOW

MAIL = OutboundMail(
    "support@example.test", "Grüße & Co", "ana@example.com", "Re: Ümläut ☎", "Hello\n.\nYou", "", "<out-1@example.test>"
)


def headers(mail: OutboundMail) -> email.message.EmailMessage:
    return email.message_from_bytes(compose(mail, now=NOW), policy=email.policy.default)


def test_a_reply_round_trips():
    mail = replace(
        MAIL,
        html="<p>Hello <img src='cid:logo'></p>",
        in_reply_to="<m2@example.com>",
        references=["<m1@example.com>", "<broken id>", "<m\r\nBcc: x@example.com>"],
        reply_to="support+token@example.test",
        to_name='Ana "A" Müller, PhD',
        cc=["bo@example.com"],
        headers={"List-Unsubscribe": "<https://hub.example.com/u/1>", "Auto-Submitted": "auto-replied"},
        files=[MailFile("logo.png", "image/png", b"PNG", "logo"), MailFile("März.pdf", "application/pdf", b"%PDF")],
    )
    raw = compose(mail, now=NOW)
    assert b"\r\n" in raw
    assert not raw.replace(b"\r\n", b"").count(b"\n")
    values, contents = parse(raw)
    assert values["from_name"] == "Grüße & Co"
    assert values["subject"] == "Re: Ümläut ☎"
    assert values["text"].strip() == "Hello\n.\nYou"
    assert values["in_reply_to"] == "<m2@example.com>"
    assert values["references"] == ["<m1@example.com>", "<m2@example.com>"]
    assert values["reply_to"] == "support+token@example.test"
    assert (values["to"], values["cc"]) == (["ana@example.com"], ["bo@example.com"])
    assert values["automatic"] == "auto-submitted"
    assert [one["name"] for one in values["files"]] == ["logo.png", "März.pdf"]
    assert contents == [b"PNG", b"%PDF"]
    found = headers(mail)
    assert found["Message-ID"] == "<out-1@example.test>"
    assert found["Date"] == "Wed, 18 Nov 2026 10:00:00 +0000"
    assert found["List-Unsubscribe"] == "<https://hub.example.com/u/1>"
    assert "Bcc" not in found
    assert envelope(mail) == ("support@example.test", ["ana@example.com", "bo@example.com"])


def test_the_null_sender():
    assert envelope(replace(MAIL, envelope_from="")) == ("", ["ana@example.com"])
    assert envelope(replace(MAIL, envelope_from="bounce+1@example.test"))[0] == "bounce+1@example.test"


def test_references_stay_short():
    many = [f"<{n}@example.com>" for n in range(500)]
    found = str(headers(replace(MAIL, references=many))["References"]).split()
    assert len(found) == 30
    assert (found[0], found[-1]) == ("<0@example.com>", "<499@example.com>")


INJECTIONS = ["x\r\nBcc: evil@example.com", "x\nBcc: evil@example.com", "x\rBcc: y", "x\x00y", "x\x0by", "x\u2028y"]


@pytest.mark.parametrize("bad", INJECTIONS)
@pytest.mark.parametrize("where", ["subject", "from_name", "to_name"])
def test_line_breaks_in_headers_are_refused(bad, where):
    with pytest.raises(ContentRejected):
        compose(replace(MAIL, **{where: bad}), now=NOW)


@pytest.mark.parametrize("bad", INJECTIONS)
def test_line_breaks_elsewhere_are_refused(bad):
    with pytest.raises(ContentRejected):
        compose(replace(MAIL, headers={"X-Tag": bad}), now=NOW)
    with pytest.raises(ContentRejected):
        compose(replace(MAIL, headers={bad: "x"}), now=NOW)
    with pytest.raises(ContentRejected):
        compose(replace(MAIL, files=[MailFile(bad, "text/plain", b"x")]), now=NOW)


@pytest.mark.parametrize("name", ["From", "to", "BCC", "Content-Type", "Message-ID", "Received", "", "X Y", "X:Y"])
def test_headers_of_ours_cannot_be_set_from_outside(name):
    with pytest.raises(ContentRejected):
        compose(replace(MAIL, headers={name: "x"}), now=NOW)


@pytest.mark.parametrize(
    "address",
    [
        "", "ana", "ana@", "@example.com", "b@x\r\nRCPT TO:<z@example.com>", "ana@example.com\n", "a b@example.com",
        "ana@example.com, bo@example.com", "<ana@example.com>", "ana@example.com>\x00", "ana@exa mple.com",
        "a" * 300 + "@example.com",
    ],
)  # fmt: skip
def test_addresses_are_checked_before_any_library_sees_them(address):
    with pytest.raises(RecipientInvalid):
        compose(replace(MAIL, to_address=address), now=NOW)
    with pytest.raises(RecipientInvalid):
        envelope(replace(MAIL, cc=[address]))
    with pytest.raises(Misconfigured):
        compose(replace(MAIL, from_address=address), now=NOW)


@pytest.mark.parametrize("bad", ["", "x", "<x>", "<a@b>\r\n", "<a b@c>"])
def test_our_message_id_must_be_one(bad):
    with pytest.raises(Misconfigured):
        compose(replace(MAIL, message_id=bad), now=NOW)


def test_empty_and_too_large():
    with pytest.raises(ContentRejected):
        compose(replace(MAIL, text=" \n"), now=NOW)
    with pytest.raises(ContentRejected):
        compose(replace(MAIL, files=[MailFile("a", "application/pdf", b"x" * 20 * 2**20)]), now=NOW)


# --- handing over ----------------------------------------------------------------------------------------------------


def channel(port: int, **smtp) -> EmailChannel:
    settings = replace(smtp_from_url(f"smtp://127.0.0.1:{port}"), phase_s=20.0, data_s=20.0, **smtp)
    return EmailChannel(EmailSettings("support@example.test", smtp=settings), clock=FixedClock(NOW))


async def test_a_mail_arrives_whole():
    async with wire.smtp_wire() as server:
        receipt = await channel(server.port).send(replace(MAIL, cc=["bo@example.com"], envelope_from=""))
        assert (receipt.external_id, receipt.status) == ("<out-1@example.test>", "sent")
        assert [line for line in server.lines if line.startswith(("MAIL", "RCPT"))] == [
            "MAIL FROM:<>",
            "RCPT TO:<ana@example.com>",
            "RCPT TO:<bo@example.com>",
        ]
        [raw] = server.mails
        assert b"\r\n..\r\n" in raw, "a dot on its own line is doubled"
        assert server.lines[-1] == "QUIT"


async def test_login():
    async with wire.smtp_wire() as server:
        server.auth = True
        await channel(server.port, user="u", password="canary-mailbox-password").send(MAIL)
        assert any(line.startswith("AUTH") for line in server.lines)
    async with wire.smtp_wire(AUTH="535 5.7.8 canary-mailbox-password is wrong") as server:
        server.auth = True
        with pytest.raises(Misconfigured) as caught:
            await channel(server.port, user="u", password="canary-mailbox-password").send(MAIL)
        assert "canary" not in str(caught.value)


async def test_a_kept_line_carries_many_and_survives_a_refused_one():
    async with wire.smtp_wire() as server:
        sender = channel(server.port)
        async with sender.line() as line:
            for n in range(5):
                await sender.send_on(line, replace(MAIL, message_id=f"<{n}@example.test>"))
            server.rules["RCPT"] = "550 5.1.1 unknown"
            with pytest.raises(RecipientInvalid):
                await sender.send_on(line, MAIL)
            del server.rules["RCPT"]
            await sender.send_on(line, MAIL)
            assert line.carried == 6
        assert server.connections == 1
        assert len(server.mails) == 6


@pytest.mark.parametrize(
    ("rules", "error"),
    [
        ({"body": "cut"}, OutcomeUnknown),
        ({"RCPT": "cut"}, Unavailable),
        ({"MAIL": "421 4.7.0 enough for now"}, Throttled),
    ],
)
async def test_after_trouble_the_line_is_made_anew(rules, error):
    async with wire.smtp_wire() as server:
        sender = channel(server.port)
        async with sender.line() as line:
            await sender.send_on(line, MAIL)
            server.rules.update(rules)
            with pytest.raises(error):
                await sender.send_on(line, MAIL)
            server.rules.clear()
            await sender.send_on(line, MAIL)
        assert server.connections == 2


async def test_a_password_does_not_travel_in_the_clear():
    line = SmtpLine(SmtpSettings("mail.example.test", 587, "none", "u", "secret-password"))
    with pytest.raises(Misconfigured):
        await line.send(b"x", sender="a@example.test", recipients=["b@example.com"])
    async with wire.smtp_wire() as server:  # offers no STARTTLS
        with pytest.raises(Misconfigured):
            await channel(server.port, security="starttls").send(MAIL)
        assert not any(line.startswith("MAIL") for line in server.lines)


async def test_phases_are_bounded():
    async with wire.smtp_wire(greeting="hang") as server:
        sender = channel(server.port)
        sender.settings = replace(sender.settings, smtp=replace(sender.settings.smtp, phase_s=0.2))
        started = time.monotonic()
        with pytest.raises(Unavailable):
            await sender.send(MAIL)
        assert time.monotonic() - started < 3


async def test_nothing_to_send_by():
    with pytest.raises(Misconfigured):
        await EmailChannel(EmailSettings("support@example.test")).send(MAIL)
    with pytest.raises(Misconfigured):
        smtp_from_url("http://example.test")
    assert channel_email.imap_from_url("imaps://a%40b:c%2Fd@mail.example.test").password == "c/d"
