"""No statement that is written once and run for ever looks through the whole of a table that grows (SQLite's own plan)."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import sqlite3

import campaigns
import crm_core
import routing
import webhooks
from crm_core.statements import Fixed, sqlite_compiler
from crm_core.tables import metadata
from tests.databases import ddl

# Read as a whole by design: a few hundred rows of settings, a row for each line in which something waits, and what is open now,
# which has an index of its own.
SMALL = {"queues", "queue_members", "agents", "agent_skills", "line_traces"}
OPEN_NOW = {
    "ix_queue_entries_waiting", "ix_offers_deadline", "ix_callbacks_due", "ix_call_rooms_open", "ix_events_unnumbered",
}  # fmt: skip


def fixed_statements() -> dict[str, Fixed[object]]:
    """Every statement at module level, by its name."""
    found: dict[str, Fixed[object]] = {}
    for package in (crm_core, routing, campaigns, webhooks):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for name, value in vars(importlib.import_module(module.name)).items():
                if isinstance(value, Fixed):
                    found[f"{module.name}.{name}"] = value
    return found


def test_what_is_looked_up_has_an_index() -> None:
    compiler, scanned, looked_at = sqlite_compiler(), [], 0
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        for statement in ddl("sqlite://"):
            connection.execute(statement)
        for name, statement in fixed_statements().items():
            _, _, plan = compiler._compile_fixed(statement)
            if plan is None:
                continue  # with a list in it: its SQL is made when it runs
            looked_at += 1
            given = [None] * len(plan.arguments)
            for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {plan.sql}", given).fetchall():
                words = step.split()
                if words[0] != "SCAN" or words[1] not in metadata.tables:
                    continue  # what is no table is a part of the statement itself, whose tables are named beside it
                if not SMALL & {words[1]} and not OPEN_NOW & {words[-1]}:
                    scanned.append(f"{name}: {step}")
    assert looked_at > 80
    assert scanned == []
