"""A user's own second factor: set up with an authenticator app, recovery codes, switched off with the password."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from crm_core import user_access
from crm_core.errors import HubError, Invalid
from crm_core.texts import Text
from hub import totp
from hub.access import TOTP, must_have_factor
from hub.desktop.render import render
from hub.passwords import right_password
from hub.sealing import Unsealable
from hub.web import LOGGED_IN, Route, now_of, runtime_of, session_of, user_of

SETUP = "totp-setup"


@dataclass(frozen=True, slots=True)
class SecondPage:
    """Off: a fresh secret to scan or type, sealed in `ticket`. On: a button that switches it off. `codes` are shown once."""

    on: bool
    secret: str
    address: str
    picture: str
    ticket: str
    codes: list[str]
    errors: dict[str, str]
    error: str
    required: bool  # by the deployment: it cannot be switched off


async def show(request: web.Request) -> web.StreamResponse:
    """The page."""
    return await _page(request)


async def _page(
    request: web.Request, *, secret: str = "", codes: list[str] | None = None, error: HubError | None = None
) -> web.Response:
    user, runtime = user_of(request), runtime_of(request)
    on = user.totp_sealed is not None or bool(codes)
    secret = "" if on else secret or totp.new_secret()
    address = totp.address(secret, login=user.login, issuer="Hub") if secret else ""
    page = SecondPage(
        on, totp.in_groups(secret), address, totp.picture(address) if address else "",
        runtime.sealer.seal(f"{user.id} {secret}", purpose=SETUP) if secret else "", codes or [],
        error.fields if isinstance(error, Invalid) else {}, error.message if error else "",
        must_have_factor(runtime.settings, user),
    )  # fmt: skip
    return await render(request, "second_factor.html", page, status=422 if error else 200)


async def save(request: web.Request) -> web.StreamResponse:
    """Switch it on with a first code, or off with the password."""
    form = await request.post()
    user, now, runtime = user_of(request), now_of(request), runtime_of(request)
    if form.get("act") == "off":
        if must_have_factor(runtime.settings, user):
            return await _page(request, error=HubError("Your role must have a second factor; it stays on."))
        if not await right_password(user.password_hash, str(form.get("password", ""))):
            sentence = Text("The password is wrong.")
            return await _page(request, error=Invalid("The password is wrong.", fields={"password": sentence}))
        await runtime.db.write(lambda tx: user_access.drop_factor(tx, user, actor=user.id, now=now))
        raise web.HTTPSeeOther("/login?next=/desk/profile/second")
    if user.totp_sealed is not None:
        raise web.HTTPSeeOther("/desk/profile/second")
    try:
        whose, secret = runtime.sealer.unseal(str(form.get("ticket", "")), purpose=SETUP).split(" ")
    except (Unsealable, ValueError):
        return await _page(request)
    step = totp.step_of(secret, str(form.get("code", ""))[:20], now, after=0)
    if whose != user.id or step is None:
        told = Text("This is not the code of this moment. Is the clock of your phone right?")
        return await _page(request, secret=secret, error=Invalid("This code is wrong.", fields={"code": told}))
    codes, session = totp.recovery_codes(), session_of(request)
    sealed = runtime.sealer.seal(secret, purpose=TOTP)
    plain = [totp.plain_recovery(code) for code in codes]
    await runtime.db.write(
        lambda tx: user_access.set_factor(tx, user, sealed=sealed, step=step, recovery=plain, session=session, now=now)
    )
    return await _page(request, codes=codes)


routes = [
    Route("GET", "/desk/profile/second", show, access=LOGGED_IN),
    Route("POST", "/desk/profile/second", save, access=LOGGED_IN),
]
