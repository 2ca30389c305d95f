"""Partitions, vectors found by their text, golden vectors, bounded bookkeeping of changes."""

import sqlalchemy as sa
from alembic import op

from agent_pipelines.state.tables import UtcDateTime

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Every generation there is becomes one partition; its ledger is kept."""
    op.create_table(
        "partitions",
        sa.Column("collection", sa.String(length=255), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("of", sa.Integer(), nullable=False),
        sa.Column("source_digest", sa.String(length=64), nullable=True),
        sa.Column("listed_at", UtcDateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("collection", "number", name=op.f("pk_partitions")),
    )
    op.execute(
        'INSERT INTO partitions (collection, number, "of", source_digest, listed_at) '
        "SELECT collection, 0, 1, source_digest, listed_at FROM generations"
    )
    with op.batch_alter_table("generations") as generations:
        generations.drop_column("source_digest")
        generations.drop_column("listed_at")
        generations.add_column(sa.Column("golden_vector", sa.JSON(), nullable=True))
    with op.batch_alter_table("documents") as documents:
        documents.add_column(sa.Column("bucket", sa.Integer(), nullable=False, server_default="0"))
    with op.batch_alter_table("chunks") as chunks:
        chunks.add_column(sa.Column("bucket", sa.Integer(), nullable=False, server_default="0"))
        chunks.add_column(
            sa.Column("text_hash", sa.String(length=32), nullable=False, server_default="")
        )
    op.create_index(
        op.f("ix_chunks_collection_text_hash"), "chunks", ["collection", "text_hash"], unique=False
    )
    op.create_index(
        op.f("ix_chunks_collection_state_bucket"),
        "chunks",
        ["collection", "state", "bucket"],
        unique=False,
    )
    with op.batch_alter_table("source_changes") as source_changes:
        source_changes.add_column(
            sa.Column(
                "listed_at",
                UtcDateTime(timezone=True),
                nullable=False,
                server_default="2000-01-01 00:00:00",
            )
        )
