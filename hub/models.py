"""Imports every table, so that the one MetaData is complete: for migrations, tests and tools."""

from __future__ import annotations

from campaigns import call_lists, campaigns, counts, deliveries, imports  # noqa: F401
from crm_core import (  # noqa: F401
    accounts,
    audit,
    blocked,
    blocked_callers,
    bulk,
    calls,
    consent,
    contact_imports,
    contact_taking,
    contacts,
    conversations,
    drafts,
    events,
    interactions,
    leads,
    leases,
    outbox,
    outgoing,
    recordings,
    saved_views,
    signatures,
    sounds,
    tallies,
    touches,
    users,
)
from crm_core.tables import metadata
from hub.api import replays  # noqa: F401
from routing import agents, callbacks, flows, hours, missed, offers, pauses, queues, rooms  # noqa: F401
from webhooks import receipts  # noqa: F401

__all__ = ["metadata"]
