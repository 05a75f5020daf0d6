"""The outside world's control API for mail.

POST /outside/mails   {from, to?, subject?, text?, html?, attachments?: [{name, type, base64}], in_reply_to?,
                       references?, headers?: {name: value}, message_id?}  or {from, to, raw_base64}
                      → 201 {message_id}; into the hub's mailbox when `to` is the hub's address (the default)
GET  /outside/mails?address=                      → {mails: […]} newest first
GET  /outside/mails/{address}/{id}                → texts, html, headers, attachments; marks it read
GET  /outside/mails/{address}/{id}/raw            → the message as it came
GET  /outside/mails/{address}/{id}/parts/{n}      → an attachment, always as a download
"""

from __future__ import annotations

import base64
import binascii
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from typing import Any
from urllib.parse import quote

from aiohttp import web

from hub.sandbox.mailstore import MailStore, StoredMail, full, part_of, summary
from hub.sandbox.outside import BadRequest, body_of
from hub.sandbox.smtp import PostOffice
from hub.sandbox.world import World


class OutsideMail:
    """The handlers."""

    def __init__(self, world: World, office: PostOffice, store: MailStore) -> None:
        self.world = world
        self.office = office
        self.store = store

    def routes(self) -> list[web.AbstractRouteDef]:
        one = "/outside/mails/{address}/{number:[0-9]+}"
        return [
            web.post("/outside/mails", self.send),
            web.get("/outside/mails", self.box),
            web.get(one, self.read),
            web.get(one + "/raw", self.raw),
            web.get(one + "/parts/{part:[0-9]+}", self.part),
        ]

    async def send(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        sender = str(body.get("from", ""))
        to = str(body.get("to", "")) or self.world.config.mailbox.address
        if "@" not in sender or "@" not in to:
            raise BadRequest("from and to must be mail addresses")
        if "raw_base64" in body:
            raw, message_id = _decoded(body["raw_base64"]), ""
        else:
            message = compose(self.world, body, sender=sender, to=to)
            raw, message_id = message.as_bytes(), str(message["Message-ID"])
        raw = raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        await self.office.deliver(raw, sender=sender, recipient=to)
        return web.json_response({"message_id": message_id}, status=201)

    async def box(self, request: web.Request) -> web.Response:
        address = request.query.get("address", "")
        mails = self.store.list(address)
        found = [summary(mail, read=(mail.address, mail.number) in self.store.read) for mail in mails[::-1][:200]]
        return web.json_response({"mails": found, "addresses": sorted(self.store.boxes)})

    def _find(self, request: web.Request) -> StoredMail:
        mail = self.store.get(request.match_info["address"], int(request.match_info["number"]))
        if mail is None:
            raise BadRequest("no such mail", 404)
        return mail

    async def read(self, request: web.Request) -> web.Response:
        mail = self._find(request)
        self.store.read.add((mail.address, mail.number))
        return web.json_response(full(mail))

    async def raw(self, request: web.Request) -> web.Response:
        return web.Response(body=self._find(request).raw(), content_type="text/plain", charset="utf-8")

    async def part(self, request: web.Request) -> web.Response:
        found = part_of(self._find(request), int(request.match_info["part"]))
        if found is None:
            raise BadRequest("no such part", 404)
        name, _, data = found
        headers = {
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
            "X-Content-Type-Options": "nosniff",
        }
        return web.Response(body=data, content_type="application/octet-stream", headers=headers)


def _decoded(text: object) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except binascii.Error as exc:
        raise BadRequest("base64 is not readable") from exc


def compose(world: World, body: dict[str, Any], *, sender: str, to: str) -> EmailMessage:
    """A mail as an ordinary program writes it: text, optional HTML, attachments, threading headers."""
    message = EmailMessage()
    person = next((each for each in world.people.values() if each.email.lower() == sender.lower()), None)
    try:
        message["From"] = f"{person.name} <{sender}>" if person else sender
        message["To"] = to
        message["Subject"] = str(body.get("subject", ""))
        message["Date"] = format_datetime(world.clock.now())
        message["Message-ID"] = str(body.get("message_id", "")) or make_msgid(domain=sender.partition("@")[2])
        if parent := str(body.get("in_reply_to", "")):
            message["In-Reply-To"] = parent
            message["References"] = str(body.get("references", "")) or parent
        for name, value in (body.get("headers") or {}).items():
            message[str(name)] = str(value)
        message.set_content(str(body.get("text", "")))
        if html := str(body.get("html", "")):
            message.add_alternative(html, subtype="html")
        for attachment in body.get("attachments") or []:
            kind, _, subkind = str(attachment.get("type", "application/octet-stream")).partition("/")
            message.add_attachment(
                _decoded(attachment.get("base64", "")),
                maintype=kind,
                subtype=subkind or "octet-stream",
                filename=str(attachment.get("name", "file")),
            )
    except (ValueError, TypeError, AttributeError) as exc:
        raise BadRequest(f"this mail cannot be written: {exc}") from exc
    return message
