"""docs/api.md says what the code does: the tables of scopes and operations are compared line by line."""

from __future__ import annotations

import re
from pathlib import Path

from hub.api.contact_transfer import FILES
from hub.api.operation import BODY_LIMIT
from hub.api.replays import KEPT_FOR
from hub.api.routes import OPERATIONS
from hub.api.scopes import SCOPES
from hub.desktop.fan import BEAT_S, REPLAY

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def scope_lines() -> list[str]:
    """The rows of the table of scopes."""
    return [f"| `{scope}` | {what} |" for scope, what in SCOPES.items()]


def operation_lines() -> list[str]:
    """The rows of the table of operations."""
    found = []
    for op in OPERATIONS:
        roles = ", ".join(sorted(str(role) for role in op.roles))
        found.append(f"| `{op.method} {op.path}` | {op.summary} | `{op.scope}` | {roles} |")
    return found


def test_the_tables_are_those_of_the_code() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    scopes = [line for line in lines if re.match(r"\| `\w+:\w+` \|", line)]
    assert scopes == scope_lines(), "\n".join(scope_lines())
    operations = [line for line in lines if re.match(r"\| `(GET|POST|PUT|PATCH|DELETE) ", line)]
    assert operations == operation_lines(), "\n".join(operation_lines())


def test_the_figures_are_those_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"{BODY_LIMIT // 2**20} MiB" in text
    assert f"{int(KEPT_FOR.total_seconds() // 3600)} hours" in text
    assert f"{BEAT_S} seconds" in text
    assert f"{REPLAY} events" in text


def test_nothing_in_the_page_names_a_path_that_is_not_there() -> None:
    known = {op.path for op in OPERATIONS} | {"/api/v1/events", "/api/openapi.json", *FILES}
    patterns = [re.compile(re.sub(r"{\w+}", "[^/ ?]+", path) + "$") for path in known]
    text = PAGE.read_text(encoding="utf-8")
    for path in re.findall(r"/api/(?:v1/[\w/{}+$-]+(?:\.csv)?|openapi\.json)", text):
        assert any(pattern.match(path) for pattern in patterns), path


def test_no_operation_hides_another() -> None:
    taken = [(one.method, one.path) for one in OPERATIONS]
    assert sorted(taken) == sorted(set(taken))
