"""How long the hub takes to start, by stage, and what it costs in processor time and memory.

    .venv/bin/python -m bench.start [--rounds 3] [--settle 8]

One first start of an empty data folder, then later starts of the same one, each by `python3 run.py` as an operator does it.
Wall time says little on a shared machine; the processor seconds of all processes, and of the supervisor up to the moment
it is ready, hardly depend on who else is busy. Memory is taken some seconds after the start, once as resident (RSS, where pages
that processes share count for each) and once as proportional (PSS, where they count once in all). Linux only.
Exit code 1 when a later start takes 5 s or more.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
GOAL_S = 5.0
TICKS = os.sysconf("SC_CLK_TCK")
EVERYBODY = {"supervisor", "valkey", "sandbox", "web", "poll", "interactive", "bulk"}
# What the supervisor notes in serve.json, and what had been done by then.
STAGES = {
    "begun": "run.py's checks, Python, settings",
    "valkey": "Valkey answers",
    "begun_others": "sandbox begun, database looked at",
    "loaded": "what web needs is loaded",
    "migrated": "database up to date",
    "sandbox": "sandbox listens and knows the hub",
    "web_started": "web process forked",
    "loaded_all": "what the others need is loaded",
    "ready": "/readyz answers 200",
}


@dataclass
class Process:
    """One process some seconds after the start."""

    name: str
    cpu_s: float
    ended_cpu_s: float  # of its own children that have ended
    rss_mib: float
    pss_mib: float


@dataclass
class Start:
    """One start. Seconds since the command."""

    ready_s: float
    ready_cpu_s: float  # the supervisor's and its ended children's, when it said that it is ready
    stages: dict[str, float] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    load: float = 0.0

    @property
    def cpu_s(self) -> float:
        return sum(one.cpu_s + one.ended_cpu_s for one in self.processes)


def cpu_of(pid: int) -> tuple[float, float]:
    """Processor seconds of a process, and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system, children_user, children_system = (int(value) for value in fields[11:15])
    return (user + system) / TICKS, (children_user + children_system) / TICKS


def memory_of(pid: int) -> tuple[float, float]:
    """Resident and proportional memory in MiB."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        found[name] = int(value.split()[0]) / 1024
    return found["Rss"], found["Pss"]


def name_of(pid: int, parent: int) -> str:
    """As in hub/supervisor.py: web, poll, interactive, bulk, sandbox, valkey, supervisor."""
    words = (
        Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode().partition("-m hub ")[2]
    )
    if pid == parent:
        return "supervisor"
    return words.split()[-1 if words.startswith("work") else 0] if words else "valkey"


def family(pid: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def start_once(data: Path, *, settle_s: float) -> Start:
    """Start, measure, stop."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("HUB_", "TWILIO_"))}
    environ |= {"HUB_DATA_DIR": str(data), "HUB_PORT": "0"}
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "run.py"],
        cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("The hub is ready"):
                break
        else:
            raise SystemExit(f"run.py ended with code {process.wait()} before it was ready.")
        found = Start(time.monotonic() - began, sum(cpu_of(process.pid)), load=os.getloadavg()[0])
        # What it says from here on must go somewhere, or it would stop when the pipe is full.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        time.sleep(settle_s)
        for pid in family(process.pid):
            rss, pss = memory_of(pid)
            found.processes.append(Process(name_of(pid, process.pid), *cpu_of(pid), rss, pss))
        if missing := EVERYBODY - {one.name for one in found.processes}:
            raise SystemExit(f"Not running {settle_s:g} s after the start: {', '.join(sorted(missing))}.")
        steps = json.loads((data / "serve.json").read_text())["steps"]
        found.stages = {name: steps[name] - began for name in STAGES}
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=40)
    return found


def tell(title: str, start: Start) -> None:
    """One start as two tables."""
    out = sys.stdout.write
    out(f"\n{title}: ready after {start.ready_s:.2f} s, load {start.load:.1f}\n\n")
    out("| stage done | after s | took s |\n|---|---|---|\n")
    before = 0.0
    for name, what in STAGES.items():
        out(f"| {what} | {start.stages[name]:.2f} | {start.stages[name] - before:.2f} |\n")
        before = start.stages[name]
    out("\n| process | cpu s | ended children's | RSS MiB | PSS MiB |\n|---|---|---|---|---|\n")
    for one in start.processes:
        out(f"| {one.name} | {one.cpu_s:.2f} | {one.ended_cpu_s:.2f} | {one.rss_mib:.0f} | {one.pss_mib:.0f} |\n")
    rss, pss = sum(one.rss_mib for one in start.processes), sum(one.pss_mib for one in start.processes)
    out(f"| all | {start.cpu_s:.2f} | | {rss:.0f} | {pss:.0f} |\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="later starts")
    parser.add_argument("--settle", type=float, default=8.0, help="seconds between ready and the look at memory")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hub-start-"))
    try:
        first = start_once(folder / "var", settle_s=arguments.settle)
        tell("First start of a data folder", first)
        later = [start_once(folder / "var", settle_s=arguments.settle) for _ in range(arguments.rounds)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    later.sort(key=lambda one: one.ready_s)
    middle = later[len(later) // 2]
    tell(f"Later start, the middle one of {len(later)}", middle)
    walls = ", ".join(f"{one.ready_s:.2f}" for one in later)
    cpu = statistics.median(one.ready_cpu_s for one in later)
    sys.stdout.write(f"\nLater starts: {walls} s; the supervisor had used {cpu:.2f} cpu s when it was ready.\n")
    return 0 if middle.ready_s < GOAL_S else 1


if __name__ == "__main__":
    raise SystemExit(main())
