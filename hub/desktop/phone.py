"""What the browser phone asks of the hub: its token, the call there is, and the agent's acts on it. JSON, but for offers.

The answers are those that static/phone/api.js documents. Every act is a function of routing/desk.py.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from sqlmodel import select

from campaigns import lists
from channels.errors import ChannelError, Misconfigured
from crm_core import accounts, addresses, calls, contacts
from crm_core.accounts import ChannelAccount
from crm_core.calls import CallLeg
from crm_core.consent import Purpose
from crm_core.conversations import Conversation
from crm_core.db import Tx
from crm_core.errors import Conflict, HubError, Invalid, NotFound, Refused
from crm_core.interactions import Interaction
from hub import phone_devices
from hub.desktop import figures
from hub.desktop.render import takes_work
from hub.desktop.status import activity_part
from hub.desktop.templating import reader_of, told
from hub.desktop.work import ID, WORKERS
from hub.desktop.work_actions import refusal
from hub.problems import status_of
from hub.web import Route, now_of, runtime_of, user_of
from routing import agent_phones, desk, gate, sound_quality
from routing.agents import Activity
from routing.queues import QueueEntry

TOKEN_S = 3600


def problem(request: web.Request, error: HubError, *, status: int, code: str) -> web.Response:
    """A refusal as the phone reads it: a code that its page has words for, and the server's sentence."""
    sentence = refusal(reader_of(request), error) if isinstance(error, Refused) else told(request, error)
    return web.json_response(
        {"title": type(error).__name__, "status": status, "code": code, "detail": sentence},
        status=status,
        content_type="application/problem+json",
    )


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        given = await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Invalid("This is not JSON.") from error
    if not isinstance(given, dict):
        raise Invalid("This is not a JSON object.")
    return given


async def token(request: web.Request) -> web.StreamResponse:
    """A token for this user's line, and which line it is."""
    runtime, user = runtime_of(request), user_of(request)
    twilio = runtime.channels.twilio
    try:
        voice = runtime.channels.voice()
        granted = voice.phone_token(user.id, ttl_s=TOKEN_S)
    except (ChannelError, Misconfigured) as error:
        return web.json_response(
            {"title": "off", "status": 503, "code": "not_ready", "detail": reader_of(request).tell(error.message)},
            status=503,
            content_type="application/problem+json",
        )
    line: dict[str, str] = {"kind": "twilio"}
    if runtime.settings.sandbox and twilio is not None and twilio.api_base:
        origin = urlsplit(twilio.api_base)
        line = {"kind": "sandbox", "url": f"{'wss' if origin.scheme == 'https' else 'ws'}://{origin.netloc}/line"}
    return web.json_response(
        {"token": granted, "line": line, "identity": user.id, "ttl_s": TOKEN_S}, headers={"Cache-Control": "no-store"}
    )


def _device(request: web.Request) -> str:
    return request.headers.get("X-Phone-Device", "")[:64]


async def state(request: web.Request) -> web.StreamResponse:
    """The call that this agent is in, or null. The tab puts itself back into it; a browser on another machine only shows it
    until it is asked to `take` it.
    """
    user, now, runtime = user_of(request), now_of(request), runtime_of(request)

    async def unit(tx: Tx) -> tuple[dict[str, Any] | None, CallLeg | None]:
        found = await desk.rejoin(tx, agent_id=user.id, now=now)
        if found is None:
            return None, None
        legs = await calls.list_legs(tx, found["interaction_id"])
        return found, next((leg for leg in reversed(legs) if leg.user_id == user.id), None)

    found, leg = await runtime.db.write(unit)
    if found is not None and found["rejoin_params"]:
        call_id, device = found["interaction_id"], _device(request)
        if "take" in request.query:
            await phone_devices.take(runtime.redis, call_id, user.id, device)
        elif not await phone_devices.may_join(runtime.redis, call_id, user.id, device, leg=leg, now=now):
            found = {**found, "rejoin_params": None, "elsewhere": True}
    if found is not None:
        customer = found["customer"]
        number = addresses.shown(customer["address"]) if customer["address"] else ""
        name = customer["name"] or number or reader_of(request).gettext("Number withheld")
        found = {**found, "customer": {**customer, "name": name, "number": number if customer["name"] else ""}}
    return web.json_response({"call": found}, headers={"Cache-Control": "no-store"})


