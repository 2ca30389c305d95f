"""Tool calls are counted where they are made, and the counts outlive the batch."""

import sqlalchemy as sa
from alembic import op

from agent_pipelines.state.tables import UtcDateTime

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Of calls before this nobody knows."""
    op.create_table(
        "tool_calls",
        sa.Column("server", sa.String(length=200), nullable=False),
        sa.Column("tool", sa.String(length=200), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("bound", sa.String(length=16), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("server", "tool", "outcome", "bound", name=op.f("pk_tool_calls")),
    )
    op.create_table(
        "tool_breakers",
        sa.Column("agent", sa.String(length=200), nullable=False),
        sa.Column("server", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("seen_at", UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("agent", "server", name=op.f("pk_tool_breakers")),
    )
