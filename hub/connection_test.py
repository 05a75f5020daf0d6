"""The button "test connection": really connects and logs in, within a time limit, and says in one sentence what failed.

First the way (name, port, encryption, where it leads), then the log-in by the very code that will poll and send.
"""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import ssl
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from channels.contract import AccountConfig, Vault
from channels.email import EmailChannel, imap_from_url, smtp_from_url, tokens_of
from channels.errors import ChannelError, Misconfigured
from channels.imap import ImapSettings, Mailbox
from channels.smtp import SmtpLine, SmtpSettings
from channels.twilio_api import TwilioApi, TwilioSettings
from crm_core.errors import Invalid
from crm_core.texts import Text
from hub.outgoing_hosts import peer_rule, refuse_internal
from hub.settings import Settings, TwilioAccount

LIMIT_S = 15.0
STEP_S = 8.0


@dataclass(frozen=True, slots=True)
class Tested:
    """One half's result. `what`: imap, smtp or twilio."""

    what: str
    good: bool
    sentence: str


async def try_mailbox(
    settings: Settings,
    urls: dict[str, str],
    *,
    folder: str = "INBOX",
    tls: ssl.SSLContext | None = None,
    vault: Vault | None = None,
) -> list[Tested]:
    """Both servers of a mailbox, side by side; `urls` as they are sealed: imap_url, smtp_url, and oauth_… for access by token.

    `vault` is given the next refresh token when the provider replaces the one that this test used up.
    """

    def allowed(host: str, address: str) -> bool:
        rule = peer_rule(settings, host)
        return rule is None or rule(address)

    config = AccountConfig("email", "", {}, urls, settings.public_url, peer_allowed=allowed, vault=vault)
    try:
        tokens = tokens_of(config)  # one purchase for both
    except Misconfigured as error:
        return [Tested("imap", good=False, sentence=error.message)]

    async def one(half: str, url: str) -> Tested:
        try:
            async with asyncio.timeout(LIMIT_S):
                parts = urlsplit(url)
                await refuse_internal(settings, parts.hostname or "", field=half)
                wrong = await _way(half, parts.hostname or "", parts.port or 0, parts.scheme, settings, tls)
                if wrong:
                    return Tested(half, good=False, sentence=wrong)
                if half == "imap":
                    await _imap(
                        dataclasses.replace(imap_from_url(url, folder=folder, peer_allowed=allowed), tokens=tokens), tls
                    )
                else:
                    await _smtp(dataclasses.replace(smtp_from_url(url, peer_allowed=allowed), tokens=tokens), tls)
        except TimeoutError:
            return Tested(half, good=False, sentence=_silent(LIMIT_S))
        except Invalid as error:
            return Tested(half, good=False, sentence=error.fields.get(half) or error.message)
        except ChannelError as error:
            return Tested(half, good=False, sentence=error.message)
        told = Text("Logged in; mail can be read.") if half == "imap" else Text("Logged in; mail can be sent.")
        return Tested(half, good=True, sentence=told)

    wanted = [(half, urls[f"{half}_url"]) for half in ("imap", "smtp") if urls.get(f"{half}_url")]
    return list(await asyncio.gather(*(one(half, url) for half, url in wanted)))


async def try_channel(channel: EmailChannel, *, tls: ssl.SSLContext | None = None) -> list[Tested]:
    """Both servers of a mailbox as the hub uses it, with whatever it logs in by (password or token)."""

    async def one(half: str, work: Coroutine[Any, Any, None]) -> Tested:
        try:
            async with asyncio.timeout(LIMIT_S):
                await work
        except TimeoutError:
            return Tested(half, good=False, sentence=_silent(LIMIT_S))
        except ChannelError as error:
            return Tested(half, good=False, sentence=error.message)
        told = Text("Logged in; mail can be read.") if half == "imap" else Text("Logged in; mail can be sent.")
        return Tested(half, good=True, sentence=told)

    imap, smtp = channel.settings.imap, channel.settings.smtp
    wanted = [one("imap", _imap(imap, tls))] if imap is not None else []
    wanted += [one("smtp", _smtp(smtp, tls))] if smtp is not None else []
    return list(await asyncio.gather(*wanted))


def _silent(seconds: float) -> str:
    return Text("The server did not answer within %(seconds)s seconds.", seconds=int(seconds))


async def _way(half: str, host: str, port: int, scheme: str, settings: Settings, tls: ssl.SSLContext | None) -> str:
    """Why nothing can be reached there, or empty. Sends nothing."""
    encrypted = scheme in ("imaps", "smtps")
    context = (tls or ssl.create_default_context()) if encrypted else None
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(STEP_S):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            rule = peer_rule(settings, host)
            if rule is not None and not rule(str(writer.get_extra_info("peername")[0])):
                return Text("This server is inside the hub's own network, which this hub may not use.")
            greeting = await reader.readline()
    except ssl.SSLCertVerificationError:
        return Text("The server's certificate is not valid for its name.")
    except ssl.SSLError:
        return Text(
            "The server does not speak TLS on port %(port)s: choose another encryption or port.", port=str(port)
        )
    except socket.gaierror:
        return Text("There is no server named %(host)s.", host=host)
    except ConnectionRefusedError:
        return Text("Nothing listens on port %(port)s of %(host)s.", port=str(port), host=host)
    except TimeoutError:
        if writer is not None and not encrypted:
            return Text("The server says nothing on port %(port)s: it may want TLS there.", port=str(port))
        return _silent(STEP_S)
    except OSError:
        return Text("%(host)s cannot be reached on port %(port)s.", host=host, port=str(port))
    finally:
        if writer is not None:
            writer.close()
    expected = b"* " if half == "imap" else b"220"
    if not greeting.startswith(expected):
        kind = "IMAP" if half == "imap" else "SMTP"
        return Text("What answers on port %(port)s does not speak %(kind)s.", port=str(port), kind=kind)
    return ""


async def _imap(settings: ImapSettings, tls: ssl.SSLContext | None) -> None:
    mailbox = Mailbox(dataclasses.replace(settings, step_s=STEP_S), tls=tls)
    try:
        await mailbox.open()
    finally:
        await mailbox.close()


async def _smtp(settings: SmtpSettings, tls: ssl.SSLContext | None) -> None:
    line = SmtpLine(dataclasses.replace(settings, phase_s=STEP_S), tls=tls)
    try:
        await line.greet()
    finally:
        await line.close()


async def try_provider(twilio: TwilioAccount) -> Tested:
    """Ask the provider for its own account with the auth token, then once more with the API key."""
    base = {"api_base": twilio.api_base} if twilio.api_base else {}
    plain = TwilioSettings(account_sid=twilio.account_sid, auth_token=twilio.auth_token, **base)
    ways = [(plain, Text("Twilio refuses the account SID or the auth token."))]
    if twilio.api_key_sid:
        keyed = dataclasses.replace(plain, api_key_sid=twilio.api_key_sid, api_key_secret=twilio.api_key_secret)
        ways.append((keyed, Text("Twilio refuses the API key or its secret.")))
    for settings, refusal in ways:
        api = TwilioApi(settings, timeout_s=STEP_S)
        try:
            # Numbers, not the account itself: keys of the usual kind may list these.
            await api.call(lambda client: client.incoming_phone_numbers.list_async(limit=1, page_size=1))
        except Misconfigured:
            return Tested("twilio", good=False, sentence=refusal)
        except ChannelError as error:
            return Tested("twilio", good=False, sentence=error.message)
        finally:
            await api.close()
    return Tested("twilio", good=True, sentence=Text("Twilio knows the account and its keys."))
