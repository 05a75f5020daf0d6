"""A stage for each test: hub and twin in this process, on ports of their own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from hub.app import serving
from hub.runtime import running
from hub.sandbox.config import NumberConfig, Person, SandboxConfig
from hub.sandbox.twin import running_sandbox
from hub.settings import read_settings
from tests.twin.stage import ANA, BEN, SALES, SUPPORT, ShiftedClock, Stage


def free_port() -> int:
    """A port that is free now: both sides must know the other's address before either starts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def stage(sqlite_url: str, valkey_url: str, tmp_path: Path) -> AsyncIterator[Stage]:
    """Hub and twin know each other; nobody works here yet. Afterwards all invariants hold."""
    port = free_port()
    hub = f"http://127.0.0.1:{port}"
    voice, clock = f"{hub}/webhooks/twilio/voice", ShiftedClock()
    config = SandboxConfig(
        data_dir=str(tmp_path / "outside"),
        numbers=tuple(
            NumberConfig(number, voice_url=f"{voice}#rc=2&rp=all", status_callback=f"{voice}/status#rc=2&rp=all")
            for number in (SUPPORT, SALES)
        ),
        people=(Person("Ana Example", ANA, "ana@example.com"), Person("Ben Example", BEN, "ben@example.com")),
        speech_scale=0.0,
        time_scale=0.3,  # as in tests/sandbox: no ring ends because the machine stood still
        line_grace_s=0.1,
    )
    async with running_sandbox(config) as sandbox, aiohttp.ClientSession() as http:
        environment = {
            "HUB_DATA_DIR": str(tmp_path / "data"),
            "HUB_DATABASE_URL": sqlite_url,
            "HUB_REDIS_URL": valkey_url,
            "HUB_SECRET_KEY": "tests tests tests tests tests tests",
            "HUB_SANDBOX": "1",
            "HUB_HOST": "127.0.0.1",
            "HUB_PORT": str(port),
            "HUB_TWILIO_API_BASE": sandbox.base_url,
            "TWILIO_ACCOUNT_SID": config.account_sid,
            "TWILIO_AUTH_TOKEN": config.auth_token,
            "TWILIO_API_KEY_SID": config.api_key_sid,
            "TWILIO_API_KEY_SECRET": config.api_key_secret,
            "TWILIO_APP_SID": await _app(http, sandbox.base_url, config, f"{voice}/client", f"{voice}/status"),
        }
        async with running(read_settings(environment), clock=clock) as runtime:
            assert runtime.settings.public_url == hub
            async with serving(runtime, host="127.0.0.1", port=port):
                made = Stage(runtime, sandbox, clock, http)
                yield made
                await made.close()
                await asyncio.sleep(0)


async def _app(http: aiohttp.ClientSession, base: str, config: SandboxConfig, url: str, status: str) -> str:
    """The TwiML App that agents' phones call."""
    headers = {"Authorization": aiohttp.encode_basic_auth(config.account_sid, config.auth_token)}
    form = {"FriendlyName": "hub", "VoiceUrl": url, "VoiceMethod": "POST", "StatusCallback": status}
    path = f"{base}/2010-04-01/Accounts/{config.account_sid}/Applications.json"
    async with http.post(path, data=form, headers=headers) as answer:
        assert answer.status == 201, await answer.text()
        return str((await answer.json())["sid"])
