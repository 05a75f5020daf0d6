"""Named places where a test kills the process with SIGKILL, to prove that nothing acknowledged is lost.

Unarmed (always, in production) a failpoint is one dictionary look-up in an empty dictionary.
"""

from __future__ import annotations

import os
import signal

_armed: dict[str, int] = {}


def arm(spec: str) -> None:
    """Arm from text such as `writer.before_commit:3,sender.after_call:1`: die at the third and the first passage."""
    for part in filter(None, spec.split(",")):
        name, _, count = part.strip().partition(":")
        _armed[name] = int(count or "1")


def failpoint(name: str) -> None:
    """Die here, at once and without clean-up, if this passage is the armed one."""
    if name not in _armed:
        return
    _armed[name] -= 1
    if _armed[name] <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
