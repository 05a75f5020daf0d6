"""`hub serve` as real processes for the journeys, with what they look at from beside: its rows, its children, its log."""

from __future__ import annotations

import http.client
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


class HubProcess:
    """A whole hub in a folder of its own; `url` is the hub, `outside` the outside world's page and control API."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.log = data.with_name(f"{data.name}.log")
        self.url = self.outside = ""
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, more: Mapping[str, str] | None = None) -> None:
        """Start it and wait until it says that it is ready. `more` = further environment."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("HUB_", "TWILIO_"))}
        environ |= {"HUB_DATA_DIR": str(self.data), "HUB_PORT": str(self.port), "PYTHONUNBUFFERED": "1", **(more or {})}
        before = len(self.said())
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hub", "serve"], env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        ready = eventually(lambda: "Ctrl-C stops" in self.said()[before:] or not self.running, within_s=90)
        found = re.search(r"ready after [\d.]+ s: (http://\S+)", self.said()[before:])
        outside = re.search(r"The outside world .*: (http://127\.0\.0\.1:\d+)/", self.said()[before:])
        assert ready, self.said()[before:]
        assert found, self.said()[before:]
        assert outside, self.said()[before:]
        self.url, self.outside = found[1], outside[1]
        self.port = int(urlsplit(self.url).port or 0)

    def command(self, *words: str) -> str:
        """What a verb of `hub` prints, on this hub's data."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("HUB_", "TWILIO_"))}
        done = subprocess.run(
            [sys.executable, "-m", "hub", *words], env={**environ, "HUB_DATA_DIR": str(self.data)}, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def said(self) -> str:
        """Everything that it wrote."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def stop(self) -> None:
        if self.running and self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=60)

    def children(self) -> dict[str, int]:
        """Process ids by name: web, poll, interactive, bulk, sandbox, valkey."""
        assert self.process is not None
        listing = subprocess.run(
            ["ps", "--ppid", str(self.process.pid), "-o", "pid=,stat=,args="],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        found = {}
        for line in listing.splitlines():
            pid, stat, args = line.split(None, 2)
            if not stat.startswith("Z"):
                words = args.partition("-m hub ")[2].split()
                found["valkey" if not words else words[1] if words[0] == "work" else words[0]] = int(pid)
        return found

    def kill(self, name: str) -> int:
        """kill -9 of one process; its id."""
        pid = self.children()[name]
        os.kill(pid, signal.SIGKILL)
        return pid

    def rows(self, sql: str, *values: object) -> list[dict[str, Any]]:
        """What stands in the database now, read from beside."""
        link = sqlite3.connect(f"file:{self.data / 'hub.db'}?mode=ro", uri=True, timeout=10)
        link.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in link.execute(sql, values)]
        finally:
            link.close()

    def answers(self, path: str) -> int:
        """The HTTP status of a page; 0 when nobody answers."""
        link = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        try:
            link.request("GET", path)
            return link.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            link.close()


def eventually(what: Callable[[], object], *, within_s: float = 60.0) -> bool:
    """True as soon as `what` holds; False when it never did."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.05)
    return False
