"""A test whose program is absent is left out with a reason; in CI that fails the run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = """
import pytest

@pytest.mark.needs_redis
def test_with_redis():
    pass

def test_without():
    pass
"""
# The plugin under test, on a machine where nothing is installed.
BARE = "from tests import conftest\nconftest.Program.find = lambda self: None\nfrom tests.conftest import *\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "test_it.py").write_text(SOURCE)
    (tmp_path / "bare.py").write_text(BARE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    needs_redis: x\n")
    return tmp_path


def run(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k != "CI" and not k.startswith("PYTEST")}
    clean["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT)])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "bare", "--rootdir", str(folder), "-p", "no:cacheprovider"]
    return subprocess.run(
        command, cwd=folder, env=clean | environ, capture_output=True, text=True, timeout=100, check=False
    )


def test_elsewhere_it_passes_and_says_how_to_get_it(folder: Path) -> None:
    done = run(folder)
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 skipped" in done.stdout
    assert "1 × redis is not installed (Debian: apt-get install redis-server)" in done.stdout


def test_in_ci_any_test_left_out_fails_the_run(folder: Path) -> None:
    with (folder / "test_it.py").open("a") as more:
        more.write("\ndef test_gives_up():\n    pytest.skip('too hard')\n")
    done = run(folder, CI="true")
    assert done.returncode == 1, done.stdout
    assert "2 passed, 1 skipped" in done.stdout
    assert "CI is set: a test that was left out counts as failed" in done.stdout
