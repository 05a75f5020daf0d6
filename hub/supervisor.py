"""`hub serve`: everything on one machine, from nothing to a printed address, and back to nothing on Ctrl-C.

Decides the order: look at everything that can be wrong, start the private Valkey, the sandbox and, where it is needed,
the migration, and while they work load here what web, poll and the two workers will need; then fork these. Stop in the
reverse order. Leaves to each process what it does. Every failure is one sentence.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import http.client
import importlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TextIO

from hub import forks, migrate, twin
from hub.__main__ import main
from hub.children import GRACE_S, LEASH, Child, Leash, ending, stop_all
from hub.log import get_logger
from hub.settings import Settings
from hub.valkey import Valkey, ValkeyUnavailable, ensure_valkey, reachable

log = get_logger(__name__)

READY_WITHIN_S = 120.0
LOOK_EVERY_S = 0.1
READY_LOOK_S = 0.02
# The processes that are forked from this one, in starting order: name, verb, niceness, and the module of that verb.
HUB = (
    ("web", ("web",), 0, "hub.app"),
    ("poll", ("poll",), 0, "hub.pollers"),
    ("interactive", ("work", "interactive"), 0, "hub.jobs"),
    ("bulk", ("work", "bulk"), 10, "hub.jobs"),
)
QUICKER = ("uvloop",) if importlib.util.find_spec("uvloop") else ()
FIRST_WAVE = 1  # web: whoever waits, waits for it


class CannotServe(Exception):
    """The hub cannot start; the text is one sentence for the operator."""


@dataclass(frozen=True)
class Serving:
    """What runs, in starting order, and when each step of the start was done (monotonic seconds, for bench.start)."""

    valkey: Valkey | None = None
    sandbox: Child | None = None
    hub: tuple[Child, ...] = ()
    steps: dict[str, float] = field(default_factory=dict)

    @property
    def children(self) -> tuple[Child, ...]:
        return (self.sandbox, *self.hub) if self.sandbox else self.hub


def serve(settings: Settings) -> int:
    """Run the whole hub until asked to stop; the process's exit code."""
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, _: stopping.append(got))
    serving = Serving()
    began = time.monotonic()
    try:
        with only_one(settings) as state:
            settings = with_port(settings, patient=state.unclean)
            state.note(settings)
            leash = Leash()
            try:
                serving = start(settings, leash, stopping)
                watch_until_ready(settings, serving, stopping)
                if not stopping:
                    serving.steps["ready"] = time.monotonic()
                    start_the_rest(serving)
                    announce(settings, took_s=time.monotonic() - began)
                    state.note(settings, steps={"begun": began, **serving.steps})
                serving = watch(settings, serving, stopping)
            finally:
                stop(serving, stopping)
                state.clean()
    except (CannotServe, ValkeyUnavailable, twin.TwinFailed) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


# --- before anything starts ---------------------------------------------------------------------------------------


class RunState:
    """Who serves this data folder: a lock for as long as the process lives, and a note of its address."""

    def __init__(self, path: Path, handle: TextIO) -> None:
        self.path, self.handle = path, handle
        self.unclean = self.noted().get("pid") is not None

    def noted(self) -> dict[str, object]:
        try:
            found = json.loads(self.path.read_text() or "{}")
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def note(self, settings: Settings, *, steps: dict[str, float] | None = None) -> None:
        """Who serves where, and once it is ready how the start went."""
        found = {"pid": os.getpid(), "url": settings.public_url}
        self.path.write_text(json.dumps(found | ({"steps": steps} if steps else {})))

    def clean(self) -> None:
        self.path.write_text("{}")


