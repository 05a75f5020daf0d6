"""Forked children: as good as ones started anew, and nothing of their parent's left in them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the hub forks on Linux only")

# Each script is a parent of its own: pytest's process has threads, and must not be the one that forks.
HEAD = """
import fcntl, os, signal, subprocess, sys, threading, time
from pathlib import Path
from hub import forks
"""


def parent(script: str, folder: Path, *, ends_with: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-c", HEAD + textwrap.dedent(script), str(folder), "room for a title" * 4],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == ends_with, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("lambda: 7", 7),
        ("lambda: sys.exit(3)", 3),
        ("lambda: sys.exit('a sentence')", 1),
        ("lambda: 1 // 0", 1),
        ("lambda: os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("lambda: os.kill(os.getpid(), signal.SIGTERM)", -15),
    ],
)
def test_it_ends_as_its_body_does_and_never_in_the_parents_code(tmp_path: Path, body: str, code: int) -> None:
    said = parent(
        f"""
        try:
            child = forks.fork({body}, environ={{}})
            print("ended with", child.wait(timeout=60), child.poll())
        finally:
            print("cleaned up by", "parent" if os.getpid() == int(Path("/proc/self").readlink().name) else "?")
        """,
        tmp_path,
    )
    assert f"ended with {code} {code}" in said
    assert said.count("cleaned up by") == 1
    assert ("ZeroDivisionError" in said) == ("//" in body)


def test_it_has_its_own_session_title_environment_and_open_files(tmp_path: Path) -> None:
    said = parent(
        """
        os.environ["SECRET"] = "of the parent"
        lock = open(sys.argv[1] + "/lock", "w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        read_end, write_end = os.pipe()

        def body():
            print("session", os.getsid(0) == os.getpid(), "nice", os.nice(0) - before)
            print("title", Path("/proc/self/cmdline").read_bytes().rstrip(b"\\0").decode())
            print("environment", dict(os.environ), subprocess.run("env", capture_output=True).stdout)
            print("open", [fd for fd in range(256) if os.path.exists(f"/proc/self/fd/{fd}")] == [0, 1, 2, read_end])
            print("input", repr(sys.stdin.read()))
            print("handlers", signal.getsignal(signal.SIGTERM).name, signal.pthread_sigmask(signal.SIG_BLOCK, []))
            return 0

        before = os.nice(0)
        signal.signal(signal.SIGTERM, lambda *_: None)
        child = forks.fork(body, environ={"ONLY": "this"}, keep=[read_end], nice=3, title="python -m hub tested")
        print("code", child.wait(timeout=60))
        """,
        tmp_path,
    )
    assert "session True nice 3" in said or os.nice(0) > 16
    assert "title python -m hub tested" in said
    assert "environment {'ONLY': 'this'}" in said
    assert "SECRET" not in said
    assert "open True" in said
    assert "input ''" in said
    assert "handlers SIG_DFL set()" in said
    assert "code 0" in said


def test_a_lock_does_not_outlive_the_parent_in_the_child(tmp_path: Path) -> None:
    script = """
        lock = open(sys.argv[1] + "/lock", "w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        forks.die_with_parent = lambda: None  # the child lives on
        print(forks.fork(lambda: time.sleep(60) or 0, environ={}).pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    # To a file: the child holds the parent's output open, and a pipe would be read to its end.
    with (tmp_path / "out").open("w") as out:
        command = [sys.executable, "-c", HEAD + textwrap.dedent(script), str(tmp_path)]
        subprocess.run(command, stdout=out, timeout=60, check=False)
    pid = int((tmp_path / "out").read_text())
    try:
        os.kill(pid, 0)
        import fcntl

        with (tmp_path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    script = """
        print(forks.fork(lambda: time.sleep(60) or 0, environ={}).pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with (tmp_path / "out").open("w") as out:
        command = [sys.executable, "-c", HEAD + textwrap.dedent(script), str(tmp_path)]
        subprocess.run(command, stdout=out, timeout=60, check=False)
    pid = int((tmp_path / "out").read_text())
    deadline = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_signal_sent_at_once_is_not_lost(tmp_path: Path) -> None:
    said = parent(
        """
        signal.signal(signal.SIGTERM, lambda *_: None)
        for _ in range(20):
            child = forks.fork(lambda: time.sleep(60) or 0, environ={})
            child.send_signal(signal.SIGTERM)
            assert child.wait(timeout=60) == -15
            child.send_signal(signal.SIGTERM)  # nothing: it has ended
        try:
            child = forks.fork(lambda: time.sleep(60) or 0, environ={})
            child.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            print("still there")
            child.send_signal(signal.SIGKILL)
        """,
        tmp_path,
    )
    assert said == "still there\n"


def test_a_process_with_threads_does_not_fork(tmp_path: Path) -> None:
    said = parent(
        """
        threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
        forks.fork(lambda: 0, environ={})
        """,
        tmp_path,
        ends_with=1,
    )
    assert "a process with threads must not fork" in said


def test_a_title_longer_than_the_command_line_is_cut(tmp_path: Path) -> None:
    script = """
        def body():
            forks.set_title("x" * 10_000)
            shown = Path("/proc/self/cmdline").read_bytes()
            print(set(shown.rstrip(b"\\0")) == {ord("x")}, len(shown) > 20, os.environ)
            return 0
        forks.fork(body, environ={"KEPT": "yes"}).wait(timeout=60)
    """
    assert parent(script, tmp_path) == "True True environ({'KEPT': 'yes'})\n"
