"""Files of incoming texts: fetched with the login from our provider alone, never larger or other than they may be."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from channels import twilio_media
from channels.errors import ChannelError, ContentRejected, Gone, Misconfigured, Throttled, Unavailable
from channels.twilio_api import TwilioSettings

ACCOUNT = "AC" + "1" * 32
PATH = f"/2010-04-01/Accounts/{ACCOUNT}/Messages/MM{'2' * 32}/Media/ME{'3' * 32}"
PNG = b"\x89PNG\r\n\x1a\n" + b"picture"


@dataclass
class Provider:
    """Answers the media path as told, and remembers with which login it was asked."""

    url: str = ""
    status: int = 200
    body: bytes = PNG
    content_type: str = "image/png"
    location: str = ""
    logins: list[str | None] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        self.logins.append(request.headers.get("Authorization"))
        if request.path == "/elsewhere":
            return web.Response(body=PNG, content_type="image/png")
        headers = {"Content-Type": self.content_type} | ({"Location": self.location} if self.location else {})
        return web.Response(status=self.status, body=self.body, headers=headers)

    @property
    def settings(self) -> TwilioSettings:
        return TwilioSettings(ACCOUNT, "token", api_base=self.url)

    async def fetch(self, path: str = PATH, *, allowed: Callable[[str, str], bool] | None = None, **more: float):
        url = path if path.startswith("http") else self.url + path
        return await twilio_media.fetch(self.settings, url, peer_allowed=allowed, **more)


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    made = Provider()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


async def test_a_picture_comes_with_our_login(provider: Provider) -> None:
    found = await provider.fetch()
    assert (found.name, found.content_type, found.content) == ("33333333.png", "image/png", PNG)
    assert provider.logins == ["Basic " + "QUMx" + provider.logins[0][10:]]  # type: ignore[index]
    named = await provider.fetch("https://api.twilio.com" + PATH)  # told under the provider's own name
    assert named.content == PNG


@pytest.mark.parametrize(
    ("body", "claimed", "told"),
    [
        (b"\xff\xd8\xff\xe0", "application/octet-stream", "image/jpeg"),
        (b"GIF89a....", "image/gif", "image/gif"),
        (b"RIFF0000WEBP", "x", "image/webp"),
        (b"<svg onload=alert(1)>", "image/svg+xml", "application/octet-stream"),
        (b"<html>", "image/png", "application/octet-stream"),
        (b"%PDF-1.7", "application/pdf; x=y", "application/pdf"),
        (b"BEGIN:VCARD", "text/vcard", "text/vcard"),
        (b"", "te xt/<script>", "application/octet-stream"),
    ],
)
def test_bytes_prove_what_a_file_is(body: bytes, claimed: str, told: str) -> None:
    assert twilio_media.proven_type(body, claimed) == told


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "https://example.com" + PATH,
        "/2010-04-01/Accounts/AC" + "9" * 32 + f"/Messages/MM{'2' * 32}/Media/ME{'3' * 32}",
        f"/2010-04-01/Accounts/{ACCOUNT}/Calls.json",
        PATH + "/../../Keys.json",
    ],
)
async def test_nothing_but_our_own_media_is_asked_for(provider: Provider, url: str) -> None:
    with pytest.raises(ContentRejected):
        await provider.fetch(url)
    assert provider.logins == []


@pytest.mark.parametrize(
    ("status", "error"), [(401, Misconfigured), (404, Gone), (429, Throttled), (500, Unavailable), (503, Unavailable)]
)
async def test_what_the_provider_answers(provider: Provider, status: int, error: type[ChannelError]) -> None:
    provider.status = status
    with pytest.raises(error):
        await provider.fetch()


async def test_too_large_is_refused_told_or_not(provider: Provider) -> None:
    provider.body = b"x" * (twilio_media.LARGEST + 1)
    with pytest.raises(ContentRejected) as refused:
        await provider.fetch()
    assert refused.value.code == "too_large"


async def test_a_redirect_within_the_provider_is_followed(provider: Provider) -> None:
    provider.status, provider.location = 307, "/elsewhere"
    assert (await provider.fetch()).content == PNG


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.2:1/x", "https://127.0.0.2:1/x", "https://[::1]/x", "http://example.com/x", "file:///etc/passwd"],
)
async def test_a_redirect_into_the_house_is_not_followed(provider: Provider, target: str) -> None:
    provider.status, provider.location = 302, target
    with pytest.raises(ContentRejected) as refused:
        await provider.fetch(allowed=lambda host, address: False)
    assert refused.value.code == "redirect"
    assert len(provider.logins) == 1


async def test_a_name_that_leads_into_the_house_is_not_connected(provider: Provider) -> None:
    provider.status, provider.location = 302, "https://localhost:1/x"
    asked: list[tuple[str, str]] = []

    def allowed(host: str, address: str) -> bool:
        asked.append((host, address))
        return False

    with pytest.raises(Unavailable):
        await provider.fetch(allowed=allowed)
    assert asked
    assert {host for host, _ in asked} == {"localhost"}


async def test_redirects_end(provider: Provider) -> None:
    provider.status, provider.location = 302, PATH
    with pytest.raises(ContentRejected):
        await provider.fetch()
