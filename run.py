#!/usr/bin/env python3
"""One command on a bare machine: `python3 run.py` sets everything up and serves, `run.py test` runs the suite.

Needs Python 3.11 with pip and nothing else. What it brings, it brings by the hash-pinned locks: uv into `.tools/`,
the Python packages into `.venv/`, the front-end files into `node_modules/`. A step whose lock has not changed since
it last ran is skipped, so later starts cost milliseconds. Every other verb is handed to `.venv/bin/hub`.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - the whole point is to say so on an older Python, before tomllib
    sys.stderr.write("The hub needs Python 3.11 or later; this is %s.\n" % sys.version.split()[0])  # noqa: UP031
    raise SystemExit(1)

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
TOOLS = ROOT / ".tools"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".synced.json"
ASSETS = ROOT / "node_modules"
ASSETS_STAMP = ASSETS / ".synced"
PACKAGE_LOCK = ROOT / "package-lock.json"
LOCKS = {"runtime": ROOT / "requirements.lock", "dev": ROOT / "requirements-dev.lock"}
TOOLS_LOCK = ROOT / "requirements-tools.lock"
UV_VERSION = "uv>=0.11,<1"

USAGE = """usage: python3 run.py [VERB …]

  (no verb)         set up what is missing, then start the hub and print its address
  test [ARGS …]     run the test suite; ARGS go to pytest
  test real         run the tests against Dovecot, Postfix, PostgreSQL and Redis (docs/proof.md)
  kills [ARGS …]    kill a hub's process at named places, 1,000 times; --count, --seed (docs/proof.md)
  check             format, lint, types, imports, translations
  lock [--upgrade]  write the lock files again from pyproject.toml and package.json
  setup             set up (with the developers' tools) and stop
  VERB …            any verb of the hub's own command line, for example: run.py user list
"""


def main(argv: list[str]) -> int:
    """The exit code of what was asked for; serving replaces this process."""
    verb, rest = (argv[0], argv[1:]) if argv else ("serve", [])
    if verb in {"-h", "--help"}:
        print(USAGE, end="")
        return 0
    os.chdir(ROOT)
    keep_bytecode()
    if verb == "test":
        set_up("dev", assets=True)
        arguments = rest or ["-n", "2", "--dist", "loadfile"]
        if arguments[0] == "real":
            arguments = ["tests/real", "-rs", *arguments[1:]]
        os.execv(PYTHON, [str(PYTHON), "-m", "pytest", *arguments])
    if verb == "kills":
        set_up("dev", assets=False)
        os.execv(PYTHON, [str(PYTHON), "-m", "tests.nightly.kills", *rest])
    if verb == "check":
        set_up("dev", assets=False)
        return check()
    if verb == "lock":
        return lock(upgrade="--upgrade" in rest)
    if verb == "setup":
        set_up("dev", assets=True)
        return 0
    set_up("runtime", assets=verb in {"serve", "web"})
    os.execv(VENV / "bin" / "hub", ["hub", verb, *rest])


def keep_bytecode() -> None:
    """Where Python was told to leave no bytecode beside its sources, keep it in `.tools`: without it, every process
    compiles 700 modules anew, which is most of a start.
    """
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(TOOLS / "bytecode"))


# --- set-up -----------------------------------------------------------------------------------------------------


def set_up(kind: str, *, assets: bool) -> None:
    """A `.venv` that satisfies the lock of this kind ("runtime" or "dev", which includes runtime), and the assets."""
    kind = "dev" if kind == "runtime" and noted().get("kind") == "dev" else kind
    if not venv_is_stale(kind) and not (assets and assets_are_stale()):
        return
    with one_at_a_time():
        # Looked at again, because another process may have done it while this one waited.
        work: list[Callable[[], None]] = []
        if venv_is_stale(kind):
            work.append(lambda: sync_venv(kind))
        if assets and assets_are_stale():
            work.append(sync_assets)
        if work:
            find_uv()  # both may need it
        # Side by side: one waits for the network while the other writes files.
        with ThreadPoolExecutor(max_workers=2) as pool:
            for done in [pool.submit(one) for one in work]:
                done.result()


def noted() -> dict[str, str]:
    """What the last finished set-up wrote down about `.venv`; empty when there was none."""
    try:
        found = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def wanted(kind: str) -> dict[str, str]:
    return {
        "kind": kind,
        "lock": digest(LOCKS[kind]),
        "project": project_digest(),
        "at": str(ROOT),  # a copied or moved tree must not keep running the old one's packages
        "python": "{}.{}".format(*sys.version_info[:2]),
    }


def venv_is_stale(kind: str) -> bool:
    return not PYTHON.exists() or not (VENV / "bin" / "hub").exists() or noted() != wanted(kind)


def assets_are_stale() -> bool:
    return not ASSETS_STAMP.exists() or ASSETS_STAMP.read_text() != digest(PACKAGE_LOCK)


def sync_venv(kind: str) -> None:
    uv = find_uv()
    if not PYTHON.exists() or noted().get("at", str(ROOT)) != str(ROOT):
        step("making .venv", [uv, "venv", "--clear", "--python", sys.executable, str(VENV)])
    STAMP.unlink(missing_ok=True)
    target = ["--python", str(PYTHON)]
    lock_file = LOCKS[kind]
    count = sum(1 for line in lock_file.read_text().splitlines() if "==" in line and not line.startswith((" ", "#")))
    step(
        f"installing up to {count} Python packages from {lock_file.name}",
        [uv, "pip", "sync", "--require-hashes", *target, str(lock_file)],
    )
    step(
        "installing the hub itself",
        [uv, "pip", "install", "--no-deps", *target, "--build-constraints", str(TOOLS_LOCK), "-e", "."],
    )
    STAMP.write_text(json.dumps(wanted(kind)))


def sync_assets() -> None:
    ASSETS_STAMP.unlink(missing_ok=True)
    step("installing the front-end files from package-lock.json", [*find_npm(), "ci", *NPM_QUIET], env=node_path())
    ASSETS_STAMP.write_text(digest(PACKAGE_LOCK))


NPM_QUIET = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]


def find_uv() -> str:
    """uv's path: the one in `.tools/`, else the machine's, else brought by pip into `.tools/`."""
    own = TOOLS / "bin" / "uv"
    if own.exists():
        return str(own)
    if found := shutil.which("uv"):
        return found
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        fail(
            f"This Python ({sys.executable}) has no pip. Install it (on Debian and Ubuntu: "
            "apt-get install python3-pip) or install uv, then run this again."
        )
    # --target works where pip says "externally-managed-environment", and needs no venv module.
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--upgrade"]
    step("bringing uv into .tools", [*pip, "--target", str(TOOLS), UV_VERSION])
    if not own.exists():
        fail("pip brought uv, but .tools/bin/uv is not there. Install uv yourself, then run this again.")
    return str(own)


def find_npm() -> list[str]:
    """A command for npm 7 or later: the machine's, else the one in the nodejs wheel, in a private `.tools/node`."""
    if npm := shutil.which("npm"):
        answer = subprocess.run([npm, "--version"], capture_output=True, text=True, check=False)
        major = answer.stdout.strip().partition(".")[0]
        if answer.returncode == 0 and major.isdigit() and int(major) >= 7:
            return [npm]
    node = TOOLS / "node"
    if not (node / "bin" / "npm").exists():
        uv = find_uv()
        step("making a place for Node", [uv, "venv", "--clear", "--python", sys.executable, str(node)])
        sync = [uv, "pip", "sync", "--require-hashes", "--python", str(node / "bin" / "python"), str(TOOLS_LOCK)]
        step("bringing npm, which this machine lacks, from the nodejs wheel", sync)
    return [str(node / "bin" / "npm")]


def node_path() -> dict[str, str]:
    return {"PATH": f"{TOOLS / 'node' / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"}


def step(what: str, command: list[str], *, env: dict[str, str] | None = None) -> None:
    """Run one set-up command quietly; a sign of life every few seconds, its whole output only when it fails."""
    print(f"set-up: {what} …", flush=True)
    began = time.monotonic()
    quiet = {"UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never"}
    environment = {**os.environ, **quiet, **(env or {})}
    environment.pop("VIRTUAL_ENV", None)
    log = TOOLS / f"{what.split()[0]}-{os.getpid()}-{threading.get_ident()}.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        while process.poll() is None:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                print(f"set-up:   still {what} after {time.monotonic() - began:.0f} s", flush=True)
            except BaseException:
                process.terminate()
                process.wait()
                raise
    said = log.read_text(errors="replace")
    log.unlink()
    if process.returncode:
        sys.stderr.write(said)
        fail(f"Set-up stopped: {what} ended with code {process.returncode}; its output is above.")
    if (took := time.monotonic() - began) > 2:
        print(f"set-up:   {what}: done in {took:.1f} s", flush=True)


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Two starts at once must not install over each other: the second waits, then finds the work done."""
    try:
        import fcntl
    except ImportError:
        fail("The hub runs on Linux and macOS. On Windows, run it inside WSL.")
    try:
        TOOLS.mkdir(exist_ok=True)
        handle = (TOOLS / "set-up.lock").open("w")
    except OSError as error:
        fail(f"Cannot write to {TOOLS} ({error.strerror}). Run this as a user who owns the folder {ROOT}.")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("set-up: another set-up is running here; waiting for it …", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def project_digest() -> str:
    """Of what the editable install is made from; the tools' settings in the same file do not count."""
    tree = tomllib.loads((ROOT / "pyproject.toml").read_text())
    parts = [tree.get("build-system"), tree.get("project"), tree.get("tool", {}).get("hatch")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def fail(sentence: str) -> NoReturn:
    sys.stderr.write(sentence + "\n")
    raise SystemExit(1)


# --- check ------------------------------------------------------------------------------------------------------


def check() -> int:
    """0 when format, lint, types, imports and translations all hold; each step says one line, faults follow it."""
    bin_folder = VENV / "bin"
    steps = {
        "types": [bin_folder / "mypy"],
        "format": [bin_folder / "ruff", "format", "--check", "."],
        "lint": [bin_folder / "ruff", "check", "."],
        "imports": [bin_folder / "lint-imports"],
        "translations": [PYTHON, "-m", "hub.i18n_check"],
    }
    failed = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        for name, (code, seconds, output) in zip(steps, pool.map(timed, steps.values()), strict=True):
            print(f"{'ok    ' if code == 0 else 'FAILED'} {name:<13} {seconds:5.1f} s", flush=True)
            if code:
                failed.append(name)
                print(output.rstrip(), flush=True)
    print(f"check: {'failed: ' + ', '.join(failed) if failed else 'everything holds'}", flush=True)
    return 1 if failed else 0


def timed(command: list[str | Path]) -> tuple[int, float, str]:
    began = time.monotonic()
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, time.monotonic() - began, done.stdout


# --- lock -------------------------------------------------------------------------------------------------------


def lock(*, upgrade: bool) -> int:
    """Write the four lock files again. None may hold an address, so that any mirror of a registry serves them."""
    with one_at_a_time():
        compile_ = [find_uv(), "pip", "compile", "--universal", "--generate-hashes", "-q"]
        compile_ += ["--no-emit-index-url", "--no-emit-find-links", *(["--upgrade"] if upgrade else [])]
        step("requirements.lock", [*compile_, "pyproject.toml", "-o", LOCKS["runtime"].name])
        step("requirements-dev.lock", [*compile_, "pyproject.toml", "--group", "dev", "-o", LOCKS["dev"].name])
        step("requirements-tools.lock", [*compile_, "--group", "tools", "-o", TOOLS_LOCK.name])
        step_package_lock(upgrade=upgrade)
    for path in [*LOCKS.values(), TOOLS_LOCK, PACKAGE_LOCK]:
        if "://" in path.read_text():
            fail(f"{path.name} holds an address; a lock file must name no registry.")
    return 0


def step_package_lock(*, upgrade: bool) -> None:
    """Made in an empty folder: beside `node_modules` npm would copy what is installed, without the hashes."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(ROOT / "package.json", folder)
        if not upgrade and PACKAGE_LOCK.exists():
            shutil.copy(PACKAGE_LOCK, folder)
        npm = [*find_npm(), "install", "--prefix", folder, "--package-lock-only", "--omit-lockfile-registry-resolved"]
        step("package-lock.json", [*npm, *NPM_QUIET], env=node_path())
        tree = json.loads(Path(folder, PACKAGE_LOCK.name).read_text())
    for name, package in tree["packages"].items():
        package.pop("funding", None)  # the only other addresses npm writes
        if name and not package.get("integrity", "").startswith("sha512-"):
            fail(f"package-lock.json has no hash for {name}. Remove the file and run this again.")
    PACKAGE_LOCK.write_text(json.dumps(tree, indent=2) + "\n")


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
