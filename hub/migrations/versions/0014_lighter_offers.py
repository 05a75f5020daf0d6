"""an offer writes less: one trace for all work of a line, and no index on what changes with every step."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from crm_core.tables import Json, UtcDateTime

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

LIVE = "ended_at IS NULL"
LIVE_BEFORE = "state <> 'ended'"
NUMBERED = "seq IS NOT NULL"


def upgrade() -> None:
    op.create_table(
        "line_traces",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("agents", Json(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_line_traces")),
    )
    op.drop_index(
        "ix_interactions_live", table_name="interactions", sqlite_where=sa.text(LIVE_BEFORE),
        postgresql_where=sa.text(LIVE_BEFORE),
    )  # fmt: skip
    op.create_index(
        "ix_interactions_live", "interactions", ["id"], unique=False, sqlite_where=sa.text(LIVE),
        postgresql_where=sa.text(LIVE),
    )  # fmt: skip
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.drop_constraint(op.f("uq_events_seq"), type_="unique")
        batch_op.create_index(
            "uq_events_numbered", ["seq"], unique=True, sqlite_where=sa.text(NUMBERED),
            postgresql_where=sa.text(NUMBERED),
        )  # fmt: skip


def downgrade() -> None:
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.drop_index("uq_events_numbered")
        batch_op.create_unique_constraint(op.f("uq_events_seq"), ["seq"])
    op.drop_index("ix_interactions_live", table_name="interactions", postgresql_where=sa.text(LIVE))
    op.create_index(
        "ix_interactions_live", "interactions", ["state"], unique=False, sqlite_where=sa.text(LIVE_BEFORE),
        postgresql_where=sa.text(LIVE_BEFORE),
    )  # fmt: skip
    op.drop_table("line_traces")
