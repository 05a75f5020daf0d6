"""The web process: every route with its statement of who may use it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import AsyncIterator

from aiohttp import web

from hub import auth, media, ops
from hub.api.routes import ROUTES as API
from hub.desktop.routes import ROUTES as DESKTOP
from hub.intake_deps import webhook_routes
from hub.keys import ROUTES, RUNTIME
from hub.log import get_logger
from hub.middleware import add_security_headers, errors_become_http, guarded
from hub.runtime import Runtime, running
from hub.settings import Settings
from hub.slow_clients import PatientRunner, let_streams_end
from hub.web import Route

log = get_logger(__name__)


def collect_routes(runtime: Runtime) -> list[Route]:
    """Every route of the hub."""
    return [*ops.routes, *auth.routes, *media.routes, *DESKTOP, *API, *webhook_routes(runtime)]


def build_app(runtime: Runtime) -> web.Application:
    """The application for one runtime; starts nothing."""
    app = web.Application(middlewares=[errors_become_http], client_max_size=32 * 1024 * 1024)
    app[RUNTIME] = runtime
    app[ROUTES] = collect_routes(runtime)
    for route in app[ROUTES]:
        app.router.add_route(route.method, route.path, guarded(route))
    app.on_response_prepare.append(add_security_headers(runtime))
    let_streams_end(app)
    return app


@contextlib.asynccontextmanager
async def serving(
    runtime: Runtime, *, host: str, port: int, reuse_port: bool = False
) -> AsyncIterator[tuple[web.AppRunner, int]]:
    """The application listening; gives (runner, port). Port 0 chooses a free one."""
    runner = PatientRunner(
        build_app(runtime),
        access_log=None,
        handle_signals=False,
        keepalive_timeout=75,
        shutdown_timeout=5,
        auto_decompress=False,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, reuse_port=reuse_port, backlog=1024)
        await site.start()
        yield runner, runner.addresses[0][1]
    finally:
        await runner.cleanup()


def spare_the_collector() -> None:
    """Let the garbage collector pass over what was loaded at the start: a walk through it stops every caller for 0.1 s."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


async def run_web(settings: Settings) -> int:
    """Serve until told to stop; the exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings) as runtime:
        try:
            async with serving(runtime, host=settings.host, port=settings.port, reuse_port=not settings.sandbox):
                spare_the_collector()
                log.info("listening", host=settings.host, port=settings.port)
                watch = asyncio.create_task(runtime.metrics.watch_loop())
                await stop.wait()
                watch.cancel()
        except OSError as error:
            sys.stderr.write(f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}.\n")
            return 1
    return 0
