"""What set-up installs is pinned by hash, names no registry, and is what the project asks for."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYTHON_LOCKS = ["requirements.lock", "requirements-dev.lock", "requirements-tools.lock"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins(name: str) -> dict[str, str]:
    """Package -> version of a lock file; each with at least one SHA-256."""
    found = {}
    for block in re.split(r"\n(?=\S)", (ROOT / name).read_text()):
        if head := re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", block):
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), head[1]
            found[canonicalize_name(head[1])] = head[2]
    return found


@pytest.mark.parametrize("name", [*PYTHON_LOCKS, "package-lock.json"])
def test_no_lock_names_an_address(name: str) -> None:
    assert "://" not in (ROOT / name).read_text()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("requirements.lock", PROJECT["project"]["dependencies"]),
        ("requirements-dev.lock", PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"]),
        ("requirements-tools.lock", PROJECT["dependency-groups"]["tools"]),
    ],
)
def test_each_requirement_is_locked_at_a_version_it_allows(name: str, wanted: list[str]) -> None:
    locked = pins(name)
    for text in wanted:
        requirement = Requirement(text)
        version = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), (text, version)


def test_developers_have_what_is_served() -> None:
    served, developed = pins("requirements.lock"), pins("requirements-dev.lock")
    assert served.items() <= developed.items()


def test_every_front_end_package_is_locked_by_hash_at_the_exact_version_asked_for() -> None:
    lock = json.loads((ROOT / "package-lock.json").read_text())
    wanted = json.loads((ROOT / "package.json").read_text())
    for path, package in lock["packages"].items():
        if path:
            assert package["integrity"].startswith("sha512-"), path
            assert "resolved" not in package, path
    for name, version in {**wanted["dependencies"], **wanted["devDependencies"]}.items():
        assert lock["packages"][f"node_modules/{name}"]["version"] == version
