"""Thousands of generated requests against the served API: nothing is a server error, nothing is undocumented."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from channels.contract import FormArrived
from crm_core import users
from crm_core.accounts import Form
from crm_core.users import Role
from hub.api.scopes import SCOPES
from routing import router
from tests.api.conftest import Client, House

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
BUDGET_S = 10


async def things(house: House, robot: Client) -> dict[str, list[str]]:
    """Ids of records that are there, by the first part of the path they belong in."""
    now = house.runtime.clock.now()
    for number in (1, 2):
        await house.text(f"Question {number}", number=number, sender=f"+1202555010{number}")
    await house.route()
    offers = [offer["id"] for offer in (await house.amy.get("/me/offers"))["items"]]
    said = (await house.sam.get(f"/contacts/{house.ana_id}/timeline"))["items"]

    async def unit(tx: Any) -> list[str]:
        form = FormArrived("website", {"name": "Bo", "email": "bo@example.com"}, "form:1", "127.0.0.1")
        await tx.add(
            Form(id="form", slug="website", account_id="acc-email", title="Write to us", created_at=now,
                 fields=[{"name": word, "kind": kind, "label": word} for word, kind in (("name", "text"), ("email", "email"))])
        )  # fmt: skip
        found = await tx.one(select(Form))
        lead = await router.form_arrived(tx, form, form=found, now=now)
        return [lead.id]

    lead_ids = await house.runtime.db.write(unit)
    callback = await robot.post(
        "/callbacks", {"number": "+12025550103", "queue_id": "q", "due_at": "2026-11-19T10:00:00Z"}, expect=201
    )
    campaign = await robot.post(
        "/campaigns",
        {"name": "Spring", "account_id": "acc-sms", "purpose": "service", "tag": "x", "body": "Hi"},
        expect=201,
    )
    listed = await robot.post("/lists", {"name": "Spring", "account_id": "acc-voice", "tag": "x"}, expect=201)
    return {
        "contacts": [house.ana_id], "conversations": [item["conversation_id"] for item in said], "offers": offers,
        "interactions": [item["id"] for item in said], "calls": [item["id"] for item in said], "leads": lead_ids,
        "callbacks": [callback["id"]], "campaigns": [campaign["id"]], "lists": [listed["id"]],
    }  # fmt: skip


@pytest.mark.timeout(170)
async def test_no_generated_request_breaks_the_api(either_house: House, tmp_path: Path) -> None:
    house = either_house
    everyone = await house.runtime.db.write(
        lambda tx: users.create(
            tx,
            login="robot",
            name="Robot",
            roles=list(Role),
            password_hash="!",
            now=house.runtime.clock.now(),
            actor="test",
        )
    )
    robot = await house.token(everyone, SCOPES)
    document = await house.http.get(f"{house.url}/api/openapi.json")
    described = await document.json()
    known = await things(house, robot)
    for path, operations in described["paths"].items():
        ids = known.get(path.split("/")[3], [])
        for parameter in (one for each in operations.values() for one in each["parameters"]):
            if ids and parameter["in"] == "path" and parameter["name"] == "id":
                parameter["schema"]["enum"] = [*ids, "none"]
    (tmp_path / "openapi.json").write_text(json.dumps(described))
    program = Path(sys.executable).parent / "schemathesis"
    # One worker: hypothesis parses sources, and CPython 3.11's parser is not safe in two threads ("recursion depth mismatch").
    process = await asyncio.create_subprocess_exec(
        str(program), "run", "openapi.json", "--url", house.url,
        "-H", f"Authorization: Bearer {robot.secret}", "--checks", CHECKS, "--phases", "coverage,fuzzing",
        "--exclude-path", "/api/v1/events", "--exclude-path", "/api/v1/tokens/{id}", "--exclude-path", "/api/v1/users/{id}",
        "--max-time", str(BUDGET_S), "--seed", "20261121", "--generation-database", "none", "--continue-on-failure",
        "--request-timeout", "20", "--no-color", "--warnings", "off", "--suppress-health-check", "all", "--workers", "1",
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
    assert int(ran.group(1)) > 20, said[-4000:]  # how many fit into the time is the machine's affair
