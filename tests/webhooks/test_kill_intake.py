"""kill -9 of a real web process in the middle of taking calls in: nothing acknowledged is lost, nothing is there twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.intake_data import seed_people, signed_posts, stored_calls
from bench.intake_load import kill_while_posting
from crm_core.db import open_database

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("HUB_TEST_SEED", "") or 7)


@contextmanager
def server(url: str, failpoints: str = "") -> Iterator[tuple[subprocess.Popen[str], int]]:
    child = subprocess.Popen(
        [sys.executable, "-m", "bench.intake_server", "hub", url], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "HUB_FAILPOINTS": failpoints},
    )  # fmt: skip
    assert child.stdout is not None
    try:
        yield child, int(child.stdout.readline())
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.fixture
async def filled_url(db_url: str) -> str:
    db = await open_database(db_url)
    await seed_people(db)
    await db.close()
    return db_url


async def post_again(port: int, posts: list[tuple[str, str]]) -> set[str]:
    """What a provider's retry gets after the restart."""
    return await kill_while_posting(port, posts, lambda: None, connections=4, after=10**9)


@pytest.mark.parametrize("where", ["db.before_commit", "db.after_commit"])
async def test_a_kill_at_the_commit_loses_nothing_acknowledged(filled_url: str, where: str) -> None:
    passage = 3 + SEED % 20
    posts = signed_posts(0, 200)
    with server(filled_url, f"{where}:{passage}") as (child, port):
        acknowledged = await kill_while_posting(port, posts, lambda: None, connections=8, after=10**9)
        assert child.wait(10) == -signal.SIGKILL
    kept = await stored_calls(filled_url)
    assert acknowledged <= kept.keys()
    assert set(kept.values()) <= {1}
    with server(filled_url) as (_, port):
        assert len(await post_again(port, posts)) == 200
    kept = await stored_calls(filled_url)
    assert (len(kept), set(kept.values())) == (200, {1}), (
        "the provider's retries find what was stored, and add what was not"
    )


async def test_a_kill_under_load_loses_nothing_acknowledged(filled_url: str) -> None:
    acknowledged: set[str] = set()
    for number in range(2):
        posts = signed_posts(number * 100_000, 2000)
        with server(filled_url) as (child, port):
            kill = lambda: os.kill(child.pid, signal.SIGKILL)  # noqa: E731 - called within this turn
            acknowledged |= await kill_while_posting(port, posts, kill, connections=16, after=60)
    assert len(acknowledged) >= 100
    kept = await stored_calls(filled_url)
    assert acknowledged <= kept.keys()
    assert set(kept.values()) == {1}
