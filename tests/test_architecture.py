"""House rules that no linter knows: layers' habits, one reader of the time, sizes and words."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from channels.registry import BUILDERS
from hub.models import metadata

ROOT = Path(__file__).parents[1]
PACKAGES = ("crm_core", "channels", "routing", "campaigns", "webhooks", "hub")
LOWER = PACKAGES[:-1]
MOST_LINES = 600


def tracked(*patterns: str) -> list[Path]:
    """Files under version control; in an unpacked copy, all that match."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", *patterns], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.split("\0")
        return [ROOT / name for name in listed if name and (ROOT / name).is_file()]
    except (OSError, subprocess.CalledProcessError):
        return [path for pattern in patterns for path in ROOT.rglob(pattern) if "node_modules" not in path.parts]


def sources(*packages: str) -> list[Path]:
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def calls(tree: ast.AST, *dotted: str) -> list[int]:
    """Lines that call one of these, such as datetime.now."""
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) in dotted]


def test_one_reader_of_the_time() -> None:
    readers = ("datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.time")
    # The engine's neighbour processes and an offer's age on disk are measured by the file system's clock.
    known = {"crm_core/clock.py", "crm_core/db_sqlite.py"}
    # The twin is a world of its own: it shares no code with the hub, and so no clock.
    found = {
        f"{named(path)}:{line}"
        for path in sources(*PACKAGES)
        if named(path) not in known and "sandbox" not in path.parts
        for line in calls(ast.parse(path.read_text()), *readers)
    }
    assert not found


def test_only_the_hub_reads_the_environment() -> None:
    found = [
        named(path)
        for path in sources(*LOWER)
        if re.search(r"\bos\.(environ|getenv)\b", path.read_text()) and named(path) != "channels/mail_child.py"
    ]
    assert not found


def test_nobody_sleeps_to_wait_in_the_lower_folders() -> None:
    found = [
        f"{named(path)}:{line}"
        for path in sources("routing", "campaigns", "webhooks")
        for line in calls(ast.parse(path.read_text()), "time.sleep")
    ]
    assert not found


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_and_public_class_says_what_it_is(package: str) -> None:
    silent = []
    for path in sources(package):
        tree = ast.parse(path.read_text())
        if tree.body and ast.get_docstring(tree) is None:
            silent.append(named(path))
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and ast.get_docstring(node) is None:
                silent.append(f"{named(path)}:{node.name}")
    assert not silent


@pytest.mark.parametrize("package", LOWER)
def test_every_public_function_of_the_domain_says_what_you_get(package: str) -> None:
    silent = [
        f"{named(path)}:{node.name}"
        for path in sources(package)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("_")
        and ast.get_docstring(node) is None
    ]
    assert not silent


def test_no_file_is_too_long_to_read() -> None:
    long = {
        named(path): len(path.read_text().splitlines())
        for path in tracked("*.py")
        if "migrations/versions" not in str(path)
    }
    assert {name: lines for name, lines in long.items() if lines > MOST_LINES} == {}


def test_no_drawer_for_odds_and_ends() -> None:
    assert not [named(p) for p in tracked("*.py") if p.name in {"utils.py", "helpers.py", "common.py", "misc.py"}]


def test_every_channel_is_registered_documented_and_has_fixtures() -> None:
    adapters = set()
    for path in sources("channels"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                kinds = [
                    line.value.value
                    for line in node.body
                    if isinstance(line, ast.Assign)
                    and isinstance(line.value, ast.Constant)
                    and any(isinstance(target, ast.Name) and target.id == "kind" for target in line.targets)
                ]
                adapters.update(kinds)
    adapters -= {"fake"}
    assert adapters == set(BUILDERS)
    matrix = (ROOT / "docs/channels/README.md").read_text()
    for kind in adapters:
        assert (ROOT / f"docs/channels/{kind}.md").is_file(), kind
        assert any((ROOT / f"tests/fixtures/{kind}").iterdir()), kind
        assert kind in matrix, kind


def test_every_table_is_described() -> None:
    assert len(metadata.tables) > 40
    undescribed = [
        name
        for name, table in metadata.tables.items()
        for mapper in [m for m in _mappers() if m.local_table is table]
        if not (mapper.class_.__doc__ or "").strip()
    ]
    assert not undescribed


def _mappers() -> list[object]:
    from sqlmodel.main import default_registry

    return list(default_registry.mappers)


def test_links_in_the_documents_lead_somewhere() -> None:
    broken = []
    for path in tracked("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
            if "://" not in target and not target.startswith("mailto:") and not (path.parent / target).exists():
                broken.append(f"{named(path)} → {target}")
    assert not broken
