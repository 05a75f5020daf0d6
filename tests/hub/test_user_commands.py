"""`hub user` and `hub token`, the real commands on a real database."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlmodel import select

from crm_core import users
from crm_core.audit import AuditEntry
from crm_core.db import Database, open_database
from hub.passwords import right_password

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)


class Commands:
    """The command line on one data folder, outside the sandbox."""

    def __init__(self, data: Path) -> None:
        self.data = data

    def __call__(self, *words: str, typed: str = "") -> tuple[int, str, str]:
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("HUB_", "TWILIO_"))}
        environ |= {"HUB_DATA_DIR": str(self.data), "HUB_SANDBOX": "0"}
        done = subprocess.run(
            [sys.executable, "-m", "hub", *words],
            env=environ,
            input=typed,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    async def database(self) -> Database:
        return await open_database(f"sqlite:///{self.data}/hub.db")


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with an empty database of this version."""
    data = tmp_path_factory.mktemp("migrated")
    assert Commands(data)("migrate") == (0, "", "")
    return data


@pytest.fixture
def hub(tmp_path: Path, migrated: Path) -> Commands:
    shutil.copytree(migrated, tmp_path / "var")
    return Commands(tmp_path / "var")


async def test_a_user_is_added_listed_changed_and_disabled(hub: Commands) -> None:
    assert hub("user", "list") == (0, "", "Nobody yet: hub user add LOGIN --role admin\n")
    words = (
        "user",
        "add",
        "Ana",
        "--role",
        "admin",
        "--role",
        "agent",
        "--name",
        "Ana Example",
        "--zone",
        "Europe/Berlin",
    )
    assert hub(*words, typed="first password\n") == (0, "ana may log in as admin, agent.\n", "")
    assert hub("user", "list")[1] == "ana\tAna Example\tadmin,agent\tactive\n"
    assert hub(*words, typed="first password\n") == (1, "", "The login “ana” is taken.\n")

    code, out, _ = hub("user", "password", "ana", "--generate")
    assert code == 0
    made = out.strip().rpartition(" ")[2]
    assert hub("user", "disable", "ana")[0] == 0
    assert hub("user", "list")[1].endswith("\tdisabled\n")
    assert hub("user", "enable", "ana")[0] == 0

    db = await hub.database()
    async with db.reading() as tx:
        user = await users.find_login(tx, "ana")
        actions = await tx.all(select(AuditEntry.actor_id, AuditEntry.action).order_by(AuditEntry.id))
    await db.close()
    assert user is not None
    assert (user.zone, user.disabled_at) == ("Europe/Berlin", None)
    assert await right_password(user.password_hash, made)
    assert not await right_password(user.password_hash, "first password")
    assert actions == [("command-line", "user.created")] + [("command-line", "user.changed")] * 3


async def test_a_token_works_once_shown_and_ends_when_revoked(hub: Commands) -> None:
    hub("user", "add", "robot", "--role", "agent", "--generate")
    code, secret, told = hub("token", "add", "robot", "--name", "leads", "--scope", "contacts:read", "--days", "30")
    assert code == 0
    assert "shown once" in told
    listed = hub("token", "list")[1]
    key, name, scopes, state, used = listed.strip().split("\t")
    assert (name, scopes, state, used) == ("leads", "contacts:read", "active", "never used")
    assert secret.strip() not in listed

    db = await hub.database()
    async with db.reading() as tx:
        found = await users.find_token(tx, secret.strip(), now=NOW)
        assert found is not None
        assert found[1].login == "robot"
    assert hub("token", "revoke", key)[0] == 0
    async with db.reading() as tx:
        assert await users.find_token(tx, secret.strip(), now=NOW) is None
    await db.close()
    assert hub("token", "list")[1].split("\t")[3] == "revoked"


@pytest.mark.parametrize(
    ("words", "typed", "sentence"),
    [
        (("user", "add", "bo", "--role", "agent"), "short\n", "A password has 10 to 200 characters."),
        (("user", "add", "b o", "--role", "agent"), "long enough it is\n", "A login is 2 to 64 letters"),
        (("user", "password", "nobody", "--generate"), "", "There is no user 'nobody'."),
        (("token", "add", "nobody", "--name", "n", "--scope", "contacts:read"), "", "There is no user 'nobody'."),
        (("token", "add", "ann", "--name", "n", "--scope", "contacts:red"), "", "There is no scope contacts:red."),
        (("token", "revoke", "none"), "", "There is no such token."),
    ],
)
def test_what_cannot_be_done_is_one_sentence(hub: Commands, words: tuple[str, ...], typed: str, sentence: str) -> None:
    code, out, err = hub(*words, typed=typed)
    assert (code, out) == (1, "")
    assert err.startswith(sentence)
    assert len(err.splitlines()) == 1


def test_a_role_that_does_not_exist_is_refused_with_those_that_do(hub: Commands) -> None:
    code, _, err = hub("user", "add", "bo", "--role", "king")
    assert code == 2
    assert all(role in err for role in users.Role)


def test_before_migrating_it_says_so(tmp_path: Path) -> None:
    assert Commands(tmp_path)("user", "list") == (1, "", "The database is not up to date: run `hub migrate` first.\n")
