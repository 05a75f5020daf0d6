"""Giving a call away: the dialog of the call bar with colleagues, queues and a number, and the act itself."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from crm_core import accounts, addresses
from crm_core.db import Tx
from crm_core.errors import Conflict, HubError, Invalid, Refused
from crm_core.interactions import Interaction
from hub.desktop.templating import part, reader_of, respond, told
from hub.desktop.work import WORKERS
from hub.desktop.work_actions import refusal
from hub.web import Route, now_of, runtime_of, user_of
from routing import gate, transfers
from routing.transfers import Targets


@dataclass(frozen=True, slots=True)
class TransferDialog:
    """What the dialog shows; `call` empty: there is nothing to give away."""

    call: str
    targets: Targets
    query: str
    number: str
    note: str
    error: str


async def show(request: web.Request) -> web.StreamResponse:
    """The dialog, or its lists anew while somebody types a name."""
    return await _dialog(request, query=request.query.get("q", ""), rows="rows" in request.query)


async def _dialog(
    request: web.Request, *, query: str = "", number: str = "", note: str = "", error: str = "", rows: bool = False
) -> web.Response:
    user, now = user_of(request), now_of(request)
    async with runtime_of(request).db.reading() as tx:
        call = await transfers.find_mine(tx, user.id)
        targets = await transfers.list_targets(tx, user_id=user.id, now=now, query=query[:100])
    page = TransferDialog(call.id if call else "", targets, query, number, note, error)
    return part(request, "parts/transfer_rows.html" if rows else "parts/transfer.html", page)


async def give(request: web.Request) -> web.StreamResponse:
    """Give the call away: `to` is queue:ID, agent:ID or number."""
    form = {name: str(value).strip() for name, value in (await request.post()).items()}
    user, now = user_of(request), now_of(request)
    kind, _, target = form.get("to", "").partition(":")
    note, number = form.get("note", ""), form.get("number", "")

    async def unit(tx: Tx) -> None:
        call = await transfers.find_mine(tx, user.id)
        if call is None or call.id != form.get("call"):
            raise Conflict("There is no talk that could be given away.")
        await give_to(tx, call, kind=kind, target=number if kind == "number" else target, user_id=user.id, note=note)

    async def give_to(tx: Tx, call: Interaction, *, kind: str, target: str, user_id: str, note: str) -> None:
        if kind == "queue":
            await transfers.to_queue(tx, call.id, agent_id=user_id, queue_id=target, now=now, note=note)
        elif kind == "agent":
            await transfers.to_agent(tx, call.id, agent_id=user_id, to_agent_id=target, now=now, note=note)
        elif kind == "number":
            account = await accounts.get(tx, call.account_id)
            address = addresses.phone(target, country=account.country)
            await transfers.to_number(tx, call.id, agent_id=user_id, number=address, now=now, note=note)
        else:
            raise Invalid("Choose a queue, a colleague or a number.")

    db = runtime_of(request).db
    try:
        await db.write(unit)
    except Refused as error:
        refused = error
        await db.write(lambda tx: gate.record_refusal(tx, refused, now=now))
        return await _dialog(request, number=number, note=note, error=refusal(reader_of(request), error))
    except HubError as error:
        return await _dialog(request, number=number, note=note, error=told(request, error))
    return respond("", headers={"HX-Trigger": "transferred"})


routes = [
    Route("GET", "/desk/transfer", show, roles=WORKERS),
    Route("POST", "/desk/transfer", give, roles=WORKERS),
]
