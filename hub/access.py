"""Getting in by other ways than a password alone: the second factor, invitations and resets by link."""

from __future__ import annotations

import json
from dataclasses import dataclass

from aiohttp import web
from sqlmodel import select

from crm_core import user_access, users
from crm_core.addresses import find_email
from crm_core.db import Tx
from crm_core.errors import Invalid
from crm_core.texts import Text
from crm_core.user_access import RESET
from crm_core.users import User
from hub import totp
from hub.desktop.render import render
from hub.middleware import refuse_other_origin, retry_sentence
from hub.passwords import hash_password
from hub.redis_ports import RedisAttempts
from hub.sealing import Unsealable
from hub.sessions import let_in
from hub.settings import Settings
from hub.user_mail import link_of
from hub.web import PUBLIC, Route, now_of, remote_of, runtime_of

CODE, TOTP, SETUP = "login-code", "totp", "login-setup"  # purposes of sealed texts
CODE_S, SETUP_S = 300, 900
FORGOT_PER_ADDRESS, FORGOT_WINDOW_S = 10, 3600


@dataclass(frozen=True, slots=True)
class CodePage:
    """Asks for the code of the authenticator app, or a recovery code."""

    ticket: str
    error: str


@dataclass(frozen=True, slots=True)
class ForgotPage:
    """Asks whose password is forgotten. The answer is the same whether or not there is such a user."""

    done: bool
    error: str


@dataclass(frozen=True, slots=True)
class AccountPage:
    """Asks for a new password; `login` is empty when the link does not work any more."""

    login: str
    invited: bool
    action: str
    errors: dict[str, str]
    done: bool


async def ask_code(
    request: web.Request, user: User, *, next_page: str, error: str = "", status: int = 200
) -> web.Response:
    """The password was right; a sealed ticket says so, for five minutes."""
    ends = int(now_of(request).timestamp()) + CODE_S
    ticket = runtime_of(request).sealer.seal(json.dumps([user.id, user.version, ends, next_page]), purpose=CODE)
    return await render(request, "login_code.html", CodePage(ticket, error), status=status)


@dataclass(frozen=True, slots=True)
class SetupPage:
    """A second factor set up before the first log-in with it: the key to scan or type; then the recovery codes, once."""

    ticket: str
    secret: str  # in groups of four
    address: str
    picture: str
    codes: list[str]
    next: str
    error: str


def must_have_factor(settings: Settings, user: User) -> bool:
    """True when the deployment asks users of one of their roles for a second factor."""
    return bool(settings.second_factor & set(user.roles))


async def ask_setup(
    request: web.Request, user: User, *, next_page: str, secret: str = "", error: str = ""
) -> web.Response:
    """The password was right, but alone it does not let this user in: set a second factor up. There is no session yet."""
    secret, ends = secret or totp.new_secret(), int(now_of(request).timestamp()) + SETUP_S
    ticket = runtime_of(request).sealer.seal(
        json.dumps([user.id, user.version, ends, next_page, secret]), purpose=SETUP
    )
    address = totp.address(secret, login=user.login, issuer="Hub")
    page = SetupPage(ticket, totp.in_groups(secret), address, totp.picture(address), [], "", error)
    return await render(request, "login_setup.html", page, status=422 if error else 200)


async def set_up(request: web.Request) -> web.StreamResponse:
    """POST /login/second: the first code switches the factor on and opens the session."""
    refuse_other_origin(request)
    form, runtime, now = await request.post(), runtime_of(request), now_of(request)
    try:
        sealed = runtime.sealer.unseal(str(form.get("ticket", "")), purpose=SETUP)
        user_id, version, ends, next_page, secret = json.loads(sealed)
    except (Unsealable, ValueError) as error:
        raise web.HTTPSeeOther("/login") from error
    subjects = [f"code:{user_id}", f"address:{remote_of(request)}"]
    async with runtime.db.reading() as tx:
        user = await users.get(tx, user_id)
        blocked = await users.login_blocked_until(tx, subjects, now=now)
    if ends < int(now.timestamp()) or user.version != version or user.disabled_at is not None or user.totp_sealed:
        raise web.HTTPSeeOther("/login")
    if blocked is not None:
        return await ask_setup(request, user, next_page=next_page, secret=secret, error=retry_sentence(blocked, now))
    step = totp.step_of(secret, str(form.get("code", ""))[:20], now, after=0)
    if step is None:
        await runtime.db.write(lambda tx: users.note_login_failure(tx, subjects, now=now))
        told = Text("This is not the code of this moment. Is the clock of your phone right?")
        return await ask_setup(request, user, next_page=next_page, secret=secret, error=told)
    codes = totp.recovery_codes()
    kept, plain = runtime.sealer.seal(secret, purpose=TOTP), [totp.plain_recovery(code) for code in codes]
    await runtime.db.write(
        lambda tx: user_access.set_factor(tx, user, sealed=kept, step=step, recovery=plain, session=None, now=now)
    )
    opened = await let_in(request, user, [*subjects, f"login:{user.login}"], next_page=next_page)
    page = SetupPage("", "", "", "", codes, opened.headers["Location"], "")
    answer = await render(request, "login_setup.html", page)
    answer.cookies.update(opened.cookies)
    return answer


