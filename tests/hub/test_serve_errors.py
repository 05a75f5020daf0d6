"""`hub serve`, the real command, started into trouble: one clear sentence, exit code not 0, no traceback."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TWILIO_HALF = {"TWILIO_ACCOUNT_SID": "AC" + "0" * 32, "TWILIO_AUTH_TOKEN": "canary-token"}


def serve(data: Path, *, user: str | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HUB_", "TWILIO_"))}
    clean |= {"HUB_DATA_DIR": str(data), "HUB_PORT": "0", "HUB_LOG_FORMAT": "json", **environ}
    return subprocess.run(
        [sys.executable, "-m", "hub", "serve"],
        env=clean,
        user=user,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_one_sentence(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode not in {0, -2, -9, -15}, done
    assert "Traceback" not in done.stderr
    told = [line for line in done.stderr.splitlines() if line]
    assert any(all(word in line for word in words) for line in told), done.stderr
    assert len(told) <= 2, done.stderr  # what is wrong, and at most that the hub therefore did not start
    assert all(line.endswith((".", "'")) for line in told), done.stderr
    assert "canary" not in done.stderr + done.stdout
    assert "ready" not in done.stdout


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen(1)
        yield holder.getsockname()[1]


def test_port_taken(tmp_path: Path, taken: int) -> None:
    assert_one_sentence(serve(tmp_path, HUB_PORT=str(taken)), f"port {taken} on 127.0.0.1 is taken", "HUB_PORT")


def test_not_an_address_of_this_machine(tmp_path: Path) -> None:
    done = serve(tmp_path, HUB_HOST="192.0.2.1", HUB_SANDBOX="0")
    assert_one_sentence(done, "192.0.2.1 is not an address of this machine", "HUB_HOST")


def test_no_write_access(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_one_sentence(serve(tmp_path / "file" / "var"), "Cannot write to the data folder", "HUB_DATA_DIR")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://root:canary@127.0.0.1/hub", ["HUB_DATABASE_URL must look like"]),
        ("postgresql://hub:canary@127.0.0.1:1/hub", ["PostgreSQL at 127.0.0.1:1 does not answer", "HUB_DATABASE_URL"]),
        ("sqlite:////proc/hub/hub.db", ["Cannot make the folder of the database /proc/hub/hub.db"]),
    ],
)
def test_broken_database_url(tmp_path: Path, url: str, words: list[str]) -> None:
    done = serve(tmp_path, HUB_DATABASE_URL=url, HUB_SECRET_KEY="k" * 40, HUB_SANDBOX="0")
    assert_one_sentence(done, *words)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "hub.db").write_bytes(b"this is no database, it is a letter to my aunt" * 100)
    assert_one_sentence(serve(tmp_path, HUB_SANDBOX="0"), "hub.db is not a usable database")


def test_a_database_that_is_not_there(tmp_path: Path, pg_url: str) -> None:
    url = pg_url.replace("/t_", "/missing_")
    done = serve(tmp_path, HUB_DATABASE_URL=url, HUB_SECRET_KEY="k" * 40, HUB_SANDBOX="0")
    assert_one_sentence(done, "has no database 'missing_", "createdb")


def test_unreachable_redis(tmp_path: Path) -> None:
    done = serve(tmp_path, HUB_REDIS_URL="redis://:canary@127.0.0.1:1/0")
    assert_one_sentence(done, "Redis at redis://127.0.0.1:1/0 does not answer", "HUB_REDIS_URL")


def test_half_a_twilio_configuration(tmp_path: Path) -> None:
    done = serve(tmp_path, **TWILIO_HALF, HUB_PUBLIC_URL="https://hub.example.com")
    assert_one_sentence(done, "half configured", "TWILIO_API_KEY_SID and TWILIO_API_KEY_SECRET")


def test_a_second_hub_on_the_same_folder(tmp_path: Path) -> None:
    (tmp_path / "serve.json").write_text(json.dumps({"pid": 4711, "url": "http://127.0.0.1:8080"}))
    with (tmp_path / "serve.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = serve(tmp_path)
    assert_one_sentence(done, "A hub already runs on", "process 4711, http://127.0.0.1:8080", "HUB_DATA_DIR")


def test_nothing_is_left_running_after_a_failed_start(tmp_path: Path) -> None:
    done = serve(tmp_path, HUB_DATABASE_URL="postgresql://hub:canary@127.0.0.1:1/hub", HUB_SECRET_KEY="k" * 40)
    assert_one_sentence(done, "does not answer")
    listing = subprocess.run(["ps", "-eo", "args="], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in listing
