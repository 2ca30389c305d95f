"""The first schema: ledger, snapshots, leases, signals, batches, answers, journal."""

import sqlalchemy as sa
from alembic import op

from agent_pipelines.state.tables import UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "answers",
        sa.Column("batch_id", sa.String(length=64), nullable=False),
        sa.Column("task_id", sa.String(length=255), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("output", sa.JSON(), nullable=True),
        sa.Column("citations", sa.JSON(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("turns", sa.Integer(), nullable=False),
        sa.Column("tool_calls", sa.Integer(), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("index_name", sa.String(length=200), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", "task_id", name=op.f("pk_answers")),
    )
    op.create_table(
        "batches",
        sa.Column("batch_id", sa.String(length=64), nullable=False),
        sa.Column("agent", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("index_name", sa.String(length=200), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("false_signals", sa.JSON(), nullable=False),
        sa.Column("started_at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("finished_at", UtcDateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("pk_batches")),
    )
    op.create_index(op.f("ix_batches_agent"), "batches", ["agent"], unique=False)
    op.create_table(
        "chunks",
        sa.Column("collection", sa.String(length=255), nullable=False),
        sa.Column("chunk_id", sa.String(length=36), nullable=False),
        sa.Column("document_id", sa.String(length=1024), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("content_hash", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("collection", "chunk_id", name=op.f("pk_chunks")),
    )
    op.create_index(
        op.f("ix_chunks_collection_document_id"),
        "chunks",
        ["collection", "document_id"],
        unique=False,
    )
    op.create_table(
        "documents",
        sa.Column("collection", sa.String(length=255), nullable=False),
        sa.Column("document_id", sa.String(length=1024), nullable=False),
        sa.Column("version", sa.String(length=255), nullable=False),
        sa.Column("content_hash", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("updated_at", UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("collection", "document_id", name=op.f("pk_documents")),
    )
    op.create_index(
        op.f("ix_documents_collection_state"),
        "documents",
        ["collection", "state"],
        unique=False,
    )
    op.create_table(
        "generations",
        sa.Column("collection", sa.String(length=255), nullable=False),
        sa.Column("index_name", sa.String(length=200), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("source_digest", sa.String(length=64), nullable=True),
        sa.Column("listed_at", UtcDateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("collection", name=op.f("pk_generations")),
    )
    op.create_index(op.f("ix_generations_index_name"), "generations", ["index_name"], unique=False)
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.String(length=255), nullable=False),
        sa.Column("expires_at", UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "listings",
        sa.Column("index_name", sa.String(length=200), nullable=False),
        sa.Column("listed_at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("source_digest", sa.String(length=64), nullable=False),
        sa.Column("documents", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("index_name", name=op.f("pk_listings")),
    )
    op.create_table(
        "messages",
        sa.Column("batch_id", sa.String(length=64), nullable=False),
        sa.Column("task_id", sa.String(length=255), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("message", sa.JSON(), nullable=False),
        sa.Column("recorded_at", UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", "task_id", "ordinal", name=op.f("pk_messages")),
    )
    op.create_table(
        "signals",
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("since", UtcDateTime(timezone=True), nullable=False),
        sa.Column("evaluated_at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("observed", sa.Text(), nullable=False),
        sa.Column("expected", sa.Text(), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("subject", "name", name=op.f("pk_signals")),
    )
    op.create_table(
        "snapshots",
        sa.Column("index_name", sa.String(length=200), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("collection", sa.String(length=255), nullable=False),
        sa.Column("source_digest", sa.String(length=64), nullable=False),
        sa.Column("manifest_digest", sa.String(length=64), nullable=False),
        sa.Column("documents", sa.Integer(), nullable=False),
        sa.Column("failed_documents", sa.Integer(), nullable=False),
        sa.Column("chunks", sa.Integer(), nullable=False),
        sa.Column("listed_at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("committed_at", UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("index_name", "sequence", name=op.f("pk_snapshots")),
    )
    op.create_table(
        "source_changes",
        sa.Column("index_name", sa.String(length=200), nullable=False),
        sa.Column("document_id", sa.String(length=1024), nullable=False),
        sa.Column("version", sa.String(length=255), nullable=False),
        sa.Column("since", UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("index_name", "document_id", name=op.f("pk_source_changes")),
    )
    op.create_table(
        "tombstones",
        sa.Column("index_name", sa.String(length=200), nullable=False),
        sa.Column("chunk_id", sa.String(length=36), nullable=False),
        sa.Column("document_id", sa.String(length=1024), nullable=False),
        sa.Column("content_hash", sa.String(length=64), nullable=False),
        sa.Column("retired_at", UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("index_name", "chunk_id", name=op.f("pk_tombstones")),
    )
    op.create_index(op.f("ix_tombstones_retired_at"), "tombstones", ["retired_at"], unique=False)
