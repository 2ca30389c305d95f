"""Tasks of the API are batches too, of one tenant and one day each."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Batches from before this are all of jobs."""
    with op.batch_alter_table("batches") as batches:
        batches.add_column(sa.Column("tenant", sa.Text()))
