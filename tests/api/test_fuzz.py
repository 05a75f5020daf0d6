"""Thousands of generated requests against the served API: nothing is a server error, nothing is undocumented."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from crm_core import users
from crm_core.users import Role
from hub.api.scopes import SCOPES
from tests.api.conftest import House

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
BUDGET_S = 25


@pytest.mark.timeout(170)
async def test_no_generated_request_breaks_the_api(either_house: House, tmp_path: Path) -> None:
    house = either_house
    everyone = await house.runtime.db.write(
        lambda tx: users.create(
            tx, login="robot", name="Robot", roles=list(Role), password_hash="!", now=house.runtime.clock.now(), actor="test"
        )
    )
    robot = await house.token(everyone, SCOPES)
    program = Path(sys.executable).parent / "schemathesis"
    process = await asyncio.create_subprocess_exec(
        str(program), "run", f"{house.url}/api/openapi.json", "--url", house.url,
        "-H", f"Authorization: Bearer {robot.secret}", "--checks", CHECKS, "--phases", "coverage,fuzzing",
        "--exclude-path", "/api/v1/events", "--exclude-path", "/api/v1/tokens/{id}", "--exclude-path", "/api/v1/users/{id}",
        "--max-time", str(BUDGET_S), "--seed", "20261121", "--generation-database", "none", "--continue-on-failure",
        "--request-timeout", "20", "--no-color", "--warnings", "off", "--suppress-health-check", "all", "--workers", "2",
        cwd=tmp_path, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    try:
        async with asyncio.timeout(150):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    said = output.decode(errors="replace")
    assert process.returncode == 0, said[-12_000:]
    ran = re.search(r"(\d+) generated", said)
    assert ran is not None, said[-4000:]
    assert int(ran.group(1)) > 500, "the run must have tried something"