async def check_code(request: web.Request) -> web.StreamResponse:
    """POST /login/code: a code that was not used before, or a recovery code, opens the session."""
    refuse_other_origin(request)
    form = await request.post()
    code, runtime, now = str(form.get("code", ""))[:40].strip(), runtime_of(request), now_of(request)
    try:
        user_id, version, ends, next_page = json.loads(runtime.sealer.unseal(str(form.get("ticket", "")), purpose=CODE))
    except (Unsealable, ValueError) as error:
        raise web.HTTPSeeOther("/login") from error
    subjects = [f"code:{user_id}", f"address:{remote_of(request)}"]
    async with runtime.db.reading() as tx:
        user = await users.get(tx, user_id)
        blocked = await users.login_blocked_until(tx, subjects, now=now)
        last = await user_access.last_step(tx, user_id)
    if (
        ends < int(now.timestamp())
        or user.version != version
        or user.disabled_at is not None
        or user.totp_sealed is None
    ):
        raise web.HTTPSeeOther("/login")
    if blocked is not None:
        return await ask_code(request, user, next_page=next_page, error=retry_sentence(blocked, now), status=429)
    step = totp.step_of(runtime.sealer.unseal(user.totp_sealed, purpose=TOTP), code, now, after=last)

    async def unit(tx: Tx) -> bool:
        good = await (
            user_access.use_step(tx, user_id, step) if step is not None
            else user_access.use_recovery(tx, user_id, totp.plain_recovery(code), now=now)
        )  # fmt: skip
        if not good:
            await users.note_login_failure(tx, subjects, now=now)
        return bool(good)

    if not await runtime.db.write(unit):
        return await ask_code(
            request, user, next_page=next_page, error=Text("This code is wrong or was used before."), status=422
        )
    return await let_in(request, user, [*subjects, f"login:{user.login}"], next_page=next_page)


async def show_forgot(request: web.Request) -> web.StreamResponse:
    """GET /login/forgot."""
    return await render(request, "login_forgot.html", ForgotPage(done=False, error=""))


async def forgot(request: web.Request) -> web.StreamResponse:
    """POST /login/forgot: mail a link to whoever has this login or address; always the same answer."""
    refuse_other_origin(request)
    runtime, now = runtime_of(request), now_of(request)
    word = str((await request.post()).get("login", "")).strip().casefold()[:320]
    attempts = RedisAttempts(runtime.redis)
    wait_s = await attempts.allow(
        f"forgot:{remote_of(request)}", limit=FORGOT_PER_ADDRESS, window_s=FORGOT_WINDOW_S, now=now
    )
    if wait_s:
        page = ForgotPage(done=False, error=Text("Too many tries from here. Wait an hour."))
        return await render(request, "login_forgot.html", page, status=429)

    async def unit(tx: Tx) -> None:
        user = await users.find_login(tx, word)
        if user is None and (address := find_email(word)) is not None:
            found = await tx.all(select(User).where(User.email == address.value).limit(2))
            user = found[0] if len(found) == 1 else None  # an address of several people opens nobody's door
        if (
            user is not None
            and user.email
            and user.disabled_at is None
            and await user_access.may_ask_reset(tx, user, now=now)
        ):
            await user_access.send_link(tx, user, RESET, actor="", now=now)

    await runtime.db.write(unit)
    return await render(request, "login_forgot.html", ForgotPage(done=True, error=""))


async def show_account(request: web.Request) -> web.StreamResponse:
    """GET /account/{token}: the form. Changes nothing: mail scanners open every link."""
    return await _account(request)


async def _account(request: web.Request, *, error: Invalid | None = None, done: bool = False) -> web.Response:
    runtime, now = runtime_of(request), now_of(request)
    link_id = link_of(runtime.sealer, request.match_info["token"])
    async with runtime.db.reading() as tx:
        found = await user_access.find_link(tx, link_id, now=now) if link_id else None
    page = AccountPage(
        found[1].login if found is not None else "", found is not None and found[0].purpose != RESET, request.path,
        error.fields if error is not None else {}, done,
    )  # fmt: skip
    status = 422 if error is not None else 200 if found is not None or done else 410
    headers = {"Referrer-Policy": "no-referrer", "X-Robots-Tag": "noindex"}
    return await render(request, "account.html", page, status=status, headers=headers)


async def set_password(request: web.Request) -> web.StreamResponse:
    """POST /account/{token}: the new password, once."""
    refuse_other_origin(request)
    runtime, now, form = runtime_of(request), now_of(request), await request.post()
    link_id = link_of(runtime.sealer, request.match_info["token"])
    password = str(form.get("password", ""))
    try:
        if password != str(form.get("again", "")):
            raise Invalid("The two passwords differ.", fields={"again": "The two passwords differ."})
        hashed = await hash_password(password)
        await runtime.db.write(lambda tx: user_access.use_link(tx, link_id, password_hash=hashed, now=now))
    except Invalid as error:
        return await _account(request, error=error)
    return await _account(request, done=True)


routes = [
    Route("POST", "/login/code", check_code, access=PUBLIC, body_limit=16 * 1024),
    Route("POST", "/login/second", set_up, access=PUBLIC, body_limit=16 * 1024),
    Route("GET", "/login/forgot", show_forgot, access=PUBLIC),
    Route("POST", "/login/forgot", forgot, access=PUBLIC, body_limit=16 * 1024),
    Route("GET", "/account/{token}", show_account, access=PUBLIC),
    Route("POST", "/account/{token}", set_password, access=PUBLIC, body_limit=16 * 1024),
]
