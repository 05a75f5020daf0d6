"""REST: Queues and their Members."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from hub.sandbox.calls import Redirect
from hub.sandbox.clock import rfc2822
from hub.sandbox.machine import Exchange
from hub.sandbox.queues import Member, Queue
from hub.sandbox.rest import (
    PAGING,
    Form,
    RestError,
    account_uri,
    not_found,
    one_of,
    page,
    route,
    text,
    web_url,
    whole,
)
from hub.sandbox.twiml import Source


def queue_json(exchange: Exchange, queue: Queue) -> dict[str, Any]:
    uri = account_uri(exchange, f"/Queues/{queue.sid}")
    return {
        "sid": queue.sid,
        "account_sid": exchange.world.config.account_sid,
        "friendly_name": queue.friendly_name,
        "current_size": len(queue.members),
        "max_size": queue.max_size,
        "average_wait_time": exchange.queues.average_wait_s(queue),
        "date_created": rfc2822(queue.created_at),
        "date_updated": rfc2822(queue.updated_at),
        "uri": uri + ".json",
        "subresource_uris": {"members": f"{uri}/Members.json"},
    }


def member_json(exchange: Exchange, queue: Queue, member: Member) -> dict[str, Any]:
    sid = member.leg.call.sid
    return {
        "call_sid": sid,
        "queue_sid": queue.sid,
        "date_enqueued": rfc2822(member.entered_at),
        "position": queue.members.index(member) + 1 if member in queue.members else 0,
        "wait_time": exchange.queues.wait_s(member),
        "uri": account_uri(exchange, f"/Queues/{queue.sid}/Members/{sid}.json"),
    }


def find_queue(exchange: Exchange, request: web.Request) -> Queue:
    queue = exchange.queues.by_sid.get(request.match_info["queue"])
    if queue is None:
        raise not_found(request)
    return queue


async def list_queues(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    return page(exchange, request, "queues", list(reversed(exchange.queues.by_sid.values())), queue_json)


async def create_queue(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    name = text(form, "FriendlyName")
    if not name or len(name) > 64:
        raise RestError(400, 22000, "FriendlyName of 1 to 64 characters is required")
    if exchange.queues.named(name) is not None:
        raise RestError(400, 22003, "A queue with this FriendlyName already exists")
    queue = exchange.queues.create(name, whole(form, "MaxSize", 1000, 1, 5000))
    return web.json_response(queue_json(exchange, queue), status=201)


async def fetch_queue(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    return web.json_response(queue_json(exchange, find_queue(exchange, request)))


async def update_queue(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    queue = find_queue(exchange, request)
    queue.max_size = whole(form, "MaxSize", queue.max_size, 1, 5000)
    queue.friendly_name = text(form, "FriendlyName") or queue.friendly_name
    queue.updated_at = exchange.world.clock.now()
    return web.json_response(queue_json(exchange, queue))


async def delete_queue(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    queue = find_queue(exchange, request)
    if queue.members:
        raise RestError(400, 22002, "A queue that is not empty cannot be deleted")
    del exchange.queues.by_sid[queue.sid]
    return web.Response(status=204)


def find_member(exchange: Exchange, request: web.Request) -> tuple[Queue, Member]:
    """A member by call SID, or the first in line by the name Front."""
    queue, name = find_queue(exchange, request), request.match_info["member"]
    members = queue.members[:1] if name == "Front" else [each for each in queue.members if each.leg.call.sid == name]
    if not members:
        raise not_found(request)
    return queue, members[0]


async def list_members(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    queue = find_queue(exchange, request)

    def shape(exchange: Exchange, member: Member) -> dict[str, Any]:
        return member_json(exchange, queue, member)

    return page(exchange, request, "queue_members", list(queue.members), shape)


async def fetch_member(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    return web.json_response(member_json(exchange, *find_member(exchange, request)))


async def update_member(exchange: Exchange, request: web.Request, form: Form) -> web.Response:
    """Take a member out of the queue and run a URL: the enqueue action hears `redirected`."""
    url = web_url(form, "Url")
    if not url:
        raise RestError(400, 21205, "Url is required")
    queue, member = find_member(exchange, request)
    shown = member_json(exchange, queue, member)
    exchange.queues.leave(queue, member)
    member.leg.interrupt(Redirect(Source(url, one_of(form, "Method", ("GET", "POST"), default="POST"))))
    return web.json_response(shown)


def routes(exchange: Exchange) -> list[web.AbstractRouteDef]:
    base = "/2010-04-01/Accounts/{account}"
    queues, queue = base + "/Queues.json", base + "/Queues/{queue}"
    member = queue + "/Members/{member}.json"
    return [
        web.get(queues, route(exchange, list_queues, fields=PAGING)),
        web.post(queues, route(exchange, create_queue, fields=("FriendlyName", "MaxSize"))),
        web.get(queue + ".json", route(exchange, fetch_queue)),
        web.post(queue + ".json", route(exchange, update_queue, fields=("FriendlyName", "MaxSize"))),
        web.delete(queue + ".json", route(exchange, delete_queue)),
        web.get(queue + "/Members.json", route(exchange, list_members, fields=PAGING)),
        web.get(member, route(exchange, fetch_member)),
        web.post(member, route(exchange, update_member, fields=("Url", "Method"))),
    ]
