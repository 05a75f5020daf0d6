"""find mail that is kept as spam by index."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    spam = sa.text("outcome = 'spam'")
    op.create_index("ix_interactions_spam", "interactions", ["id"], sqlite_where=spam, postgresql_where=spam)


def downgrade() -> None:
    op.drop_index("ix_interactions_spam", table_name="interactions")
