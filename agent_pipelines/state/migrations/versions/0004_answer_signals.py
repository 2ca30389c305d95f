"""Every answer says what was not true of its index when it was given."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Answers given before were labelled by their batch, as it started."""
    with op.batch_alter_table("answers") as answers:
        answers.add_column(
            sa.Column("false_signals", sa.JSON(), nullable=False, server_default="[]")
        )
    op.execute(
        "UPDATE answers SET false_signals = (SELECT batches.false_signals FROM batches "
        "WHERE batches.batch_id = answers.batch_id) "
        "WHERE EXISTS (SELECT 1 FROM batches WHERE batches.batch_id = answers.batch_id)"
    )