async def accept(request: web.Request) -> web.StreamResponse:
    """Accept an offer. Live work: the nonce with which the tab connects. Written work: its conversation opens."""
    offer_id, user, now = request.match_info["offer"], user_of(request), now_of(request)

    async def unit(tx: Tx) -> tuple[Any, QueueEntry, Interaction]:
        offer = await desk.accept(tx, offer_id, agent_id=user.id, now=now)
        entry = await tx.one(select(QueueEntry).where(QueueEntry.id == offer.entry_id))
        first = await tx.one(select(Interaction).where(Interaction.id == entry.interaction_id)) if entry else None
        if entry is None or first is None:
            raise Conflict("This offer is gone.")
        return offer, entry, first

    as_json = "json" in request.headers.get("Accept", "")
    try:
        offer, entry, first = await runtime_of(request).db.write(unit)
    except HubError as error:
        if as_json:
            return problem(request, error, status=409, code="offer_gone")
        raise
    if not as_json:
        target = {"path": f"/desk/work/{entry.conversation_id}", "target": "#page"}
        return web.Response(status=200, headers={"HX-Location": json.dumps(target)})
    await phone_devices.take(runtime_of(request).redis, first.id, user.id, _device(request))
    async with runtime_of(request).db.reading() as tx:
        by_phone = bool(await agent_phones.number_of(tx, user.id))
    name = await _contact_name(request, entry.contact_id)
    number = first.from_address if first.direction == "inbound" else first.to_address
    return web.json_response(
        {
            "nonce": offer.nonce,
            "connect": None if by_phone else {"offer": offer.id, "nonce": offer.nonce},
            "call": {
                "interaction_id": first.id,
                "customer": {
                    "name": name or addresses.shown(number),
                    "number": addresses.shown(number) if name else "",
                },
                "since": now.isoformat(),
            },
        }
    )


async def _contact_name(request: web.Request, contact_id: str | None) -> str:
    """The name for the call bar; empty for nobody known."""
    if not contact_id:
        return ""
    async with runtime_of(request).db.reading() as tx:
        contact = await contacts.find(tx, contact_id)
    return contact.name if contact else ""


async def dial(request: web.Request) -> web.StreamResponse:
    """Call somebody: a number typed or clicked, a promised callback, an enquiry, the contact of a call list."""
    given = await _body(request)
    user, now = user_of(request), now_of(request)

    async def unit(tx: Tx) -> Interaction:
        if given.get("list"):
            return await _dial_of_list(tx, str(given["list"]), user.id, now)
        account = await _number_of(tx, str(given.get("conversation", "")))
        target = addresses.phone(str(given.get("to", "")), country=account.country)
        return await desk.start_call(
            tx, agent_id=user.id, address=target, purpose=await _purpose(tx, given), account_id=account.id, now=now,
            contact_id=str(given.get("contact") or "") or None, callback_id=str(given.get("callback") or "") or None,
        )  # fmt: skip

    db = runtime_of(request).db
    try:
        call = await db.write(unit)
    except Refused as error:
        refused = error
        await db.write(lambda tx: _note_refusal(tx, refused, str(given.get("list") or ""), user.id, now))
        return problem(request, error, status=409, code="refused")
    except HubError as error:
        return problem(request, error, status=status_of(error), code="server")
    await phone_devices.take(runtime_of(request).redis, call.id, user.id, _device(request))
    number, name = addresses.shown(call.to_address), await _contact_name(request, call.contact_id)
    async with db.reading() as tx:
        by_phone = bool(await agent_phones.number_of(tx, user.id))
    return web.json_response(
        {
            "connect": None if by_phone else {"call": call.id, "nonce": str(call.data["nonce"])},
            "call": {
                "interaction_id": call.id,
                "customer": {"name": name or number, "number": number if name else ""},
                "since": now.isoformat(),
            },
        }
    )


async def _purpose(tx: Tx, given: dict[str, Any]) -> Purpose:
    """Why they are called: a promise, an enquiry that the agent holds, or service."""
    if given.get("callback"):
        return Purpose.REQUESTED_CALLBACK
    if given.get("entry"):
        entry = await tx.one(select(QueueEntry).where(QueueEntry.id == str(given["entry"])))
        if entry is not None and entry.kind in ("webform", "callback"):
            return Purpose.REQUESTED_CALLBACK  # they left their number to be called
    return Purpose.SERVICE


async def _dial_of_list(tx: Tx, list_entry_id: str, user_id: str, now: datetime) -> Interaction:
    """The number that this telemarketer has in hand."""
    row, entry = await lists.before_dial(tx, list_entry_id, user_id=user_id, now=now)
    call = await desk.start_call(
        tx, agent_id=user_id, address=entry.address, purpose=Purpose(row.purpose), account_id=row.account_id,
        contact_id=entry.contact_id, list_entry_id=entry.id, now=now,
    )  # fmt: skip
    await lists.dial_started(tx, entry.id, user_id=user_id, interaction_id=call.id, now=now)
    return call


