"""The command line: instant help, every verb backed by a function, settings faults before anything else."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hub.__main__ import VERBS, build_parser


def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HUB_", "TWILIO_"))}
    command = [sys.executable, "-m", "hub", *words]
    return subprocess.run(command, env=clean | environ, capture_output=True, text=True, timeout=60, check=False)


def test_help_is_instant_and_names_every_verb() -> None:
    best = 9.0
    for _ in range(3):
        began = time.monotonic()
        done = run("--help")
        best = min(best, time.monotonic() - began)
    assert done.returncode == 0
    assert all(f"    {verb} " in done.stdout for verb in VERBS)
    assert best < 1.0, "something heavy is imported too early"  # 0.1 s here when nothing else runs


def test_help_imports_nothing_of_the_product() -> None:
    script = "import sys, hub.__main__ as m; m.build_parser(); print([x for x in sys.modules if x in {!r}])"
    heavy = {"aiohttp", "sqlmodel", "sqlalchemy", "pydantic", "twilio", "rq", "redis", "structlog", "jinja2"}
    done = subprocess.run([sys.executable, "-c", script.format(heavy)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_is_backed_by_a_function(name: str) -> None:
    module, _, function = VERBS[name].target.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("words", [[], ["nonsense"], ["work"], ["work", "fast"], ["twilio"], ["sandbox"]])
def test_a_wrong_command_line_says_how_it_goes(words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: hub")
    assert "Traceback" not in done.stderr


def test_arguments_reach_the_function() -> None:
    settings = object()
    parse = build_parser().parse_args

    def seen(*arguments: object, **named: object) -> tuple[object, ...]:
        return (*arguments, named)

    for words, expected in [
        (["work", "bulk"], (settings, "bulk", {})),
        (["twilio", "setup"], (settings, {"dry_run": False})),
        (["twilio", "setup", "--dry-run"], (settings, {"dry_run": True})),
        (["sandbox", "--config", "x.json"], (["--config", "x.json"], {})),
    ]:
        assert VERBS[words[0]].call(seen, settings, parse(words)) == expected  # type: ignore[arg-type]


def test_all_faults_in_the_settings_come_at_once_and_nothing_starts(tmp_path: Path) -> None:
    environ = {
        "HUB_DATA_DIR": str(tmp_path / "var"),
        "HUB_PORT": "x",
        "HUB_LOG_LEVEL": "loud",
        "TWILIO_AUTH_TOKEN": "t",
    }
    done = run("serve", **environ)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert [line.split()[0] for line in lines] == ["HUB_PORT", "Twilio", "HUB_LOG_LEVEL"]
    assert done.stdout == ""
    assert not (tmp_path / "var" / "serve.lock").exists()
