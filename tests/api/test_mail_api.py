"""Mails over the API: drafts with files, answers with copies, sending on; each user's own, on both engines."""

from __future__ import annotations

import base64
from typing import Any

from sqlmodel import select

from channels.contract import MailArrived
from crm_core import accounts, drafts
from crm_core.interactions import Attachment
from routing import router
from tests.api.conftest import MAILBOX, House


async def mail(house: House, number: int = 1, **more: Any) -> str:
    """A mail comes in and amy has it; its conversation."""
    given: dict[str, Any] = {
        "event_key": f"mail:{number}", "message_id": f"<m{number}@example.com>", "from_address": "ana@example.com",
        "from_name": "Ana", "to": (MAILBOX,), "cc": (), "reply_to": "", "subject": "Invoice", "sent_at": None,
        "in_reply_to": "", "references": (), "text": "Where is it?", "html": "", "files": (), "automatic": "",
        "headers": {}, "raw": b"raw",
    }  # fmt: skip
    event = MailArrived(**{**given, **more})
    runtime = house.runtime

    async def unit(tx: Any) -> None:
        account = await accounts.get(tx, "acc-email")
        await router.mail_arrived(tx, event, account=account, html_key="", files=(), now=runtime.clock.now())

    await runtime.db.write(unit)
    await house.route()
    [offer] = (await house.amy.get("/me/offers"))["items"]
    await house.amy.post(f"/offers/{offer['id']}/accept")
    return str((await house.amy.get("/conversations"))["items"][0]["id"])


def packed(content: bytes) -> str:
    return base64.b64encode(content).decode()


async def test_a_draft_with_files_becomes_an_answer_with_copies(either_house: House) -> None:
    house = either_house
    at = f"/conversations/{await mail(house)}"
    status, kept = await house.amy.ask("PUT", f"{at}/draft", {"body": "Half", "cc": "bob@example.com"})
    assert (status, kept["body"], kept["cc"], kept["files"]) == (200, "Half", "bob@example.com", [])
    one = await house.amy.post(f"{at}/draft/files", {"name": "../bill.pdf", "content": packed(b"%PDF")}, expect=201)
    two = await house.amy.post(f"{at}/draft/files", {"name": "b.txt", "content": packed(b"x" * 200_000)}, expect=201)
    assert (one["name"], one["content_type"], one["size"]) == ("bill.pdf", "application/pdf", 4)
    assert [file["id"] for file in (await house.amy.get(f"{at}/draft"))["files"]] == [one["id"], two["id"]]
    assert (await house.sam.get(f"{at}/draft"))["files"] == [], "each has their own"
    assert (await house.ben.ask("GET", f"{at}/draft"))[0] == 404
    sent = await house.amy.post(
        f"{at}/replies",
        {"body": "Here.", "cc": ["Bob@example.com"], "bcc": ["boss@example.test"], "file_ids": [one["id"]]},
        expect=201,
    )
    assert (sent["delivery"], sent["subject"]) == ("queued", "Re: Invoice")
    async with house.runtime.db.reading() as tx:
        (attached,) = await tx.all(select(Attachment).where(Attachment.interaction_id == sent["id"]))
    assert (attached.name, attached.size) == ("bill.pdf", 4)
    assert [file["id"] for file in (await house.amy.get(f"{at}/draft"))["files"]] == [two["id"]], (
        "only what was named went"
    )
    again = await house.amy.ask("POST", f"{at}/replies", {"body": "Here.", "file_ids": [one["id"]]})
    assert again[0] == 404
    assert (await house.amy.ask("DELETE", f"{at}/draft/files/{two['id']}"))[0] == 204
    assert (await house.amy.ask("DELETE", f"{at}/draft/files/{two['id']}"))[0] == 404


async def test_what_does_not_fit_is_told(either_house: House, monkeypatch: Any) -> None:
    house = either_house
    at = f"/conversations/{await mail(house)}"
    assert (await house.amy.ask("POST", f"{at}/draft/files", {"name": "a", "content": "no base64!"}))[0] == 422
    assert (await house.amy.ask("POST", f"{at}/draft/files", {"name": "a", "content": ""}))[0] == 422
    monkeypatch.setattr(drafts, "MOST_BYTES", 3)
    assert (await house.amy.ask("POST", f"{at}/draft/files", {"name": "a", "content": packed(b"long")}))[0] == 422
    assert (await house.amy.ask("POST", f"{at}/replies", {"body": "x", "cc": ["nobody"]}))[0] == 422
    assert (await house.amy.ask("POST", f"{at}/replies", {"body": "x", "sender": "boss@example.com"}))[0] == 422
    assert (await house.amy.ask("POST", f"{at}/replies", {"body": " "}))[0] == 422


async def test_a_mail_is_sent_on(either_house: House) -> None:
    house = either_house
    at = f"/conversations/{await mail(house)}"
    [original] = (await house.amy.get(f"{at}/interactions"))["items"]
    sent = await house.amy.post(
        f"/interactions/{original['id']}/forward", {"to": "lee@example.com", "body": "Look."}, expect=201
    )
    assert (sent["to_address"], sent["subject"], sent["conversation_id"]) == (
        "lee@example.com", "Fwd: Invoice", original["conversation_id"],
    )  # fmt: skip
    refused = await house.ben.ask("POST", f"/interactions/{original['id']}/forward", {"to": "lee@example.com"})
    assert refused[0] == 404
