"""The mail server and the mailbox, spoken to by real clients over real sockets."""

from __future__ import annotations

import asyncio
from email.message import EmailMessage
from urllib.parse import unquote, urlsplit

import aioimaplib
import aiosmtplib
import pytest

from hub.sandbox.twin import running_sandbox


def letter(to: str, subject: str = "Hello") -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "support@example.test", to, subject
    message["Message-ID"] = f"<{subject.replace(' ', '-')}@example.test>"
    message.set_content("How are you?")
    return message


async def smtp(sandbox, *, password: str | None = None) -> aiosmtplib.SMTP:
    parts = urlsplit(sandbox.smtp_url)
    client = aiosmtplib.SMTP(hostname=parts.hostname, port=parts.port, use_tls=False, start_tls=False)
    await client.connect()
    if password is not None:
        await client.login(unquote(parts.username), password)
    return client


async def imap(sandbox, folder: str = "INBOX") -> aioimaplib.IMAP4:
    parts = urlsplit(sandbox.imap_url)
    client = aioimaplib.IMAP4(host=parts.hostname, port=parts.port, timeout=60)
    await client.wait_hello_from_server()
    answer = await client.login(unquote(parts.username), unquote(parts.password))
    assert answer.result == "OK", answer
    assert (await client.select(folder)).result == "OK"
    return client


async def hang_up(client: aioimaplib.IMAP4) -> None:
    await client.logout()


async def test_mail_of_the_hub_reaches_the_person(sandbox):
    client = await smtp(sandbox, password="secret")
    await client.send_message(letter("ana@example.com"))
    await client.quit()
    box = await sandbox.request("GET", "/outside/mails?address=ana@example.com")
    assert [mail["subject"] for mail in box["mails"]] == ["Hello"]
    mail = await sandbox.request("GET", "/outside/mails/ana@example.com/1")
    assert mail["text"].strip() == "How are you?"
    assert {"name": "Return-Path", "value": "<support@example.test>"} in mail["headers"]


async def test_wrong_password_is_refused(sandbox):
    with pytest.raises(aiosmtplib.SMTPAuthenticationError):
        await smtp(sandbox, password="wrong")


@pytest.mark.parametrize(("local", "code"), [("bounce", 550), ("full", 552), ("later", 451), ("bounce+tag", 550)])
async def test_recipients_with_a_fixed_answer(sandbox, local, code):
    client = await smtp(sandbox)
    with pytest.raises(aiosmtplib.SMTPRecipientsRefused) as refused:
        await client.send_message(letter(f"{local}@example.com"))
    assert refused.value.recipients[0].code == code
    client.close()


async def test_armed_fault_refuses_once(sandbox):
    await sandbox.request("POST", "/outside/faults", {"kind": "smtp_451", "next": 1})
    client = await smtp(sandbox)
    with pytest.raises(aiosmtplib.SMTPRecipientsRefused):
        await client.send_message(letter("ana@example.com"))
    await client.send_message(letter("ana@example.com"))
    await client.quit()


async def test_undeliverable_mail_comes_back_as_a_notification(sandbox):
    client = await smtp(sandbox)
    await client.send_message(letter("dsn@example.com", "Offer"))
    await client.quit()
    reader = await imap(sandbox)
    fetched = await reader.uid("fetch", "1:*", "(RFC822)")
    raw = bytes(next(line for line in fetched.lines if isinstance(line, bytearray)))
    await hang_up(reader)
    assert b"multipart/report" in raw
    assert b"Final-Recipient: rfc822; dsn@example.com" in raw


async def test_person_writes_and_the_hub_reads_by_idle(sandbox):
    reader = await imap(sandbox)
    idle = await reader.idle_start(timeout=60)
    await sandbox.request(
        "POST",
        "/outside/mails",
        {
            "from": "ana@example.com",
            "subject": "Broken",
            "text": "It broke.",
            "html": "<b>It broke.</b>",
            "attachments": [{"name": "a.txt", "type": "text/plain", "base64": "aGVsbG8="}],
        },
    )
    pushed = await asyncio.wait_for(reader.wait_server_push(), 60)
    assert any(b"EXISTS" in line for line in pushed)
    reader.idle_done()
    await asyncio.wait_for(idle, 60)
    found = await reader.uid_search("UNSEEN")
    uid = found.lines[0].decode().split()[-1]
    fetched = await reader.uid("fetch", uid, "(BODY.PEEK[])")
    raw = bytes(next(line for line in fetched.lines if isinstance(line, bytearray)))
    assert b"From: Ana Example <ana@example.com>" in raw
    assert b"Delivered-To: support@example.test" in raw
    await hang_up(reader)


async def test_uids_flags_and_validity_survive_a_restart(config):
    async with running_sandbox(config) as first:
        for subject in ("one", "two"):
            await first.request("POST", "/outside/mails", {"from": "ana@example.com", "subject": subject})
        reader = await imap(first)
        uids = (await reader.uid_search("ALL")).lines[0].split()
        await reader.uid("store", uids[0].decode(), "+FLAGS", r"(\Seen $handled)")
        validity = (await reader.status("INBOX", "(UIDVALIDITY UIDNEXT)")).lines[0]
        await hang_up(reader)
    async with running_sandbox(config) as second:
        reader = await imap(second)
        assert (await reader.uid_search("ALL")).lines[0].split() == uids
        assert (await reader.uid_search("UNSEEN")).lines[0].split() == uids[1:]
        assert (await reader.status("INBOX", "(UIDVALIDITY UIDNEXT)")).lines[0] == validity
        await second.request("POST", "/outside/mails", {"from": "ana@example.com", "subject": "three"})
        await reader.noop()
        assert int((await reader.uid_search("ALL")).lines[0].split()[-1]) == int(uids[-1]) + 1
        await hang_up(reader)


async def test_mail_to_a_reply_address_reaches_the_hub(sandbox):
    client = await smtp(sandbox)
    await client.send_message(letter("support+c123@example.test"))
    await client.quit()
    reader = await imap(sandbox)
    assert (await reader.uid_search("ALL")).lines[0].split()
    await hang_up(reader)


async def test_moved_mail_lies_in_its_new_folder_after_a_restart(config):
    async with running_sandbox(config) as first:
        await first.request("POST", "/outside/mails", {"from": "ana@example.com", "subject": "one"})
        reader = await imap(first)
        assert (await reader.create("Archive")).result == "OK"
        uid = (await reader.uid_search("ALL")).lines[0].split()[0].decode()
        assert (await reader.uid("move", uid, "Archive")).result == "OK"
        await hang_up(reader)
    async with running_sandbox(config) as second:
        reader = await imap(second, "Archive")
        assert len((await reader.uid_search("ALL")).lines[0].split()) == 1
        assert (await reader.select("INBOX")).result == "OK"
        assert (await reader.uid_search("ALL")).lines[0].split() == []
        await hang_up(reader)
