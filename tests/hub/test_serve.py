"""`hub serve`, the real command with all its processes: start, crash, second start, stop, kill -9."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

PROCESSES = {"sandbox", "web", "poll", "work interactive", "work bulk", "valkey"}


class Hub:
    """A `hub serve` that was started, and what it said."""

    def __init__(self, data: Path) -> None:
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("HUB_", "TWILIO_"))}
        environ |= {"HUB_DATA_DIR": str(data), "HUB_PORT": "0", "PYTHONUNBUFFERED": "1"}
        self.log = data.with_name(f"{data.name}.log")
        self.began = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hub", "serve"], env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.mark = 0

    def text(self) -> str:
        return self.log.read_text(errors="replace")[self.mark :]

    def wait_ready(self) -> str:
        """The address it printed."""
        assert eventually(lambda: "Ctrl-C stops" in self.text() or self.process.poll() is not None, within_s=90), (
            self.text()
        )
        found = re.search(r"The hub is ready after ([\d.]+) s: (http://127\.0\.0\.1:\d+)", self.text())
        assert found, self.text()
        return found[2]

    def children(self) -> dict[str, int]:
        """Name -> process id of everything it started."""
        listing = subprocess.run(
            ["ps", "--ppid", str(self.process.pid), "-o", "pid=,args="], capture_output=True, text=True, check=False
        ).stdout
        found = {}
        for line in listing.splitlines():
            pid, _, args = line.strip().partition(" ")
            name = "valkey" if "-m hub" not in args else args.partition("-m hub ")[2].partition(" --config")[0]
            found[name] = int(pid)
        return found

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


def eventually(what: Callable[[], object], *, within_s: float = 60.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.05)
    return False


def alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def cpu_s(pid: int) -> float:
    """Processor seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def status(url: str, path: str) -> int:
    """The HTTP status of a page; 0 when nobody answers."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    with contextlib.closing(connection), contextlib.suppress(OSError):
        connection.request("GET", path)
        return connection.getresponse().status
    return 0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Hub]]:
    started: list[Hub] = []

    def begin() -> Hub:
        hub = Hub(tmp_path / "var")
        hub.mark = len(hub.text()) if started else 0
        started.append(hub)
        return hub

    yield begin
    for hub in started:
        if hub.process.poll() is None:
            hub.stop()


@pytest.mark.timeout(300)
def test_it_starts_from_nothing_mends_itself_and_stops_clean(start: Callable[[], Hub], tmp_path: Path) -> None:
    hub = start()
    url = hub.wait_ready()
    said = hub.text()
    outside = re.search(r"The outside world .*: (http://127\.0\.0\.1:\d+)/", said)
    assert outside, said
    assert len(re.findall(r"Log in as \S+ / .+ \(.+\)", said)) >= 3, said
    assert status(url, "/healthz") == status(url, "/readyz") == 200
    assert status(outside[1], "/") == 200
    before = hub.children()
    assert set(before) == PROCESSES
    assert os.getpriority(os.PRIO_PROCESS, before["work bulk"]) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)
    for path in (tmp_path / "var").rglob("*"):
        assert not stat.S_IMODE(path.lstat().st_mode) & 0o077 or path.is_socket(), path

    second = start()
    assert second.process.wait(timeout=60) == 1
    assert f"A hub already runs on {tmp_path}/var (process {hub.process.pid}, {url})" in second.text()

    os.kill(before["web"], signal.SIGKILL)
    assert eventually(lambda: "web was killed by SIGKILL; it starts again in 0.5 s" in hub.text()), hub.text()
    assert eventually(lambda: status(url, "/healthz") == 200)
    assert hub.children()["web"] != before["web"]
    if sys.platform == "linux":  # it is forked, so that it shares what the supervisor has loaded: a start costs little
        assert cpu_s(hub.children()["web"]) < cpu_s(hub.process.pid) / 3

    os.kill(before["valkey"], signal.SIGKILL)
    assert eventually(lambda: hub.children().get("valkey", before["valkey"]) != before["valkey"])
    assert hub.process.poll() is None

    last = hub.children()
    assert hub.stop(signal.SIGINT) == 0
    assert "Traceback" not in hub.text()
    assert not [name for name, pid in last.items() if alive(pid)]
    assert status(url, "/healthz") == 0


@pytest.mark.timeout(300)
def test_kill_9_ends_everything_and_the_next_start_finds_its_data(start: Callable[[], Hub], tmp_path: Path) -> None:
    hub = start()
    hub.wait_ready()
    secret = (tmp_path / "var" / "secret.key").read_text()
    size = (tmp_path / "var" / "hub.db").stat().st_size
    children = hub.children()
    assert set(children) == PROCESSES
    hub.process.kill()
    hub.process.wait()
    assert eventually(lambda: not any(alive(pid) for pid in children.values())), children

    again = start()
    again.wait_ready()
    assert (tmp_path / "var" / "secret.key").read_text() == secret
    assert (tmp_path / "var" / "hub.db").stat().st_size >= size
    assert again.stop() == 0