@contextlib.contextmanager
def only_one(settings: Settings) -> Iterator[RunState]:
    """Hold this data folder; CannotServe when another hub does."""
    path = settings.data_dir / "serve.lock"
    try:
        handle = path.open("a")
    except OSError as error:
        raise CannotServe(f"Cannot write to {path}: {error.strerror}. Give this user the folder.") from error
    with handle:
        state = RunState(settings.data_dir / "serve.json", handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            other = state.noted()
            raise CannotServe(
                f"A hub already runs on {settings.data_dir} (process {other.get('pid')}, {other.get('url')}). "
                "Stop it first, or set HUB_DATA_DIR and HUB_PORT to run another one."
            ) from None
        yield state


def with_port(settings: Settings, *, patient: bool) -> Settings:
    """The settings with a port that is free (0: any). `patient`: the last run was killed and may hold it briefly."""
    deadline = time.monotonic() + (GRACE_S + 2 if patient else 0)
    while True:
        try:
            port = free_port(settings.host, settings.port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            raise CannotServe(port_sentence(settings, error)) from error
        if port == settings.port:
            return settings
        public = settings.public_url if settings.public_url_set else settings.public_url.rpartition(":")[0] + f":{port}"
        return replace(settings, port=port, public_url=public)


def free_port(host: str, port: int) -> int:
    """Bind and let go; the port. OSError when it cannot be had."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        probe.listen(1)
        return int(probe.getsockname()[1])


def port_sentence(settings: Settings, error: OSError) -> str:
    """What to do about an address that cannot be listened on."""
    where = f"port {settings.port} on {settings.host}"
    if error.errno == errno.EADDRINUSE:
        return f"Cannot listen: {where} is taken. Stop the program that uses it, or set HUB_PORT to another one."
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"Cannot listen: this user may not use {where}. Set HUB_PORT to 1024 or more."
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return f"Cannot listen: {settings.host} is not an address of this machine. Set HUB_HOST, such as 127.0.0.1."
    return f"Cannot listen on {where}: {error.strerror}. Set HUB_HOST and HUB_PORT."


# --- start --------------------------------------------------------------------------------------------------------


def start(settings: Settings, leash: Leash, stopping: list[int]) -> Serving:
    """Start everything up to the web process. What was started is stopped again when a later step fails."""
    serving = Serving()
    environ = child_environment(settings)
    migration: subprocess.Popen[bytes] | None = None
    try:
        if settings.redis_url is None:
            valkey = ensure_valkey(settings.data_dir)
            serving = replace(serving, valkey=valkey)
            environ["HUB_REDIS_URL"] = valkey.url
        else:
            reachable(settings.redis_url)
        serving.steps["valkey"] = time.monotonic()
        made = twin.credentials(settings.data_dir) if settings.sandbox else None
        # The sandbox, the migration and the loading need nothing of each other: side by side they save seconds.
        if made is not None and not settings.sandbox_attached:
            (settings.data_dir / twin.PORTS_FILE).unlink(missing_ok=True)
            config = twin.write_config(settings, made, twin_ports(settings))
            serving = replace(serving, sandbox=Child("sandbox", twin.command(config), environ, leash))
            for process in serving.children:
                process.start()
        if not migrate.is_up_to_date(settings):
            migration = begin_migration(environ, leash, first=not Path(settings.data_dir, "hub.db").exists())
        serving.steps["begun_others"] = time.monotonic()
        load(HUB[:FIRST_WAVE])
        serving.steps["loaded"] = time.monotonic()
        if migration is not None:
            end_migration(migration)
        serving.steps["migrated"] = time.monotonic()
        if made is not None and (sandbox := serving.sandbox) is not None:
            ports = twin.wait_for_ports(settings.data_dir, alive=lambda: sandbox.running)
            twin.write_config(settings, made, ports)  # after a crash it must come back on the same ports
            app_sid = twin.register_app(made, ports, hub_url=settings.public_url)
            environ |= twin.environment(made, ports, app_sid=app_sid)
        serving.steps["sandbox"] = time.monotonic()
        hub = tuple(
            Child(name, program(words), doomed(environ, name), leash, nice=nice, body=partial(main, [*words]))
            for name, words, nice, _ in HUB
        )
        serving = replace(serving, hub=hub)
        for process in hub[:FIRST_WAVE]:
            process.start()
        serving.steps["web_started"] = time.monotonic()
        if not stopping:
            load(HUB)  # while the web process gets ready
        serving.steps["loaded_all"] = time.monotonic()
    except BaseException:
        if migration is not None and migration.poll() is None:
            migration.terminate()
            migration.wait()
        stop(serving, stopping)
        raise
    return serving


def start_the_rest(serving: Serving) -> None:
    """Those nobody waits for in the first second: starting all at once would make each of them slow."""
    for process in serving.hub[FIRST_WAVE:]:
        process.start()


def program(words: Sequence[str]) -> list[str]:
    """A verb of the hub as a command of its own."""
    return [sys.executable, "-m", "hub", *words]


def load(processes: Sequence[tuple[str, tuple[str, ...], int, str]]) -> None:
    """Load what these processes will need, so that they share it; where there is no forking each loads for itself."""
    if not forks.POSSIBLE:
        return
    # Nothing of what is loaded will ever be thrown away, so looking for garbage meanwhile is a fifth of the time lost.
    gc.disable()
    try:
        for module in (*QUICKER, *(module for *_, module in processes)):
            try:
                importlib.import_module(module)
            except Exception as error:
                raise CannotServe(
                    f"The hub did not start: {module} cannot be loaded ({type(error).__name__}: {error}). "
                    "Install it again: the files do not fit each other."
                ) from error
    finally:
        gc.enable()


def child_environment(settings: Settings) -> dict[str, str]:
    """The operator's environment, with what was worked out here made plain. No process guesses a second time."""
    return {
        **os.environ,
        "HUB_HOST": settings.host,
        "HUB_PORT": str(settings.port),
        "HUB_DATA_DIR": str(settings.data_dir),
        "HUB_LOG_FORMAT": settings.log_format,
        "HUB_LOG_LEVEL": settings.log_level,
        "HUB_SANDBOX": "1" if settings.sandbox else "0",
    }


def doomed(environ: dict[str, str], name: str) -> dict[str, str]:
    """For tests: `HUB_FAILPOINTS=web/db.after_commit:9` arms that place in the child `web`, and nowhere else."""
    places = environ.get("HUB_FAILPOINTS", "").split(",")
    own = [place.removeprefix(f"{name}/") for place in places if place.startswith(f"{name}/")]
    return {**environ, "HUB_FAILPOINTS": ",".join(own)}


def twin_ports(settings: Settings) -> twin.TwinPorts:
    """Beside the hub's port where that is free, so that the outside page keeps its address; else any."""
    with contextlib.suppress(OSError, OverflowError):
        return twin.TwinPorts(http=free_port("127.0.0.1", settings.port + 1), smtp=0, imap=0)
    return twin.TwinPorts(http=0, smtp=0, imap=0)


def begin_migration(environ: dict[str, str], leash: Leash, *, first: bool) -> subprocess.Popen[bytes]:
    """Bring the database up to date, in a process of its own that says itself what is wrong."""
    if first:
        say("making the database …")
    return subprocess.Popen(
        program(["migrate"]),
        env={**environ, LEASH: str(leash.read_end)},
        stdin=subprocess.DEVNULL,
        pass_fds=[leash.read_end],
    )


def end_migration(process: subprocess.Popen[bytes]) -> None:
    """Wait for it; CannotServe when it failed."""
    if code := process.wait():
        raise CannotServe(f"The hub did not start: bringing the database up to date {ending(code)}.")


# --- while it runs ------------------------------------------------------------------------------------------------


def watch_until_ready(settings: Settings, serving: Serving, stopping: list[int]) -> None:
    """Return when /readyz answers 200; CannotServe when a process dies first or it takes too long."""
    deadline = time.monotonic() + READY_WITHIN_S
    while not stopping:
        for process in serving.children:
            if process.process is not None and (code := process.process.poll()) is not None:
                raise CannotServe(f"The hub did not start: its {process.name} process {ending(code)}; see above.")
        answer = ready(settings)
        if answer == "ready":
            return
        if time.monotonic() > deadline:
            raise CannotServe(f"The hub did not get ready within {READY_WITHIN_S:.0f} s: {answer}.")
        time.sleep(READY_LOOK_S)


def ready(settings: Settings) -> str:
    """`ready`, or what /readyz said instead."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    connection = http.client.HTTPConnection(host, settings.port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        text = response.read(500).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return f"the web process does not answer ({error})"
    finally:
        connection.close()
    return "ready" if response.status == 200 else f"/readyz answers {response.status} {text}"


def watch(settings: Settings, serving: Serving, stopping: list[int]) -> Serving:
    """Until asked to stop: notice what ends, start it again, say so."""
    while not stopping:
        now = time.monotonic()
        for process in serving.children:
            if news := process.look(now):
                log.warning("child process", child=process.name, what=news)
        if serving.valkey is not None and (code := serving.valkey.ended_with()) is not None:
            log.warning("the private Valkey ended; starting it again", how=ending(code))
            try:
                serving = replace(serving, valkey=ensure_valkey(settings.data_dir))
            except ValkeyUnavailable as error:
                log.error("the private Valkey does not start", why=str(error))
                time.sleep(1)
        time.sleep(LOOK_EVERY_S)
    return serving


def stop(serving: Serving, stopping: list[int]) -> None:
    """End the hub's processes, then the sandbox, then Valkey: nobody loses what it needs. Ctrl-C again: at once."""
    asked = len(stopping)
    for group in (serving.hub, (serving.sandbox,) if serving.sandbox else ()):
        if killed := stop_all(group, hurry=lambda: len(stopping) > asked):
            log.warning("had to be killed", children=killed)
    if serving.valkey is not None:
        serving.valkey.stop()


def announce(settings: Settings, *, took_s: float) -> None:
    """The address, and in the sandbox the outside page and who may log in."""
    say(f"The hub is ready after {took_s:.1f} s: {settings.public_url}")
    for channel, reason in sorted(settings.channels_off.items()):
        say(f"  {channel} is off. {reason}")
    if settings.sandbox:
        say("  Sandbox: a local twin plays Twilio, the mail server and the mailbox. Nothing leaves this machine.")
        if ports := twin.noted_ports(settings.data_dir):
            say(f"  The outside world (call, text, mail and write to the hub): http://127.0.0.1:{ports.http}/")
        for login in twin.demo_logins(settings.data_dir):
            say(f"  Log in as {login}")
    say("Ctrl-C stops everything.")


def say(sentence: str) -> None:
    sys.stdout.write(f"{sentence}\n")
    sys.stdout.flush()
