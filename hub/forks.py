"""Processes made by forking this one, so that what it has already loaded costs them neither time nor memory.

A forked child must be as good as one that was started anew: its own session, environment and title, no open file of its
parent's (a lock it held on to would outlive the parent), default signal handlers. Linux only: elsewhere the system's own
libraries do not bear a fork without an exec. The forking process must have one thread and no event loop.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from hub.valkey import die_with_parent

POSSIBLE = sys.platform == "linux"
HELD_BACK = {signal.SIGINT, signal.SIGTERM}
ARG_START = 48 - 3  # field 48 of /proc/self/stat, counted from the one behind the closing bracket of the name
NAP_S = 0.005


class Forked:
    """A forked child, with as much of `subprocess.Popen` as the supervisor uses."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code when it has ended; subprocess.TimeoutExpired when that takes longer than `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            time.sleep(NAP_S)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Nothing when it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def fork(
    body: Callable[[], int], *, environ: Mapping[str, str], keep: Sequence[int] = (), nice: int = 0, title: str = ""
) -> Forked:
    """A child that runs `body` with this environment and ends with its result as the exit code.

    Of the open files it keeps the standard ones (input from nowhere) and those of `keep`. Returns when the child stands
    on its own: it has its session, its handlers and its title.
    """
    if threading.active_count() > 1:
        raise RuntimeError("a process with threads must not fork")
    sys.stdout.flush()
    sys.stderr.flush()
    # A signal that comes between the fork and the child's own handlers must end the child, not be lost in it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    gc.freeze()  # a collection in the child would touch, and so copy, every page that it shares with the parent
    stands, stands_up = os.pipe()  # closed by the child with everything else of its parent's
    try:
        pid = os.fork()
        if pid == 0:
            _become(body, environ=environ, keep=keep, nice=nice, title=title)
    finally:
        os.close(stands_up)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.read(stands, 1)
    os.close(stands)
    return Forked(pid)


def _become(
    body: Callable[[], int], *, environ: Mapping[str, str], keep: Sequence[int], nice: int, title: str
) -> NoReturn:
    """In the child: never returns into the parent's code, whatever happens."""
    code = 1
    try:
        die_with_parent()
        os.setsid()
        if nice:
            os.nice(nice)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
        if title:
            set_title(title)
        _close_all_but({0, 1, 2, *keep})
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, 0)
        os.close(nowhere)
        os.environ.clear()
        os.environ.update(environ)
        code = body()
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException:  # as the interpreter does at its end: show it, and 1
        traceback.print_exc()
    finally:
        try:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            # Not sys.exit: the parent's own `finally` blocks are still on this stack, and they would stop the hub.
            os._exit(code)


def _close_all_but(kept: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:  # the one that listed the folder is closed already
                continue


def set_title(title: str) -> None:
    """What `ps` shows for this process: written over the command line, as much of it as fits there."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[ARG_START]), int(fields[ARG_START + 1])
    room = end - start
    if room > 1:
        text = title.encode()[: room - 1]
        ctypes.memmove(start, text.ljust(room, b"\0"), room)
