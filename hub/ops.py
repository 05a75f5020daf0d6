"""For operators and load balancers: is the process alive, is it ready, and its figures."""

from __future__ import annotations

import asyncio

from aiohttp import web
from redis.exceptions import RedisError
from sqlmodel import select

from crm_core.db import DatabaseUnavailable
from crm_core.leases import Lease
from hub.runtime import REDIS_TIMEOUT_S
from hub.web import PUBLIC, Route, runtime_of


async def healthz(request: web.Request) -> web.StreamResponse:
    """200 while the process answers at all."""
    return web.json_response({"status": "ok"})


async def readyz(request: web.Request) -> web.StreamResponse:
    """200 when the database answers. Redis is reported, but a hub without it still takes everything in."""
    runtime = runtime_of(request)
    try:
        async with runtime.db.reading() as tx:
            await tx.one(select(Lease.name).limit(1))
    except (DatabaseUnavailable, OSError) as error:
        return web.json_response({"status": "unready", "database": str(error)}, status=503)
    try:
        async with asyncio.timeout(REDIS_TIMEOUT_S):
            await runtime.redis.ping()
        redis = "ok"
    except (RedisError, OSError, TimeoutError) as error:
        redis = f"unreachable: {type(error).__name__}"
    return web.json_response({"status": "ready", "database": "ok", "redis": redis})


async def metrics(request: web.Request) -> web.StreamResponse:
    """Prometheus text."""
    body, content_type = await runtime_of(request).metrics.render()
    return web.Response(body=body, headers={"Content-Type": content_type})


routes = [
    Route("GET", "/healthz", healthz, access=PUBLIC),
    Route("GET", "/readyz", readyz, access=PUBLIC),
    Route("GET", "/metrics", metrics, access=PUBLIC),
]
