"""What the supervisor loads before it forks: all that its processes need, in one thread, or one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hub.supervisor import HUB

linux = pytest.mark.skipif(sys.platform != "linux", reason="the hub forks on Linux only")


def python(script: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HUB_", "TWILIO_"))}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env={**clean, **environ}, capture_output=True, text=True, timeout=60, check=False)


@linux
def test_loading_starts_no_thread_opens_no_file_and_leaves_the_collector_on() -> None:
    done = python(
        "import gc, os, threading; from hub import supervisor; before = sorted(os.listdir('/proc/self/fd'))\n"
        "supervisor.load(supervisor.HUB)\n"
        "print(threading.active_count(), sorted(os.listdir('/proc/self/fd')) == before, gc.isenabled())"
    )
    assert done.stdout == "1 True True\n", done.stderr


@linux
def test_a_forked_process_has_little_left_to_load() -> None:
    done = python(
        "import sys; from hub import supervisor; supervisor.load(supervisor.HUB); before = set(sys.modules)\n"
        "import hub.app, hub.pollers, hub.jobs, hub.runtime, uvloop\n"
        "print(len(before) > 500, set(sys.modules) - before)"
    )
    assert done.stdout == "True set()\n", done.stderr


@linux
def test_a_part_that_cannot_be_loaded_is_one_sentence_and_nothing_is_left(tmp_path: Path) -> None:
    script = (
        "from hub import supervisor; from hub.__main__ import main\n"
        "supervisor.HUB = (*supervisor.HUB[:1], ('poll', ('poll',), 0, 'hub.not_there'))\n"
        "raise SystemExit(main(['serve']))"
    )
    done = python(script, HUB_DATA_DIR=str(tmp_path / "var"), HUB_PORT="0", HUB_SANDBOX="0")
    told = [line for line in done.stderr.splitlines() if line.startswith("The hub did not start: ")]
    assert done.returncode == 1
    assert len(told) == 1, done.stderr
    assert "hub.not_there cannot be loaded (ModuleNotFoundError" in told[0]
    assert "Traceback" not in done.stderr
    assert "ready" not in done.stdout


def test_every_process_is_a_verb_of_the_command_line() -> None:
    from hub.__main__ import VERBS

    assert {words[0]: module for _, words, _, module in HUB} == {
        name: VERBS[name].target.partition(":")[0] for name in ("web", "poll", "work")
    }