async def _note_refusal(tx: Tx, refused: Refused, list_entry_id: str, user_id: str, now: datetime) -> None:
    await gate.record_refusal(tx, refused, now=now)
    if list_entry_id:
        until = refused.data.get("until")
        await lists.refused(
            tx, list_entry_id, user_id=user_id, rule=refused.rule, reason=refused.message,
            until=datetime.fromisoformat(until) if isinstance(until, str) else until, now=now,
        )  # fmt: skip


async def _number_of(tx: Tx, conversation_id: str) -> ChannelAccount:
    """The number of ours that a call shows: the one that they called, else the first that is on."""
    if conversation_id:
        found = await tx.one(
            select(ChannelAccount)
            .join(Conversation, Conversation.account_id == ChannelAccount.id)  # type: ignore[arg-type]
            .where(Conversation.id == conversation_id, ChannelAccount.channel == "voice")
        )
        if found is not None and found.enabled:
            return found
    numbers = [account for account in await accounts.list_channel(tx, "voice") if account.enabled]
    if not numbers:
        raise Invalid("There is no phone number to call from.")
    return numbers[0]


async def act(request: web.Request) -> web.StreamResponse:
    """Hold, mute or end the call."""
    call_id, action = request.match_info["call"], request.match_info["action"]
    given = await _body(request)
    user, now = user_of(request), now_of(request)

    async def unit(tx: Tx) -> None:
        if action == "hold":
            await desk.hold(tx, call_id, agent_id=user.id, on=given.get("held") is True, now=now)
        elif action == "mute":
            await desk.mute(tx, call_id, agent_id=user.id, on=given.get("muted") is True, now=now)
        else:
            await desk.hang_up(tx, call_id, agent_id=user.id, now=now)

    try:
        await runtime_of(request).db.write(unit)
    except HubError as error:
        return problem(request, error, status=409, code="no_call")
    return web.json_response({})


async def quality(request: web.Request) -> web.StreamResponse:
    """How the call sounds, or sounded, in this agent's browser."""
    call_id, given = request.match_info["call"], await _body(request)
    user, now = user_of(request), now_of(request)
    try:
        await runtime_of(request).db.write(
            lambda tx: sound_quality.report(tx, call_id, given, user_id=user.id, now=now)
        )
    except HubError as error:
        return problem(request, error, status=404 if isinstance(error, NotFound) else 409, code="no_call")
    return web.Response(status=204)


async def set_activity(request: web.Request) -> web.StreamResponse:
    """Available, paused with a reason, offline. Asked for during work, it takes effect when that ends."""
    as_json = request.content_type == "application/json"
    given = await _body(request) if as_json else dict(await request.post())
    user, now = user_of(request), now_of(request)
    try:
        wanted = Activity(str(given.get("activity", "")))
    except ValueError as error:
        raise Invalid("There is no such activity.") from error
    reason = str(given.get("reason", ""))[:40]
    await runtime_of(request).db.write(
        lambda tx: desk.set_activity(tx, user.id, wanted, reason=reason, cause="agent", now=now)
    )
    if not as_json:
        return await activity_part(request)
    async with runtime_of(request).db.reading() as tx:
        agent = await figures.agent_now(tx, user.id)
    return web.json_response({"activity": agent.word if agent else "offline"})


async def heartbeat(request: web.Request) -> web.StreamResponse:
    """This agent's browser is here; `voice_ready` when calls can be taken in it."""
    given = await _body(request)
    user, now = user_of(request), now_of(request)
    if takes_work(user):
        ready = given.get("voice_ready") is True
        await runtime_of(request).db.write(lambda tx: desk.heartbeat(tx, user.id, voice_ready=ready, now=now))
    return web.Response(status=204)


routes = [
    Route("GET", "/desk/phone/token", token, roles=WORKERS),
    Route("GET", "/desk/phone/state", state, roles=WORKERS),
    Route("POST", f"/desk/offers/{{offer:{ID}}}/accept", accept, roles=WORKERS),
    Route("POST", "/desk/calls", dial, roles=WORKERS),
    Route("POST", f"/desk/calls/{{call:{ID}}}/{{action:hold|mute|end}}", act, roles=WORKERS),
    Route("POST", f"/desk/calls/{{call:{ID}}}/quality", quality, roles=WORKERS, body_limit=16 * 1024),
    Route("POST", "/desk/activity", set_activity, roles=WORKERS),
    Route("POST", "/desk/heartbeat", heartbeat, roles=WORKERS),
]
