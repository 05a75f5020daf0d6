"""Plain values that pass between routing and campaigns, which never import each other; hub hands them over."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class WorkRequest:
    """Campaigns ask routing to put one piece of outbound work before an agent."""

    kind: str  # lead, list_call
    subject_id: str
    contact_id: str
    queue_id: str
    order_at: datetime


@dataclass(frozen=True, slots=True)
class AgentForecast:
    """Routing tells campaigns how many agents of a queue are free now and will be within a minute."""

    queue_id: str
    free: int
    soon: int
    at: datetime
