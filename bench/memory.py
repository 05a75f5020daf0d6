"""Memory, open files and threads of a web process and a poller: at rest, and after every thousand of ten thousand calls.

    python -m bench.memory                              both engines, 10,000 calls at 200 a second
    python -m bench.memory --engine sqlite --calls 3000

Real processes and the whole path of an arriving call; nobody answers, so all of them wait and the router looks at them. PSS: a
page that several processes share counts in parts. What must be flat is what comes after the first thousands: the queue is rows.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvloop

from bench.intake import database, port_of, program
from bench.intake_data import signed_posts
from bench.intake_load import drive_at
from bench.pop import footprint
from hub.valkey import ensure_valkey

RATE = 200
STEP = 1000


def run_engine(engine: str, calls: int) -> dict[str, Any]:
    """One run: footprints by process, after each thousand."""
    with (
        tempfile.TemporaryDirectory(prefix="memory-") as name,
        database(engine, Path(name)) as url,
        ExitStack() as stack,
    ):
        os.environ["INTAKE_REDIS_URL"] = ensure_valkey(Path(name)).url
        hub = stack.enter_context(program("hub", url))
        port = port_of(hub)
        poll = stack.enter_context(program("poll", url))
        port_of(poll)
        pids = {"web": hub.pid, "poll": poll.pid}
        seen = [{name: footprint(pid) for name, pid in pids.items()}]
        bad = 0
        for step in range(calls // STEP):
            posts = signed_posts((step + 1) * 100_000, STEP)
            found = uvloop.run(drive_at(port, posts, rate=RATE, seconds=STEP // RATE, connections=32))
            bad += found["bad"]
            seen.append({name: footprint(pid) for name, pid in pids.items()})
    series = {
        process: {what: [look[process][what] for look in seen] for what in ("pss_mib", "files", "threads")}
        for process in pids
    }
    return {"engine": engine, "calls": calls, "bad": bad, **series, "load": round(os.getloadavg()[0], 1)}


def main() -> int:
    """Exit code 1 when a call was refused."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=["sqlite", "postgresql"], action="append")
    parser.add_argument("--calls", type=int, default=10_000)
    asked = parser.parse_args()
    bad = 0
    for engine in asked.engine or ["sqlite", "postgresql"]:
        found = run_engine(engine, asked.calls)
        bad += found["bad"]
        print(json.dumps(found), flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
