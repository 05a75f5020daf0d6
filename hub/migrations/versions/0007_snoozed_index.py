"""find snoozed conversations by index; one index less on every new conversation."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    given = sa.text("snoozed_until IS NOT NULL")
    op.create_index(
        "ix_conversations_snoozed", "conversations", ["snoozed_until"], sqlite_where=given, postgresql_where=given
    )
    op.drop_index("ix_conversations_account_id", table_name="conversations")


def downgrade() -> None:
    op.create_index("ix_conversations_account_id", "conversations", ["account_id"])
    op.drop_index("ix_conversations_snoozed", table_name="conversations")
