"""The list of failpoints is the truth about the code, and a kill that could never come is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from crm_core import failpoints

ROOT = Path(__file__).parents[2]


def test_every_place_is_listed_and_every_listed_place_is_there() -> None:
    found: set[str] = set()
    for folder in ("crm_core", "channels", "routing", "campaigns", "webhooks", "hub"):
        for path in (ROOT / folder).rglob("*.py"):
            found |= set(re.findall(r"""^\s*failpoint\(["']([a-z_.]+)["']\)""", path.read_text(), re.MULTILINE))
    assert found == set(failpoints.PLACES)


def test_each_place_has_its_pair() -> None:
    """What may be cut off before a thing is done may be cut off after it as well."""
    alone = {
        "sender.before_record",
        "jobs.before_end",
        "backup.before_finish",
        "restore.before_rename",
    }  # followed by a commit or an end
    before = {place for place in failpoints.PLACES if ".before_" in place} - alone
    assert {place.replace(".before_", ".after_") for place in before} <= set(failpoints.PLACES)


def test_a_place_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"db\.nowhere"):
        failpoints.arm("db.nowhere:1")
