"""Answers kept for a repeated request: the table behind `Idempotency-Key`."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Field as Column

from crm_core.tables import Table, at, text


class ApiReplay(Table, table=True):
    """The answer to a POST with an `Idempotency-Key`: a repeat gets it again. `status` 0 = still running."""

    __tablename__ = "api_replays"

    key: str = Column(primary_key=True)  # user, path and the caller's key, hashed
    request_hash: str = text()
    status: int = 0
    answer: str = text()
    created_at: datetime = at(index=True)
