"""One private server of each kind per worker; a test that kills one takes a server of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.channels.wire import tls_pair
from tests.conftest import SYSTEM_PATH
from tests.real.servers import ROOT, Dovecot, Postfix, Postgres, Redis, Server, Sink, open_folder


def started(server: Server) -> Iterator[Server]:
    """Running for as long as the fixture lives."""
    try:
        server.start()  # type: ignore[attr-defined]
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def dovecot(dovecot_path: str) -> Iterator[Dovecot]:
    """A Dovecot that all tests of this worker share, each with mailboxes of its own."""
    yield from started(Dovecot(dovecot_path, open_folder("dovecot")))  # type: ignore[misc]


@pytest.fixture
def own_dovecot(dovecot_path: str) -> Iterator[Dovecot]:
    """A Dovecot for one test, which may kill it."""
    yield from started(Dovecot(dovecot_path, open_folder("dovecot")))  # type: ignore[misc]


@pytest.fixture(scope="session")
def sink(postfix_path: str) -> Iterator[Sink]:
    """A server of somebody else that refuses every recipient."""
    program = shutil.which("smtp-sink", path=SYSTEM_PATH)
    assert program is not None, "smtp-sink comes with Debian's postfix"
    yield from started(Sink(program, open_folder("sink")))  # type: ignore[misc]


@pytest.fixture(scope="session")
def postfix(postfix_path: str, dovecot: Dovecot, sink: Sink) -> Iterator[Postfix]:
    """A Postfix that hands over to `dovecot` and `sink`."""
    if not ROOT:
        pytest.skip("Postfix can only be started by root")
    server = Postfix(postfix_path, open_folder("postfix"), lmtp=dovecot.lmtp, sink=sink.port)
    _, server.trust = tls_pair(server.folder)
    yield from started(server)  # type: ignore[misc]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The distribution's PostgreSQL, reached by URL."""
    yield from started(Postgres("postgres", open_folder("postgres")))  # type: ignore[misc]


@pytest.fixture
def debian_redis(redis_server_path: str) -> Iterator[Redis]:
    """The distribution's Redis for one test, which may stop it."""
    yield from started(Redis(redis_server_path, open_folder("redis")))  # type: ignore[misc]
