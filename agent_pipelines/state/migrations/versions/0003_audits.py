"""What audits and repairs remember, and the settings that a generation was created with."""

import sqlalchemy as sa
from alembic import op

from agent_pipelines.state.tables import UtcDateTime

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Of generations that there are nobody knows the settings any more."""
    with op.batch_alter_table("generations") as generations:
        generations.add_column(sa.Column("settings", sa.JSON(), nullable=True))
    op.create_table(
        "rotations",
        sa.Column("collection", sa.String(length=255), nullable=False),
        sa.Column("position", sa.String(length=36), nullable=False),
        sa.Column("hurried", sa.Integer(), nullable=False),
        sa.Column("taken_at", UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("collection", name=op.f("pk_rotations")),
    )
    op.create_table(
        "suspects",
        sa.Column("collection", sa.String(length=255), nullable=False),
        sa.Column("chunk_id", sa.String(length=36), nullable=False),
        sa.Column("fault", sa.String(length=16), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("doubted", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("collection", "chunk_id", "fault", name=op.f("pk_suspects")),
    )
    op.create_table(
        "repairs",
        sa.Column("index_name", sa.String(length=200), nullable=False),
        sa.Column("signal", sa.String(length=100), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("asked_at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("reached", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("index_name", "signal", name=op.f("pk_repairs")),
    )
