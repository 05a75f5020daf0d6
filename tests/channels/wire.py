"""Small servers that speak the providers' wire formats, and misbehave on command. They share no code with channels/."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from channels.contract import AccountConfig, RawRequest

ORIGIN = "https://hub.example.com"
ACCOUNT = "AC" + "1" * 32
TOKEN = "canary-auth-token-000000000000000"
KEY_SECRET = "canary-api-key-secret-00000000000"
NOW = datetime(2026, 11, 18, 10, 0, tzinfo=UTC)
CALL = "CA" + "a" * 32
ROOM = "CF" + "b" * 32
MESSAGE = "SM" + "c" * 32


def twilio_config(kind: str, *, base: str = "http://127.0.0.1:9", **more: str) -> AccountConfig:
    settings = {"account_sid": ACCOUNT, "api_key_sid": "SK" + "2" * 32, "app_sid": "AP" + "3" * 32, "api_base": base}
    secrets = {"auth_token": TOKEN, "api_key_secret": KEY_SECRET}
    return AccountConfig(kind, "+442079460000", {**settings, **more}, secrets, ORIGIN)


def sign(url: str, fields: Sequence[tuple[str, str]], token: str = TOKEN) -> str:
    text = url + "".join(name + value for name, value in sorted(set(fields)))
    return base64.b64encode(hmac.new(token.encode(), text.encode(), hashlib.sha1).digest()).decode()


def posted(
    path: str, fields: Mapping[str, str] | Sequence[tuple[str, str]], *, token: str | None = TOKEN, **headers: str
) -> RawRequest:
    """A webhook as Twilio sends it; without a token it is unsigned."""
    pairs = list(fields.items()) if isinstance(fields, Mapping) else list(fields)
    sent = {"content-type": "application/x-www-form-urlencoded; charset=UTF-8"}
    if token is not None:
        sent["x-twilio-signature"] = sign(ORIGIN + path, pairs, token)
    sent.update({name.replace("_", "-"): value for name, value in headers.items()})
    return RawRequest(ORIGIN + path, "POST", sent, urlencode(pairs).encode(), NOW)


# --- Twilio's REST API -----------------------------------------------------------------------------------------------


@dataclass
class Asked:
    method: str
    path: str
    form: list[tuple[str, str]]
    headers: dict[str, str]

    def field(self, name: str) -> str:
        return dict(self.form)[name]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.form if key == name]


Answer = Callable[[web.Request], Any]


@dataclass
class TwilioWire:
    """Answers what the test has put into `answers`, in order; the last one stays."""

    base: str = ""
    asked: list[Asked] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = (await request.read()).decode()
        pairs = parse_qsl(body or request.query_string, keep_blank_values=True)
        self.asked.append(Asked(request.method, request.path, pairs, dict(request.headers)))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        given = answer(request)
        return await given if asyncio.iscoroutine(given) else given


def says(status: int, body: Any, **headers: str) -> Answer:
    return lambda request: web.json_response(
        body, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def refuses(status: int, code: int, **headers: str) -> Answer:
    text = f"The 'To' number +12025550101 is not fine, {TOKEN}"
    return says(
        status, {"code": code, "message": text, "status": status, "more_info": "https://example.com"}, **headers
    )


def hangs(request: web.Request) -> Any:
    async def wait() -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    return wait()


def cuts(request: web.Request) -> Any:
    async def cut() -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return cut()


def nonsense(request: web.Request) -> web.Response:
    return web.Response(status=201, text="<html>not JSON</html>")


def message_json(status: str = "queued") -> dict[str, Any]:
    return {
        "sid": MESSAGE, "account_sid": ACCOUNT, "body": "Hello", "status": status, "error_code": None,
        "to": "+12025550101",
        "from": "+442079460000", "direction": "outbound-api", "num_segments": "1", "num_media": "0", "price": None,
        "date_created": "Wed, 18 Nov 2026 10:00:00 +0000",
        "uri": f"/2010-04-01/Accounts/{ACCOUNT}/Messages/{MESSAGE}.json",
    }  # fmt: skip


def participant_json() -> dict[str, Any]:
    return {
        "account_sid": ACCOUNT, "call_sid": CALL, "conference_sid": ROOM, "label": "customer", "status": "queued",
        "muted": False, "hold": False, "coaching": False, "date_created": "Wed, 18 Nov 2026 10:00:00 +0000",
    }  # fmt: skip


def call_json(status: str = "in-progress") -> dict[str, Any]:
    return {"sid": CALL, "account_sid": ACCOUNT, "status": status, "to": "+12025550101", "from": "+442079460000"}


def rooms_json(status: str = "in-progress") -> dict[str, Any]:
    return {"conferences": [{"sid": ROOM, "friendly_name": "room-1", "status": status}], "next_page_uri": None}


@asynccontextmanager
async def twilio_wire() -> AsyncIterator[TwilioWire]:
    wire = TwilioWire()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", wire.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    wire.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield wire
    finally:
        await runner.cleanup()


# --- SMTP ------------------------------------------------------------------------------------------------------------


@dataclass
class SmtpWire:
    """Answers each command by its verb; `rules` maps a verb to an answer, `cut` (close), `hang` or `reset`."""

    port: int = 0
    rules: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    mails: list[bytes] = field(default_factory=list)
    connections: int = 0
    auth: bool = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            if await self.say(writer, "greeting", "220 wire.example.test ESMTP"):
                await self.talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def say(self, writer: asyncio.StreamWriter, verb: str, usual: str) -> bool:
        rule = self.rules.get(verb, usual)
        if rule == "cut":
            return False
        if rule == "reset":
            writer.transport.abort()
            return False
        if rule == "hang":
            await asyncio.sleep(30)
            return False
        writer.write(rule.encode() + b"\r\n")
        await writer.drain()
        return True

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = "250-wire\r\n250-8BITMIME\r\n" + ("250-AUTH PLAIN LOGIN\r\n" if self.auth else "") + "250 SIZE 30000000"
        usual = {"EHLO": hello, "HELO": "250 wire", "DATA": "354 go on", "QUIT": "221 bye", "AUTH": "235 2.7.0 fine"}
        while line := await reader.readline():
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            self.lines.append(text)
            verb = text.split(" ")[0].split(":")[0].upper()
            if not await self.say(writer, verb, usual.get(verb, "250 2.0.0 fine")):
                return
            if verb == "QUIT":
                return
            if verb == "DATA" and self.rules.get("DATA", "354").startswith("354"):
                content = await reader.readuntil(b"\r\n.\r\n")
                if self.rules.get("body", "").startswith(("2", "")) and not self.rules.get("body", "2").startswith(
                    ("4", "5")
                ):
                    self.mails.append(content[:-5])
                if not await self.say(writer, "body", "250 2.0.0 queued as 42"):
                    return


@asynccontextmanager
async def smtp_wire(tls: ssl.SSLContext | None = None, **rules: str) -> AsyncIterator[SmtpWire]:
    wire = SmtpWire(rules=dict(rules))
    async with _served(wire.serve, tls) as port:
        wire.port = port
        yield wire


# --- IMAP ------------------------------------------------------------------------------------------------------------


@dataclass
class ImapWire:
    """A mailbox over IMAP4rev1, as far as the hub asks. `faults` names what goes wrong, each until it is taken out."""

    port: int = 0
    mails: dict[int, bytes] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    old: set[int] = field(default_factory=set)  # came in before any day that is asked for
    uidvalidity: int = 7
    faults: set[str] = field(default_factory=set)
    lines: list[str] = field(default_factory=list)
    idling: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    fetched: list[tuple[int, str]] = field(default_factory=list)
    # What comes exactly between the answer to a look and IDLE, and how the server lets us know: told beside the answer to the
    # look, told when IDLE begins, or never told.
    between: list[bytes] = field(default_factory=list)
    tells: str = "never"

    def deliver(self, raw: bytes) -> int:
        uid = max(self.mails, default=0) + 1
        self.mails[uid] = raw
        self.arrived.set()
        return uid

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if "no greeting" in self.faults:
                await asyncio.sleep(30)
            writer.write(b"* OK wire ready\r\n")
            while line := await reader.readline():
                tag, _, rest = line.decode("utf-8", "replace").rstrip("\r\n").partition(" ")
                self.lines.append(rest)
                await self.command(tag, rest, reader, writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, EOFError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def command(self, tag: str, rest: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def end(text: str = "OK done") -> None:
            writer.write(f"{tag} {text}\r\n".encode())

        verb = rest.upper()
        if verb.startswith("CAPABILITY"):
            idle = "" if "no idle" in self.faults else " IDLE"
            writer.write(f"* CAPABILITY IMAP4rev1{idle}\r\n".encode())
            end()
        elif verb.startswith("LOGIN"):
            end("NO wrong password canary-mailbox-password" if "login" in self.faults else "OK in")
        elif verb.startswith("AUTHENTICATE"):
            end("NO [AUTHENTICATIONFAILED] token" if "token" in self.faults else "OK in")
        elif verb.startswith("SELECT"):
            writer.write(f"* {len(self.mails)} EXISTS\r\n* OK [UIDVALIDITY {self.uidvalidity}] valid\r\n".encode())
            end("NO none" if "folder" in self.faults else "OK [READ-WRITE] open")
        elif verb.startswith("UID SEARCH"):
            if "hang in search" in self.faults:
                await asyncio.sleep(30)
            asked = verb.split()[2:]
            if asked[0] == "UID":
                low = int(asked[1].split(":")[0])
                found = [uid for uid in sorted(self.mails) if uid >= low] or sorted(self.mails)[-1:]
            else:
                found = [uid for uid in sorted(self.mails) if asked[0] == "ALL" or uid not in self.old]
            writer.write(f"* SEARCH {' '.join(map(str, found))}\r\n".encode())
            if "always exists" in self.faults:
                writer.write(f"* {len(self.mails)} EXISTS\r\n".encode())
            if self.between:
                self.mails[max(self.mails, default=0) + 1] = self.between.pop(0)
                if self.tells == "in the answer":
                    writer.write(f"* {len(self.mails)} EXISTS\r\n".encode())
                elif self.tells == "at idle":
                    self.arrived.set()
            end()
        elif verb.startswith("UID FETCH"):
            self.fetch(rest, writer)
            end()
        elif verb.startswith("UID STORE"):
            self.seen |= {int(uid) for uid in rest.split()[2].split(",")}
            end()
        elif verb == "IDLE":
            await self.idle(tag, reader, writer)
        else:
            end()

    def fetch(self, rest: str, writer: asyncio.StreamWriter) -> None:
        uids = [int(uid) for uid in rest.split()[2].split(",")]
        if "cut in fetch" in self.faults and "BODY" in rest:
            writer.write(f"* 1 FETCH (UID {uids[0]} BODY[] {{5000}}\r\nhalf a mail".encode())
            writer.transport.close()
            raise EOFError
        if "flood" in self.faults and "BODY" in rest:
            writer.write(b"* 1 FETCH (FLAGS (\\Seen))\r\n" * 5000)
        for uid in uids:
            if uid not in self.mails:
                continue
            raw = self.mails[uid]
            if "RFC822.SIZE" in rest:
                size = 26 * 2**20 if raw.startswith(b"X-Huge") else len(raw)
                writer.write(f"* {uid} FETCH (RFC822.SIZE {size} UID {uid})\r\n".encode())
                continue
            self.fetched.append((uid, rest))
            if "<0." in rest:
                raw = raw[:65536]
                writer.write(f"* {uid} FETCH (UID {uid} BODY[]<0> {{{len(raw)}}}\r\n".encode() + raw + b")\r\n")
            elif uid % 2:  # servers may name the UID before or after the content
                writer.write(f"* {uid} FETCH (BODY[] {{{len(raw)}}}\r\n".encode() + raw + f" UID {uid})\r\n".encode())
            else:
                writer.write(f"* {uid} FETCH (UID {uid} BODY[] {{{len(raw)}}}\r\n".encode() + raw + b")\r\n")
                writer.write(b"* 1 FETCH (FLAGS (\\Recent))\r\n")

    async def idle(self, tag: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if "bye at idle" in self.faults:
            writer.write(b"* BYE going down\r\n")
            await writer.drain()
            await asyncio.sleep(30)
        if "cut at idle" in self.faults:
            writer.transport.abort()
            raise EOFError
        writer.write(b"+ idling\r\n")
        await writer.drain()
        self.idling.set()
        if "cut in idle" in self.faults:
            writer.transport.abort()
            raise EOFError
        done = asyncio.ensure_future(reader.readline())
        news = asyncio.ensure_future(self.arrived.wait())
        await asyncio.wait({done, news}, return_when=asyncio.FIRST_COMPLETED)
        news.cancel()
        if self.arrived.is_set():
            self.arrived.clear()
            writer.write(f"* {len(self.mails)} EXISTS\r\n".encode())
            await writer.drain()
        await done
        self.idling.clear()
        writer.write(f"{tag} OK idle ended\r\n".encode())


@asynccontextmanager
async def imap_wire(*mails: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[ImapWire]:
    wire = ImapWire()
    for raw in mails:
        wire.deliver(raw)
    wire.arrived.clear()
    async with _served(wire.serve, tls) as port:
        wire.port = port
        yield wire


@asynccontextmanager
async def _served(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any], tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    tasks: set[asyncio.Task[Any]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(asyncio.CancelledError):
            await serve(reader, writer)
        tasks.discard(task)

    server = await asyncio.start_server(one, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def letter(subject: str = "Hello", body: str = "How are you?", **headers: str) -> bytes:
    """A plain mail."""
    head = {
        "From": "Ana <ana@example.com>",
        "To": "support@example.test",
        "Subject": subject,
        "Message-ID": "<1@example.com>",
    }
    head.update({name.replace("_", "-"): value for name, value in headers.items()})
    return "".join(f"{name}: {value}\r\n" for name, value in head.items()).encode() + b"\r\n" + body.encode() + b"\r\n"


# --- TLS ---------------------------------------------------------------------------------------------------------------


def tls_pair(folder: Path, host: str = "127.0.0.1") -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(server's, client's) contexts: a certificate of our own making for `host`, and one that trusts it alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "wire")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "cert.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, private)
    return server, ssl.create_default_context(cafile=str(certificate))
