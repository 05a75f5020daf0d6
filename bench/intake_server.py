"""The servers and writers of the benchmarks, each a process of its own: `hub URL [PORT]`, `poll URL`, `floor`, `bulk URL`."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web

from bench.intake_data import ACCOUNT_SID, ORIGIN, PATH, TOKEN
from channels.contract import RawRequest
from channels.twilio_api import TwilioSettings
from channels.voice import VoiceChannel
from crm_core.db import open_database
from crm_core.ids import new_id
from crm_core.touches import Direction, Touch
from hub.settings import Settings, read_settings
from hub.valkey import ensure_valkey

VOICE = VoiceChannel(TwilioSettings(ACCOUNT_SID, TOKEN))


async def listen(app: web.Application) -> None:
    """Serve for ever; the port is the first line."""
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=75, auto_decompress=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


def settings_for(url: str, folder: Path) -> Settings:
    """A hub with a provider that is never asked; on INTAKE_REDIS_URL, or a Valkey of its own."""
    redis_url = os.environ.get("INTAKE_REDIS_URL") or ensure_valkey(folder).url
    return read_settings(
        {
            "HUB_DATA_DIR": str(folder),
            "HUB_DATABASE_URL": url,
            "HUB_REDIS_URL": redis_url,
            "HUB_SECRET_KEY": "bench bench bench bench bench bench",
            "HUB_PUBLIC_URL": ORIGIN,
            "HUB_FAILPOINTS": os.environ.get("HUB_FAILPOINTS", ""),
            "TWILIO_ACCOUNT_SID": ACCOUNT_SID,
            "TWILIO_AUTH_TOKEN": TOKEN,
            "TWILIO_API_KEY_SID": "SK" + "0" * 32,
            "TWILIO_API_KEY_SECRET": "s" * 32,
            "TWILIO_APP_SID": "AP" + "0" * 32,
        }
    )


async def poll(url: str) -> None:
    """The router, the publisher and all else that happens by itself."""
    from hub.pollers import start_background
    from hub.runtime import running

    with tempfile.TemporaryDirectory(prefix="intake-poll-") as folder:
        async with running(settings_for(url, Path(folder))) as runtime:
            await start_background(runtime)
            print(0, flush=True)
            await asyncio.Event().wait()


async def hub(url: str, port: str = "0") -> None:
    """The hub's own application, whole: every route, its middleware, its runtime.

    Several of them share a port and INTAKE_REDIS_URL, as web processes do; without that one brings a Valkey of its own.
    """
    from hub.app import serving, spare_the_collector
    from hub.runtime import running

    with tempfile.TemporaryDirectory(prefix="intake-hub-") as folder:
        async with (
            running(settings_for(url, Path(folder))) as runtime,
            serving(runtime, host="127.0.0.1", port=int(port), reuse_port=port != "0") as (_, bound),
        ):
            spare_the_collector()
            print(bound, flush=True)
            await asyncio.Event().wait()


async def floor() -> None:
    """A bare handler that only reads the body and checks the signature."""

    async def handle(request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        raw = RawRequest(ORIGIN + request.raw_path, "POST", headers, await request.read(), datetime.now(UTC))
        if not VOICE.verify(raw):
            return web.Response(status=403)
        return web.Response(text="<Response/>", content_type="text/xml")

    app = web.Application()
    app.router.add_post(PATH, handle)
    await listen(app)


async def bulk(url: str) -> None:
    """A campaign's kind of writing: rows in short transactions, as fast as it may."""
    db = await open_database(url, bulk=True)
    print(0, flush=True)

    async def unit(tx: Any) -> None:
        now = datetime.now(UTC)
        await tx.add_all(
            [
                Touch(
                    id=new_id(now), direction=Direction.OUTBOUND, channel="email", kind="email", value=f"p{n}@example.com",
                    purpose="marketing", at=now,
                )
                for n in range(100)
            ]
        )  # fmt: skip

    while True:
        await db.write(unit)


def main() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s %(error)s", defaults={"error": ""}))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    role, *arguments = sys.argv[1:]
    uvloop.run({"hub": hub, "poll": poll, "bulk": bulk, "floor": floor}[role](*arguments))


if __name__ == "__main__":
    main()
