"""`hub migrate`, and the look that spares a start from it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from hub.migrate import is_up_to_date, known_revisions, run_migrate, stored_revision
from hub.settings import Settings, read_settings
from hub.twin import LOGINS_FILE


def settings_of(folder: Path, *, sandbox: bool = False, **environ: str) -> Settings:
    return read_settings({"HUB_DATA_DIR": str(folder), "HUB_SANDBOX": "1" if sandbox else "0", **environ})


def note(folder: Path, revision: str) -> None:
    """A database that says of itself that it is at this revision."""
    with closing(sqlite3.connect(folder / "hub.db")) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS alembic_version (version_num TEXT)")
        connection.execute("DELETE FROM alembic_version")
        connection.execute("INSERT INTO alembic_version VALUES (?)", [revision])


def test_only_the_newest_revision_needs_nothing(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    assert not is_up_to_date(settings), "no file"
    assert not (tmp_path / "hub.db").exists(), "to look makes nothing"
    with closing(sqlite3.connect(tmp_path / "hub.db")) as connection:
        connection.execute("CREATE TABLE something (id TEXT)")
    assert not is_up_to_date(settings), "no revision"
    newest = max(known_revisions())
    for revision, done in ((newest, True), ("0000", False), ("9999_of_a_later_version", False)):
        note(tmp_path, revision)
        assert is_up_to_date(settings) is done, revision


def test_the_sandbox_needs_its_demo_company_too(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, sandbox=True)
    note(tmp_path, max(known_revisions()))
    assert not is_up_to_date(settings)
    (tmp_path / LOGINS_FILE).write_text("[]")
    assert is_up_to_date(settings)


def test_in_doubt_the_migration_is_asked(tmp_path: Path) -> None:
    note(tmp_path, max(known_revisions()))
    url = "postgresql://hub@127.0.0.1:1/hub"
    assert not is_up_to_date(settings_of(tmp_path, HUB_DATABASE_URL=url, HUB_SECRET_KEY="k" * 40))
    (tmp_path / "hub.db").write_bytes(b"this is no database, it is a letter to my aunt" * 100)
    assert not is_up_to_date(settings_of(tmp_path))


@pytest.mark.timeout(120)
async def test_what_the_migration_leaves_is_up_to_date(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    assert await run_migrate(settings) == 0
    assert await stored_revision(settings.database_url) == max(known_revisions())
    assert is_up_to_date(settings)
    assert await run_migrate(settings) == 0


async def test_a_database_of_a_later_version_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note(tmp_path, "9999_of_a_later_version")
    assert await run_migrate(settings_of(tmp_path)) == 1
    assert "made by a later version of the hub" in capsys.readouterr().err
