"""Twenty deaths per run of the suite, ten on each engine; `python3 run.py kills --count 1000` is the long night of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PgServer

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
def test_twenty_deaths_lose_nothing_and_double_nothing(pg_server: PgServer) -> None:
    """The same lives in each run; the night draws its own."""
    run = subprocess.run(
        [
            sys.executable, "-m", "tests.nightly.kills", "--count", "20", "--seed", "20261121",
            "--database-url", pg_server.url(),
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert re.search(r"^20 kills in [23] companies: nothing lost, nothing doubled$", run.stdout, re.MULTILINE), (
        run.stdout
    )
