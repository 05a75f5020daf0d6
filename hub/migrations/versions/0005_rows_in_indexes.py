"""indexes hold only the rows that are looked up by them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

INDEXES = (
    ("ix_interactions_entry", "interactions", ("entry_id",), "entry_id IS NOT NULL"),
    ("ix_interactions_agent", "interactions", ("agent_id", "id"), "agent_id IS NOT NULL"),
    ("ix_queue_entries_agent", "queue_entries", ("agent_id", "state"), "agent_id IS NOT NULL"),
    ("ix_queue_entries_answered", "queue_entries", ("queue_id", "connected_at"), "connected_at IS NOT NULL"),
)


def upgrade() -> None:
    for name, table, columns, where in INDEXES:
        op.drop_index(name, table_name=table)
        op.create_index(
            name, table, list(columns), unique=False, sqlite_where=sa.text(where), postgresql_where=sa.text(where)
        )


def downgrade() -> None:
    for name, table, columns, _ in INDEXES:
        op.drop_index(name, table_name=table)
        op.create_index(name, table, list(columns), unique=False)
