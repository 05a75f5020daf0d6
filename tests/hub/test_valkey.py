"""The private Valkey: one starter, many users; it ends with its owner and keeps its data."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from hub import valkey
from hub.valkey import ValkeyUnavailable, ensure_valkey, reachable, socket_path

OWNER = """
import sys, time
from pathlib import Path
from hub.valkey import ensure_valkey
v = ensure_valkey(Path(sys.argv[1]))
print("owner" if v.process else "attached", v.process.pid if v.process else 0, flush=True)
sys.stdin.readline()
v.stop()
"""


def owner(data: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OWNER, str(data)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def eventually(what: Callable[[], bool], *, within_s: float = 60.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.02)
    return False


def finish(process: subprocess.Popen[str]) -> None:
    process.communicate("\n", timeout=60)


def test_a_second_user_attaches_and_only_the_owner_stops_it(tmp_path: Path) -> None:
    first = ensure_valkey(tmp_path)
    second = ensure_valkey(tmp_path)
    assert (first.url, first.process is not None) == (second.url, True)
    assert second.process is None
    second.stop()
    with redis.Redis.from_url(second.url) as client:
        assert client.ping()
    first.stop()
    assert not valkey.answers(socket_path(tmp_path / "valkey"))


def test_of_four_racing_starters_one_owns_it(tmp_path: Path) -> None:
    starters = [owner(tmp_path) for _ in range(4)]
    roles = sorted(s.stdout.readline().split()[0] for s in starters if s.stdout)
    for starter in starters:
        finish(starter)
    assert roles == ["attached", "attached", "attached", "owner"]


def test_it_ends_with_a_killed_owner_and_keeps_what_was_written(tmp_path: Path) -> None:
    process = owner(tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("owner")
    path = socket_path(tmp_path / "valkey")
    with redis.Redis.from_url(f"unix://{path}") as client:
        client.set("kept", "yes")
        client.execute_command("WAITAOF", 1, 0, 5000)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert eventually(lambda: not valkey.answers(path)), "the server outlived its owner"
    again = ensure_valkey(tmp_path)
    with redis.Redis.from_url(again.url) as client:
        assert client.get("kept") == b"yes"
    again.stop()


def test_elsewhere_than_linux_a_watcher_ends_it(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys\nfrom hub.valkey import end_with_this_process\n"
        "p = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        "end_with_this_process(p.pid)\nprint(p.pid, flush=True)\nsys.stdin.readline()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert running(pid)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert eventually(lambda: not running(pid))


def running(pid: int) -> bool:
    """True while `pid` is a live process (a zombie whose parent is gone is not)."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def test_a_long_path_gets_a_short_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    server = ensure_valkey(deep)
    assert len(server.url) < 110
    with redis.Redis.from_url(server.url) as client:
        assert client.ping()
    server.stop()
    socket_path(deep / "valkey").parent.rmdir()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValkeyUnavailable, match="Cannot write to"):
        ensure_valkey(tmp_path / "file")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("redis://:secret@127.0.0.1:1/0", "does not answer"),
        ("unix:///nowhere/redis.sock", "does not answer"),
        ("http://127.0.0.1", "not a Redis address"),
    ],
)
def test_an_unreachable_server_is_one_sentence_without_the_password(url: str, sentence: str) -> None:
    with pytest.raises(ValkeyUnavailable, match=sentence) as caught:
        reachable(url)
    assert "secret" not in str(caught.value)


def test_a_running_server_is_reachable(valkey_url: str) -> None:
    reachable(valkey_url)


@pytest.mark.needs_redis
def test_the_distributions_redis_will_do(
    tmp_path: Path, redis_server_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(valkey, "server_program", lambda: redis_server_path)
    server = ensure_valkey(tmp_path)
    reachable(server.url)
    server.stop()


async def test_postgresql_from_the_wheel_answers(pg_empty_url: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(pg_empty_url)
    assert await connection.fetchval("SELECT current_setting('server_version_num')::int") >= 140000
    await connection.close()
