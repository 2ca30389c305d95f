"""A batch may wait for what is down, knows what it has cost; an answer names unknown outcomes."""

import sqlalchemy as sa
from alembic import op

from agent_pipelines.state.tables import UtcDateTime

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Earlier batches have waited for nothing, and earlier answers tell of no unknown outcome."""
    with op.batch_alter_table("batches") as batches:
        batches.add_column(sa.Column("seconds", sa.Float(), nullable=False, server_default="0"))
        batches.add_column(sa.Column("resumption", sa.JSON()))
        batches.add_column(sa.Column("waits_for", sa.String(length=200)))
        batches.add_column(sa.Column("wait_reason", sa.Text()))
        batches.add_column(sa.Column("waits", sa.Integer(), nullable=False, server_default="0"))
        batches.add_column(sa.Column("resume_from", UtcDateTime(timezone=True)))
        batches.add_column(sa.Column("resume_at", UtcDateTime(timezone=True)))
    with op.batch_alter_table("answers") as answers:
        answers.add_column(
            sa.Column("outcome_unknown", sa.JSON(), nullable=False, server_default="[]")
        )
