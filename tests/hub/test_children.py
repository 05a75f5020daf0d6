"""Child processes: restarted with patience, stopped in time, and gone when their parent is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hub.children import Child, Leash, ending, stop_all

OBEYS = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(0)); print('up', flush=True); time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def child(script: str, name: str = "child", *, up: Path | None = None, nice: int = 0) -> Child:
    if up is not None:
        script = script.replace("print('up', flush=True)", f"open({str(up)!r}, 'w').close()")
    return Child(name, [sys.executable, "-c", script], dict(os.environ), Leash(), nice=nice)


def eventually(what: Callable[[], bool], *, within_s: float = 60.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.02)
    return False


def alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def test_a_crash_is_told_and_started_again_ever_later() -> None:
    crashing = child("raise SystemExit(3)", "web")
    crashing.start()
    waits = []
    for _ in range(4):
        assert eventually(lambda: not crashing.running)
        now = time.monotonic()
        news = crashing.look(now)
        assert news is not None
        assert news.startswith("web ended with code 3; it starts again in ")
        assert crashing.due_at is not None
        waits.append(round(crashing.due_at - now, 3))
        assert crashing.look(now) is None  # not before it is due
        assert crashing.look(crashing.due_at) == "web started again"
    assert waits == [0.5, 1, 2, 4]
    crashing.crashes = 40
    assert eventually(lambda: not crashing.running)
    crashing.look(now := time.monotonic())
    assert crashing.due_at == pytest.approx(now + 30)


def test_a_child_that_ran_long_starts_again_at_once() -> None:
    crashing = child("raise SystemExit(3)", "web")
    crashing.start()
    crashing.crashes = 5
    assert eventually(lambda: not crashing.running)
    assert str(crashing.look(crashing.started_at + 61)).endswith("in 0.5 s")


def test_a_killed_child_is_told_by_its_signal(tmp_path: Path) -> None:
    sleeper = child(OBEYS, up=tmp_path / "up")
    sleeper.start()
    assert eventually((tmp_path / "up").exists)
    sleeper.signal(signal.SIGKILL)
    assert eventually(lambda: not sleeper.running)
    assert str(sleeper.look(time.monotonic())).startswith("child was killed by SIGKILL")
    assert (ending(-9), ending(1), ending(-99)) == (
        "was killed by SIGKILL",
        "ended with code 1",
        "was killed by signal 99",
    )


def test_all_are_asked_and_only_the_stubborn_is_killed(tmp_path: Path) -> None:
    good = child(OBEYS, "good", up=tmp_path / "good")
    bad = child(STUBBORN, "bad", up=tmp_path / "bad")
    for one in (good, bad):
        one.start()
    assert eventually(lambda: (tmp_path / "good").exists() and (tmp_path / "bad").exists())
    began = time.monotonic()
    assert stop_all([good, bad], grace_s=0.5) == ["bad"]
    assert time.monotonic() - began < 3
    assert good.process is not None
    assert good.process.returncode == 0
    assert not good.running
    assert not bad.running


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    bad = child(STUBBORN, "bad", up=tmp_path / "up")
    bad.start()
    assert eventually((tmp_path / "up").exists)
    began = time.monotonic()
    assert stop_all([bad], grace_s=30, hurry=lambda: time.monotonic() - began > 0.2) == ["bad"]
    assert time.monotonic() - began < 5


def test_bulk_runs_nicely(tmp_path: Path) -> None:
    out = tmp_path / "nice"
    polite = child(f"import os; open({str(out)!r}, 'w').write(str(os.nice(0)))", nice=10)
    polite.start()
    assert polite.process is not None
    polite.process.wait(timeout=60)
    assert int(out.read_text()) == min(19, os.nice(0) + 10)


PARENT = """
import os, sys, time
from hub import children
{patch}
from hub.children import Child, Leash
c = Child("c", [sys.executable, "-c", {script!r}], dict(os.environ), Leash())
c.start()
print(c.process.pid, flush=True)
time.sleep(60)
"""
LEASHED = """
import os, sys, time
from hub.children import hold_leash
hold_leash(os.environ)
open({up!r}, "w").close()
time.sleep(60)
"""


@pytest.mark.parametrize(
    "patch", ["", "children.die_with_parent = lambda: None"], ids=["signalled by the kernel", "by the pipe alone"]
)
@pytest.mark.parametrize("stubborn", [False, True])
def test_kill_9_of_the_parent_ends_the_child_too(tmp_path: Path, patch: str, stubborn: bool) -> None:
    up = tmp_path / "up"
    script = LEASHED.format(up=str(up))
    if stubborn:
        deaf = "import signal; signal.signal(15, signal.SIG_IGN)\n"
        script = deaf + "from hub import children\nchildren.GRACE_S = 0.3\n" + script
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT).format(patch=patch, script=script)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert eventually(up.exists)
    assert alive(pid)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    assert eventually(lambda: not alive(pid)), "the child outlived its parent"


def test_a_process_without_a_supervisor_holds_no_leash() -> None:
    script = (
        "import os, threading; from hub.children import hold_leash as h; h(os.environ); print(threading.active_count())"
    )
    environ = {name: value for name, value in os.environ.items() if name != "_HUB_LEASH"}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
