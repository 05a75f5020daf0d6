"""Child processes of `hub serve`: started, watched, started again after a crash, stopped, and never left behind.

A child ends with its parent in two ways. On Linux the kernel signals it; everywhere it holds the reading end of a pipe
whose writing end only the parent has, and ends when that closes (`hold_leash`), at the latest after the grace.
A child with a `body` is forked (hub/forks.py): it shares what the supervisor has already loaded.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from hub import forks
from hub.forks import Forked
from hub.valkey import die_with_parent

LEASH = "_HUB_LEASH"  # environment variable: the file descriptor of the pipe's reading end
GRACE_S = 8.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
SETTLED_S = 60.0  # a child that ran this long starts again without having to wait longer than the first time


class Leash:
    """The parent's end: as long as this process lives, the children's pipes stay open."""

    def __init__(self) -> None:
        # Neither end is inherited by accident: Popen passes the reading end on by name.
        self.read_end, self.write_end = os.pipe()


def hold_leash(environ: Mapping[str, str]) -> None:
    """In a child: end when the parent does. Nothing to do in a process that no supervisor started."""
    text = environ.get(LEASH, "")
    if not text.isdigit():
        return
    descriptor = int(text)

    def wait_for_the_end() -> None:
        with contextlib.suppress(OSError):
            os.read(descriptor, 1)  # nothing is ever written: it returns when the last writer is gone
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait_for_the_end, name="leash", daemon=True).start()


@dataclass(slots=True)
class Child:
    """One process that should be running while the hub is."""

    name: str
    command: list[str]
    environ: dict[str, str]
    leash: Leash
    nice: int = 0
    body: Callable[[], int] | None = None  # what `command` does, for a child that may be forked instead
    process: subprocess.Popen[bytes] | Forked | None = None
    started_at: float = 0.0  # monotonic seconds
    due_at: float | None = None  # monotonic seconds; set while it waits to be started again
    crashes: int = 0
    ended_with: list[int] = field(default_factory=list)

    def start(self) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches the supervisor alone."""
        environ = {**self.environ, LEASH: str(self.leash.read_end)}
        if self.body is not None and forks.POSSIBLE:
            self.process = forks.fork(
                self.body, environ=environ, keep=[self.leash.read_end], nice=self.nice, title=self.title
            )
        else:
            self.process = self._spawn(environ)
        self.started_at, self.due_at = time.monotonic(), None
        self.environ = {**self.environ, "HUB_FAILPOINTS": ""}  # a test's kill is for the first life only

    def _spawn(self, environ: dict[str, str]) -> subprocess.Popen[bytes]:
        linux = sys.platform == "linux"
        nice = self.nice

        def before_exec() -> None:
            if linux:
                die_with_parent()
            if nice:
                os.nice(nice)

        return subprocess.Popen(
            self.command,
            env=environ,
            stdin=subprocess.DEVNULL,
            pass_fds=[self.leash.read_end],
            start_new_session=True,
            preexec_fn=before_exec if linux or nice else None,
        )

    @property
    def title(self) -> str:
        """What `ps` shows: the command, without the folder of its program."""
        return " ".join(["python", *self.command[1:]])

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def look(self, now: float) -> str | None:
        """Notice an end, or start again when that is due. A sentence for the log when something happened."""
        if self.due_at is not None:
            if now < self.due_at:
                return None
            self.start()
            return f"{self.name} started again"
        if self.process is None or (code := self.process.poll()) is None:
            return None
        self.ended_with.append(code)
        self.crashes = 1 if now - self.started_at > SETTLED_S else self.crashes + 1
        wait = min(FIRST_WAIT_S * 2 ** (self.crashes - 1), LONGEST_WAIT_S)
        self.due_at = now + wait
        return f"{self.name} {ending(code)}; it starts again in {wait:g} s"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if it runs."""
        if self.running and self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)


def ending(code: int) -> str:
    """`ended with code 1`, `was killed by SIGKILL`."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def stop_all(
    children: Iterable[Child], *, grace_s: float = GRACE_S, hurry: Callable[[], bool] = lambda: False
) -> list[str]:
    """Ask all to end together; kill what has not after the grace, or at once when `hurry`. Names of those killed."""
    for child in (left := [child for child in children if child.running]):
        child.signal(signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while left and time.monotonic() < deadline and not hurry():
        time.sleep(0.02)
        left = [child for child in left if child.running]
    for child in left:
        child.signal(signal.SIGKILL)
    for child in left:
        if child.process is not None:
            child.process.wait()
    return [child.name for child in left]
