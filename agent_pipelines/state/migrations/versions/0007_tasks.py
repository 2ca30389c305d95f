"""The tasks of a batch are staged beside it: however many, they are read page by page."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Batches from before this have no tasks here: none of them is continued."""
    op.create_table(
        "tasks",
        sa.Column("batch_id", sa.String(length=64), nullable=False),
        sa.Column("ordinal", sa.BigInteger(), nullable=False),
        sa.Column("task_id", sa.String(length=255), nullable=False),
        sa.Column("inputs", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", "ordinal", name=op.f("pk_tasks")),
    )
    op.create_index(op.f("ix_tasks_batch_id_task_id"), "tasks", ["batch_id", "task_id"])
    with op.batch_alter_table("batches") as batches:
        batches.add_column(sa.Column("work", sa.String(length=64)))
        batches.add_column(sa.Column("tasks", sa.BigInteger()))
        batches.add_column(sa.Column("model", sa.String(length=255)))
        batches.add_column(
            sa.Column("partition", sa.String(length=32), nullable=False, server_default="")
        )
        batches.add_column(sa.Column("rerun_of", sa.String(length=64)))
