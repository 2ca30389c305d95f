"""The batches of one tenant of an agent are found without looking at those of all others."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """What begins with the agent serves those who ask for the agent alone."""
    op.create_index(op.f("ix_batches_agent_tenant"), "batches", ["agent", "tenant"])
    op.drop_index(op.f("ix_batches_agent"), table_name="batches")
